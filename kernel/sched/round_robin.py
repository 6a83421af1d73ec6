"""Round robin with a quantum in tokens; turns go by task, so many requests buy no more of them."""

from __future__ import annotations

from collections import deque

from kernel.objects import Request


class RoundRobin:
    """Round robin over tasks: a request keeps its slot for a quantum, longer while nobody waits."""

    def __init__(self, quantum_tokens: int) -> None:
        self._quantum = quantum_tokens
        self._used: dict[Request, int] = {}  # those that hold a slot, longest holder first
        self._waiting: dict[int, deque[Request]] = {}  # by pid; the order of keys is the order of turns

    def add(self, request: Request) -> None:
        self._waiting.setdefault(request.task.pid, deque()).append(request)

    def remove(self, request: Request) -> None:
        if request in self._used:
            del self._used[request]
            return
        queue = self._waiting[request.task.pid]
        queue.remove(request)
        if not queue:
            del self._waiting[request.task.pid]

    def charge(self, request: Request, units: int) -> None:
        if request in self._used:
            self._used[request] += units

    def choose(self, slots: int) -> list[Request]:
        while len(self._used) > slots:  # the kernel was given fewer slots
            self._park(next(reversed(self._used)))
        while self._waiting and len(self._used) < slots:
            self._used[self._next()] = 0
        if self._waiting:
            spent = [request for request, used in self._used.items() if used >= self._quantum]
            incoming = []
            while self._waiting and len(incoming) < len(spent):
                incoming.append(self._next())
            for request in spent[: len(incoming)]:
                self._park(request)
            self._used.update(dict.fromkeys(incoming, 0))
        return list(self._used)

    def _next(self) -> Request:
        """Take the first task's oldest request; the task goes to the end of the line."""
        pid = next(iter(self._waiting))
        queue = self._waiting.pop(pid)
        request = queue.popleft()
        if queue:
            self._waiting[pid] = queue
        return request

    def _park(self, request: Request) -> None:
        del self._used[request]
        self.add(request)
