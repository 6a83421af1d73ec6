"""What drawing 32 tokens costs, of a step of 100 ms, with a vocabulary of 151,936.

Three shapes of logits: peaked as a trained model's (the n-th likeliest token has a logit of -2 ln n, and
noise), three times normal noise (0.95 of the mass is in 13,000 tokens), and normal noise (in 113,000: the
worst that top-p can meet). On the threads of two cores, or of one if there is but one. A figure is the least
of several steps, each with new positions: what else runs on the machine is no part of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.report import Row, at_most, only, progress
from kernel.engine.base import Opening, Sampling
from kernel.engine.sampler import Drawing, Sampler

ROWS, VOCAB, STEPS = 32, 151_936, 30
FEW_BAR, ALL_BAR, FLAT_BAR = 3.0, 8.0, 40.0  # ms
PENALTIES = {"repeat_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.1}
ALL = Sampling(temperature=0.8, top_k=0)

# What, the parameters, the bar for peaked and three times normal logits, and that for flat ones.
CASES: tuple[tuple[str, tuple[Sampling, ...], float | None, float | None], ...] = (
    ("greedy", (Sampling(),), FEW_BAR, FEW_BAR),
    ("top-k 40", (Sampling(temperature=0.8),), FEW_BAR, FEW_BAR),
    ("top-k 40, top-p 0.95, min-p 0.05", (Sampling(0.8, 40, 0.95, 0.05),), None, None),
    ("greedy, penalties", (Sampling(**PENALTIES),), ALL_BAR, ALL_BAR),
    ("top-k 40, penalties", (Sampling(temperature=0.8, **PENALTIES),), ALL_BAR, ALL_BAR),
    ("top-p 0.9 over all, temperature 1", (replace(ALL, temperature=1.0, top_p=0.9),), ALL_BAR, FLAT_BAR),
    ("top-p 0.9 over all", (replace(ALL, top_p=0.9),), ALL_BAR, FLAT_BAR),
    ("top-p 0.95 over all", (replace(ALL, top_p=0.95),), ALL_BAR, FLAT_BAR),
    ("top-p 0.95 over all, penalties", (replace(ALL, top_p=0.95, **PENALTIES),), None, None),
    ("no filter", (ALL,), None, None),
    ("min-p 0.05 over all", (replace(ALL, min_p=0.05),), None, None),
    ("typical 0.9 over all", (replace(ALL, typical_p=0.9),), None, None),
    ("typical 0.9 of top-k 40", (Sampling(temperature=0.8, typical_p=0.9),), None, None),
    ("top-k 1000", (Sampling(temperature=0.8, top_k=1000),), None, None),
    ("top-k 40, 5 log probabilities", (Sampling(temperature=0.8, logprobs=5),), None, None),
    (
        "mixed: greedy, top-k 40, with penalties, top-p 0.95 over all",
        (Sampling(), Sampling(0.8), Sampling(0.8, **PENALTIES), replace(ALL, top_p=0.95)),
        None,
        None,
    ),
)


def run(quick: bool) -> list[Row]:
    """Return the cost of every case for every shape."""
    vocab, steps = (10_000, 2) if quick else (VOCAB, STEPS)
    threads = min(2, len(os.sched_getaffinity(0)))
    sampler = Sampler(vocab, threads)
    rows = [only("threads, steps of which the quickest counts", f"{threads}, {steps}")]
    for shape, logits in _shapes(vocab):
        for what, samplings, bar, flat_bar in CASES:
            limit = flat_bar if shape == "flat" else bar
            cost = _least_ms(sampler, logits, samplings, steps)
            label = f"{shape}: {what}"
            rows.append(only(label, f"{cost:.2f} ms") if limit is None else at_most(label, cost, limit, "ms"))
        progress(f"{shape} logits are done")
    return rows


def _shapes(vocab: int) -> list[tuple[str, np.ndarray]]:
    random = np.random.default_rng(0)
    normal = random.standard_normal((ROWS, vocab), np.float32)
    falling = np.stack([-2.0 * np.log(random.permutation(vocab) + 1.0) for _ in range(ROWS)])
    peaked = (falling + 0.5 * normal).astype(np.float32)
    return [("peaked", peaked), ("normal * 3", 3.0 * normal), ("flat", normal)]


def _least_ms(sampler: Sampler, logits: np.ndarray, samplings: Sequence[Sampling], steps: int) -> float:
    vocab = logits.shape[1]
    newest = np.random.default_rng(1).integers(0, vocab, (ROWS, 64)).tolist()
    drawings = []
    for row in range(ROWS):
        sampling = replace(samplings[row % len(samplings)], seed=row)
        opening = Opening(row, row, sampling, None, tuple(newest[row]), 0, 1 << 20, False)
        drawings.append(Drawing(opening, vocab, None))
    times = []
    for step in range(steps):
        began = time.perf_counter()
        sampler.draw(logits, drawings, [step] * ROWS)
        times.append(time.perf_counter() - began)
    return 1e3 * min(times)
