"""Every segment that the kernel made, by number: parked contexts of LLM cores, and agents' memory.

Who uses it: the loop makes and drops them as the core decides; the server's side channel asks whose they are.
What must hold: an agent's segment is handed to the process that owns it, a parked context to no agent.
"""

from __future__ import annotations

from collections.abc import Iterator

from kernel.effects import MakeSegment
from kernel.identity import Process
from shm.segment import Segment


class Segments:
    """Owns the descriptors."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Segment, MakeSegment]] = {}

    def make(self, effect: MakeSegment) -> Segment:
        """Make a segment. Raises OSError.

        It gets its pages as its user writes: nobody is to make the kernel zero them.
        """
        segment = Segment.create(f"agentix-{effect.segment}", effect.size_bytes)
        self._made[effect.segment] = segment, effect
        return segment

    def drop(self, number: int) -> int | None:
        """Give a segment up; return the core that knows it, if one does."""
        segment, effect = self._made.pop(number, (None, None))
        if segment is None or effect is None:
            return None
        segment.close()
        return effect.core if effect.is_for_core else None

    def fd(self, number: int) -> int:
        """Return a segment's descriptor, which stays ours. Raises KeyError."""
        return self._made[number][0].fd

    def for_core(self, core: int) -> Iterator[tuple[int, Segment]]:
        """Yield what a new LLM core is to be told of."""
        for number, (segment, effect) in self._made.items():
            if effect.is_for_core and effect.core == core:
                yield number, segment

    def owned(self, process: Process, number: int) -> Segment | None:
        """Return an agent's segment, None for one that is not this process's."""
        segment, effect = self._made.get(number, (None, None))
        if effect is None or effect.is_for_core or effect.owner != process:
            return None
        return segment

    def close(self) -> None:
        for segment, _ in self._made.values():
            segment.close()
        self._made.clear()
