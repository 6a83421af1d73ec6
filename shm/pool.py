"""Segments that are lent again and again: made once in sizes of a few classes, handed from user to user.

Who uses it: the kernel's store of parked contexts. What must hold: a segment is lent to one user or is free,
never both; what is made never exceeds the limit; what a peak left behind is given up after it. No I/O: `make` and
`drop` do it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable

SMALLEST_BYTES = 64 << 10
GROWTH = 1.25  # from one size class to the next: at most a fifth of a segment is slack
MAX_WASTE = 2.0  # a free segment is lent for what is at least half its size
IDLE_LOANS = 512  # a free segment that was taken for none of so many is one too many


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
        self._idle: dict[int, tuple[int, int]] = {}  # the same with (size, loans until then), longest free first
        self._loans = 0

    @property
    def lent(self) -> int:
        """How many segments are lent."""
        return len(self._lent)

    def size_of(self, segment: int) -> int:
        """Return the bytes of a segment that is lent. Raises KeyError."""
        return self._lent[segment]

    def acquire(self, size_bytes: int) -> int | None:
        """Return a segment of at least `size_bytes`, or None when the limit leaves no room."""
        self._loans += 1
        at = bisect_left(self._free, (size_bytes, -1))
        if at < len(self._free) and self._free[at][0] <= size_bytes * MAX_WASTE:
            size, segment = self._free.pop(at)
            del self._idle[segment]
            self._drop_idle()
            return self._lend(size, segment)
        self._drop_idle()
        size = _size_class(size_bytes)
        while self.held_bytes + size > self.limit_bytes and self._free:
            self._give_up(self._free[-1])
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
        self._idle[segment] = size, self._loans

    def _lend(self, size: int, segment: int) -> int:
        self._lent[segment] = size
        self.lent_bytes += size
        return segment

    def _drop_idle(self) -> None:
        while self._idle:
            segment, (size, since) = next(iter(self._idle.items()))
            if self._loans - since <= IDLE_LOANS:
                return
            self._give_up((size, segment))

    def _give_up(self, free: tuple[int, int]) -> None:
        size, segment = free
        del self._free[bisect_left(self._free, free)]
        del self._idle[segment]
        self.held_bytes -= size
        self._drop(segment)


def _size_class(size_bytes: int) -> int:
    size = SMALLEST_BYTES
    while size < size_bytes:
        size = int(size * GROWTH) // 4096 * 4096 + 4096
    return size
