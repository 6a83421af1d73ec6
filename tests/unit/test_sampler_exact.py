"""What is drawn, against a plain implementation in float64 that sorts everything."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from kernel.engine.base import Opening, Sampling
from kernel.engine.samplefilters import TOLERANCE
from kernel.engine.sampler import Drawing, Sampler, uniform

VOCAB = 10_007  # prime, so that no block divides it, and long enough for every path
ROWS = 32


@dataclass
class Ranked:
    """A row in order: what the plain implementation looks at."""

    ids: np.ndarray
    logits: np.ndarray

    @classmethod
    def of(cls, row: np.ndarray) -> Ranked:
        ids = np.lexsort((np.arange(len(row)), -row))
        ids = ids[row[ids] > -np.inf]
        return cls(ids, row[ids].astype(np.float64))

    def place(self, sampling: Sampling, number: float) -> int:
        """Top-k, typical, top-p, min-p, temperature, each in one line or two."""
        kept = np.arange(len(self.ids))[: sampling.top_k or None]
        if sampling.typical_p < 1.0:
            chances = self.chances(kept)
            information = -np.log(np.maximum(chances, 1e-300))
            strange = np.abs(information - (chances * information).sum())
            order = np.argsort(strange, kind="stable")
            last = np.searchsorted(chances[order].cumsum(), sampling.typical_p, side="right")
            kept = kept[strange <= strange[order[min(last, len(order) - 1)]]]
        if sampling.top_p < 1.0:
            kept = kept[: np.searchsorted(self.chances(kept).cumsum(), sampling.top_p) + 1]
        if sampling.min_p > 0.0:
            chances = self.chances(kept)
            kept = kept[(self.logits[kept] >= self.logits[kept[0]] + math.log(sampling.min_p))]
        mass = self.chances(kept, sampling.temperature).cumsum()
        return int(kept[min(np.searchsorted(mass, number * mass[-1], side="right"), len(kept) - 1)])

    def chances(self, kept: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        weights = np.exp((self.logits[kept] - self.logits[kept[0]]) / temperature)
        return weights / weights.sum()

    def range_of(self, sampling: Sampling, number: float) -> tuple[int, int]:
        """The places that parameters and numbers within TOLERANCE of these lead to."""
        places = [
            self.place(replace(sampling, typical_p=typical, top_p=top), near)
            for typical in around(sampling.typical_p)
            for top in around(sampling.top_p)
            for near in (max(number - TOLERANCE, 0.0), number + TOLERANCE)
        ]
        return min(places), max(places)


def around(share: float) -> tuple[float, ...]:
    return (share - TOLERANCE, share + TOLERANCE) if 0.0 < share < 1.0 else (share,)


def shapes(random: np.random.Generator) -> dict[str, np.ndarray]:
    normal = random.standard_normal(VOCAB)
    falling = -2.0 * np.log(random.permutation(VOCAB) + 1.0)
    return {
        "peaked": falling + 0.3 * normal,
        "normal * 3": 3.0 * normal,
        "normal": normal + 40.0,
        "flat": np.zeros(VOCAB),
        "tied": np.round(normal * 2.0),
        "two steps": np.where(normal > 1.5, 5.0, 0.0),
        "with holes": np.where(normal > 0.5, -np.inf, normal * 2.0),
        "sorted": np.sort(3.0 * normal)[::-1],
    }


def cases(random: np.random.Generator, count: int) -> list[Sampling]:
    """Parameters of every kind, each alone and with others."""
    found = []
    for _ in range(count):
        off = random.random(4) < 0.5
        found.append(
            Sampling(
                temperature=float(random.choice([0.2, 0.7, 1.0, 1.0, 1.7])),
                top_k=0 if off[0] else int(random.choice([1, 2, 5, 40, 64, 65, 300, 1250, 6000, 10**9])),
                top_p=1.0 if off[1] else float(random.choice([0.0, 0.1, 0.5, 0.9, 0.95, 0.999])),
                min_p=0.0 if off[2] else float(random.choice([1e-6, 0.01, 0.05, 0.3, 1.0])),
                typical_p=1.0 if off[3] else float(random.choice([0.0, 0.2, 0.9, 0.95])),
                seed=int(random.integers(1 << 60)),
            )
        )
    return found


def drawing(sampling: Sampling) -> Drawing:
    return Drawing(Opening(1, 0, sampling, None, (), 0, 100, False), VOCAB, None)


@pytest.mark.parametrize("shape", list(shapes(np.random.default_rng(0))))
def test_draws_equal_those_of_a_plain_implementation(shape):
    random = np.random.default_rng(sum(map(ord, shape)))
    sampler = Sampler(VOCAB, 2)
    total = exact = 0
    for _ in range(2):
        logits = np.stack([shapes(random)[shape] for _ in range(ROWS)]).astype(np.float32)
        ranked = [Ranked.of(row) for row in logits]
        for turn in range(5):
            samplings = cases(random, ROWS)
            drawn = sampler.draw(logits, [drawing(sampling) for sampling in samplings], [turn] * ROWS)
            for sampling, row, answer in zip(samplings, ranked, drawn, strict=True):
                number = uniform(sampling.seed, turn)
                place = int(np.flatnonzero(row.ids == answer.token)[0])
                if place != row.place(sampling, number):
                    first, last = row.range_of(sampling, number)
                    assert first <= place <= last, (sampling, number, place, first, last)
                else:
                    exact += 1
                total += 1
    assert exact >= 0.97 * total, f"{exact} of {total} equal"  # a number at an edge is common among ties
