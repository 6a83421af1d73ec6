"""Multi-level feedback queues over tokens: whoever has had least goes first.

The idea is that of CTSS's scheduler (Corbató, 1962), taken to language models by FastServe (2023): a request that
has generated little may be a short one, so it goes before those that are known to be long. Prompts count as
nothing: a first token is what everybody waits for, and how long an answer is shows only after it. That nobody
starves is not seen to here: rescue.py does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import merge
from typing import ClassVar

from kernel.engine.base import CHUNK_TOKENS
from kernel.objects import Request
from kernel.sched.params import QUANTUM_TOKENS, Param
from kernel.sched.ranked import Key, Ranked

LEVELS = 6
FACTOR = 4  # between the tokens that two levels allow
NICE_PER_LEVEL = 5
STEPS_PER_CHUNK = 2  # that a prompt is put back for each of its chunks: short ones go first, but not for ever
PREFILL_SHARE = 4  # one slot in so many is for prompts while others want it: more of them would only wait in it


class FeedbackQueues:
    """Feedback queues: a request goes down a level when it has generated a quantum, then four times as much, and so on;
    lower levels have the slots that upper ones leave. Five of nice are a level. Skip-join as in FastServe (Wu et al.
    2023), after CTSS (Corbató 1962)."""

    PARAMS: ClassVar[Mapping[str, Param]] = {"quantum_tokens": QUANTUM_TOKENS}

    def __init__(self, quantum_tokens: int) -> None:
        self._quantum = quantum_tokens
        self._steps = 0
        self._born: dict[Request, int] = {}  # all runnable ones, with the step in which each came
        self._chosen: dict[Request, None] = {}  # last time
        self._reading = _Line(self._rank)
        self._writing = _Line(self._rank)

    def add(self, request: Request) -> None:
        self._born[request] = self._steps
        self._line(request).add(request)

    def remove(self, request: Request) -> None:
        del self._born[request]
        self._chosen.pop(request, None)
        (self._reading if request in self._reading else self._writing).remove(request)

    def charge(self, request: Request, core_ns: int, tokens: int) -> None:
        self._place(request)

    def choose(self, slots: int, work_ns: int) -> list[Request]:
        self._steps += 1
        for request in self._chosen:  # they got further since
            self._place(request)
        chosen = self._pick(slots)
        before, self._chosen = self._chosen, dict.fromkeys(chosen)
        for request in (*before, *chosen):
            if (request in before) != (request in self._chosen):
                self._place(request)
        return chosen

    def level(self, request: Request) -> int:
        """Return 0 for those that go first, LEVELS - 1 at most."""
        level, allowed = 0, self._quantum
        while request.generated_tokens >= allowed and level < LEVELS - 1:
            level, allowed = level + 1, allowed * FACTOR
        return min(max(level + round(request.task.priority / NICE_PER_LEVEL), 0), LEVELS - 1)

    def _pick(self, slots: int) -> list[Request]:
        """Take the first, but no more prompts than can be worked on while others want the slots."""
        reading, writing = self._reading.first(slots), self._writing.first(slots)
        prompts = max(2, slots // PREFILL_SHARE)
        prompts = max(prompts, slots - len(writing))
        ranked = merge(reading[:prompts], writing, key=self._rank)
        return [request for request, _ in zip(ranked, range(slots), strict=False)]

    def _rank(self, request: Request) -> Key:
        """Least first: by level; those that hold a slot keep it against their like."""
        is_reading = _is_reading(request)
        due = self._born[request] + STEPS_PER_CHUNK * -(-request.prompt_tokens // CHUNK_TOKENS) if is_reading else 0
        is_new = not is_reading and request not in self._chosen
        return self.level(request), is_new, due, request.number

    def _line(self, request: Request) -> _Line:
        return self._reading if _is_reading(request) else self._writing

    def _place(self, request: Request) -> None:
        """Put a request where it belongs by now."""
        line = self._reading if request in self._reading else self._writing
        if line is self._line(request):
            line.rekey((request,))
        else:
            line.remove(request)
            self._line(request).add(request)


class _Line(Ranked):
    """Requests in the order of the policy's rank."""

    def __init__(self, rank: Callable[[Request], Key]) -> None:
        super().__init__()
        self._rank = rank

    def key(self, request: Request) -> Key:
        return self._rank(request)


def _is_reading(request: Request) -> bool:
    """Whether its prompt is not yet computed."""
    return request.kv_tokens < request.prompt_tokens
