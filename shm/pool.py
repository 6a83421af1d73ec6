"""Segments that are lent again and again: made once in sizes of a few classes, handed from user to user.

Who uses it: the kernel's store of parked contexts. What must hold: a segment is lent to one user or is free,
never both; what is made never exceeds the limit. No I/O: `make` and `drop` do it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable

SMALLEST_BYTES = 64 << 10
GROWTH = 1.25  # from one size class to the next: at most a fifth of a segment is slack
MAX_WASTE = 2.0  # a free segment is lent for what is at least half its size


class Pool:
    """Lends segments by size. `make` takes a size in bytes and returns a segment's number; `drop` ends it."""

    def __init__(
        self, limit_bytes: int, make: Callable[[int], int], drop: Callable[[int], None]
    ) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0  # of all segments, lent or free
        self.lent_bytes = 0
        self._make = make
        self._drop = drop
        self._lent: dict[int, int] = {}  # segment -> size
        self._free: list[tuple[int, int]] = []  # (size, segment), sorted

    def acquire(self, size_bytes: int) -> int | None:
        """Return a segment of at least `size_bytes`, or None when the limit leaves no room."""
        at = bisect_left(self._free, (size_bytes, -1))
        if at < len(self._free) and self._free[at][0] <= size_bytes * MAX_WASTE:
            return self._lend(*self._free.pop(at))
        size = _size_class(size_bytes)
        while self.held_bytes + size > self.limit_bytes and self._free:
            self._drop_largest()
        if self.held_bytes + size > self.limit_bytes:
            return None
        segment = self._make(size)
        self.held_bytes += size
        return self._lend(size, segment)

    def release(self, segment: int) -> None:
        """Take a segment back; its bytes stay for the next user to overwrite.

        Raises KeyError for one that is not lent.
        """
        size = self._lent.pop(segment)
        self.lent_bytes -= size
        insort(self._free, (size, segment))

    def _lend(self, size: int, segment: int) -> int:
        self._lent[segment] = size
        self.lent_bytes += size
        return segment

    def _drop_largest(self) -> None:
        size, segment = self._free.pop()
        self.held_bytes -= size
        self._drop(segment)


def _size_class(size_bytes: int) -> int:
    size = SMALLEST_BYTES
    while size < size_bytes:
        size = int(size * GROWTH) // 4096 * 4096 + 4096
    return size
