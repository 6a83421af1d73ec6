"""Agents that are paused because there is no memory for everybody's contexts.

Who calls it: scheduler.py. What must hold: whole agents are paused, the youngest first, and the oldest is resumed first
(the head of the line: others' contexts are computed again in vain); whoever is paused is resumed once there is room, or
slots are free.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from kernel.engine.base import RECOMPUTE, EngineInfo
from kernel.objects import Request
from kernel.sched.flight import Flight
from kernel.sched.parking import Parking

RESUME_PART = 0.8  # of the memory: less than all, or the one that is resumed is paused again at once
_CAUSE = "there was no memory for its context"


class Residency:
    """Which tasks are paused. `leave` takes a runnable request out of its queue, `enter` puts one back."""

    def __init__(
        self,
        parking: Parking,
        runnable: Collection[Request],
        leave: Callable[[Request, str], None],
        enter: Callable[[Request, str], None],
    ) -> None:
        self._parking = parking
        self._runnable = runnable
        self._leave = leave
        self._enter = enter
        self._paused: dict[int, list[Request]] = {}  # by pid

    def __len__(self) -> int:
        return len(self._paused)

    def holds(self, request: Request) -> bool:
        """Whether a request that may run has to wait, for its task is paused; then it is kept here."""
        paused = self._paused.get(request.task.pid)
        if paused is not None:
            paused.append(request)
        return paused is not None

    def forget(self, request: Request) -> None:
        """A request ended, or its task was stopped."""
        requests = self._paused.get(request.task.pid)
        if requests is not None and request in requests:
            requests.remove(request)
            if not requests:
                del self._paused[request.task.pid]

    def save(self, request: Request, slot: int, flight: Flight, info: EngineInfo) -> None:
        """Plan to save a context that leaves its slot. Where there is no room younger tasks are paused, or its own."""
        if info.exactness == RECOMPUTE:
            self._parking.fall_back(request, has_core=True)
            return
        while not self._parking.plan_save(request, slot, flight, info):
            pid = self._victim(request)
            if pid is None:
                self._parking.fall_back(request, has_core=True)
                if request in self._runnable and not request.task.running:
                    self._pause(request.task.pid, flight)
                return
            self._pause(pid, flight)

    def resume(self, info: EngineInfo, slots: int) -> None:
        """Let those who came first go on, as far as there is memory for their contexts, or too few others."""
        while self._paused:
            heads = [min(requests, key=_age) for requests in self._paused.values()]
            head = min(heads, key=_age)
            store = self._parking.store
            need = store.lent_bytes + len(head.tokens) * info.kv_bytes_per_token
            if need > RESUME_PART * store.limit_bytes and len(self._runnable) >= slots:
                return
            for request in self._paused.pop(head.task.pid):
                self._enter(request, _CAUSE)

    # -- inside -------------------------------------------------------------------------------

    def _victim(self, request: Request) -> int | None:
        """Return the youngest task with a parked context and no slot that is younger than a request's."""
        age = _age(request)
        found = [
            (_age(one), one.task.pid)
            for one in self._runnable
            if one.snapshot is not None and not one.task.running and _age(one) > age
        ]
        return max(found, default=(0, None))[1]

    def _pause(self, pid: int, flight: Flight) -> None:
        requests = [request for request in self._runnable if request.task.pid == pid]
        for request in requests:
            self._leave(request, _CAUSE)
            self._parking.give_up(request, flight)
        self._paused[pid] = requests


def _age(request: Request) -> int:
    """By the oldest request that its task has in flight: less is older."""
    return min(one.number for one in request.task.requests)
