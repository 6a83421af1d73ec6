"""What the kernel and an engine say to each other: plans of one step down, results of it up.

Who calls it: the scheduler makes plans, the LLM core (worker.py) carries them out, fake.py stands in
for it in tests. What must hold: an engine keeps nothing of a request but what it can make anew from plans
(KV from tokens, drawing from an Opening), so that a core can die at any point and be replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

CHUNK_TOKENS = 64  # prompts are cut at multiples of this from where they begin: see Row
PASS_CHUNKS = 4  # of prompts that one pass computes at most, where the probe found that it changes no bit

# What may be done with a model's contexts without changing a bit of what comes after: EngineInfo.exactness.
EXACT = "exact"  # anything
WHOLE = "whole"  # they are saved and restored, but not cut back
RECOMPUTE = "recompute"  # a restored one did not go on with the same bits: a parked one is computed again
APPROXIMATE = "approximate"  # its neighbours change a row's last bits whatever is done: all works, bits differ

F16, Q8_0 = "f16", "q8_0"
KV_TYPES = {F16: 1, Q8_0: 8}  # that a context's keys and values may have, and ggml's number of each


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a request's next token is drawn. temperature 0 takes the likeliest after bias and penalties."""

    temperature: float = 0.0
    top_k: int = 40  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0  # of the likeliest token's probability; 0: off
    typical_p: float = 1.0  # locally typical sampling; 1: off
    repeat_penalty: float = 1.0  # divides positive logits of tokens seen, multiplies negative ones
    presence_penalty: float = 0.0  # taken off the logit of every token seen
    frequency_penalty: float = 0.0  # the same, once for each time it was seen
    penalty_tokens: int = 64  # how many of the newest tokens, prompt included, count as seen
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, added to its logit); -100 or less forbids it
    logprobs: int = -1  # -1: none; n: of the token drawn and the n likeliest, of the model's own logits
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the generated text must be: kind "gbnf" or "json_schema", and the grammar or schema as text.

    Or "json_around", and a JSON list of what stands before the JSON, what stands after it, and the schema as text.
    """

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Opening:
    """What a core must know of a request to draw its tokens; sent when it gets a slot.

    Drawing keeps state (counts of tokens seen, the place in a grammar): it is a function of these fields and
    of the tokens drawn after, so a core that never saw the request before draws what the last one would.
    """

    request: int  # the kernel's number, unique among those of all models
    slot: int
    sampling: Sampling
    constraint: Constraint | None
    tokens: tuple[int, ...]  # the newest penalty_tokens of prompt and generated, or all generated if more
    generated: int  # how many of the last of these were generated
    max_tokens: int  # that may be generated in all: a constrained text is whole by then, if it can be
    with_special: bool  # whether the pieces of control tokens are their names and not empty


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens to feed into one slot's sequence, from `position` on.

    A prompt comes in rows of whole chunks of CHUNK_TOKENS, counted from where what is new of it begins; the last row
    has what is left over as well, and is shorter than a chunk only if the whole is. Chunks are computed each alone,
    what is left over too, or several in one pass, of other prompts too, where that changes no bit. A generated token
    comes as a row of one, batched with other slots' rows. So the arithmetic that a token meets never depends on its
    neighbours, and replaying a context with the same cuts gives the same bits. See turns.py for the cuts.
    """

    slot: int
    position: int
    tokens: tuple[int, ...]
    is_last: bool  # a token is to be drawn after it, as the slot's Opening says


@dataclass(frozen=True, slots=True)
class Save:
    """What is saved are the tokens from `begin` up to `end`; others than all only where EngineInfo.can_part."""

    slot: int
    segment: int  # id of an attached segment
    tokens: int  # length of the sequence, checked before saving
    digest: int  # of its token ids up to `end`: stamped into the snapshot, checked at restore
    begin: int = 0
    end: int = 0  # 0: of the sequence


@dataclass(frozen=True, slots=True)
class Base:
    """A snapshot of the first tokens of contexts, of which others hold only what follows."""

    segment: int
    tokens: int
    digest: int


@dataclass(frozen=True, slots=True)
class Restore:
    slot: int
    segment: int
    tokens: int
    digest: int
    keep: int  # how many of the first tokens are wanted; fewer than all only where EngineInfo.can_trim
    base: Base | None = None  # what the snapshot begins after


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step, carried out in this order: closes, saves, clears, banks, restores, openings, decodes, chunks."""

    number: int
    closes: tuple[int, ...] = ()  # requests that ended: what drawing kept for them may go
    saves: tuple[Save, ...] = ()
    clears: tuple[int, ...] = ()
    banks: tuple[int, ...] = (0,)  # that may take memory from now on; the slots of others are empty
    restores: tuple[Restore, ...] = ()
    openings: tuple[Opening, ...] = ()
    decodes: tuple[Row, ...] = ()
    chunks: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampled:
    slot: int
    token: int
    piece: bytes  # the token's text, possibly part of a UTF-8 character
    is_end: bool  # the model's end of turn or text, or of what the constraint allows; its piece is empty
    logprob: float | None = None  # natural logarithm, where Sampling.logprobs asks for it
    top: tuple[tuple[int, float], ...] = ()  # the likeliest tokens and theirs, likeliest first


@dataclass(frozen=True, slots=True)
class StepResult:
    number: int
    sampled: tuple[Sampled, ...]
    saved: tuple[tuple[int, int], ...]  # (segment, bytes) of each save that is whole
    failed_restores: tuple[tuple[int, str], ...]  # (slot, reason): its rows were skipped
    failed_requests: tuple[tuple[int, str], ...]  # (slot, reason): no token can be drawn, its own fault
    began_ns: int  # CLOCK_MONOTONIC in the core
    ended_ns: int
    switch_ns: int  # spent in saves and restores
    runs: int  # passes over the weights: batches that llama.cpp computed
    moves: int  # contexts that changed places inside the core to stand together
    sampling_ns: int


@dataclass(frozen=True, slots=True)
class Bank:
    """Slots of one size, in a llama.cpp context of their own. Slots are numbered through all banks."""

    slots: int
    window_tokens: int
    size_bytes: int  # of its KV cells and work space


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What a core is told at its start; zeros and "auto" are its own to choose."""

    slots: int = 8  # of the first bank
    slot_tokens: int = 2048  # the first bank's window: longer contexts move to banks of longer windows
    window_tokens: int = 0  # the longest context allowed; 0: the model's, as far as memory goes
    kv_bytes: int = 0  # for all banks at once; 0: a part of the free memory
    threads: int = 0
    extra_buffers: bool = True
    flash_attention: str = "auto"
    kv_type: str = F16  # one of KV_TYPES
    gpu_layers: int = -1  # -1: as many as fit
    embedding: bool = False  # the model answers llm.embed and nothing else
    choices: str = ""  # path of the file that holds what calibration chose for this model and machine
    may_shrink: bool = False  # nobody asked for so many slots: fewer will do where they do not fit


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a core says of itself once it has decoded and found every logit finite."""

    model: str
    description: str
    family: str  # dense, moe, sliding-window, recurrent, hybrid, embedding
    exactness: str  # EXACT, WHOLE, RECOMPUTE or APPROXIMATE
    can_trim: bool  # a restored context may be cut back to its first tokens
    can_part: bool  # contexts are saved in parts: their first tokens once for many
    vocab: int
    window_tokens: int  # of the longest context
    trained_tokens: int  # the window that the model was made for
    banks: tuple[Bank, ...]
    kv_bytes: int  # that banks in use together may take
    threads: int
    devices: str  # what runs where, for people: "CPU", "28 of 28 layers on CUDA0 (H100)"
    kv_bytes_per_token: int
    snapshot_overhead_bytes: int
    extra_buffers: bool  # llama.cpp's repacked weights are in use
    flash_attention: bool
    kv_type: str  # of the keys and values in its contexts, where it has any
    chat_format: str  # how the model writes tool calls and reasoning; "" without a template
    takes_tools: bool  # its template shows tools to the model
    embedding_width: int  # 0: not an embedding model
    load_s: float

    @property
    def slots(self) -> int:
        return sum(bank.slots for bank in self.banks)


class Engine(Protocol):
    """The model side of a core. Every method raises EngineError with the reason in words."""

    info: EngineInfo
    text: Text

    def attach(self, segment: int, fd: int, size_bytes: int) -> None: ...
    def detach(self, segment: int) -> None: ...
    def step(self, plan: StepPlan) -> StepResult: ...
    def embed(self, texts: list[list[int]]) -> list[bytes]:
        """Return one little-endian float32 vector for each list of tokens, of length 1."""
        ...


class Text(Protocol):
    """The text side of a model: what can be asked while a step runs."""

    def ask(self, what: str, value: Any, reply: Callable[[Any, str | None], None]) -> None:
        """Put a question; see effects.AskCore. `reply` is called once, on any thread: an answer, or an error."""
        ...


class Gate(Protocol):
    """What a constraint lets come next in one request's text. Methods raise EngineError: the request fails."""

    def admits(self, token: int) -> bool:
        """Whether the token may come now and the text can still be whole within max_tokens after it."""
        ...

    def admitted(self) -> np.ndarray:
        """Return which tokens the grammar alone lets come now, bool, shape (vocab,)."""
        ...

    def closing(self) -> int:
        """Return the next token of a short way to the end of the text."""
        ...

    def accept(self, token: int) -> None:
        """The token came."""
        ...


class EngineError(Exception):
    """A request that the engine cannot carry out: bad input, never a broken core."""


class EngineMemoryError(EngineError):
    """The model's contexts do not fit in this machine's memory."""
