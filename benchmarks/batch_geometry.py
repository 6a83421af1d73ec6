"""Whether a row's bits depend on its neighbours, and what the two attention kernels cost.

For each quantisation and attention kernel: the logits of one row alone in its batch against the same
row beside a second one (raw llama.cpp, without the engine's fillers), at a short and a long context; then
the time of a decode step at 1, 2, 8 and 32 rows of 512 tokens.
"""

from __future__ import annotations

import time

from benchmarks.models import model_path
from benchmarks.report import Row, only, percentile
from kernel.engine import base
from kernel.engine.base import CHUNK_TOKENS
from kernel.engine.llama import LlamaEngine

SHORT, LONG = 128, 576  # tokens of context; ggml splits a lone flash-attention row from 257 on
ROUNDS = 8


def run(quick: bool) -> list[Row]:
    """Return the bit comparisons and the step times."""
    shape = "default" if quick else "smollm2-135m"
    rows = []
    for quantisation in ("q8_0", "f16"):
        for attention in ("off", "on"):
            engine = _engine(shape, quantisation, attention, slots=2)
            for tokens in (SHORT, LONG):
                same = _is_same_alone(engine, tokens)
                what = f"{quantisation}, flash attention {attention}, {tokens} tokens: a row alone"
                rows.append(only(what, "same bits" if same else "OTHER BITS than beside another"))
    for attention in ("off", "on"):
        engine = _engine(shape, "q8_0", attention, slots=4 if quick else 32)
        for slot in range(engine.info.slots):
            _prefill(engine, slot, 512)
        for count in (1, 2, 4) if quick else (1, 2, 8, 32):
            what = f"q8_0, flash attention {attention}: step of {count} rows at 512 tokens, median"
            rows.append(only(what, f"{_step_ms(engine, count):.1f} ms"))
    return rows


def _engine(shape: str, quantisation: str, attention: str, slots: int) -> LlamaEngine:
    path = str(model_path(shape, quantisation))
    return LlamaEngine(path, slots=slots, window_tokens=1024, threads=2, flash_attention=attention)


def _prefill(engine: LlamaEngine, slot: int, tokens: int) -> None:
    engine._clear(slot)
    for start in range(0, tokens, CHUNK_TOKENS):
        prompt = tuple(range(300 + start, 300 + start + CHUNK_TOKENS))
        engine._decode([base.Row(slot, start, prompt, None)], False)


def _is_same_alone(engine: LlamaEngine, tokens: int) -> bool:
    bits = []
    for slots in ((0,), (0, 1)):
        for slot in slots:
            _prefill(engine, slot, tokens)
        engine._decode([base.Row(slot, tokens, (400,), None) for slot in slots], True)
        bits.append(engine._logits(1)[0].tobytes())
    return bits[0] == bits[1]


def _step_ms(engine: LlamaEngine, count: int) -> float:
    times = []
    for turn in range(ROUNDS):
        began = time.perf_counter()
        engine._decode([base.Row(slot, 512 + turn, (400,), None) for slot in range(count)], True)
        engine._logits(1)
        times.append(time.perf_counter() - began)
    for slot in range(count):
        _prefill(engine, slot, 512)
    return 1e3 * percentile(times, 0.5)
