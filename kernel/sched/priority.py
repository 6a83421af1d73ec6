"""Priority by the task's nice value, with ageing: waiting is worth as much as a better nice value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from kernel.objects import Request
from kernel.sched.params import SLICE_MS, Param
from kernel.sched.ranked import Key, Ranked

_MS = 1_000_000


class AgingPriority(Ranked):
    """The lowest nice value goes first, and at once; who waits gains a step of nice for every age_ms of others' core
    time, and loses it again after a turn. Ageing as in the schedulers of Multics and early Unix."""

    PARAMS: ClassVar[Mapping[str, Param]] = {
        "age_ms": Param(1, 1_000_000, 500, "ms of core time of waiting that are worth a step of nice"),
        "slice_ms": SLICE_MS,
    }

    def __init__(self, age_ms: int, slice_ms: int) -> None:
        super().__init__()
        self._age_ns = age_ms * _MS
        self._slice_ns = slice_ms * _MS
        self._since_ns: dict[Request, int] = {}  # when it queued up, by the core time
        self._used_ns: dict[Request, int] = {}  # since then

    def key(self, request: Request) -> Key:
        # Everybody who waits ages alike, so their order stays what it was when they queued up.
        return (request.task.priority * self._age_ns + self._since_ns[request],)

    def add(self, request: Request) -> None:
        self._since_ns[request], self._used_ns[request] = self._work_ns, 0
        super().add(request)

    def remove(self, request: Request) -> None:
        super().remove(request)
        del self._since_ns[request], self._used_ns[request]

    def charge(self, request: Request, core_ns: int, tokens: int) -> None:
        self._used_ns[request] += core_ns
        self._work_ns += core_ns  # until choose() says it exactly
        slice_ms = request.task.sched.slice_ms
        if self._used_ns[request] >= (self._slice_ns if slice_ms is None else slice_ms * _MS):
            self._since_ns[request], self._used_ns[request] = self._work_ns, 0
        super().charge(request, core_ns, tokens)
