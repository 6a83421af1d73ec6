"""Round robin with a quantum in tokens; turns go by task, so many requests buy no more of them."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import ClassVar

from kernel.objects import Request
from kernel.sched.params import QUANTUM_TOKENS, Param


class RoundRobin:
    """Round robin over tasks: a request keeps its slot for a quantum, longer while nobody waits. As in CTSS."""

    PARAMS: ClassVar[Mapping[str, Param]] = {"quantum_tokens": QUANTUM_TOKENS}

    def __init__(self, quantum_tokens: int) -> None:
        self._quantum = quantum_tokens
        self._used: dict[Request, int] = {}  # those that hold a slot, longest holder first
        self._waiting: OrderedDict[int, deque[Request]] = OrderedDict()  # by pid, in the order of turns

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

    def charge(self, request: Request, core_ns: int, tokens: int) -> None:
        if request in self._used:
            self._used[request] += tokens

    def choose(self, slots: int, work_ns: int) -> list[Request]:
        while len(self._used) > slots:  # others have a claim to some of the slots
            last, _ = self._used.popitem()
            self._waiting.setdefault(last.task.pid, deque()).appendleft(last)
            self._waiting.move_to_end(last.task.pid, last=False)
        while self._waiting and len(self._used) < slots:
            self._take_turn()
        spent = [request for request, used in self._used.items() if used >= self._quantum]
        for request in spent:
            if not self._waiting:
                break
            self._take_turn(request)
        return list(self._used)

    def _take_turn(self, leaving: Request | None = None) -> None:
        """Give a slot to the first task's oldest request, which ends that task's turn.

        Who leaves queues up before the rest of that task does: else two turns in three would be its.
        """
        pid = next(iter(self._waiting))
        rest = self._waiting.pop(pid)
        self._used[rest.popleft()] = 0
        if leaving is not None:
            del self._used[leaving]
            self.add(leaving)
        if not rest:
            return
        if pid in self._waiting:  # who left is of that task
            rest.extend(self._waiting[pid])
        self._waiting[pid] = rest
