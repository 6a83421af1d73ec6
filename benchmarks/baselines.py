"""A kernel with other systems' schedulers: `python -m benchmarks.baselines` is `python -m kernel` with their policies.

Who starts it: sched_live.py, so that only the policy differs: the engine, the slots and the contexts that are kept for
an agent's next turn are the same. Each is as its authors' program does it where that matters for who waits; none has
classes, groups, a limit of gaps or a rescue. What must hold: each makes progress whatever comes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import ClassVar

from kernel.__main__ import main
from kernel.engine.base import EngineInfo
from kernel.objects import Request
from kernel.sched.fcfs import FirstComeFirstServed
from kernel.sched.flight import Flight
from kernel.sched.params import Param
from kernel.sched.policy import POLICIES, Kind
from kernel.sched.residency import Residency

POOL_TOKENS = Param(1, 1 << 30, 8192, "tokens that the contexts on the model may come to together")


class LlamaServer(FirstComeFirstServed):
    """llama-server (server.cpp): a request takes a free slot and keeps it to its end; a batch holds every slot's next
    token and prompts whole, up to n_batch = 2048 tokens (the kernel's prefill_tokens)."""


class AiosBatches(FirstComeFirstServed):
    """AIOS's FIFO scheduler (Mei et al. 2024; scheduler/fifo_scheduler.py): what has come is taken as one batch, which
    runs to its end before the next one is taken.

    AIOS also waits up to a second (batch_interval) for a batch to fill; that is left out, in its favour.
    """

    def __init__(self) -> None:
        super().__init__()
        self._batch: dict[Request, None] = {}

    def remove(self, request: Request) -> None:
        super().remove(request)
        self._batch.pop(request, None)

    def choose(self, slots: int, work_ns: int) -> list[Request]:
        everybody = self.first(len(self._entries))
        if not self._batch:
            self._batch = dict.fromkeys(everybody)
        return [request for request in everybody if request in self._batch][:slots]


class Vllm(FirstComeFirstServed):
    """vLLM's default (Kwon et al. 2023, section 4.5; V1's scheduler.py): who came first runs, as long as the contexts
    fit the pool; when they have outgrown it, who came last leaves it and is computed again."""

    PARAMS: ClassVar[Mapping[str, Param]] = {"pool_tokens": POOL_TOKENS}

    def __init__(self, pool_tokens: int) -> None:
        super().__init__()
        self._pool_tokens = pool_tokens

    def choose(self, slots: int, work_ns: int) -> list[Request]:
        chosen: list[Request] = []
        used = 0
        for request in self.first(slots):
            used += len(request.tokens) + 1  # and its next one
            if chosen and used > self._pool_tokens:
                break
            chosen.append(request)
        return chosen


def recompute(self: Residency, request: Request, slot: int, flight: Flight, info: EngineInfo) -> None:
    """Take the place of Residency.save: a context that leaves its slot is lost."""
    self._parking.fall_back(request, has_core=True)


BASELINES = {"fcfs-llama-server": LlamaServer, "fcfs-aios": AiosBatches, "fcfs-vllm": Vllm}


def install(policy: str) -> None:
    """Make the baselines' policies known to this process, and the kernel recompute if that is how this one does it."""
    for name, made in BASELINES.items():
        POLICIES[name] = Kind(made, " ".join((made.__doc__ or "").split()), made.PARAMS)
    if policy == "fcfs-vllm":
        Residency.save = recompute  # type: ignore[method-assign]


if __name__ == "__main__":
    given = sys.argv[1:]
    install(json.loads(given[given.index("--config-json") + 1]).get("policy", ""))
    sys.exit(main(given))
