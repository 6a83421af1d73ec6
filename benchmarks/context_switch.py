"""A context switch (save and restore of a sequence's KV) beside one decode step and beside prefilling again.

The engine alone, in this process, with 8 slots: a context of random tokens is prefilled in chunks (timed),
saved into a memfd segment and restored from it, as plans that do nothing else; the engine's own
switch time is taken, median of 9. The decode step is of 8 slots that all hold 1,024 tokens, median of 9.
"""

from __future__ import annotations

import random
import time
from statistics import median
from typing import NamedTuple

from benchmarks.models import model_path
from benchmarks.report import Row, at_most, only, progress
from benchmarks.rig import make_engine
from kernel.engine.base import CHUNK_TOKENS, Restore, Save, StepPlan
from kernel.engine.base import Row as Rows
from kernel.engine.llama import LlamaEngine
from kernel.sched.flight import token_digest
from shm.segment import Segment

SLOTS, REPEATS, JUDGED = 8, 9, 1024
SIZES = (256, JUDGED, 4096)


class Cost(NamedTuple):
    """Milliseconds, but for the bytes."""

    save: float
    restore: float
    prefill: float
    size_bytes: int


def run(quick: bool) -> list[Row]:
    sizes = (256, JUDGED) if quick else SIZES
    model = str(model_path("default" if quick else "smollm2-135m", "q8_0"))
    engine = make_engine(model, slots=SLOTS, window_tokens=max(sizes) + 64)
    costs, step_ms = {}, 0.0
    for size in sizes:
        costs[size], decode_ms = _measure(engine, size, decodes=size == JUDGED)
        step_ms = decode_ms or step_ms
        progress(f"{size} tokens: {costs[size]}")
    judged = costs[JUDGED]
    rows = [
        only(f"decode step, {SLOTS} slots of {JUDGED} tokens", f"{step_ms:.1f} ms"),
        at_most(f"save + restore of {JUDGED} tokens", judged.save + judged.restore, step_ms, "ms"),
    ]
    for size, cost in costs.items():
        shown = f"{cost.save:.2f} + {cost.restore:.2f} ms, {cost.size_bytes / 1e6:.1f} MB"
        ratio = cost.prefill / (cost.save + cost.restore)
        rows.append(only(f"{size} tokens: save + restore", shown))
        rows.append(only(f"{size} tokens: prefill again", f"{cost.prefill:,.0f} ms, {ratio:,.0f} x a switch"))
    return rows


def _measure(engine: LlamaEngine, size: int, decodes: bool) -> tuple[Cost, float]:
    """Return the costs of a context of `size` tokens, and a decode step's time if asked for, else 0."""
    draw = random.Random(size)
    tokens = [draw.randrange(300, 2000) for _ in range(size)]
    began = time.monotonic()
    engine.step(StepPlan(0, clears=tuple(range(SLOTS))))
    for start in range(0, size, CHUNK_TOKENS):
        chunk = Rows(0, start, tuple(tokens[start : start + CHUNK_TOKENS]), False)
        engine.step(StepPlan(0, chunks=(chunk,)))
    prefill_ms = (time.monotonic() - began) * 1e3
    info, digest = engine.info, token_digest(tokens)
    segment = Segment.create("bench", size * info.kv_bytes_per_token + info.snapshot_overhead_bytes)
    engine.attach(1, segment.fd, segment.size_bytes)
    try:
        saves, restores, used = [], [], 0
        for _ in range(REPEATS + 1):
            saved = engine.step(StepPlan(0, saves=(Save(0, 1, size, digest),)))
            used = saved.saved[0][1]
            back = engine.step(StepPlan(0, restores=(Restore(1, 1, size, digest, size),)))
            if back.failed_restores:
                raise RuntimeError(f"restore of {size} tokens failed: {back.failed_restores}")
            saves.append(saved.switch_ns)
            restores.append(back.switch_ns)
        cost = Cost(median(saves[1:]) / 1e6, median(restores[1:]) / 1e6, prefill_ms, used)
        step_ms = _decode_step_ms(engine, size, digest) if decodes else 0.0
    finally:
        engine.detach(1)
        segment.close()
    return cost, step_ms


def _decode_step_ms(engine: LlamaEngine, size: int, digest: int) -> float:
    """Give every slot the same context; return the median time of decoding one token in each."""
    restores = tuple(Restore(slot, 1, size, digest, size) for slot in range(SLOTS))
    engine.step(StepPlan(0, restores=restores))
    times = []
    for position in range(size, size + REPEATS + 1):
        rows = tuple(Rows(slot, position, (400,), True) for slot in range(SLOTS))
        result = engine.step(StepPlan(0, decodes=rows))
        times.append((result.ended_ns - result.began_ns) / 1e6)
    return median(times[1:])
