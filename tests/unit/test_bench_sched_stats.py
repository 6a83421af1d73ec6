"""Means, ratios, shares and fairness of the scheduler's benchmarks; comparing two runs; figures of one."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import sched_bars, sched_compare
from benchmarks.sched_bars_attacks import honest_waits
from benchmarks.sched_bars_shares import tokens_within
from benchmarks.sched_bars_waits import gaps_beside
from benchmarks.sched_compare import changes, differences
from benchmarks.sched_figures import figures
from benchmarks.sched_live import Look, Played, Setup
from benchmarks.sched_plot import series
from benchmarks.sched_solo import Rates, capacity_of
from benchmarks.sched_stats import (
    Window,
    entitlements,
    fairness,
    interval,
    ratio,
    share_errors,
    short,
    summary,
    t_value,
    worst_window,
)
from benchmarks.sched_throughput import text_of
from benchmarks.workloads import Job, Load, Turn

SECOND = 1_000_000_000


# -- means and ratios -----------------------------------------------------------------------------


def test_an_interval_is_students():
    found = interval([1.0, 2.0, 3.0])
    half = 4.303 * 1.0 / math.sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2 - half, 2 + half))


def test_one_value_has_no_interval_and_is_judged_by_itself():
    found = interval([7.0])
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert found.at_least == found.at_most == 7.0
    assert found.shown() == "7.00"


def test_the_end_that_counts_is_the_worse_one():
    found = interval([1.0, 2.0, 3.0])
    assert found.at_least < found.mean < found.at_most


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_t_falls_towards_the_normal_quantile():
    values = [t_value(freedom) for freedom in range(1, 60)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(2.0, abs=0.06)


def test_a_ratio_of_pairs_is_not_blurred_by_what_hits_both():
    ours, theirs = [2.0, 20.0, 200.0], [1.0, 10.0, 100.0]
    found = ratio(ours, theirs)
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_a_ratio_the_other_way_is_the_inverse():
    ours, theirs = [2.0, 3.0, 5.0], [1.0, 2.0, 2.0]
    one, other = ratio(ours, theirs), ratio(theirs, ours)
    assert one.mean == pytest.approx(1 / other.mean)
    assert one.low == pytest.approx(1 / other.high)


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [-1.0])])
def test_what_has_no_ratio_is_an_error(ours, theirs):
    with pytest.raises(ValueError):
        ratio(ours, theirs)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1234.5, "1234"), (0.01234, "0.0123"), (9.996, "10.00"), (math.inf, "inf")]
)
def test_figures_are_shown_with_three_digits(value, text):
    assert short(value) == text


def test_a_summary_has_mean_and_percentiles():
    found = summary("ttft", [float(number) for number in range(1, 101)])
    assert found == {"ttft_mean": 50.5, "ttft_p50": 50, "ttft_p95": 95, "ttft_p99": 99}
    assert summary("ttft", []) == {}


# -- shares ---------------------------------------------------------------------------------------


def test_who_is_alone_is_entitled_to_everything_and_two_to_half():
    found = entitlements([Window("a", 0.0, 4.0), Window("b", 2.0, 6.0)])
    assert found == pytest.approx({"a": 3.0, "b": 3.0})


def test_weights_divide_every_moment():
    found = entitlements([Window("a", 0.0, 3.0, 2.0), Window("b", 0.0, 3.0, 1.0)])
    assert found == pytest.approx({"a": 2.0, "b": 1.0})


def test_requests_at_once_entitle_to_no_more():
    found = entitlements([Window("a", 0.0, 2.0), Window("a", 0.0, 2.0), Window("b", 0.0, 2.0)])
    assert found == pytest.approx({"a": 1.0, "b": 1.0})


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(0, 20), st.integers(0, 20), st.sampled_from([1.0, 2.0, 5.0])),
        max_size=20,
    )
)
def test_entitlements_sum_to_the_time_in_which_anybody_wants_anything(raw):
    windows = [Window(who, min(begin, end), max(begin, end), weight) for who, begin, end, weight in raw]
    busy = sum(any(one.begin <= at < one.end for one in windows) for at in range(20))
    assert sum(entitlements(windows).values()) == pytest.approx(busy)


def test_everybody_who_gets_their_part_of_what_they_are_entitled_to_is_fair():
    assert fairness({"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 4.0}) == pytest.approx(1.0)
    assert fairness({"a": 1.0}, {"a": 2.0, "b": 2.0}) == pytest.approx(0.5)
    assert fairness({"a": 1.0}, {"a": 2.0, "b": 0.0}) == pytest.approx(1.0)


def test_the_worst_window_is_found():
    samples = [(0.0, (0.0, 0.0)), (5.0, (5.0, 5.0)), (10.0, (10.0, 5.0)), (15.0, (10.0, 10.0))]
    least, mean = worst_window(samples, 5.0)
    assert least == pytest.approx(0.5)
    assert mean == pytest.approx(2 / 3)
    assert worst_window(samples, 10.0)[0] == pytest.approx(0.9)
    with pytest.raises(ValueError, match="no two of 4"):
        worst_window(samples, 16.0)


def test_the_error_of_a_share_is_in_percent_of_it():
    found = share_errors({"light": 1.1, "heavy": 2.2}, {"light": 1, "heavy": 2})
    assert found == pytest.approx({"light": 0.0, "heavy": 0.0})
    found = share_errors({"light": 2.0, "heavy": 2.0}, {"light": 1, "heavy": 3})
    assert found == pytest.approx({"light": 100.0, "heavy": -100 / 3})


# -- a run ----------------------------------------------------------------------------------------


def asked(due_s, first_s, ended_s, tokens=10, new=20, **more):
    times = {"due_ns": due_s, "first_ns": first_s, "ended_ns": ended_s}
    made = {name: int(seconds * SECOND) for name, seconds in times.items()}
    rest = {"turn": 0, "worst_gap_ns": SECOND // 10, "tokens": tokens, "new_tokens": new, "error": "", "arrivals": []}
    return made | rest | more


STAT = {
    "attained_s": 1.0, "longest_wait_s": 0.5, "bound_s": 4.0,
    "bound": {
        "starve_s": 1.5, "rows": 5, "lease_s": 0.4, "step_s": 0.1, "reads_s": 0.2, "switch_s": 0.1, "banks_s": 0.0,
    },
}  # fmt: skip


def played(*jobs, requests, looks=(), is_baseline=False):
    counters = ("prompt_tokens", "generated_tokens", "recomputed_tokens", "reused_tokens", "core_busy_s", "steps")
    more = ("switches", "switch_s", "sched_s", "rescues", "charged_s")
    before = dict.fromkeys((*counters, *more), 0.0)
    grown = {"prompt_tokens": 40.0, "generated_tokens": 20.0, "core_busy_s": 2.0, "steps": 10, "charged_s": 2.1}
    records = tuple(
        {"pid": 100 + number, "requests": list(of_one), "error": "", "is_done": True, "stat": STAT}
        for number, of_one in enumerate(requests)
    )
    setup = Setup("any", {}, is_baseline=is_baseline)
    return Played(Load("any", 1, 10.0, tuple(jobs)), setup, 0, True, records, before, before | grown, tuple(looks))


def test_figures_are_of_what_agents_saw():
    jobs = [Job("chat", (Turn(20, 10),)), Job("chat", (Turn(20, 10),))]
    rates = Rates((1.0, 0.0, 0.0, 0.0, 0.0, 0.0), 0.0)
    found = figures(played(*jobs, requests=[[asked(0, 1, 2)], [asked(1, 4, 5)]]), rates)
    assert found["tok_s"] == pytest.approx(20 / 5)
    assert found["useful"] == pytest.approx(1.0)
    assert found["ttft_mean"] == pytest.approx(2.0)
    assert found["completion_mean"] == pytest.approx(3.0)
    assert found["slowdown_p95"] == pytest.approx(4.0)
    assert found["starvation"] == pytest.approx(0.125)
    assert found["charged_percent"] == pytest.approx(105)
    assert found["errors"] == 0


def test_waits_for_tools_are_no_slowdown():
    job = Job("react", (Turn(20, 10, 3.0), Turn(20, 10, 9.0)))
    requests = [asked(0, 1, 2), asked(5, 6, 7)]
    found = figures(played(job, requests=[requests]), Rates((2.0, 0.0, 0.0, 0.0, 0.0, 0.0), 0.0))
    assert found["completion_mean"] == pytest.approx(7.0)
    assert found["slowdown_mean"] == pytest.approx(1.0)


def test_other_systems_have_no_bound():
    job = Job("chat", (Turn(20, 10),))
    rates = Rates((1.0, 0.0, 0.0, 0.0, 0.0, 0.0), 0.0)
    assert "starvation" not in figures(played(job, requests=[[asked(0, 1, 2)]], is_baseline=True), rates)


def test_a_wait_is_held_against_the_largest_bound_that_its_task_had():
    looks = [Look(SECOND, {}, {100: 2.0}, {100: 8.0}, {}), Look(2 * SECOND, {}, {100: 1.0}, {100: 5.0}, {})]
    run = played(Job("honest", (Turn(20, 10),)), requests=[[asked(0, 1, 2)]], looks=looks)
    assert honest_waits(run) == [(2.0, 8.0)]


def test_tokens_are_spread_over_their_request_s_time():
    run = played(Job("batch", (Turn(20, 10),)), requests=[[asked(0, 1, 10)]])
    assert tokens_within(run, 0.0, 10.0) == pytest.approx(30)
    assert tokens_within(run, 5.0, 20.0) == pytest.approx(15)
    assert tokens_within(run, 0.0, 10.0, "other") == 0


def test_gaps_beside_a_prompt_are_told_from_the_usual_ones():
    arrivals = [0, 10, 20, 30, 90, 100, 110]
    run = played(Job("stream", (Turn(20, 10),)), requests=[[asked(0, 1, 2, arrivals=arrivals)]])
    usual, worst = gaps_beside(run, [(35, 80), (500, 600)])
    assert usual == 10
    assert worst == [60]


def test_capacity_is_of_the_time_in_which_most_of_the_work_was_done():
    jobs = [Job("chat", (Turn(20, 10),))] * 10
    requests = [[asked(0, 0.5, 1 + number)] for number in range(9)] + [[asked(0, 0.5, 100)]]
    found = capacity_of(played(*jobs, requests=requests), Rates((2.0, 0.0, 0.0, 0.0, 0.0, 0.0), 0.0))
    assert found == pytest.approx(2.0)


# -- comparing, tables ----------------------------------------------------------------------------


def results(factor=1.0, capacity=2.0):
    runs = [
        {
            "workload": "chat", "load": load, "seed": seed, "setup": setup,
            "figures": {"tok_s": factor * (100 + seed), "ttft_p95": 0.5 * seed, "recomputed_percent": 0.0},
        }
        for load in (0.7, 0.9) for setup in ("eevdf", "fcfs") for seed in (1, 2, 3)
    ]  # fmt: skip
    return {
        "machine": {"cpu": "any"},
        "bench": {"model": "m.gguf", "slots": 4, "window_tokens": 512},
        "plan": {
            "workloads": ["chat"], "loads": [0.7, 0.9], "setups": ["eevdf", "fcfs"], "seeds": [1, 2, 3], "seconds": 5,
        },
        "capacity": {"chat": capacity},
        "factors": {"chat": 0.2},
        "runs": runs,
        "failures": [],
    }  # fmt: skip


def test_a_change_is_told_by_the_ratio_of_pairs():
    found = {(one.load, one.setup, one.figure): one for one in changes(results(), results(1.5))}
    faster = found[0.9, "eevdf", "tok_s"]
    assert faster.ratio.mean == pytest.approx(1.5)
    assert faster.is_clear
    assert not found[0.7, "fcfs", "ttft_p95"].is_clear
    assert (0.7, "fcfs", "recomputed_percent") not in found


def test_only_seeds_that_both_have_are_compared():
    after = results(2.0)
    after["runs"] = [run for run in after["runs"] if run["seed"] != 2]
    assert {one.ratio.count for one in changes(results(), after)} == {2}


def test_what_makes_runs_differ_is_said():
    assert differences(results(), results(capacity=3.0)) == ["capacity of chat: 2.00 before, 3.00 after"]


def test_compare_prints_what_changed(tmp_path, capsys):
    for name, factor in (("a", 1.0), ("b", 1.2)):
        (tmp_path / name).write_text(json.dumps(results(factor)))
    assert sched_compare.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 4
    assert "1.20 (1.20 to 1.20)" in lines[2]


def test_runs_without_anything_in_common_are_an_error(tmp_path, capsys):
    after = results()
    after["runs"] = []
    for name, one in (("a", results()), ("b", after)):
        (tmp_path / name).write_text(json.dumps(one))
    assert sched_compare.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 1


def test_a_table_has_a_row_for_each_setup_and_a_gap_where_nothing_was_measured():
    made = results()
    made["runs"] = [run for run in made["runs"] if (run["setup"], run["load"]) != ("fcfs", 0.9)]
    first, second = text_of(made).split("\n\n")[1:]
    assert "102 ±2.5" in first
    assert first.splitlines()[-1].startswith("fcfs ")
    assert set(second.splitlines()[-1].split()[1:]) == {"-"}


def test_a_plot_s_points_are_means_by_load():
    points = series(results(), "chat", "fcfs", "tok_s")
    assert [load for load, _ in points] == [0.7, 0.9]
    assert points[0][1].mean == 102
    assert series(results(), "chat", "fcfs", "jain") == []


def test_every_bar_says_what_it_is():
    for bar in sched_bars.BARS.values():
        assert bar.headline
