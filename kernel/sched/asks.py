"""Questions put to the cores' text sides, and what waits for a core to be loaded at all.

Who calls it: the managers of llm.* calls to ask; core.py with answers, and with what happens to cores. What must
hold: a question is answered once, or its call ends; one that a dead core left open is put to the next, until
too many have died of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kernel.abi.errors import Errno, KernelError
from kernel.calls import CallTable
from kernel.effects import AskCore, Effect
from kernel.limits import MAX_CORE_DEATHS
from kernel.objects import Call

Answered = Callable[[Any, str | None, int], None]  # takes the value, or an error in words, and the time


@dataclass(slots=True)
class _Question:
    ask: AskCore
    call: Call  # that waits for the answer
    answered: Answered
    core_deaths: int = 0


@dataclass(slots=True)
class _Waiting:
    """Something to do once the core has said what its model is."""

    core: int
    call: Call
    go_on: Callable[[int], None]  # takes the time


class Asks:
    """Everything unanswered, by ticket."""

    def __init__(self, calls: CallTable, emit: Callable[[Effect], None]) -> None:
        self._calls = calls
        self._emit = emit
        self._up: set[int] = set()  # cores that can be asked now
        self._questions: dict[int, _Question] = {}
        self._by_call: dict[Call, set[int]] = {}  # tickets
        self._waiting: list[_Waiting] = []
        self._tickets = 0

    def put(self, core: int, what: str, value: dict[str, Any], call: Call, answered: Answered) -> None:
        """Ask a core, now or when there is one; see effects.AskCore."""
        self._tickets += 1
        ask = AskCore(self._tickets, what, value, core)
        self._questions[ask.ticket] = _Question(ask, call, answered)
        self._by_call.setdefault(call, set()).add(ask.ticket)
        if core in self._up:
            self._emit(ask)

    def when_ready(self, core: int, call: Call, go_on: Callable[[int], None]) -> None:
        """Have a call go on when its core is ready for the first time."""
        self._waiting.append(_Waiting(core, call, go_on))

    def forget(self, call: Call) -> None:
        """Nobody waits for this call's answers any more."""
        for ticket in self._by_call.pop(call, ()):
            del self._questions[ticket]
        if self._waiting:
            self._waiting = [item for item in self._waiting if item.call is not call]

    def answered(self, ticket: int, value: Any, error: str | None, now_ns: int) -> None:
        """Take an answer; one to a forgotten question is dropped."""
        question = self._questions.pop(ticket, None)
        if question is None:
            return
        tickets = self._by_call[question.call]
        tickets.discard(ticket)
        if not tickets:
            del self._by_call[question.call]
        question.answered(value, error, now_ns)

    def is_asked(self, core: int) -> bool:
        """Whether anything waits for this core."""
        is_open = any(question.ask.core == core for question in self._questions.values())
        return is_open or any(item.core == core for item in self._waiting)

    # -- cores --------------------------------------------------------------------------------

    def core_ready(self, core: int, now_ns: int) -> None:
        """Put what is open to the new core, and let go on what waited for it."""
        self._up.add(core)
        for question in self._of(core):
            self._emit(question.ask)
        waited = [item for item in self._waiting if item.core == core]
        self._waiting = [item for item in self._waiting if item.core != core]
        for item in waited:
            item.go_on(now_ns)

    def core_lost(self, core: int, now_ns: int) -> None:
        """End the calls whose questions too many cores died of; the rest waits for the next core."""
        if core not in self._up:  # it died before it was asked anything
            return
        self._up.discard(core)
        for question in self._of(core):
            question.core_deaths += 1
            if question.core_deaths >= MAX_CORE_DEATHS:
                self._calls.abort(question.call, too_many_deaths(question.call), now_ns)

    def core_failed(self, core: int, text: str, now_ns: int) -> None:
        """There will be no other core: end what waits for one."""
        calls = [question.call for question in self._of(core)]
        calls += [item.call for item in self._waiting if item.core == core]
        for call in calls:
            self._calls.abort(call, KernelError(Errno.EIO, f"{call.method}: {text}"), now_ns)

    def _of(self, core: int) -> list[_Question]:
        return [item for item in self._questions.values() if item.ask.core == core]


def too_many_deaths(call: Call) -> KernelError:
    """What a call ends with that was there when cores died, once too often."""
    who = f"call {call.id} of task {call.task.pid}" if call.task else f"call {call.id}"
    text = f"{call.method} {who}: {MAX_CORE_DEATHS} LLM cores died while working on it"
    return KernelError(Errno.EIO, text)
