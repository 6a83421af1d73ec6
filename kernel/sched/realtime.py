"""The class REALTIME: whoever has the highest priority runs, as long as it wants.

Who calls it: classes.py. What must hold: among equals, those of the policy "rr" take turns and others go by arrival.
"""

from __future__ import annotations

from bisect import insort

from kernel.objects import Request

TURN_NS = 40_000_000  # of core time, of those that take turns

_Entry = tuple[int, int, Request]


class RealtimeQueue:
    """Static priorities, 99 first; POSIX's SCHED_FIFO and SCHED_RR."""

    def __init__(self) -> None:
        self._queue: list[_Entry] = []  # (-rt_priority, order, request), sorted
        self._entries: dict[Request, _Entry] = {}
        self._used_ns: dict[Request, int] = {}  # of its turn, of those that take turns
        self._orders = 0

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, request: Request) -> None:
        self._enter(request)

    def remove(self, request: Request) -> None:
        self._queue.remove(self._entries.pop(request))
        self._used_ns.pop(request, None)

    def charge(self, request: Request, core_ns: int) -> None:
        if request.task.sched.policy != "rr":
            return
        self._used_ns[request] = self._used_ns.get(request, 0) + core_ns
        slice_ms = request.task.sched.slice_ms
        if self._used_ns[request] >= (TURN_NS if slice_ms is None else slice_ms * 1_000_000):
            self._used_ns[request] = 0
            self._queue.remove(self._entries.pop(request))
            self._enter(request)

    def choose(self, slots: int) -> list[Request]:
        return [request for _, _, request in self._queue[:slots]]

    def _enter(self, request: Request) -> None:
        self._orders += 1
        entry = (-request.task.sched.rt_priority, self._orders, request)
        self._entries[request] = entry
        insort(self._queue, entry)
