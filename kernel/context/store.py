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
