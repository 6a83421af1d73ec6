"""What a context switch costs by length: save and restore beside copying as many bytes and prefilling again.

    python -m benchmarks.context_switch --plot context_switch.png

The engine alone, in this process, with two slots: a context of random tokens is prefilled in passes of four chunks
(timed), saved into a memfd segment and restored from it, as plans that do nothing else; the engine's own switch time is
taken, median of 9. A copy is numpy's, of the same number of bytes between two arrays that have been touched, median of
9. A model of SmolLM2-135M's shape, and one with the KV of an 8B (128 KiB a token) and few weights. The decode step is
of 8 slots that all hold 1,024 tokens, median of 9.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from benchmarks.models import model_path
from benchmarks.report import Row, at_most, facts_line, machine_facts, only, progress, result_table
from benchmarks.rig import make_engine
from kernel.engine.base import CHUNK_TOKENS, PASS_CHUNKS, Restore, Save, StepPlan
from kernel.engine.base import Row as Rows
from kernel.engine.llama import LlamaEngine
from kernel.sched.flight import token_digest
from shm.segment import Segment

REPEATS, JUDGED = 9, 1024
SIZES = (256, JUDGED, 8000)
SHAPES = {"135M": "smollm2-135m", "128 KiB a token": "kv-8b"}
RATE = 0.7  # of a copy's
FIXED_MS = 1.0
DECODING = 8  # slots of the step that a switch is set beside
COLOURS = {"save": "#0b6e4f", "restore": "#1f77b4", "copy": "#7f7f7f", "prefill": "#d62728"}


class Cost(NamedTuple):
    """Milliseconds, but for the bytes."""

    save: float
    restore: float
    copy: float
    prefill: float
    size_bytes: int


def run(quick: bool) -> list[Row]:
    if quick:
        costs = {("default", size): cost for size, cost in measure("default", (256, JUDGED)).items()}
    else:
        costs = measure_all()
    step_ms = decode_step_ms("default" if quick else SHAPES["135M"])
    return [*rows_of(costs), only(f"decode step, {DECODING} slots of {JUDGED} tokens", f"{step_ms:.1f} ms")]


def measure_all() -> dict[tuple[str, int], Cost]:
    return {(name, size): cost for name, shape in SHAPES.items() for size, cost in measure(shape, SIZES).items()}


def rows_of(costs: dict[tuple[str, int], Cost]) -> list[Row]:
    """Return what is judged, and what is told beside it."""
    rows = []
    for (name, size), cost in costs.items():
        limit_ms = cost.copy / RATE + FIXED_MS
        what = f"{name}, {size} tokens"
        shown = f" of {cost.size_bytes / 1e6:.1f} MB; copy {cost.copy:.2f}"
        rows.append(at_most(f"{what}: save", cost.save, limit_ms, "ms", shown))
        rows.append(at_most(f"{what}: restore", cost.restore, limit_ms, "ms"))
        ratio = cost.prefill / (cost.save + cost.restore)
        rows.append(only(f"{what}: prefill again", f"{cost.prefill:,.0f} ms, {ratio:,.0f} x a switch"))
    return rows


def measure(shape: str, sizes: Sequence[int]) -> dict[int, Cost]:
    """Return the costs of contexts by their length."""
    engine = make_engine(str(model_path(shape, "q8_0")), slots=2, window_tokens=max(sizes) + CHUNK_TOKENS)
    costs = {}
    for size in sizes:
        costs[size] = _measure(engine, size)
        progress(f"{shape}, {size} tokens: {costs[size]}")
    return costs


def _measure(engine: LlamaEngine, size: int) -> Cost:
    draw = random.Random(size)
    tokens = [draw.randrange(300, 2000) for _ in range(size)]
    began = time.monotonic()
    _prefill(engine, 0, tokens)
    prefill_ms = (time.monotonic() - began) * 1e3
    segment, digest = _segment(engine, size), token_digest(tokens)
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
    finally:
        engine.detach(1)
        segment.close()
    save_ms, restore_ms = (median(times[1:]) / 1e6 for times in (saves, restores))
    return Cost(save_ms, restore_ms, copy_ms(used), prefill_ms, used)


def _prefill(engine: LlamaEngine, slot: int, tokens: Sequence[int]) -> None:
    engine.step(StepPlan(0, clears=(slot,)))
    for start in range(0, len(tokens), PASS_CHUNKS * CHUNK_TOKENS):
        part = tuple(tokens[start : start + PASS_CHUNKS * CHUNK_TOKENS])
        engine.step(StepPlan(0, chunks=(Rows(slot, start, part, False),)))


def _segment(engine: LlamaEngine, size: int) -> Segment:
    """Return a segment for a context of `size` tokens, attached as number 1."""
    info = engine.info
    segment = Segment.create("bench", size * info.kv_bytes_per_token + info.snapshot_overhead_bytes)
    engine.attach(1, segment.fd, segment.size_bytes)
    return segment


def copy_ms(size_bytes: int) -> float:
    """Return the median time of copying so many bytes."""
    source, target = np.ones(size_bytes, np.uint8), np.zeros(size_bytes, np.uint8)
    times = []
    for _ in range(REPEATS):
        began = time.monotonic_ns()
        np.copyto(target, source)
        times.append((time.monotonic_ns() - began) / 1e6)
    return median(times)


def decode_step_ms(shape: str) -> float:
    """Give several slots the same context; return the median time of decoding one token in each."""
    engine = make_engine(str(model_path(shape, "q8_0")), slots=DECODING, window_tokens=JUDGED + CHUNK_TOKENS)
    tokens = [random.Random(slot).randrange(300, 2000) for slot in range(JUDGED)]
    _prefill(engine, 0, tokens)
    segment, digest = _segment(engine, JUDGED), token_digest(tokens)
    engine.step(StepPlan(0, saves=(Save(0, 1, JUDGED, digest),)))
    engine.step(StepPlan(0, restores=tuple(Restore(slot, 1, JUDGED, digest, JUDGED) for slot in range(DECODING))))
    times = []
    for position in range(JUDGED, JUDGED + REPEATS + 1):
        decodes = tuple(Rows(slot, position, (400,), True) for slot in range(DECODING))
        result = engine.step(StepPlan(0, decodes=decodes))
        times.append((result.ended_ns - result.began_ns) / 1e6)
    engine.detach(1)
    segment.close()
    return median(times[1:])


def draw(costs: dict[tuple[str, int], Cost], path: Path) -> None:
    """Draw the costs by length, a panel for each model. Needs matplotlib (the extra `bench`)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(name for name, _ in costs))
    figure, axes = pyplot.subplots(1, len(names), figsize=(6.0 * len(names), 4.2), layout="constrained", squeeze=False)
    for place, name in zip(axes.flat, names, strict=True):
        sizes = [size for one, size in costs if one == name]
        for field, colour in COLOURS.items():
            values = [getattr(costs[name, size], field) for size in sizes]
            place.plot(sizes, values, marker="o", color=colour, label=field)
        place.set_xscale("log")
        place.set_yscale("log")
        place.set_xticks(sizes, [f"{size:,}" for size in sizes])
        place.minorticks_off()
        place.set_xlabel("tokens of context")
        place.set_ylabel("ms (less is better)")
        token_kib = costs[name, sizes[0]].size_bytes / sizes[0] / 1024
        place.set_title(f"{name}: {token_kib:.0f} KiB of KV a token", fontsize=10)
        place.grid(True, alpha=0.3)
        place.legend(fontsize=9)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.context_switch", description=__doc__)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw it, as PNG")
    options = parser.parse_args(arguments)
    print(facts_line(machine_facts()), flush=True)
    costs = measure_all()
    rows = rows_of(costs)
    print(result_table(rows))
    if options.plot is not None:
        draw(costs, options.plot)
    return int(any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
