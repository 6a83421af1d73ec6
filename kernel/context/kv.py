"""What a request left behind, and where its KV is.

Who uses it: kept.py, which knows whose contexts they are; tiers.py, which knows where the KV is.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from kernel.context.swapspace import Extent
from kernel.objects import KVSnapshot, Request

Turns = tuple[tuple[int, int], ...]  # see sched/turns.py


@dataclass(slots=True, eq=False)
class Kv:
    """The KV of a context, and of those that were forked from it. It has one share of its segment."""

    tokens: int
    contexts: list[Context] = field(default_factory=list)
    is_coming: bool = False  # it is being saved
    snapshot: KVSnapshot | None = None  # its segment is 0 while it is on the disk alone
    extent: Extent | None = None  # where it is on the disk
    takers: list[tuple[Request, Context]] = field(default_factory=list)  # who waits until it has come

    @property
    def is_resident(self) -> bool:
        """Whether it is in memory."""
        return self.snapshot is not None and self.snapshot.segment != 0


@dataclass(slots=True, eq=False)
class Context:
    """How a request's context came about."""

    tokens: array[int]  # that were fed
    turns: Turns
    kv: Kv | None = None  # None: it was given up, or a request has it

    def share(self, kv: Kv) -> None:
        """Have a part in KV that others may have a part in."""
        self.kv = kv
        kv.contexts.append(self)
