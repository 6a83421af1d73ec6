"""Pressure stall information: what part of the time some, or all, waited."""

from __future__ import annotations

from math import exp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.sched.pressure import Pressure

S = 1_000_000_000


def test_nothing_waits_and_nothing_is_told():
    pressure = Pressure()
    assert pressure.snapshot(5 * S) == {
        kind: {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total_s": 0.0} for kind in ("some", "full")
    }


def test_averages_grow_and_decay_by_their_windows():
    pressure = Pressure()
    pressure.note(0, waiting=1, running=1)
    pressure.note(10 * S, waiting=0, running=1)
    told = pressure.snapshot(10 * S)["some"]
    assert told["avg10"] == pytest.approx(100 * (1 - exp(-1)))
    assert told["avg60"] == pytest.approx(100 * (1 - exp(-1 / 6)))
    assert told["avg300"] == pytest.approx(100 * (1 - exp(-1 / 30)))
    assert told["total_s"] == 10
    later = pressure.snapshot(20 * S)["some"]
    assert later["avg10"] == pytest.approx(told["avg10"] * exp(-1))
    assert later["total_s"] == 10


def test_full_is_when_nobody_has_what_they_want():
    pressure = Pressure()
    pressure.note(0, waiting=2, running=0)
    pressure.note(3 * S, waiting=1, running=1)
    told = pressure.snapshot(5 * S)
    assert (told["full"]["total_s"], told["some"]["total_s"]) == (3, 5)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 100 * S), st.integers(0, 2), st.integers(0, 2)), max_size=30))
def test_full_is_part_of_some_and_both_are_percents(notes):
    pressure, now_ns = Pressure(), 0
    for passed_ns, waiting, running in notes:
        now_ns += passed_ns
        pressure.note(now_ns, waiting, running)
        told = pressure.snapshot(now_ns)
        for name in ("avg10", "avg60", "avg300"):
            assert 0 <= told["full"][name] <= told["some"][name] + 1e-9 <= 100 + 1e-6
        assert pressure.snapshot(now_ns) == told


def test_it_makes_no_difference_how_often_one_looks():
    often, seldom = Pressure(), Pressure()
    for pressure in (often, seldom):
        pressure.note(0, 1, 0)
    for second in range(1, 30):
        often.snapshot(second * S)
    assert often.snapshot(30 * S)["some"]["avg60"] == pytest.approx(seldom.snapshot(30 * S)["some"]["avg60"])


@settings(deadline=None)
@given(st.lists(st.integers(0, 60 * S), min_size=1, max_size=20), st.integers(0, 1))
def test_who_always_waits_is_told_as_all_of_the_time(looks, running):
    pressure, now_ns = Pressure(), 0
    pressure.note(0, 3, running)
    told = pressure.snapshot(0)["some"]
    for passed_ns in looks:
        now_ns += passed_ns
        before, told = told, pressure.snapshot(now_ns)["some"]
        assert all(told[name] >= before[name] - 1e-9 for name in told)
        assert told["total_s"] == pytest.approx(now_ns / S)
    end = pressure.snapshot(now_ns + 3600 * S)
    assert [end["some"][name] for name in ("avg10", "avg60", "avg300")] == pytest.approx([100] * 3, abs=0.01)
    assert end["full"]["avg10"] == pytest.approx(0 if running else 100)


def test_when_the_waiting_ends_each_average_decays_by_its_own_window():
    pressure = Pressure()
    pressure.note(0, 1, 0)
    pressure.note(100 * S, 0, 0)
    told, later = pressure.snapshot(100 * S), pressure.snapshot(130 * S)
    for kind in ("some", "full"):
        for name, window_s in (("avg10", 10), ("avg60", 60), ("avg300", 300)):
            assert later[kind][name] == pytest.approx(told[kind][name] * exp(-30 / window_s))


def test_a_time_that_lies_before_the_last_counts_for_nothing():
    pressure = Pressure()
    pressure.note(0, 1, 0)
    told = pressure.snapshot(10 * S)
    assert pressure.snapshot(4 * S) == told
    assert pressure.snapshot(10 * S) == told
