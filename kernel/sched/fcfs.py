"""First come, first served, to completion: what llama-server and Ollama do."""

from __future__ import annotations

from itertools import islice

from kernel.objects import Request


class FirstComeFirstServed:
    """First come, first served, to completion; never preempts."""

    def __init__(self) -> None:
        self._queue: dict[Request, None] = {}  # in order of arrival; the first ones run

    def add(self, request: Request) -> None:
        self._queue[request] = None

    def remove(self, request: Request) -> None:
        del self._queue[request]

    def charge(self, request: Request, units: int) -> None:
        pass

    def choose(self, slots: int) -> list[Request]:
        return list(islice(self._queue, slots))
