"""Highest response ratio next: short requests go first, and whoever waits long enough is short in the end."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from heapq import heapify, heappop, heapreplace
from math import ceil, log2
from typing import ClassVar

from kernel.objects import Request
from kernel.sched.params import SLICE_MS, Param
from kernel.sched.work import left_tokens

_MS = 1_000_000


class HighestResponseRatio:
    """The highest (waited + size) / size goes first, for a turn at least; waited is core time, size what is left of the
    request; the order is that of waited / size. Highest response ratio next (Brinch Hansen 1971), in units of work."""

    PARAMS: ClassVar[Mapping[str, Param]] = {"slice_ms": SLICE_MS}

    def __init__(self, slice_ms: int) -> None:
        self._slice_ns = slice_ms * _MS
        self._waiting: dict[int, OrderedDict[Request, int]] = {}  # by size class: since when, longest first
        self._class_of: dict[Request, int] = {}  # of those
        self._used_ns: dict[Request, int] = {}  # of its turn: those that hold a slot
        self._work_ns = 0

    def add(self, request: Request) -> None:
        self._wait(request)

    def remove(self, request: Request) -> None:
        if self._used_ns.pop(request, None) is None:
            self._leave(request)

    def charge(self, request: Request, core_ns: int, tokens: int) -> None:
        if request in self._used_ns:
            self._used_ns[request] += core_ns

    def choose(self, slots: int, work_ns: int) -> list[Request]:
        self._work_ns = work_ns
        for request in [one for one, used_ns in self._used_ns.items() if used_ns >= self._turn_ns(one)]:
            del self._used_ns[request]
            self._wait(request)
        while len(self._used_ns) > slots:
            request, _ = self._used_ns.popitem()
            self._wait(request)
        self._fill(slots)
        return list(self._used_ns)

    def _fill(self, slots: int) -> None:
        """Give free slots to the highest ratios: of each size class the longest waiting has its highest."""
        heads = [self._head(number) for number in self._waiting]
        heapify(heads)
        while heads and len(self._used_ns) < slots:
            _, _, number, request = heads[0]
            self._leave(request)
            self._used_ns[request] = 0
            if number in self._waiting:
                heapreplace(heads, self._head(number))
            else:
                heappop(heads)

    def _head(self, number: int) -> tuple[float, int, int, Request]:
        request, since_ns = next(iter(self._waiting[number].items()))
        return -(self._work_ns - since_ns) / 2 ** (number / 2), request.number, number, request

    def _wait(self, request: Request) -> None:
        number = ceil(2 * log2(max(1.0, left_tokens(request))))
        self._class_of[request] = number
        self._waiting.setdefault(number, OrderedDict())[request] = self._work_ns

    def _leave(self, request: Request) -> None:
        number = self._class_of.pop(request)
        del self._waiting[number][request]
        if not self._waiting[number]:
            del self._waiting[number]

    def _turn_ns(self, request: Request) -> int:
        slice_ms = request.task.sched.slice_ms
        return self._slice_ns if slice_ms is None else slice_ms * _MS
