"""Sampling is a function of logits, parameters, seed and position, and draws what it says it draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.engine.base import Sampling
from kernel.engine.sampler import _top, sample, uniform


def logits_of(seed: int, size: int, distinct: int) -> np.ndarray:
    """Logits with many ties when `distinct` is small."""
    return np.random.default_rng(seed).integers(0, distinct, size).astype(np.float32) / 8 - 4


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    size=st.integers(1, 5000),
    distinct=st.sampled_from([1, 3, 50, 1 << 20]),
    count=st.integers(0, 300),
)
def test_top_k_equals_a_full_sort_with_ties_by_id(seed, size, distinct, count):
    logits = logits_of(seed, size, distinct)
    order = sorted(range(size), key=lambda token: (-logits[token], token))
    assert _top(logits, count).tolist() == order[: count or None]


@given(st.integers(0, (1 << 63) - 1), st.integers(0, 1 << 20))
def test_uniform_is_a_function_into_0_to_1(seed, position):
    drawn = uniform(seed, position)
    assert 0.0 <= drawn < 1.0
    assert drawn == uniform(seed, position)


def test_uniform_is_spread_evenly_over_positions_and_over_seeds():
    for numbers in (
        [uniform(7, position) for position in range(20_000)],
        [uniform(seed, 7) for seed in range(20_000)],
    ):
        counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
        chi_square = float(((counts - 1000) ** 2 / 1000).sum())
        assert chi_square < 50  # 19 degrees of freedom: beyond 50 once in 7,000 tables


def probabilities(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The same filters, plainly: top-k, temperature, top-p."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    order = order[: sampling.top_k or None]
    weights = [math.exp((float(logits[token]) - float(logits[order[0]])) / sampling.temperature) for token in order]
    kept, mass = 0, 0.0
    for weight in weights:
        kept += 1
        mass += weight
        if mass >= sampling.top_p * sum(weights):
            break
    table = np.zeros(len(logits))
    for token, weight in zip(order[:kept], weights[:kept], strict=True):
        table[token] = weight / mass
    return table


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, top_k=0),
        Sampling(temperature=0.7, top_k=5),
        Sampling(temperature=1.5, top_k=0, top_p=0.8),
        Sampling(temperature=1.0, top_k=8, top_p=0.5, seed=99),
    ],
)
def test_draws_match_the_probabilities(sampling):
    logits = np.array([2.0, 1.0, 0.5, 0.5, 0.0, -1.0, -1.0, -2.0, -4.0, 1.5], np.float32)
    draws = 20_000
    counts = np.bincount([sample(logits, sampling, position) for position in range(draws)], minlength=10)
    wanted = probabilities(logits, sampling)
    assert not counts[wanted == 0].any()
    assert np.abs(counts / draws - wanted).max() < 5 * math.sqrt(0.25 / draws)


def test_temperature_zero_takes_the_likeliest_and_among_equals_the_first():
    logits = np.array([0.0, 3.0, 3.0, 1.0], np.float32)
    assert {sample(logits, Sampling(seed=seed), seed) for seed in range(50)} == {1}


def test_top_p_zero_and_top_k_one_take_the_likeliest():
    logits = np.array([0.0, 3.0, 2.9], np.float32)
    for sampling in (Sampling(1.0, top_p=0.0), Sampling(1.0, top_k=1)):
        assert {sample(logits, sampling, position) for position in range(50)} == {1}


def test_the_draw_depends_on_seed_and_position_alone():
    logits = logits_of(1, 300, 50)
    drawn = [sample(logits, Sampling(2.0, seed=5), position) for position in range(40)]
    again = [sample(logits.copy(), Sampling(2.0, seed=5), position) for position in reversed(range(40))]
    assert drawn == again[::-1]
    assert drawn != [sample(logits, Sampling(2.0, seed=6), position) for position in range(40)]
    assert len(set(drawn)) > 1


def test_the_logits_are_left_as_they_are():
    logits = logits_of(1, 300, 50)
    before = logits.copy()
    sample(logits, Sampling(1.0, top_k=5, top_p=0.5), 3)
    assert (logits == before).all()
