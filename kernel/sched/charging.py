"""What steps cost, and whom: modelled core time, split among those who were fed.

Who calls it: scheduler.py. What must hold: the parts of a step come to its modelled time exactly; a switch is paid by
who got the slot, or by who left it if nobody did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kernel.engine.base import CHUNK_TOKENS, StepResult
from kernel.objects import Request, Task
from kernel.sched.cost import Part, StepModel
from kernel.sched.flight import Flight

_MARGIN = 1.2


class Charging:
    """Of one model. Times in ns."""

    def __init__(self) -> None:
        self.model = StepModel()
        self.work_ns = 0  # modelled, of all steps
        self.switch_ns = 0  # of these, for saves and restores

    def done(self, flight: Flight, result: StepResult) -> dict[Request, int]:
        """Learn from a step; return each request's part of its modelled time."""
        parts = parts_of(flight)
        moves = moves_of(flight)
        charges, step_ns = self.model.split(parts)
        switches, switch_ns = self.model.split_switches(moves)
        for request, core_ns in switches.items():
            charges[request] = charges.get(request, 0) + core_ns
        self.work_ns += step_ns + switch_ns
        self.switch_ns += switch_ns
        took_ns = result.ended_ns - result.began_ns
        self.model.learn(parts, took_ns - result.switch_ns)
        self.model.learn_switches(moves, result.switch_ns)
        return charges

    def decodes_ns(self, requests: Sequence[Request]) -> float:
        """Return what the next tokens of these take in a step."""
        return self.model.predict([Part(one, 1, one.kv_tokens, False) for one in requests])

    def chunk_ns(self, request: Request) -> float:
        """Return what a further chunk of a prompt takes in a step that has one already."""
        one = [Part(request, CHUNK_TOKENS, request.kv_tokens, True)]
        return self.model.predict(one)

    def reads_ns(self, requests: Iterable[Request], task: Task) -> float:
        """Return the time that reading takes what is left of prompts, but for those in a class below a task's."""
        own = task.sched.sched_class
        others = [one for one in requests if one.task.sched.sched_class <= own]
        left = [(one.prompt_tokens - one.kv_tokens, one.kv_tokens) for one in others]
        return sum(self.model.predict([Part(None, new, at + new // 2, True)]) for new, at in left if new > 0)

    def worst_step_ns(self, depths: Sequence[int], chunks: int, chunk_depth_tokens: int) -> int:
        """Return the time of a step with a token after each of these lengths of contexts, and so many chunks of
        prompts, each after so much; and a fifth on top, for what the model is wrong by."""
        parts = [Part(None, 1, depth, False) for depth in depths]
        if chunks:
            parts.append(Part(None, chunks * CHUNK_TOKENS, chunk_depth_tokens, True))
        return int(self.model.predict(parts) * _MARGIN)

    def worst_switches_ns(self, count: int, depth_tokens: int) -> int:
        """Return the time of so many saves and as many restores of contexts of this length."""
        return int(self.model.switches_ns([depth_tokens] * (2 * count)))


def parts_of(flight: Flight) -> list[Part]:
    """Return what a step feeds, as the model sees it."""
    return [
        Part(request, end - start, start, chunks > 0)
        for request, rows in flight.fed
        for start, end, chunks in rows
    ]


def moves_of(flight: Flight) -> list[tuple[Request, int]]:
    """Return (who pays, tokens moved) of each save and restore."""
    moves = [(flight.admitted.get(save.slot, request), save.tokens) for request, save in flight.saves.values()]
    return moves + [(request, restore.keep) for request, restore in flight.restores.values()]
