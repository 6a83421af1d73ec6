"""How many of the slots each child of a group gets: by weight, in modelled core time, with floors and caps.

Who calls it: tree.py, once a step for each group that has more than one child with something to run. What must hold: in
the long run a child that wants more than it gets has its weight's part; it keeps its slots until it is a turn ahead,
for each change is a context switch; a child over its cap gets nothing, whoever else wants it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace

from kernel.taskattr import WEIGHT_0

TURN_NS = 40_000_000  # of core time that a child may be ahead before it gives a slot up
_CAP_BURST_NS = 200_000_000  # of its cap's time that a child may save up


@dataclass(slots=True, eq=False)
class Share:
    """A child's part: what it has had, and may have."""

    weight: int = 0  # 0: nothing in it wants to run
    min_share: float = 0.0
    max_share: float = 1.0
    wants: int = 0  # requests that may run
    slots: int = 0  # that it got last
    vtime: float = 0.0  # core ns by weight
    attained_ns: int = 0  # in all
    floor_ns: float = 0.0  # core time that its floor owes it
    credit_ns: float = 0.0  # that its cap leaves it
    credit_at_ns: int | None = None

    def charge(self, core_ns: int) -> None:
        self.attained_ns += core_ns
        if self.weight:
            self.vtime += core_ns * WEIGHT_0 / self.weight
        self.floor_ns = max(0.0, self.floor_ns - core_ns)
        self.credit_ns -= core_ns

    def is_capped(self, now_ns: int) -> bool:
        """Whether it has had what its cap allows by now."""
        if self.max_share >= 1.0:
            return False
        since = now_ns if self.credit_at_ns is None else self.credit_at_ns
        self.credit_ns = min(_CAP_BURST_NS, self.credit_ns + (now_ns - since) * self.max_share)
        self.credit_at_ns = now_ns
        return self.credit_ns < 0

    def free_at_ns(self, now_ns: int) -> int:
        """Return when a capped one may go on."""
        return now_ns + int(-self.credit_ns / self.max_share) + 1


def owe_floors(shares: Sequence[Share], core_ns: int) -> None:
    """A step has passed in which all of these wanted to run: floors are of its time."""
    for share in shares:
        if share.min_share:
            share.floor_ns += core_ns * share.min_share


def enter(share: Share, others: Sequence[Share]) -> None:
    """A child wants to run that did not: it is owed nothing for the time before."""
    if others:
        share.vtime = max(share.vtime, min(other.vtime for other in others))
    share.slots = 0
    share.floor_ns = 0.0


def divide(shares: Sequence[Share], slots: int) -> None:
    """Set the slots of each. All want to run and none is capped; together they get min(slots, all that they want)."""
    held = [share.slots for share in shares]
    for share in shares:
        share.slots = 0
    heap = [(*_rank(share, 0, held[place]), place) for place, share in enumerate(shares)]
    heapify(heap)
    while slots and heap:
        share = shares[heap[0][2]]
        share.slots += 1
        slots -= 1
        if share.slots == share.wants:
            heappop(heap)
        else:
            place = heap[0][2]
            heapreplace(heap, (*_rank(share, share.slots, held[place]), place))
    _forgive(shares)


def _rank(share: Share, has: int, held: int) -> tuple[bool, float]:
    """Who gets the next slot: least first. The floor's before all, then who has had least for its weight."""
    is_owed = share.floor_ns > TURN_NS * (1 + has)
    ahead = TURN_NS * 0.1 * (has + 1) - (TURN_NS if has < held else 0)
    return not is_owed, share.vtime + ahead * WEIGHT_0 / share.weight


def _forgive(shares: Sequence[Share]) -> None:
    """Who has all that it wants saves nothing up for later: it could not have used more.

    Two turns, of the lightest that wants more if that is lighter, are left to it: so far behind is one also that
    has all that it wants only until its turn on a shared slot is over.
    """
    hungry = [share for share in shares if share.slots < share.wants]
    if not hungry:
        return
    least = min(share.vtime for share in hungry)
    lightest = min(share.weight for share in hungry)
    for share in shares:
        if share.slots == share.wants:
            share.vtime = max(share.vtime, least - 2 * TURN_NS * WEIGHT_0 / min(share.weight, lightest))
