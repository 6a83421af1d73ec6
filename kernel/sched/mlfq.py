"""Multi-level feedback queues over tokens: whoever has had least goes first, and nobody waits for ever.

The idea is that of CTSS's scheduler (Corbató, 1962), taken to language models by FastServe (2023): a request that
has generated little may be a short one, so it goes before those that are known to be long. Prompts count as
nothing: a first token is what everybody waits for, and how long an answer is shows only after it.
"""

from __future__ import annotations

from collections import OrderedDict

from kernel.engine.base import CHUNK_TOKENS
from kernel.objects import Request

LEVELS = 6
FACTOR = 4  # between the tokens that two levels allow
NICE_PER_LEVEL = 5
STEPS_PER_CHUNK = 2  # that a prompt is put back for each of its chunks: short ones go first, but not for ever
PREFILL_SHARE = 4  # one slot in so many is for prompts while others want it: more of them would only wait in it
STARVED_STEPS = 96  # off the model, after which a request has a claim to the slots of those that waited longest
RESCUE_SHARE = 3  # one slot in so many is for these, if there are so many
TURNS_PER_QUANTUM = 2  # of theirs: with a hundred waiting, short turns come soon and long ones after minutes


class FeedbackQueues:
    """Feedback queues: a request goes down a level when it has generated a quantum, then four times as much, and so on;
    lower levels have the slots that upper ones leave, and whoever waits long gets a turn. Five of nice are a level."""

    def __init__(self, quantum_tokens: int) -> None:
        self._quantum = quantum_tokens
        self._steps = 0
        self._born: dict[Request, int] = {}  # all runnable ones, with the step in which each came
        self._waiting: OrderedDict[Request, int] = OrderedDict()  # with the step since when; longest first
        self._rescued: dict[Request, int] = {}  # that have starved, with what they have had since

    def add(self, request: Request) -> None:
        self._born[request] = self._waiting[request] = self._steps

    def remove(self, request: Request) -> None:
        del self._born[request]
        self._waiting.pop(request, None)
        self._rescued.pop(request, None)

    def charge(self, request: Request, units: int) -> None:
        if request in self._rescued:
            self._rescued[request] += units

    def choose(self, slots: int) -> list[Request]:
        self._steps += 1
        if len(self._born) <= slots:
            self._waiting.clear()
            return sorted(self._born, key=self._rank)
        self._rescue(max(1, slots // RESCUE_SHARE))
        chosen = self._pick(sorted(self._born, key=self._rank), slots)
        kept = set(chosen)
        for request in self._born:
            if request in kept:
                self._waiting.pop(request, None)
            else:
                self._waiting.setdefault(request, self._steps)
        return chosen

    def level(self, request: Request) -> int:
        """Return 0 for those that go first, LEVELS - 1 at most."""
        level, allowed = 0, self._quantum
        while request.generated_tokens >= allowed and level < LEVELS - 1:
            level, allowed = level + 1, allowed * FACTOR
        return min(max(level + round(request.task.priority / NICE_PER_LEVEL), 0), LEVELS - 1)

    def _rank(self, request: Request) -> tuple[bool, int, bool, int, int]:
        """Least first: the starved, then by level; those that hold a slot keep it against their like."""
        is_reading = _is_reading(request)
        due = self._born[request] + STEPS_PER_CHUNK * -(-request.prompt_tokens // CHUNK_TOKENS) if is_reading else 0
        is_new = not is_reading and request in self._waiting
        return request not in self._rescued, self.level(request), is_new, due, request.number

    @staticmethod
    def _pick(ranked: list[Request], slots: int) -> list[Request]:
        """Take the first, but no more prompts than can be worked on while others want the slots."""
        most = max(2, slots // PREFILL_SHARE)
        chosen: list[Request] = []
        spare: list[Request] = []
        for request in ranked:
            if len(chosen) == slots:
                break
            is_spare = _is_reading(request) and most == 0
            most -= _is_reading(request) and not is_spare
            (spare if is_spare else chosen).append(request)
        return chosen + spare[: slots - len(chosen)]

    def _rescue(self, most: int) -> None:
        """Give the starved their turns, longest waiting first."""
        turn = max(1, self._quantum // TURNS_PER_QUANTUM)
        for request in [one for one, had in self._rescued.items() if had >= turn]:
            del self._rescued[request]
        for request, since in self._waiting.items():
            if len(self._rescued) >= most or self._steps - since < STARVED_STEPS:
                return
            self._rescued.setdefault(request, 0)


def _is_reading(request: Request) -> bool:
    """Whether its prompt is not yet computed."""
    return request.kv_tokens < request.prompt_tokens
