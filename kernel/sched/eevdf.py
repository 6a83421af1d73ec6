"""Earliest eligible virtual deadline first, among tasks, on as many slots as there are.

Who calls it: tree.py, through policy.py. What must hold: over any time in which tasks want more than they get, each
gets modelled core time in proportion to its weight, within a turn or two; more requests, shorter turns, sleeping and
coming back buy none of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import ClassVar

from kernel.objects import Request, Task
from kernel.sched.params import SLICE_MS, Param
from kernel.taskattr import WEIGHT_0

_MS = 1_000_000
_SLICES_OWED = 1  # that a task which comes back is still given, of what it was owed when it left
_STALE = 64  # entries of heaps beyond those in use, before a heap is made anew


@dataclass(slots=True, eq=False)
class _Entity:
    """A task that has runnable requests."""

    task: Task
    weight: int
    slice_ns: int  # a turn
    slice_v: float  # the same in virtual time
    vtime: float
    deadline: float
    chosen: dict[Request, None] = field(default_factory=dict)  # of its requests, those that hold a slot
    waiting: dict[Request, None] = field(default_factory=dict)
    has_lease: bool = False  # it was chosen, and its turn is not over
    stamp: int = 0  # of its newest entry in a heap; 0: it has none


_Entry = tuple[float, int, _Entity]  # of a heap; void when its stamp is not the entity's
_Held = tuple[float, _Entity, Request]  # deadline


class Eevdf:
    """Fair shares of core time by weight: whoever is owed some and has the earliest deadline goes first; a shorter
    turn (slice) comes sooner and is no larger a share. Earliest Eligible Virtual Deadline First (Stoica, Abdel-Wahab
    1995), Linux's since 6.6."""

    PARAMS: ClassVar[Mapping[str, Param]] = {"slice_ms": SLICE_MS}

    def __init__(self, slice_ms: int) -> None:
        self._slice_ms = slice_ms
        self._entities: dict[int, _Entity] = {}  # by pid
        self._left: dict[int, float] = {}  # virtual time of tasks that want nothing now, as far as it matters
        self._left_order: list[tuple[float, int]] = []  # heap of these
        self._holders: dict[int, _Entity] = {}  # of these, who has a request chosen
        self._ready: list[_Entry] = []  # heap by deadline: they wait and are owed time
        self._late: list[_Entry] = []  # heap by virtual time: they wait and are ahead
        self._stamps = 0
        self._weights = 0  # sum over entities
        self._weighted = 0.0  # sum over entities of weight times virtual time
        self._vtime = 0.0  # of the whole, while nobody is there

    # -- who is there -------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        entity = self._entities.get(request.task.pid)
        if entity is None:
            entity = self._enter(request.task)
        entity.waiting[request] = None
        if not entity.stamp:
            self._push(entity)

    def remove(self, request: Request) -> None:
        entity = self._entities[request.task.pid]
        if request in entity.chosen:
            del entity.chosen[request]
            if not entity.chosen:
                del self._holders[request.task.pid]
        else:
            del entity.waiting[request]
        if not entity.waiting:
            entity.stamp = 0
        if not entity.chosen and not entity.waiting:
            self._leave(entity)

    def charge(self, request: Request, core_ns: int, tokens: int) -> None:
        entity = self._entities[request.task.pid]
        self._weighted += core_ns * WEIGHT_0
        entity.vtime += core_ns * WEIGHT_0 / entity.weight
        if entity.vtime >= entity.deadline:
            entity.deadline = entity.vtime + entity.slice_v
            entity.has_lease = False
        if entity.stamp:
            self._push(entity)

    # -- who runs -----------------------------------------------------------------------------

    def choose(self, slots: int, work_ns: int) -> list[Request]:
        self._let_ready()
        held = self._end_turns()
        held.sort(key=_deadline)
        while len(held) > slots:
            self._put_back(*held.pop()[1:])
        while len(held) < slots and (first := self._take_next()) is not None:
            held.append(first)
        self._preempt(held)
        held.sort(key=_deadline)
        return [request for _, _, request in held]

    def lag_ns(self, task: Task) -> float:
        """Return how much core time a runnable task is owed; negative: it is ahead."""
        entity = self._entities.get(task.pid)
        return 0.0 if entity is None else (self._now() - entity.vtime) * entity.weight / WEIGHT_0

    # -- inside -------------------------------------------------------------------------------

    def _now(self) -> float:
        """The virtual time of the whole: where everybody's would be with exact shares."""
        return self._weighted / self._weights if self._weights else self._vtime

    def _enter(self, task: Task) -> _Entity:
        attr = task.sched
        weight = attr.weight_at(task.priority)
        slice_ns = (attr.slice_ms or self._slice_ms) * _MS
        slice_v = slice_ns * WEIGHT_0 / weight
        now = self._now()
        left = self._left.pop(task.pid, None)
        vtime = now if left is None else max(left, now - _SLICES_OWED * slice_v)
        entity = _Entity(task, weight, slice_ns, slice_v, vtime, vtime + slice_v)
        self._entities[task.pid] = entity
        self._weights += weight
        self._weighted += weight * vtime
        return entity

    def _leave(self, entity: _Entity) -> None:
        pid = entity.task.pid
        del self._entities[pid]
        now = self._now()
        self._weights -= entity.weight
        self._weighted -= entity.weight * entity.vtime
        if not self._weights:  # with the last one goes what it was ahead: nobody had less for it
            self._vtime, self._weighted = max(now, entity.vtime), 0.0
            self._left.clear()
            self._left_order.clear()
            return
        self._vtime = self._now()
        horizon = self._vtime - _SLICES_OWED * entity.slice_v
        left = self._left[pid] = max(entity.vtime, horizon)
        heappush(self._left_order, (left, pid))
        while self._left_order and self._left_order[0][0] < horizon:
            vtime, gone = heappop(self._left_order)
            if self._left.get(gone) == vtime:
                del self._left[gone]

    def _push(self, entity: _Entity) -> None:
        """Put a task where its next waiting request belongs, after those that it has on the model already."""
        self._stamps += 1
        entity.stamp = self._stamps
        ahead = len(entity.chosen) * entity.slice_v
        if entity.vtime + ahead <= self._now():
            heappush(self._ready, (entity.deadline + ahead, entity.stamp, entity))
        else:
            heappush(self._late, (entity.vtime + ahead, entity.stamp, entity))
        for heap in (self._ready, self._late):
            if len(heap) > 2 * len(self._entities) + _STALE:
                heap[:] = sorted(item for item in heap if item[2].stamp == item[1])

    def _let_ready(self) -> None:
        """Who was ahead and is not any more is owed time."""
        now = self._now()
        while (first := _first(self._late)) is not None and first[0] <= now:
            _, stamp, entity = heappop(self._late)
            ahead = len(entity.chosen) * entity.slice_v
            heappush(self._ready, (entity.deadline + ahead, stamp, entity))

    def _end_turns(self) -> list[_Held]:
        """Return what is held by right; what was held for a turn waits again."""
        kept: list[_Held] = []
        for entity in list(self._holders.values()):
            if entity.has_lease:
                kept += [
                    (entity.deadline + place * entity.slice_v, entity, request)
                    for place, request in enumerate(entity.chosen)
                ]
            else:
                del self._holders[entity.task.pid]
                entity.waiting = {**entity.chosen, **entity.waiting}
                entity.chosen = {}
                self._push(entity)
        return kept

    def _take_next(self) -> _Held | None:
        """Take the most wanted waiting request: by deadline among the owed, else of who is least ahead."""
        heap = self._ready if _first(self._ready) is not None else self._late
        if _first(heap) is None:
            return None
        return self._take(heap)

    def _take(self, heap: list[_Entry]) -> _Held:
        entity = heappop(heap)[2]
        deadline = entity.deadline + len(entity.chosen) * entity.slice_v
        request = next(iter(entity.waiting))
        del entity.waiting[request]
        entity.chosen[request] = None
        entity.has_lease = True
        self._holders[entity.task.pid] = entity
        entity.stamp = 0
        if entity.waiting:
            self._push(entity)
        return deadline, entity, request

    def _put_back(self, entity: _Entity, request: Request) -> None:
        """Take a request off the model before its turn is over: it goes on with it as soon as it can."""
        del entity.chosen[request]
        entity.waiting = {request: None, **entity.waiting}
        if not entity.chosen:
            del self._holders[entity.task.pid]
        self._push(entity)

    def _preempt(self, held: list[_Held]) -> None:
        """Give the place of whoever has the latest deadline to one that asked for a shorter turn and has an earlier."""
        while held and (first := _first(self._ready)) is not None:
            last = max(held, key=_deadline)
            if first[0] >= last[0] or first[2].slice_ns >= last[1].slice_ns:
                return
            held.remove(last)
            taken = self._take(self._ready)
            self._put_back(*last[1:])
            held.append(taken)


def _deadline(held: _Held) -> float:
    return held[0]


def _first(heap: list[_Entry]) -> _Entry | None:
    """Return a heap's first entry, having dropped the void ones before it."""
    while heap and heap[0][2].stamp != heap[0][1]:
        heappop(heap)
    return heap[0] if heap else None
