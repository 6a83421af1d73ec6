"""From measured speeds to the modes that a core runs a model in. Decisions only.

Who calls it: calibrate.py, which measures; calibrationfile.py, which keeps a Choice. What must hold: every
mode here is exact, but for is_fast; what was known before is kept unless something is plainly faster.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kernel.engine.base import CHUNK_TOKENS, F16, EngineOptions

PLAINLY = 0.9  # of the time that the first guess takes: less is plainly faster, more may be noise
PROMPT_TOKENS, REPLY_TOKENS = 128, 128  # of the turn that a mode is judged by
ROWS = 8  # agents decoding together in that turn
SLOT_COUNTS = (8, 16, 32, 64)
KNEE = 0.9  # of the best throughput: more slots than reach this are not worth their memory
STEP_S = 0.2  # that a step with prompt chunks in it should take at most: others wait so long for a token
UNDISTURBED = 0.8  # of the CPU time that the threads could have: they spin where they wait for one another
MAX_CHUNKS = 8  # of prompts in one step


@dataclass(frozen=True, slots=True)
class Choice:
    """How to run one model on one machine. What was not chosen is 0 or None."""

    threads: int = 0
    flash_attention: bool | None = None
    slots: int = 0  # of the first bank
    prefill_tokens: int = 0  # most prompt tokens in a step that also decodes
    is_fast: bool = False  # no rows of no consequence in a pass: who is beside a row may change its bits


@dataclass(frozen=True, slots=True)
class Measured:
    """The speed of one mode over contexts of `depth` tokens."""

    threads: int
    flash_attention: bool
    depth: int
    chunk_s: float  # for CHUNK_TOKENS of a prompt
    step_s: Mapping[int, float]  # rows that decode together: seconds
    cpu_share: float = 1.0  # of the time of its threads that they had a CPU, in these steps

    @property
    def is_disturbed(self) -> bool:
        """Whether other programs took so much of the CPU that the figures say little.

        Where a GPU computes, the threads sleep: then cpu_share has to be 1.
        """
        return self.cpu_share < UNDISTURBED

    def turn_s(self) -> float:
        """Return what an agent's turn costs when ROWS agents, or as many as were tried, decode together."""
        rows = max((count for count in self.step_s if count <= ROWS), default=max(self.step_s))
        return PROMPT_TOKENS / CHUNK_TOKENS * self.chunk_s + REPLY_TOKENS / rows * self.step_s[rows]

    def decode_rates(self) -> dict[int, float]:
        """Return rows: tokens/s of all of them together."""
        return {rows: rows / seconds for rows, seconds in self.step_s.items()}


def prior(features: Collection[str], cores: int) -> Choice:
    """Return the first guess: a thread a core; no flash attention where the CPU multiplies in tiles."""
    return Choice(threads=max(1, cores), flash_attention="amx_tile" not in features)


def given_flash(options: EngineOptions) -> bool | None:
    """Return whether the options say flash attention is on or off; None: whichever is faster.

    llama.cpp keeps values in blocks for flash attention alone.
    """
    if options.flash_attention == "auto":
        return None if options.kv_type == F16 else True
    return options.flash_attention == "on"


def thread_counts(cores: int, cpus: int) -> tuple[int, ...]:
    """Return how many threads to try: one, half the cores, the cores, all hardware threads."""
    return tuple(sorted({max(1, count) for count in (1, cores // 2, min(cores, cpus), cpus)}))


def best(first_guess: Measured, others: Sequence[Measured]) -> Measured:
    """Return the mode whose turn is shortest; the first guess unless another is plainly faster.

    A disturbed measurement decides nothing: of the first guess, that it stays; of another, that it is not
    taken.
    """
    if first_guess.is_disturbed:
        return first_guess
    calm = [mode for mode in others if not mode.is_disturbed]
    fastest = min(calm, key=Measured.turn_s, default=first_guess)
    return fastest if fastest.turn_s() < PLAINLY * first_guess.turn_s() else first_guess


def knee(step_s: Mapping[int, float]) -> int:
    """Return the fewest slots whose throughput is near the best; 0 when none was measured."""
    rates = {rows: rows / seconds for rows, seconds in step_s.items() if rows in SLOT_COUNTS}
    enough = KNEE * max(rates.values(), default=0.0)
    return min((rows for rows, rate in rates.items() if rate >= enough), default=0)


def prefill_budget(chunk_s: float, step_s: float) -> int:
    """Return the most prompt tokens beside a decode step of step_s so that both together stay in STEP_S."""
    chunks = int((STEP_S - step_s) / chunk_s)
    return CHUNK_TOKENS * max(1, min(MAX_CHUNKS, chunks))
