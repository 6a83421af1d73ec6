"""Segments for parked contexts: made once, touched once, handed from one context to the next.

Who calls it: the scheduler, which asks for room before it plans a save. What must hold: a segment
belongs to one snapshot or is free, never both; what is made never exceeds the limit.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable

from kernel.effects import DropSegment, Effect, MakeSegment

SMALLEST_BYTES = 64 << 10
GROWTH = 1.25  # from one size class to the next: at most a fifth of a segment is slack
MAX_WASTE = 2.0  # a free segment is used for a context at least half its size


class SegmentStore:
    """Lends segments by size. `emit` takes the effects that make and drop them."""

    def __init__(
        self, limit_bytes: int, next_segment: Callable[[], int], emit: Callable[[Effect], None]
    ) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0  # of all segments, lent or free
        self.lent_bytes = 0
        self._next_segment = next_segment
        self._emit = emit
        self._sizes: dict[int, int] = {}
        self._free: list[tuple[int, int]] = []  # (size, segment), sorted

    def acquire(self, size_bytes: int) -> int | None:
        """Return a segment of at least `size_bytes`, or None when the limit leaves no room."""
        at = bisect_left(self._free, (size_bytes, -1))
        if at < len(self._free) and self._free[at][0] <= size_bytes * MAX_WASTE:
            size, segment = self._free.pop(at)
            self.lent_bytes += size
            return segment
        size = _size_class(size_bytes)
        while self.held_bytes + size > self.limit_bytes and self._free:
            self._drop(*self._free.pop())
        if self.held_bytes + size > self.limit_bytes:
            return None
        segment = self._next_segment()
        self._sizes[segment] = size
        self.held_bytes += size
        self.lent_bytes += size
        self._emit(MakeSegment(segment, size, is_for_core=True))
        return segment

    def release(self, segment: int) -> None:
        """Take a segment back; its bytes stay for the next context to overwrite."""
        size = self._sizes[segment]
        self.lent_bytes -= size
        insort(self._free, (size, segment))

    def _drop(self, size: int, segment: int) -> None:
        del self._sizes[segment]
        self.held_bytes -= size
        self._emit(DropSegment(segment))


def _size_class(size_bytes: int) -> int:
    size = SMALLEST_BYTES
    while size < size_bytes:
        size = int(size * GROWTH) // 4096 * 4096 + 4096
    return size
