"""Waiting is watched: who has waited too long for a slot is warned of, boosted, and in the end rescued.

Who calls it: the scheduler, one of these for each bank. What must hold: whatever the policies, weights, classes and
arrivals, a task with something to run gets a slot within the bound below; its class and priority are never rewritten.

A request that waits for half of its group's starve_ms is logged; at three quarters it goes first inside its own policy,
one of each policy's at a time; at the whole its task enters a queue, first come first served, that owns two fifths of
the slots: whoever is at its head holds one for a lease. Tasks queue and not requests, so that many requests buy no more
of it. A task of which another request had a slot meanwhile does not starve: one that waits long takes a slot that its
own task has.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from heapq import heapify, heappop, heappush

from kernel.objects import Request

LEASE_NS = 300_000_000  # that a rescued request holds its slot at least ...
LEASE_CORE_NS = 40_000_000  # but no longer than until it has had so much core time, as a chunk of a prompt takes
LEASE_TASKS = 64  # ... and so many times longer as there are tasks of this many: short turns of many cost switches
ROWS = 2, 5  # so many of so many slots are for the rescued, at least one
_STALE = 256  # alarms of waits that ended, before their heap is made anew


class Stage(IntEnum):
    """Of a wait."""

    NONE = 0
    WARN = 1
    BOOST = 2
    RESCUE = 3


_PARTS = {Stage.WARN: 0.5, Stage.BOOST: 0.75, Stage.RESCUE: 1.0}  # of starve_ms


@dataclass(slots=True, eq=False)
class _Wait:
    request: Request
    since_ns: int
    starve_ns: int
    stage: Stage = Stage.NONE


@dataclass(frozen=True, slots=True)
class Bound:
    """W = starve_s + ceil(tasks / rows) * (lease_s + step_s + switch_s) + reads_s + banks_s."""

    starve_s: float
    tasks: int  # that may be rescued before it does, and itself: the queue's order is that of waits
    rows: int  # of the rescued
    lease_s: float
    step_s: float  # the longest step
    reads_s: float  # that they take longer than their leases to read a chunk of their prompts each
    switch_s: float  # saves and restores of as many as there are rows
    banks_s: float  # that the bank may be without memory, for others that do not fit beside it

    @property
    def seconds(self) -> float:
        turn_s = self.lease_s + self.step_s + self.switch_s
        return self.starve_s + -(-self.tasks // self.rows) * turn_s + self.reads_s + self.banks_s


def rows_of(slots: int) -> int:
    part, whole = ROWS
    return max(1, slots * part // whole)


def lease_ns(tasks: int) -> int:
    """Return how long a rescued request may hold a slot while so many tasks want to run."""
    return LEASE_NS * max(tasks, LEASE_TASKS) // LEASE_TASKS


class Rescue:
    """The waits of one bank. `reached` is told of every stage that one reaches."""

    def __init__(self, reached: Callable[[Request, Stage, int], None]) -> None:
        self._reached = reached
        self._waits: dict[Request, _Wait] = {}
        self._alarms: list[tuple[int, int, _Wait, Stage]] = []  # heap
        self._alarm_count = 0
        self._queue: dict[int, int] = {}  # pids with starving requests: since when they starve
        self._order: list[tuple[int, int, int]] = []  # heap of these: since when, number, pid; or void
        self._order_count = 0
        self._starving: dict[int, OrderedDict[Request, None]] = {}  # by pid, longest waiting first
        self._leases: dict[Request, int | None] = {}  # since when it has its slot; None: it has none yet
        self._inner: dict[Request, int | None] = {}  # the same of those that get it from their own task
        self._had_ns: dict[Request, int] = {}  # core time since then, of those that were fed
        self._resting: list[int] = []  # until when rows rest whose lease ended early, for it had cost enough

    def stage(self, request: Request) -> Stage:
        wait = self._waits.get(request)
        return Stage.NONE if wait is None else wait.stage

    def waits(self, request: Request, now_ns: int, starve_ns: int) -> None:
        """A runnable request has no slot from now on."""
        for leases in (self._leases, self._inner):
            if request in leases:  # it moves to another bank, or its core died
                leases[request] = None
        if request in self._waits:
            return
        wait = self._waits[request] = _Wait(request, now_ns, starve_ns)
        self._set_alarm(wait, Stage.WARN, now_ns + int(starve_ns * _PARTS[Stage.WARN]))

    def runs(self, request: Request, now_ns: int) -> None:
        """It has a slot."""
        self._end_wait(request)
        for leases in (self._leases, self._inner):
            if request in leases:
                leases[request] = now_ns

    def fed(self, request: Request, core_ns: int) -> None:
        """It got further by a step that cost so much."""
        if request in self._leases or request in self._inner:
            self._had_ns[request] = self._had_ns.get(request, 0) + core_ns

    def gone(self, request: Request) -> None:
        """It is not runnable any more."""
        self._end_wait(request)
        self._leases.pop(request, None)
        self._inner.pop(request, None)
        self._had_ns.pop(request, None)

    @property
    def taken(self) -> int:
        """How many rows are held, or rest."""
        return len(self._leases) + len(self._resting)

    def look(self, now_ns: int, slots: int, tasks: int) -> tuple[list[Request], list[Request]]:
        """Return who must hold a slot in the next step, longest starved first; and who must if its task has any."""
        while self._alarms and self._alarms[0][0] <= now_ns:
            _, _, wait, stage = heappop(self._alarms)
            if self._waits.get(wait.request) is wait:
                self._reach(wait, stage, now_ns)
        lasting_ns = lease_ns(tasks)
        self._resting += self._end_leases(self._leases, now_ns, lasting_ns)
        self._end_leases(self._inner, now_ns, lasting_ns)
        self._resting = [until_ns for until_ns in self._resting if until_ns > now_ns]
        while self._queue and self.taken < rows_of(slots):
            since_ns, _, pid = heappop(self._order)
            if self._queue.get(pid) != since_ns:
                continue
            del self._queue[pid]
            request = next(iter(self._starving[pid]))
            self._forget_starving(request)
            self._leases[request] = None
            if pid in self._starving:  # it has another one: that is at the end
                self._enqueue(pid, now_ns)
        return list(self._leases), list(self._inner)

    # -- inside -------------------------------------------------------------------------------

    def _end_leases(self, leases: dict[Request, int | None], now_ns: int, lasting_ns: int) -> list[int]:
        """Drop those that are over; return until when rows rest whose lease ended early."""
        resting = []
        for request, since_ns in list(leases.items()):
            if since_ns is None or request not in self._had_ns:
                continue
            is_over = now_ns - since_ns >= lasting_ns
            if is_over or self._had_ns[request] >= LEASE_CORE_NS:
                del leases[request], self._had_ns[request]
                if not is_over:
                    resting.append(since_ns + lasting_ns)
        return resting

    def _reach(self, wait: _Wait, stage: Stage, now_ns: int) -> None:
        task = wait.request.task
        since_ns = now_ns if task.running else max(wait.since_ns, task.ran_ns)
        at_ns = since_ns + int(wait.starve_ns * _PARTS[stage])
        if at_ns > now_ns:  # another request of its task had a slot since
            if stage is Stage.RESCUE:
                self._inner.setdefault(wait.request, None)
            self._set_alarm(wait, stage, at_ns)
            return
        wait.stage = stage
        if stage is Stage.RESCUE:
            pid = wait.request.task.pid
            self._inner.pop(wait.request, None)
            if wait.request not in self._leases:
                self._starving.setdefault(pid, OrderedDict())[wait.request] = None
                if pid not in self._queue or at_ns < self._queue[pid]:
                    self._enqueue(pid, at_ns)
        else:
            self._set_alarm(wait, Stage(stage + 1), since_ns + int(wait.starve_ns * _PARTS[Stage(stage + 1)]))
        self._reached(wait.request, stage, wait.since_ns)

    def _set_alarm(self, wait: _Wait, stage: Stage, at_ns: int) -> None:
        self._alarm_count += 1
        heappush(self._alarms, (at_ns, self._alarm_count, wait, stage))
        if len(self._alarms) > 2 * len(self._waits) + _STALE:
            self._alarms = [alarm for alarm in self._alarms if self._waits.get(alarm[2].request) is alarm[2]]
            heapify(self._alarms)

    def _end_wait(self, request: Request) -> None:
        if self._waits.pop(request, None) is not None and request not in self._leases:
            self._forget_starving(request)

    def _enqueue(self, pid: int, since_ns: int) -> None:
        """Put a task in its place among those who starve, or in another one."""
        self._queue[pid] = since_ns
        self._order_count += 1
        heappush(self._order, (since_ns, self._order_count, pid))
        if len(self._order) > 2 * len(self._queue) + _STALE:
            self._order = [entry for entry in self._order if self._queue.get(entry[2]) == entry[0]]
            heapify(self._order)

    def _forget_starving(self, request: Request) -> None:
        """It starves no more; its task keeps its place if another one does."""
        pid = request.task.pid
        starving = self._starving.get(pid)
        if starving is None or request not in starving:
            return
        del starving[request]
        if not starving:
            del self._starving[pid]
            self._queue.pop(pid, None)
