"""Segments for parked contexts: a pool whose segments the loop makes, and attaches to the LLM core.

Who uses it: the scheduler, which asks for room before it plans a save. What must hold: whatever the pool
makes or drops is an effect, in that order.
"""

from __future__ import annotations

from collections.abc import Callable

from kernel.effects import DropSegment, Effect, MakeSegment
from shm.pool import Pool


class SegmentStore(Pool):
    """Lends segments by size to one model's contexts. `emit` takes the effects that make and drop them."""

    def __init__(
        self,
        limit_bytes: int,
        next_segment: Callable[[], int],
        emit: Callable[[Effect], None],
        core: int = 0,
    ) -> None:
        def make(size_bytes: int) -> int:
            segment = next_segment()
            emit(MakeSegment(segment, size_bytes, is_for_core=True, core=core))
            return segment

        super().__init__(limit_bytes, make, lambda segment: emit(DropSegment(segment)))
        self._shares: dict[int, int] = {}  # beyond the first, by segment

    def share(self, segment: int) -> None:
        """Let a lent segment have one more user: it is free when all have given it back."""
        self._shares[segment] = self._shares.get(segment, 0) + 1

    def release(self, segment: int) -> None:
        """See Pool.release."""
        left = self._shares.pop(segment, 0)
        if left > 1:
            self._shares[segment] = left - 1
        elif not left:
            super().release(segment)
