"""What the kernel and an engine say to each other: plans of one step down, results of it up.

Who calls it: the scheduler makes plans, the LLM core (worker.py) carries them out, fake.py stands in
for it in tests. What must hold: an engine keeps nothing of a request but its KV; tokens, sampling and
order come with each plan, so that a core can die at any point and be replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

CHUNK_TOKENS = 64  # prefill is cut at multiples of this from position 0, alone in its batch: see Row


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. temperature 0 is greedy and ignores the rest."""

    temperature: float = 0.0
    top_k: int = 40  # 0: all
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens to feed into one slot's sequence, from `position` on.

    A prompt's tokens come in chunks that start at multiples of CHUNK_TOKENS, each decoded alone; a
    generated token comes as a row of one, batched with other slots' rows. So the arithmetic that a
    token meets never depends on its neighbours, and replaying a context gives the same bits.
    """

    slot: int
    position: int
    tokens: tuple[int, ...]
    sampling: Sampling | None  # None: no token is wanted yet


@dataclass(frozen=True, slots=True)
class Save:
    slot: int
    segment: int  # id of an attached segment
    tokens: int  # length of the sequence, checked before saving
    digest: int  # of its token ids: stamped into the snapshot, checked at restore


@dataclass(frozen=True, slots=True)
class Restore:
    slot: int
    segment: int
    tokens: int
    digest: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step, carried out in this order: saves, clears, restores, decodes as one batch, chunks."""

    number: int
    saves: tuple[Save, ...] = ()
    clears: tuple[int, ...] = ()
    restores: tuple[Restore, ...] = ()
    decodes: tuple[Row, ...] = ()
    chunks: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampled:
    slot: int
    token: int
    piece: bytes  # the token's text, possibly part of a UTF-8 character
    is_end: bool  # the model's end of turn or text; its piece is empty


@dataclass(frozen=True, slots=True)
class StepResult:
    number: int
    sampled: tuple[Sampled, ...]
    saved: tuple[tuple[int, int], ...]  # (segment, bytes) of each save that is whole
    failed_restores: tuple[tuple[int, str], ...]  # (slot, reason): its rows were skipped
    began_ns: int  # CLOCK_MONOTONIC in the core
    ended_ns: int
    switch_ns: int  # spent in saves and restores


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a core says of itself once it has decoded and found every logit finite."""

    model: str
    description: str
    vocab: int
    window_tokens: int  # of one sequence
    slots: int
    threads: int
    kv_bytes_per_token: int
    snapshot_overhead_bytes: int
    extra_buffers: bool  # llama.cpp's repacked weights are in use
    flash_attention: bool
    has_template: bool
    load_s: float


class Engine(Protocol):
    """The model side of a core. Every method raises EngineError with the reason in words."""

    info: EngineInfo

    def tokenize(self, text: str, with_special: bool) -> list[int]: ...
    def render(self, messages: list[tuple[str, str]]) -> str: ...
    def piece(self, token: int) -> bytes: ...
    def attach(self, segment: int, fd: int, size_bytes: int) -> None: ...
    def detach(self, segment: int) -> None: ...
    def step(self, plan: StepPlan) -> StepResult: ...


class EngineError(Exception):
    """A request that the engine cannot carry out: bad input, never a broken core."""


class EngineMemoryError(EngineError):
    """The model's contexts do not fit in this machine's memory."""
