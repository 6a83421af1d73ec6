"""A bank of slots with a clock: how long prompts and steps take in one mode.

Who calls it: calibrate.py, in a process that has loaded the model. What must hold: it computes what a core
would, through the same SlotBank; figures are the best of several, for other work on the machine only adds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import llama_cpp

from kernel.engine.bank import SlotBank
from kernel.engine.base import CHUNK_TOKENS, EngineError, Row
from kernel.engine.calibration import Measured
from kernel.engine.cost import StepCosts
from kernel.engine.snapshot import SnapshotError
from kernel.engine.traits import ContextOptions, Traits

STEPS = 3  # of which the fastest counts
WINDOW_TOKENS = 768
DEEPEST_TOKENS = 512  # of the contexts that steps are measured over
_TOKEN = 1  # any: what is computed does not depend on which


class Bench:
    """`slots` contexts of one model. Raises EngineError when llama.cpp makes no context for them.

    on_gpu: a device computes, so that how much CPU the threads had says nothing.
    """

    def __init__(
        self,
        model: llama_cpp.llama_model_p,
        slots: int,
        options: ContextOptions,
        traits: Traits,
        on_gpu: bool,
    ) -> None:
        size = llama_cpp.llama_model_size(model)
        self._options, self._slots, self._on_gpu = options, slots, on_gpu
        self._threads = options.threads
        self._bank = SlotBank(model, slots, WINDOW_TOKENS, options, traits, StepCosts(size, 0))

    def close(self) -> None:
        self._bank.close()

    def set_threads(self, threads: int) -> None:
        self._threads = threads
        self._bank.set_threads(threads)

    def first_step(self) -> Measured:
        """Decode twice in empty contexts: once to have the weights in memory, and once to measure it."""
        for slot in range(self._slots):
            self._bank.clear(slot)
        self._step(self._slots, 0)
        began_s, used_s = time.monotonic(), time.process_time()
        self._step(self._slots, 1)
        took_s, used_s = time.monotonic() - began_s, time.process_time() - used_s
        return self._measured(0, 0.0, {self._slots: took_s}, took_s, used_s)

    def first_chunk_s(self) -> float:
        """Return the seconds of a prompt's first chunk."""
        return self._fill(1)

    def measure(self, chunks: int, rows: Sequence[int]) -> Measured:
        """Fill contexts with so many chunks of a prompt, then time steps of each number of rows."""
        chunk_s = self._fill(chunks)
        step_s = {}
        took_s = used_s = 0.0
        for count in rows:
            self._copy(count)
            began_s, used_before_s = time.monotonic(), time.process_time()
            step_s[count] = min(self._step(count, self._depth + turn) for turn in range(STEPS))
            took_s += time.monotonic() - began_s
            used_s += time.process_time() - used_before_s
        return self._measured(self._depth, chunk_s, step_s, took_s, used_s)

    def _measured(
        self, depth: int, chunk_s: float, step_s: dict[int, float], took_s: float, used_s: float
    ) -> Measured:
        share = 1.0 if self._on_gpu else used_s / (took_s * self._threads)
        return Measured(self._threads, self._options.flash_attention, depth, chunk_s, step_s, share)

    def _fill(self, chunks: int) -> float:
        """Prefill slot 0 and keep its state for the others; return the seconds of one chunk."""
        self._bank.clear(0)
        began = time.monotonic()
        for number in range(chunks):
            self._bank.chunk(Row(0, number * CHUNK_TOKENS, (_TOKEN,) * CHUNK_TOKENS, True))
        chunk_s = (time.monotonic() - began) / chunks
        self._depth = chunks * CHUNK_TOKENS
        self._state = self._bank.state(0)
        return chunk_s

    def _copy(self, slots: int) -> None:
        try:
            for slot in range(slots):
                self._bank.restore(slot, self._state, self._depth)
        except SnapshotError as error:
            raise EngineError(f"contexts of this model cannot be copied: {error}") from None

    def _step(self, rows: int, position: int) -> float:
        """Decode one token in each of the first `rows` slots; return the seconds."""
        began = time.monotonic()
        for _ in self._bank.decode([Row(slot, position, (_TOKEN,), True) for slot in range(rows)]):
            pass
        return time.monotonic() - began
