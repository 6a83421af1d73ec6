"""Requests kept in the order of a key that changes only when something happens to one of them.

Who uses it: the policies that rank requests. What must hold: a step costs time by the slots and the logarithm of the
requests; the same calls give the same order.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from kernel.objects import Request
from kernel.sched.params import Param

Key = tuple[Any, ...]


class Ranked:
    """The base of such a policy: a subclass says what a request's key is; least goes first, then by arrival."""

    PARAMS: ClassVar[Mapping[str, Param]] = {}

    def __init__(self) -> None:
        self._entries: dict[Request, tuple[Key, int, Request]] = {}
        self._order: list[tuple[Key, int, Request]] = []
        self._chosen: dict[Request, None] = {}  # last time
        self._work_ns = 0  # as far as it is known

    def key(self, request: Request) -> Key:
        """Return where a request stands. It may depend on what `charge` and `_chosen` say of this request alone."""
        return ()

    def add(self, request: Request) -> None:
        self._insert(request)

    def remove(self, request: Request) -> None:
        self._take_out(request)
        self._chosen.pop(request, None)

    def charge(self, request: Request, core_ns: int, tokens: int) -> None:
        self.rekey((request,))

    def choose(self, slots: int, work_ns: int) -> list[Request]:
        self._work_ns = work_ns
        chosen = self.first(slots)
        self._set_chosen(chosen)
        return chosen

    def _set_chosen(self, chosen: Iterable[Request]) -> None:
        """Remember who was chosen; whose being so changed may stand elsewhere now."""
        before, self._chosen = self._chosen, dict.fromkeys(chosen)
        self.rekey([request for request in before if request not in self._chosen])
        self.rekey([request for request in self._chosen if request not in before])

    def __contains__(self, request: Request) -> bool:
        return request in self._entries

    def first(self, count: int) -> list[Request]:
        """Return the first of them in order."""
        return [request for _, _, request in self._order[:count]]

    def rekey(self, requests: Iterable[Request]) -> None:
        """Put requests where they belong, whose keys may have changed."""
        for request in requests:
            if self._entries[request][0] != self.key(request):
                self._take_out(request)
                self._insert(request)

    def _insert(self, request: Request) -> None:
        entry = self._entries[request] = (self.key(request), request.number, request)
        insort(self._order, entry)

    def _take_out(self, request: Request) -> None:
        del self._order[bisect_left(self._order, self._entries.pop(request))]
