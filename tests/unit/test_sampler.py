"""Sampling is a function of logits, parameters, tokens seen, seed and position, and draws what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.engine.base import EngineError, Opening, Sampling
from kernel.engine.sampler import Drawing, Drawn, Sampler, uniform
from kernel.engine.samplerow import likeliest

LONG = 9001  # logits: enough for every path
PARAMETERS = (
    Sampling(),
    Sampling(temperature=1.0),
    Sampling(temperature=0.8, top_k=1000, min_p=0.01),
    Sampling(temperature=0.8, top_k=0, top_p=0.9),
    Sampling(temperature=1.0, top_k=0),
    Sampling(temperature=1.3, top_k=0, min_p=0.02),
    Sampling(temperature=1.0, top_k=0, typical_p=0.9),
    Sampling(temperature=0.7, top_k=40, top_p=0.8, repeat_penalty=1.3, logit_bias=((3, 2.0), (5, -100.0))),
    Sampling(temperature=1.0, logprobs=3),
)


def drawing(sampling: Sampling, vocab: int, tokens: Sequence[int] = (), gate: Evens | None = None) -> Drawing:
    return Drawing(Opening(1, 0, sampling, None, tuple(tokens), 0, 100, False), vocab, gate)


def draw_one(row: np.ndarray, sampling: Sampling, gate: Evens | None = None) -> Drawn | EngineError:
    sampler = Sampler(len(row), 1)
    (answer,) = sampler.draw(row[None].copy(), [drawing(sampling, len(row), (), gate)], [0])
    assert answer is not None
    return answer


def tokens_of(row: Sequence[float], sampling: Sampling, positions: int) -> list[int]:
    """The tokens at many positions, of a request that has drawn nothing before each."""
    logits = np.tile(np.array(row, np.float32), (positions, 1))
    drawings = [drawing(sampling, len(row)) for _ in range(positions)]
    return [drawn.token for drawn in Sampler(len(row), 1).draw(logits, drawings, range(positions))]


def mixed(rows: int) -> np.ndarray:
    return np.random.default_rng(7).normal(0.0, 3.0, (rows, LONG)).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    size=st.integers(1, 5000),
    distinct=st.sampled_from([1, 3, 50, 1 << 20]),
    count=st.integers(1, 300),
)
def test_the_likeliest_are_those_of_a_full_sort_with_ties_by_id(seed, size, distinct, count):
    logits = np.random.default_rng(seed).integers(0, distinct, size).astype(np.float32) / 8 - 4
    order = sorted(range(size), key=lambda token: (-logits[token], token))
    assert likeliest(logits, count).tolist() == order[:count]


@given(st.integers(0, (1 << 63) - 1), st.integers(0, 1 << 20))
def test_uniform_is_a_function_into_0_to_1(seed, position):
    drawn = uniform(seed, position)
    assert 0.0 <= drawn < 1.0
    assert drawn == uniform(seed, position)


def test_uniform_is_what_it_was_in_every_version():
    wanted = [0.8314423694173285, 0.7380940462440627, 0.5555959250212491]
    assert [uniform(7, position) for position in (0, 1, 1000)] == wanted


def test_uniform_is_spread_evenly_over_positions_and_over_seeds():
    for numbers in (
        [uniform(7, position) for position in range(20_000)],
        [uniform(seed, 7) for seed in range(20_000)],
    ):
        counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
        chi_square = float(((counts - 1000) ** 2 / 1000).sum())
        assert chi_square < 50  # 19 degrees of freedom: beyond 50 once in 7,000 tables


def probabilities(logits: Sequence[float], sampling: Sampling) -> np.ndarray:
    """Top-k, top-p, temperature, plainly."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[: sampling.top_k or None]
    weights = [math.exp(logits[token]) for token in order]
    kept, mass = 0, 0.0
    while kept == 0 or mass < sampling.top_p * sum(weights) - 1e-9:
        mass += weights[kept]
        kept += 1
    table = np.zeros(len(logits))
    table[order[:kept]] = [math.exp(logits[token] / sampling.temperature) for token in order[:kept]]
    return table / table.sum()


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
    logits = [2.0, 1.0, 0.5, 0.5, 0.0, -1.0, -1.0, -2.0, -4.0, 1.5]
    draws = 20_000
    counts = np.bincount(tokens_of(logits, sampling, draws), minlength=10)
    wanted = probabilities(logits, sampling)
    assert not counts[wanted == 0].any()
    assert np.abs(counts / draws - wanted).max() < 5 * math.sqrt(0.25 / draws)


def test_temperature_zero_takes_the_likeliest_and_among_equals_the_first():
    assert set(tokens_of([0.0, 3.0, 3.0, 1.0], Sampling(), 50)) == {1}


def test_top_p_zero_and_top_k_one_and_min_p_one_take_the_likeliest():
    for sampling in (Sampling(1.0, top_p=0.0), Sampling(1.0, top_k=1), Sampling(1.0, 0, min_p=1.0)):
        assert set(tokens_of([0.0, 3.0, 2.9], sampling, 50)) == {1}


def test_the_draw_depends_on_seed_and_position():
    row = mixed(1)[0, :300]
    assert tokens_of(row, Sampling(2.0, seed=5), 40) != tokens_of(row, Sampling(2.0, seed=6), 40)
    assert len(set(tokens_of(row, Sampling(2.0, seed=5), 40))) > 1


def test_a_row_is_drawn_alike_alone_and_in_any_company_on_any_number_of_threads():
    rows = 4 * len(PARAMETERS)
    logits = mixed(rows)
    samplings = [replace(PARAMETERS[row % len(PARAMETERS)], seed=row) for row in range(rows)]

    def answers(sampler: Sampler, order: Sequence[int]) -> dict[int, Drawn]:
        drawings = [drawing(samplings[row], LONG, range(row)) for row in order]
        drawn = sampler.draw(logits[order], drawings, [100 + row for row in order])
        return dict(zip(order, drawn, strict=True))

    alone = {row: answers(Sampler(LONG, 1), [row])[row] for row in range(rows)}
    for threads in (1, 2, 4):
        sampler = Sampler(LONG, threads)
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(rows).tolist()
            assert answers(sampler, order[: rows - seed]) == {row: alone[row] for row in order[: rows - seed]}


def test_logits_are_left_as_they_are():
    logits = mixed(len(PARAMETERS))
    before = logits.copy()
    gates = [Evens(LONG) if row % 2 else None for row in range(len(PARAMETERS))]
    drawings = [drawing(one, LONG, range(9), gate) for one, gate in zip(PARAMETERS, gates, strict=True)]
    Sampler(LONG, 2).draw(logits, drawings, range(len(PARAMETERS)))
    assert (logits == before).all()


def test_a_row_without_a_drawing_gets_no_token():
    first, second, third = Sampler(LONG, 2).draw(mixed(3), [None, drawing(Sampling(), LONG), None], [0, 0, 0])
    assert first is None
    assert isinstance(second, Drawn)
    assert third is None
    assert Sampler(LONG, 2).draw(mixed(0), [], []) == []


def test_a_drawing_counts_what_was_drawn():
    one = drawing(Sampling(temperature=0.0, presence_penalty=100.0), 4)
    sampler = Sampler(4, 1)
    logits = np.array([[4.0, 3.0, 2.0, 1.0]], np.float32)
    assert [sampler.draw(logits, [one], [turn])[0].token for turn in range(5)] == [0, 1, 2, 3, 0]
    assert one.generated == 5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sampling", PARAMETERS)
def test_logits_that_are_no_numbers_mean_a_damaged_context_and_nobody_is_told_a_token(sampling, bad):
    logits = mixed(3)
    logits[1, 8000] = bad
    drawings = [drawing(sampling, LONG, [8000]) for _ in range(3)]
    with pytest.raises(ValueError, match="largest logit"):
        Sampler(LONG, 2).draw(logits, drawings, [0, 1, 2])
    assert [one.generated for one in drawings] == [0, 0, 0]


@pytest.mark.parametrize("sampling", PARAMETERS)
def test_a_row_that_is_impossible_everywhere_means_a_damaged_context(sampling):
    logits = np.full((1, LONG), -np.inf, np.float32)
    with pytest.raises(ValueError, match="-inf"):
        Sampler(LONG, 1).draw(logits, [drawing(sampling, LONG)], [0])


@pytest.mark.parametrize("sampling", PARAMETERS)
def test_tokens_that_are_impossible_are_never_drawn(sampling):
    row = np.full(LONG, -np.inf, np.float32)
    row[[3, 4000, 9000]] = 1.0
    assert {draw_one(row, replace(sampling, seed=seed)).token for seed in range(30)} <= {3, 4000, 9000}


def test_bias_adds_to_a_logit_and_forbids_from_minus_100_on():
    row = np.array([1.0, 0.0, 0.0], np.float32)
    assert draw_one(row, Sampling(logit_bias=((2, 1.5),))).token == 2
    assert draw_one(row, Sampling(logit_bias=((2, 0.6), (2, 0.6)))).token == 2
    assert draw_one(np.array([900.0, 0.0], np.float32), Sampling(logit_bias=((0, -99.0),))).token == 0
    assert draw_one(np.array([900.0, 0.0], np.float32), Sampling(logit_bias=((0, -100.0),))).token == 1


def test_a_bias_that_forbids_every_token_fails_its_request_alone():
    forbids_all = Sampling(temperature=1.0, logit_bias=tuple((token, -100.0) for token in range(5)))
    logits = np.zeros((2, 5), np.float32)
    failed, drawn = Sampler(5, 2).draw(logits, [drawing(forbids_all, 5), drawing(Sampling(), 5)], [0, 0])
    assert isinstance(failed, EngineError)
    assert "every token" in str(failed)
    assert drawn == Drawn(0, None, ())


def test_log_probabilities_are_those_of_the_model_before_bias_and_penalties():
    row = mixed(1)[0]
    sampling = Sampling(temperature=2.0, logprobs=4, logit_bias=((17, 60.0),), repeat_penalty=3.0)
    drawn = draw_one(row, sampling)
    wanted = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    assert drawn.token == 17
    assert drawn.logprob == pytest.approx(wanted[17], abs=1e-5)
    order = sorted(range(LONG), key=lambda token: (-row[token], token))[:4]
    assert [token for token, _ in drawn.top] == order
    assert [logprob for _, logprob in drawn.top] == pytest.approx(wanted[order].tolist(), abs=1e-5)


def test_log_probabilities_come_as_asked_for():
    row = mixed(1)[0, :50]
    assert draw_one(row, Sampling()) == Drawn(int(row.argmax()), None, ())
    alone = draw_one(row, Sampling(logprobs=0))
    assert alone.top == ()
    assert alone.logprob < 0.0
    assert len(draw_one(row, Sampling(logprobs=1000)).top) == 50


class Evens:
    """A constraint: even numbers, each larger than the last, and 8 is the end."""

    def __init__(self, vocab: int = 10) -> None:
        self.vocab = vocab
        self.came: list[int] = []
        self.least = 0
        self.can_end = True
        self.asked = 0

    def admits(self, token: int) -> bool:
        return self.can_end and token % 2 == 0 and token >= self.least

    def admitted(self) -> np.ndarray:
        self.asked += 1
        ids = np.arange(self.vocab)
        return (ids % 2 == 0) & (ids >= self.least)

    def closing(self) -> int:
        return 8

    def accept(self, token: int) -> None:
        if token == 6:
            raise EngineError("the grammar is stuck at 6")
        self.came.append(token)
        self.least = token + 1


def row_of(*likely: int) -> np.ndarray:
    """Ten logits, those named the largest, in this order."""
    row = np.zeros(10, np.float32)
    row[list(likely)] = np.arange(2 * len(likely), len(likely), -1)
    return row


def test_a_token_that_the_constraint_admits_is_taken_without_asking_for_all():
    gate = Evens()
    assert draw_one(row_of(4, 3), Sampling(), gate=gate).token == 4
    assert gate.came == [4]
    assert gate.asked == 0


def test_a_token_that_the_constraint_refuses_is_drawn_again_from_what_it_admits():
    gate = Evens()
    assert draw_one(row_of(5, 3, 2, 4), Sampling(), gate=gate).token == 2
    assert gate.came == [2]


@given(seed=st.integers(0, 1 << 60))
@settings(deadline=None)
def test_the_second_draw_is_that_of_the_masked_logits_by_the_same_number(seed):
    row = np.random.default_rng(seed).normal(0, 2, 10).astype(np.float32)
    sampling = Sampling(temperature=1.0, top_k=3, top_p=0.9, seed=seed)
    first = draw_one(row, sampling).token
    masked = np.where(np.arange(10) % 2 == 0, row, -np.inf).astype(np.float32)
    wanted = first if first % 2 == 0 else draw_one(masked, sampling).token
    answer = draw_one(row, sampling, gate=Evens())
    assert isinstance(answer, EngineError) if wanted == 6 else answer.token == wanted


def test_a_text_that_could_not_end_any_more_is_closed():
    gate = Evens()
    gate.can_end = False
    assert draw_one(row_of(5, 3, 2, 4), Sampling(), gate=gate).token == 8


def test_a_constraint_that_fails_fails_its_request_alone():
    logits = np.stack([row_of(6), row_of(6)])
    failed, drawn = Sampler(10, 1).draw(
        logits, [drawing(Sampling(), 10, (), Evens()), drawing(Sampling(), 10)], [0, 0]
    )
    assert str(failed) == "the grammar is stuck at 6"
    assert drawn == Drawn(6, None, ())


def test_what_the_bias_forbids_is_never_forced_by_a_constraint():
    evens = tuple((token, -100.0) for token in range(0, 10, 2))
    answer = draw_one(row_of(5), Sampling(logit_bias=evens), gate=Evens())
    assert "both admitted" in str(answer)
    gate = Evens()
    gate.can_end = False
    assert "forbids token 8" in str(draw_one(row_of(5), Sampling(logit_bias=((8, -100.0),)), gate=gate))


extreme = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e-300, 1e30, 1e300, -1e300, math.inf, -math.inf, math.nan]),
    st.floats(),
)


@given(
    sampling=st.builds(
        Sampling,
        temperature=extreme,
        top_k=st.sampled_from([-5, 0, 1, 2, 40, 10_000, 1 << 40]),
        top_p=extreme,
        min_p=extreme,
        typical_p=extreme,
        repeat_penalty=extreme,
        presence_penalty=extreme,
        frequency_penalty=extreme,
        penalty_tokens=st.sampled_from([-1, 0, 1, 5, 1 << 40]),
        logit_bias=st.lists(st.tuples(st.integers(0, 7), extreme)).map(tuple),
        logprobs=st.sampled_from([-1, 0, 3]),
        seed=st.integers(0, (1 << 64) - 1),
    ),
    scale=st.sampled_from([0.0, 1.0, 1e-30, 1e10, 3e38]),
    size=st.sampled_from([8, 9000]),
    tokens=st.lists(st.integers(0, 7)),
)
@settings(max_examples=400, deadline=None)
def test_no_parameter_is_so_hostile_that_finite_logits_give_no_token(sampling, scale, size, tokens):
    row = (np.random.default_rng(3).uniform(-1, 1, size) * scale).astype(np.float32)
    (answer,) = Sampler(size, 1).draw(row[None].copy(), [drawing(sampling, size, tokens)], [0])
    forbidden = {token for token, bias in sampling.logit_bias if bias <= -100}
    if size == 8 and len(forbidden) == 8:
        assert isinstance(answer, EngineError)
    else:
        assert 0 <= answer.token < size
        assert answer.token not in forbidden
