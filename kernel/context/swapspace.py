"""Where in the swap file what is: extents, lent and given back. Pure.

Who uses it: tiers.py, one of these for each model. What must hold: no two extents that are lent overlap, and none lies
outside the space.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

GRAIN_BYTES = 4096  # extents begin and end at multiples of this


class Extent(NamedTuple):
    offset: int
    size_bytes: int


class SwapSpace:
    """`size_bytes` of a file from `begin` on; the first gap that is large enough is lent."""

    def __init__(self, size_bytes: int, begin: int = 0) -> None:
        self.size_bytes = size_bytes // GRAIN_BYTES * GRAIN_BYTES
        self.used_bytes = 0
        self._gaps = [(begin, self.size_bytes)] if self.size_bytes else []  # (offset, bytes), by offset

    def take(self, size_bytes: int) -> Extent | None:
        """Return room for so many bytes, or None where no gap is that large."""
        wanted = -(-size_bytes // GRAIN_BYTES) * GRAIN_BYTES
        for index, (offset, free) in enumerate(self._gaps):
            if free >= wanted:
                self._gaps[index : index + 1] = [(offset + wanted, free - wanted)] if free > wanted else []
                self.used_bytes += wanted
                return Extent(offset, wanted)
        return None

    def give_back(self, extent: Extent) -> None:
        """Take an extent back, joined with the gaps beside it."""
        self.used_bytes -= extent.size_bytes
        offset, size = extent
        at = bisect_left(self._gaps, (offset, 0))
        if at < len(self._gaps) and self._gaps[at][0] == offset + size:
            size += self._gaps.pop(at)[1]
        if at and sum(self._gaps[at - 1]) == offset:
            offset, before = self._gaps.pop(at - 1)
            size, at = size + before, at - 1
        self._gaps.insert(at, (offset, size))
