"""EEVDF: what tasks are owed and are ahead, and what is left of it when they go away and come back."""

from __future__ import annotations

import pytest
from test_eevdf import Run


def test_lag_is_what_a_task_is_owed():
    run = Run()
    one, other = run.add(), run.add(weight=300)
    run.charge(one, 40)
    assert run.lag_ms(one) == pytest.approx(-30)
    assert run.lag_ms(other) == pytest.approx(30)
    run.policy.remove(one)
    assert run.policy.lag_ns(one.task) == 0.0


def test_lags_of_all_are_nothing_together():
    run = Run()
    things = [run.add(weight=weight) for weight in (100, 250, 700)]
    for number in range(500):
        run.step(1, 1 + number % 7)
    assert sum(run.lag_ms(one) for one in things) == pytest.approx(0, abs=1e-3)
    assert max(abs(run.lag_ms(one)) for one in things) <= 120, "within a turn or two"


def test_who_leaves_while_it_is_ahead_comes_back_as_far_ahead():
    run = Run()
    one = run.add()
    run.add(), run.add()
    run.charge(one, 90)
    lag = run.lag_ms(one)
    assert lag == pytest.approx(-60)
    run.policy.remove(one)
    run.policy.add(one)
    assert run.lag_ms(one) == pytest.approx(-60, abs=0.1) or run.lag_ms(one) < -55
    assert run.order(10) == [2] * 5 + [3] * 5


@pytest.mark.parametrize(
    ("had_ms", "owed_ms", "left_ms"),
    [
        pytest.param(40, 20, 20, id="all of it"),
        pytest.param(1000, 500, 25, id="a slice: 50 ms behind the one that was there, half that of both"),
    ],
)
def test_who_leaves_while_it_is_owed_time_is_owed_a_slice_of_it_at_most_when_it_comes_back(had_ms, owed_ms, left_ms):
    run = Run()
    one, other = run.add(), run.add()
    run.charge(other, had_ms)
    assert run.lag_ms(one) == pytest.approx(owed_ms)
    run.policy.remove(one)
    run.policy.add(one)
    assert run.lag_ms(one) == pytest.approx(left_ms)


def test_who_comes_back_much_later_is_owed_a_slice_at_most():
    run = Run()
    one, other = run.add(), run.add()
    run.charge(one, 100)
    run.policy.remove(one)
    run.charge(other, 1000)
    run.policy.add(one)
    assert run.lag_ms(one) == pytest.approx(25)


def test_the_last_that_leaves_takes_along_what_it_was_ahead():
    run = Run()
    one = run.add()
    run.charge(one, 1000)
    run.policy.remove(one)
    run.policy.add(one)
    new = run.add()
    assert (run.lag_ms(one), run.lag_ms(new)) == (0.0, 0.0), "nobody had less for it"


def test_what_those_before_were_ahead_is_forgotten_with_the_last_one():
    run = Run()
    one, other = run.add(), run.add()
    run.charge(one, 60)
    run.policy.remove(one)
    run.policy.remove(other)
    run.policy.add(other)
    run.policy.add(one)
    assert (run.lag_ms(one), run.lag_ms(other)) == (0.0, 0.0)


@pytest.mark.parametrize("ms", [3, 10, 60])
def test_who_comes_back_at_once_after_each_step_has_no_more_than_its_share(ms):
    run = Run()
    waker, others = run.add(), [run.add() for _ in range(3)]
    for _ in range(3000):
        if waker in run.step(ms=ms):
            run.policy.remove(waker)
            run.policy.add(waker)
    assert run.had[waker.task.pid] / sum(run.had.values()) <= 1.03 / 4, others


def test_who_sleeps_and_comes_back_has_no_more_than_its_share():
    run = Run()
    sleeper, others = run.add(), [run.add() for _ in range(3)]
    for number in range(6000):
        if number % 20 == 10:
            run.policy.remove(sleeper)
        elif number % 20 == 0 and number:
            run.policy.add(sleeper)
        run.step()
    assert run.had[sleeper.task.pid] / sum(run.had.values()) <= 1.03 / 4, others


def test_nothing_is_kept_of_those_that_left_long_ago():
    run = Run()
    stays = run.add()
    for _ in range(500):
        gone = run.add()
        run.charge(gone, 10)
        run.policy.remove(gone)
        run.charge(stays, 100)
    assert len(run.policy._left) <= 10
    assert len(run.policy._left_order) <= 10


def test_heaps_are_no_larger_than_the_tasks_need_and_nobody_is_lost_from_them():
    run = Run()
    things = [run.add() for _ in range(20)]
    for number in range(100):
        for one in things:
            run.charge(one, number % 3)
    assert max(len(run.policy._ready), len(run.policy._late)) <= 2 * 20 + 64
    for one in things[10:]:
        run.charge(one, 10)
    assert run.policy.choose(10, 0) == things[:10]
    assert set(run.policy.choose(20, 0)) == set(things)
