"""Static priority by the task's nice value; preempts at once, first come first served among equals."""

from __future__ import annotations

from bisect import insort

from kernel.objects import Request


class StaticPriority:
    """Static priority: the lowest nice values hold the slots and preempt others; no ageing."""

    def __init__(self) -> None:
        self._queue: list[tuple[int, int, Request]] = []  # (nice, arrival, request), kept sorted
        self._keys: dict[Request, tuple[int, int, Request]] = {}

    def add(self, request: Request) -> None:
        key = (request.task.priority, request.number, request)
        self._keys[request] = key
        insort(self._queue, key)

    def remove(self, request: Request) -> None:
        self._queue.remove(self._keys.pop(request))

    def charge(self, request: Request, units: int) -> None:
        pass

    def choose(self, slots: int) -> list[Request]:
        return [request for _, _, request in self._queue[:slots]]
