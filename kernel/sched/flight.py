"""A step on its way through the core, and the counters of all steps.

Who uses it: scheduler.py. What must hold: everything that a step's result will change is written down when
the step is planned.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field

from kernel.engine.base import Opening, Restore, Save, StepResult
from kernel.objects import Request

Fed = list[tuple[Request, list[tuple[int, int, int]]]]  # the rows of each request, as turns.step_rows gives them


@dataclass(slots=True)
class Totals:
    """Counters since boot, for sys.stat."""

    steps: int = 0
    core_busy_ns: int = 0
    generated_tokens: int = 0
    prompt_tokens: int = 0
    recomputed_tokens: int = 0
    reused_tokens: int = 0  # of prompts, whose context was kept from the task's last request
    switches: int = 0
    restores: int = 0
    failed_restores: int = 0
    dropped_contexts: int = 0  # parked without a snapshot for want of room
    switch_bytes: int = 0
    switch_ns: int = 0
    held_preemptions: int = 0  # switches inside a character, a possible stop string or a grammar
    runs: int = 0  # passes over the weights
    moves: int = 0  # contexts that changed places inside the core
    sampling_ns: int = 0
    rescues: int = 0  # waits that went on for the whole of starve_ms

    def add(self, result: StepResult) -> None:
        """Count what a step took."""
        self.steps += 1
        self.core_busy_ns += result.ended_ns - result.began_ns
        self.switch_ns += result.switch_ns
        self.runs += result.runs
        self.moves += result.moves
        self.sampling_ns += result.sampling_ns


@dataclass(slots=True)
class Flight:
    """The step that the core is working on: who is in it, and what its result will change."""

    number: int
    rows: dict[int, tuple[Request, int]] = field(default_factory=dict)  # by slot; where it ends
    saves: dict[int, tuple[Request, Save]] = field(default_factory=dict)  # by segment
    restores: dict[int, tuple[Request, Restore]] = field(default_factory=dict)  # by slot
    openings: list[Opening] = field(default_factory=list)
    fed: Fed = field(default_factory=list)
    admitted: dict[int, Request] = field(default_factory=dict)  # who got which slot

    def requests(self) -> set[Request]:
        parts = (*self.rows.values(), *self.saves.values(), *self.restores.values())
        return {request for request, _ in parts}


def opening_of(request: Request) -> Opening:
    """Return what a core needs to draw the request's next token."""
    assert request.slot is not None
    generated = request.generated_tokens
    newest = max(request.sampling.penalty_tokens, generated)
    return Opening(
        request=request.number,
        slot=request.slot,
        sampling=request.sampling,
        constraint=request.constraint,
        tokens=tuple(request.tokens[-newest:]) if newest else (),
        generated=generated,
        max_tokens=request.most_tokens,
        with_special=request.with_special,
    )


def token_digest(tokens: list[int]) -> int:
    """Return 64 bits that stand for a sequence of token ids."""
    raw = hashlib.blake2b(array("i", tokens).tobytes(), digest_size=8).digest()
    return int.from_bytes(raw, "little")
