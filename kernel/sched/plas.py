"""Least attained service of the whole program: an agent that has had little of the model goes first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from kernel.objects import Request
from kernel.sched.params import SLICE_MS, Param
from kernel.sched.ranked import Key, Ranked

_MS = 1_000_000


class LeastAttainedService(Ranked):
    """The agent that has had least core time in all its requests goes first, in levels that double; turns within a
    level. Program-level attained service as in Autellix (Luo et al. 2025)."""

    PARAMS: ClassVar[Mapping[str, Param]] = {"slice_ms": SLICE_MS}

    def __init__(self, slice_ms: int) -> None:
        super().__init__()
        self._slice_ns = slice_ms * _MS
        self._used_ns: dict[Request, int] = {}  # of its turn
        self._turns: dict[Request, int] = {}  # its place in its level
        self._count = 0

    def level(self, request: Request) -> int:
        """Return 0 for agents that have had less than a turn, one more for each doubling."""
        return (request.task.sched.attained_ns // self._slice_ns).bit_length()

    def key(self, request: Request) -> Key:
        return self.level(request), request not in self._chosen, self._turns[request]

    def add(self, request: Request) -> None:
        self._begin(request)
        super().add(request)

    def remove(self, request: Request) -> None:
        super().remove(request)
        del self._used_ns[request], self._turns[request]

    def charge(self, request: Request, core_ns: int, tokens: int) -> None:
        self._used_ns[request] += core_ns
        slice_ms = request.task.sched.slice_ms
        if self._used_ns[request] >= (self._slice_ns if slice_ms is None else slice_ms * _MS):
            self._begin(request)
            self._chosen.pop(request, None)  # it queues up again, behind its like
        super().charge(request, core_ns, tokens)

    def choose(self, slots: int, work_ns: int) -> list[Request]:
        # What other requests of a task are given puts its waiting ones back too, never ahead: the first ones will do.
        while stale := [one for one in self.first(slots) if self._entries[one][0] != self.key(one)]:
            self.rekey(stale)
        return super().choose(slots, work_ns)

    def _begin(self, request: Request) -> None:
        self._count += 1
        self._used_ns[request], self._turns[request] = 0, self._count
