"""The scheduler's workloads, and the other systems' policies."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.baselines import AiosBatches, LlamaServer, Vllm
from benchmarks.sched_bars_attacks import TASKS, load_of
from benchmarks.sched_bars_shares import GROUP_SIZES, WEIGHTS, equal_agents, grouped, weighted
from benchmarks.sched_bars_waits import phases
from benchmarks.sched_live import Bench
from benchmarks.sched_solo import Rates, fit, waits_s
from benchmarks.workloads import (
    MOST_WAIT_S,
    WORKLOADS,
    Job,
    Turn,
    bursts,
    cut,
    factor_of,
    make_load,
    renewal,
    stretched,
    two_phases,
)

WINDOW = 1024


def tokens(job):
    return sum(turn.width * (turn.prompt_tokens + turn.output_tokens) for turn in job.turns)


def load(name, seed=1, work=60_000):
    return make_load(name, seed, 30.0, WINDOW, work, tokens)


# -- loads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_load_is_a_function_of_its_seed(name):
    assert load(name).described() == load(name).described()
    assert load(name, seed=2).described() != load(name).described()


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_load_is_plain_values(name):
    assert json.loads(json.dumps(load(name).described()))["name"] == name


@pytest.mark.parametrize("name", WORKLOADS)
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1 << 30))
def test_jobs_arrive_in_time_and_fit_the_window(name, seed):
    for job in load(name, seed).jobs:
        assert 0 <= job.arrival_s <= 30
        assert 0 < job.context_tokens <= WINDOW
        assert all(turn.prompt_tokens > 0 and turn.output_tokens > 0 for turn in job.turns)


@pytest.mark.parametrize("name", WORKLOADS)
def test_jobs_come_to_the_work_that_was_asked_for(name):
    found = [job for job in load(name).jobs if not job.repeats]
    assert sum(map(tokens, found)) == pytest.approx(60_000, abs=max(map(tokens, found)))


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_95th_percentile_of_contexts_fits_the_window_without_a_cut(name):
    factor = factor_of(name, WINDOW)
    shapes = WORKLOADS[name].shapes(np.random.default_rng(5), factor)
    sizes = [next(shapes).context_tokens for _ in range(2000)]
    assert np.quantile(sizes, 0.95) == pytest.approx(WINDOW, rel=0.1)


def test_a_scheduler_that_knows_no_classes_is_told_of_none():
    plain = load("vtc-weighted").plain()
    assert not plain.groups
    assert not any(job.group or job.sched for job in (*plain.jobs, *load("mixed").plain().jobs))
    assert [job.turns for job in plain.jobs] == [job.turns for job in load("vtc-weighted").jobs]


# -- shapes and arrivals --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mu", "sigma"), [("chat", 6.63, 0.98), ("code", 7.00, 1.36)])
def test_prompts_are_lognormal_as_in_the_traces(name, mu, sigma):
    shapes = WORKLOADS[name].shapes(np.random.default_rng(1), 1.0)
    logs = np.log([next(shapes).turns[0].prompt_tokens for _ in range(4000)])
    assert logs.mean() == pytest.approx(mu, abs=0.1)
    assert logs.std() == pytest.approx(sigma, abs=0.1)


def test_tails_are_heavy():
    shapes = WORKLOADS["code"].shapes(np.random.default_rng(1), 1.0)
    sizes = [next(shapes).turns[0].prompt_tokens for _ in range(4000)]
    assert np.quantile(sizes, 0.99) > 8 * np.median(sizes)


def test_agents_with_tools_take_about_11_turns_and_mostly_short_waits():
    shapes = WORKLOADS["react"].shapes(np.random.default_rng(1), 1.0)
    jobs = [next(shapes) for _ in range(500)]
    turns = [len(job.turns) for job in jobs]
    waits = [turn.wait_s for job in jobs for turn in job.turns]
    assert np.mean(turns) == pytest.approx(10.9, abs=0.4)
    assert np.std(turns) == pytest.approx(2.1, abs=0.4)
    assert np.mean([wait <= 1 for wait in waits]) == pytest.approx(0.86, abs=0.02)
    assert max(waits) == MOST_WAIT_S
    assert all(job.keeps and job.preamble_tokens for job in jobs)


def test_a_tree_asks_for_several_answers_at_once():
    shapes = WORKLOADS["tree"].shapes(np.random.default_rng(1), 1.0)
    jobs = [next(shapes) for _ in range(50)]
    assert {job.kind for job in jobs} == {"search", "best-of-n"}
    assert all(max(turn.width for turn in job.turns) >= 3 for job in jobs)


def test_arrivals_vary_as_they_are_said_to():
    at = renewal(1.09)(np.random.default_rng(1), 20_000)
    gaps = [after - before for before, after in pairwise(at)]
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(1.09, abs=0.05)


def test_bursts_make_counts_vary_13_times_as_much_as_their_mean():
    at = bursts(7.0)(np.random.default_rng(1), 40_000)
    counts, _ = np.histogram(at, bins=1000, range=(0, 1))
    assert counts.var() / counts.mean() == pytest.approx(13, rel=0.2)


def test_an_overload_is_twice_the_mean_rate_at_first():
    at = two_phases(np.random.default_rng(1), 1000)
    assert np.mean(at < 0.4) == pytest.approx(0.8)
    assert (np.diff(at) >= 0).all()


def test_one_client_asks_twice_as_often_as_the_other():
    asked = Counter(job.group for job in load("vtc", work=1_000_000).jobs)
    assert asked["/client-2"] / asked["/client-1"] == pytest.approx(2, rel=0.15)


def test_everybody_who_misbehaves_is_there():
    kinds = Counter(job.kind for job in load("hostile").jobs)
    assert kinds >= Counter({"hog": 1, "waker": 1, "hoarder": 1, "liar": 1, "bomb": 16})


def test_a_bomb_doubles():
    bomb = [job.arrival_s for job in load("hostile").jobs if job.kind == "bomb"]
    counts = Counter(bomb)
    assert [counts[at] for at in sorted(counts)][:4] == [1, 2, 4, 8]


@given(
    st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=8), st.booleans(),
    st.integers(0, 400),
)  # fmt: skip
@settings(deadline=None)
def test_a_job_that_is_cut_fits_and_keeps_its_first_turns(turns, keeps, preamble):
    job = Job("any", tuple(Turn(*turn) for turn in turns), keeps=keeps, preamble_tokens=preamble)
    made = cut(job, WINDOW)
    assert made.turns
    assert made.context_tokens <= WINDOW
    assert keeps or len(made.turns) == len(turns)
    if job.context_tokens <= WINDOW and all(turn.output_tokens <= (WINDOW - preamble) // 2 for turn in job.turns):
        assert made == job


# -- loads of the bars ----------------------------------------------------------------------------


def test_equal_agents_differ_eightfold_in_length():
    lengths = [tokens(job) for job in equal_agents(32, 10.0, 1).jobs]
    assert max(lengths) / min(lengths) >= 8
    assert stretched(2, 32, 5) == [2, 4, 8, 16, 32]


def test_groups_have_their_sizes_and_short_and_long_agents():
    made = grouped(equal_agents(32, 10.0, 1), GROUP_SIZES, [1] * 4)
    assert sorted(Counter(job.group for job in made.jobs).values()) == sorted(GROUP_SIZES)
    for path in made.groups:
        lengths = [tokens(job) for job in made.jobs if job.group == path]
        assert max(lengths) / min(lengths) > 3


def test_every_weight_has_as_many_agents_with_the_same_lengths():
    made = weighted(10.0, 1)
    lengths = {
        tuple(tokens(job) for job in made.jobs if job.sched["weight"] == 100 * weight) for weight in WEIGHTS
    }
    assert len(lengths) == 1
    assert all(job.streams == 2 for job in made.jobs)


def test_the_hostile_load_has_64_tasks():
    made = load_of(Bench("none"), 1, 20.0)
    assert len(made.jobs) == TASKS
    assert sum(job.kind == "honest" for job in made.jobs) > TASKS / 2


def test_an_overload_has_twice_the_capacity_in_its_middle():
    made = phases(Bench("none"), 1, 60.0, 1000.0, tokens)
    inside = sum(tokens(job) for job in made.jobs if 15 <= job.arrival_s < 75)
    before = sum(tokens(job) for job in made.jobs if job.arrival_s < 15)
    assert inside == pytest.approx(2000 * 60, rel=0.05)
    assert before == pytest.approx(500 * 15, rel=0.2)


# -- time alone -----------------------------------------------------------------------------------


def test_rates_are_found_again_from_the_times_they_make():
    wanted = Rates((0.01, 0.001, 0.0, 0.005, 0.002, 1e-6), 0.0)
    job = Job("any", tuple(Turn(p, o, 0.0, w) for p in (16, 100, 700) for o in (8, 60) for w in (1, 3)))
    from benchmarks.sched_solo import _features

    rows = [_features(turn.prompt_tokens, turn.output_tokens, 0, turn.width) for turn in job.turns]
    found = fit(rows, [wanted.turn_s(turn) for turn in job.turns])
    assert found.job_s(job) == pytest.approx(wanted.job_s(job))
    assert found.error < 1e-6


def test_a_context_that_grows_costs_more_than_the_same_turns_alone():
    rates = Rates((0.01, 0.001, 1e-6, 0.005, 0.0, 1e-6), 0.0)
    job = Job("any", (Turn(100, 10, 2.0), Turn(100, 10, 3.0)), keeps=True, preamble_tokens=50)
    assert rates.job_s(job) > rates.job_s(replace(job, keeps=False)) > 0
    assert waits_s(job) == 2.0


# -- other systems' policies ----------------------------------------------------------------------


def request(number, size=10):
    return FakeRequest(number=number, tokens=[0] * size, task=SimpleNamespace(pid=number))


class FakeRequest(SimpleNamespace):
    __hash__ = object.__hash__

    def __lt__(self, other):
        raise AssertionError("two requests have the same number")


def chosen(policy, slots=2):
    return [one.number for one in policy.choose(slots, 0)]


def test_llama_server_keeps_who_came_first():
    policy = LlamaServer()
    for number in (1, 2, 3):
        policy.add(request(number))
    assert chosen(policy) == [1, 2]


def test_aios_runs_a_batch_to_its_end_before_the_next():
    policy = AiosBatches()
    first, second, third = (request(number) for number in (1, 2, 3))
    policy.add(first)
    assert chosen(policy) == [1]
    policy.add(second)
    policy.add(third)
    assert chosen(policy) == [1]
    policy.remove(first)
    assert chosen(policy) == [2, 3]


def test_vllm_sends_away_who_came_last_when_the_pool_is_full():
    policy = Vllm(pool_tokens=30)
    older, newer = request(1), request(2)
    policy.add(newer)
    policy.add(older)
    assert chosen(policy) == [1, 2]
    older.tokens += [0] * 15
    assert chosen(policy) == [1]


def test_vllm_runs_one_that_alone_is_larger_than_the_pool():
    policy = Vllm(pool_tokens=5)
    policy.add(request(1, size=50))
    assert chosen(policy) == [1]


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=60), st.sampled_from(["server", "aios", "vllm"]))
def test_each_makes_progress_whatever_comes(steps, which):
    policy = {"server": LlamaServer(), "aios": AiosBatches(), "vllm": Vllm(50)}[which]
    living = {}
    for number, (is_new, size) in enumerate(steps):
        if is_new or not living:
            living[number] = request(number, size)
            policy.add(living[number])
        else:
            policy.remove(living.pop(next(iter(living))))
        found = chosen(policy, 3)
        assert len(found) == len(set(found)) <= 3
        assert set(found) <= set(living)
        assert bool(found) == bool(living)
