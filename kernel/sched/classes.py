"""The classes of one bank, highest first, and the floor that each lower one has whatever the higher ones want.

Who calls it: queues.py. What must hold: a class has the slots that those above leave it; one that wants to run has at
least its floor's part of the core time in the long run; who is rescued (rescue.py) holds a slot, whoever else wants it.
"""

from __future__ import annotations

from collections.abc import Sequence

from kernel.objects import Request
from kernel.sched.groups import Groups
from kernel.sched.realtime import RealtimeQueue
from kernel.sched.tree import Tree
from kernel.taskattr import SchedClass

FLOORS = {SchedClass.FAIR: 0.05, SchedClass.BATCH: 0.05, SchedClass.IDLE: 0.01}  # of core time, against those above
DESCRIPTIONS = {
    SchedClass.REALTIME: "before all others, by rt_priority; needs the capability sched.realtime",
    SchedClass.FAIR: "shares by its group's policy; the default",
    SchedClass.BATCH: "after these, with turns four times as long",
    SchedClass.IDLE: "what the others leave",
}
_BATCH_FACTOR = 4
_TURN_NS = 40_000_000  # of core time that a class is owed before it gets a slot for it


def put_first(first: Sequence[Request], inner: Sequence[Request], chosen: list[Request], slots: int) -> list[Request]:
    """Return a choice with the rescued in front, in the place of the last; of those `inner`, each in the place of
    another request of its own task, if one was chosen."""
    if not first and not inner:
        return chosen
    kept = list(dict.fromkeys((*first, *chosen)))[:slots]
    for request in inner:
        if request not in kept:
            siblings = [place for place, one in enumerate(kept) if one.task is request.task and one not in first]
            if siblings:
                kept[siblings[-1]] = request
    return kept


class ClassQueues:
    """All runnable requests of a bank."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._realtime = RealtimeQueue()
        self._trees = {
            SchedClass.FAIR: Tree(groups),
            SchedClass.BATCH: Tree(groups, _BATCH_FACTOR),
            SchedClass.IDLE: Tree(groups, _BATCH_FACTOR),
        }
        self._classes: dict[Request, SchedClass] = {}
        self._owed_ns = dict.fromkeys(FLOORS, 0.0)
        self._slots_owed: set[SchedClass] = set()

    def __len__(self) -> int:
        return len(self._classes)

    def add(self, request: Request) -> None:
        found = self._classes[request] = request.task.sched.sched_class
        if found is SchedClass.REALTIME:
            self._realtime.add(request)
        else:
            self._trees[found].add(request)

    def remove(self, request: Request) -> None:
        found = self._classes.pop(request)
        if found is SchedClass.REALTIME:
            self._realtime.remove(request)
            return
        tree = self._trees[found]
        tree.remove(request)
        if not len(tree):
            self._owed_ns[found] = 0.0

    def charge(self, request: Request, core_ns: int, tokens: int) -> None:
        found = self._classes[request]
        if found is SchedClass.REALTIME:
            self._realtime.charge(request, core_ns)
            for group in self._groups.lineage(request.task.sched.group):
                group.attained_ns += core_ns
            return
        self._trees[found].charge(request, core_ns, tokens)
        self._owed_ns[found] -= core_ns

    def pass_time(self, core_ns: int) -> None:
        """A step has passed: what each class that wanted to run is owed of it."""
        for found, tree in self._trees.items():
            if len(tree):
                owed = self._owed_ns[found] + FLOORS[found] * core_ns
                self._owed_ns[found] = max(owed, -_TURN_NS)  # having had more buys nobody a long silence
                tree.pass_time(core_ns)

    def choose(
        self, slots: int, work_ns: int, now_ns: int, rescued: Sequence[Request], inner: Sequence[Request]
    ) -> list[Request]:
        """Return who is to hold a slot in the next step: first the rescued, then the others, most wanted first.

        inner: who waits long, of tasks that have slots: they take one of these.
        """
        reserved = self._reserve(slots)
        chosen = self._realtime.choose(slots - len(reserved))
        for found, tree in self._trees.items():
            reserved.discard(found)
            left = slots - len(chosen) - len(reserved)
            chosen += tree.choose(left, work_ns, now_ns)
        return put_first(rescued, inner, chosen, slots)

    def boost(self, request: Request) -> None:
        """Put a request first in its own policy, until it has run for a turn; REALTIME knows no such thing."""
        found = self._classes[request]
        if found is not SchedClass.REALTIME:
            self._trees[found].boost(request)

    def next_free_ns(self) -> int | None:
        """Return when a group that was held back by its cap may go on."""
        times = [tree.next_free_ns for tree in self._trees.values() if tree.next_free_ns is not None]
        return min(times, default=None)

    def policy_of(self, request: Request) -> object:
        """Return the policy that a request is ranked by, None if it is not here."""
        found = self._classes.get(request)
        if found is None:
            return None
        return self._realtime if found is SchedClass.REALTIME else self._trees[found].policy_of(request)

    def forget_group(self, path: str) -> None:
        """A group is gone; there was nothing in it."""
        for tree in self._trees.values():
            tree.forget_group(path)

    # -- inside -------------------------------------------------------------------------------

    def _reserve(self, slots: int) -> set[SchedClass]:
        """Return the classes that get a slot for their floor, those owed most if there are too few slots."""
        for found, owed_ns in self._owed_ns.items():
            if owed_ns >= _TURN_NS:
                self._slots_owed.add(found)
            elif owed_ns <= 0:
                self._slots_owed.discard(found)
        most = sorted(self._slots_owed, key=lambda found: -self._owed_ns[found])
        return set(most[:slots])
