"""EEVDF: who is owed time and has the earliest deadline goes first; nothing but weight buys a share."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_policies import Thing

from kernel.sched.eevdf import Eevdf

MS = 1_000_000


class Run:
    """The policy with turns of 50 ms, and the core time that passes in it."""

    def __init__(self, slice_ms: int = 50) -> None:
        self.policy = Eevdf(slice_ms)
        self.count = 0
        self.had: dict[int, int] = {}  # by pid

    def add(self, beside: Thing | None = None, nice: int = 0, **attr) -> Thing:
        self.count += 1
        made = Thing(self.count, nice=nice, **attr)
        if beside is not None:
            made.task = beside.task
        self.policy.add(made)
        return made

    def charge(self, one: Thing, ms: float) -> None:
        self.had[one.task.pid] = self.had.get(one.task.pid, 0) + int(ms * MS)
        self.policy.charge(one, int(ms * MS), 1)

    def step(self, slots: int = 1, ms: float = 10) -> list[Thing]:
        chosen = self.policy.choose(slots, 0)
        for one in chosen:
            self.charge(one, ms)
        return chosen

    def order(self, steps: int, slots: int = 1, ms: float = 10) -> list[int]:
        """Return the numbers of those that were chosen, step by step."""
        return [one.number for _ in range(steps) for one in self.step(slots, ms)]

    def parts(self, steps: int, *things: Thing, slots: int = 1, ms: float = 10) -> list[float]:
        before = dict(self.had)
        for _ in range(steps):
            self.step(slots, ms)
        got = [self.had.get(one.task.pid, 0) - before.get(one.task.pid, 0) for one in things]
        return [one / sum(got) for one in got]

    def lag_ms(self, one: Thing) -> float:
        return self.policy.lag_ns(one.task) / MS


# -- turns ------------------------------------------------------------------------------------------


def test_equals_take_turns_of_a_slice_by_arrival():
    run = Run()
    for _ in range(3):
        run.add()
    assert run.order(18) == [1] * 5 + [2] * 5 + [3] * 5 + [1] * 3


def test_a_turn_is_not_cut_short_by_an_equal_that_comes():
    run = Run()
    one = run.add()
    assert run.order(2) == [1, 1]
    run.add()
    assert run.order(8) == [1] * 3 + [2] * 5, one


def test_a_turn_is_a_tasks_own_slice():
    run = Run()
    run.add(slice_ms=20)
    run.add()
    assert run.order(14) == [1, 1, 2, 2, 1, 1, 2, 2, 2, 1, 1, 2, 1, 1]


def test_slots_are_held_side_by_side():
    run = Run()
    for _ in range(4):
        run.add()
    assert [sorted(one.number for one in run.step(2)) for _ in range(10)] == [[1, 2]] * 5 + [[3, 4]] * 5


def test_while_nobody_waits_all_hold_a_slot_whatever_they_had():
    run = Run()
    for _ in range(2):
        run.add()
    for _ in range(40):
        assert len(run.step(3)) == 2


# -- deadlines --------------------------------------------------------------------------------------


def test_of_those_that_are_owed_time_the_earliest_deadline_goes_first():
    run = Run()
    run.add(slice_ms=40)
    run.add(slice_ms=20)
    run.add(slice_ms=30)
    assert run.order(9) == [2, 2, 3, 3, 3, 1, 1, 1, 1]


def test_a_deadline_is_a_slice_by_weight_away():
    run = Run()
    run.add(weight=100)
    run.add(weight=400)
    assert run.order(1) == [2], "50 ms are 12.5 ms of virtual time to it"


def test_who_is_ahead_is_not_eligible_though_its_deadline_is_earliest():
    run = Run()
    short = run.add(slice_ms=10)
    run.add()
    run.add()
    assert run.order(2) == [1, 2], "after its turn it is ahead"
    assert short.task.pid in run.had


def test_who_is_owed_time_and_has_a_shorter_slice_takes_the_slot_in_the_midst_of_a_turn():
    run = Run()
    run.add(slice_ms=100)
    assert run.order(3) == [1] * 3
    run.add(slice_ms=10)
    assert run.order(6) == [2, 1] * 3


def test_a_slice_as_long_takes_no_slot_away():
    run = Run()
    run.add(slice_ms=100)
    assert run.order(3) == [1] * 3
    run.add(slice_ms=100, weight=400)
    assert run.order(3) == [1] * 3


def test_whoever_has_the_latest_deadline_gives_its_place():
    run = Run()
    run.add(slice_ms=60)
    run.add(slice_ms=100)
    assert run.order(1, slots=2) == [1, 2]
    run.add(slice_ms=10)
    assert sorted(one.number for one in run.policy.choose(2, 0)) == [1, 3]


def test_who_was_put_back_goes_on_with_its_turn():
    run = Run()
    run.add()
    run.add()
    run.step(2)
    assert run.order(3) == [1, 1, 1], "the later deadline, or the later of two, gives its slot back"
    assert run.order(1, slots=2) == [1, 2]


def test_the_earliest_deadline_is_told_first_whoever_came_first():
    run = Run()
    run.add(slice_ms=100)
    run.step()
    run.add(slice_ms=10)
    assert [one.number for one in run.policy.choose(2, 0)] == [2, 1]


def test_who_holds_the_latest_deadline_loses_its_slot_whoever_came_last():
    run = Run()
    run.add()
    run.policy.choose(1, 0)
    run.add(weight=400)
    assert [one.number for one in run.policy.choose(2, 0)] == [2, 1]
    assert [one.number for one in run.policy.choose(1, 0)] == [2]


# -- shares -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "slots"),
    [([100, 200, 400, 100], 1), ([1, 3, 2, 2], 2), ([100] * 7, 3), ([100, 250, 300, 300, 50], 3), ([900, 100], 1)],
)
def test_shares_are_by_weight(weights, slots):
    run = Run()
    things = [run.add(weight=weight) for weight in weights]
    parts = run.parts(9000, *things, slots=slots)
    assert parts == [pytest.approx(weight / sum(weights), rel=0.02) for weight in weights]


def test_a_step_of_nice_is_a_quarter():
    run = Run()
    low, high = run.add(nice=1), run.add(nice=0)
    assert run.parts(9000, low, high)[1] == pytest.approx(1.25 / 2.25, rel=0.01)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_shorter_slice_is_no_larger_a_share(slots):
    run = Run()
    things = [run.add(slice_ms=slice_ms) for slice_ms in (10, 50, 100, 200)]
    assert run.parts(8000, *things, slots=slots) == [pytest.approx(1 / 4, rel=0.02)] * 4


def test_a_shorter_slice_comes_sooner():
    run, longest, waited = Run(), {1: 0, 2: 0}, {1: 0, 2: 0}
    run.add(slice_ms=10)
    for _ in range(5):
        run.add()
    for _ in range(3000):
        number = run.step()[0].number
        waited = {one: 0 if one == number else steps + 1 for one, steps in waited.items()}
        longest = {one: max(steps, waited[one]) for one, steps in longest.items()}
    assert longest[1] < longest[2] / 2


def test_many_requests_of_a_task_have_one_share():
    run = Run()
    first, other = run.add(), run.add()
    several = [run.add(beside=first) for _ in range(9)]
    assert run.parts(4000, first, other) == [pytest.approx(1 / 2, rel=0.02)] * 2
    other_second = run.add()
    assert run.parts(4000, first, other, other_second, slots=2) == [pytest.approx(1 / 3, rel=0.03)] * 3, several


def test_a_second_request_of_a_task_waits_behind_the_first_of_others():
    run = Run()
    first = run.add()
    run.add(beside=first)
    run.add()
    assert [one.number for one in run.policy.choose(2, 0)] == [1, 3]
    assert [one.number for one in run.policy.choose(3, 0)] == [1, 3, 2]


def test_a_second_request_waits_longer_the_more_the_first_has_had():
    run = Run()
    first = run.add()
    second, other = run.add(beside=first), run.add()
    assert run.policy.choose(1, 0) == [first]
    run.charge(first, 40)
    run.charge(other, 70)
    assert run.policy.choose(2, 0) == [first, other], second


def test_a_second_request_counts_as_a_turn_ahead_of_the_first():
    run = Run()
    first, other = run.add(), run.add()
    run.add(beside=first)
    run.charge(other, 30)
    assert run.policy.choose(2, 0) == [first, other], "it is 50 ms ahead, the other 30"


def test_a_second_request_has_its_deadline_a_turn_after_the_first():
    run = Run()
    first, other, late = run.add(), run.add(), run.add(slice_ms=70)
    second = run.add(beside=first)
    run.charge(other, 300)
    assert run.policy.choose(2, 0) == [first, late], "by then the task is owed 100 ms; 100 against 70"
    assert run.policy.choose(3, 0) == [first, late, second]


def test_a_second_request_that_is_owed_time_later_has_its_deadline_a_turn_after_the_first():
    run = Run()
    first, other, late = run.add(), run.add(slice_ms=90), run.add(slice_ms=70)
    run.add(beside=first)
    assert run.policy.choose(1, 0) == [first]
    run.charge(other, 300)
    assert run.policy.choose(2, 0) == [first, late]


def test_of_those_that_hold_slots_a_second_request_loses_its_own_before_another_task_does():
    run = Run()
    first, other = run.add(), run.add(slice_ms=70)
    second = run.add(beside=first)
    assert run.policy.choose(3, 0) == [first, other, second]
    assert run.policy.choose(2, 0) == [first, other]


def test_requests_of_a_task_go_by_arrival():
    run = Run()
    first = run.add()
    second = run.add(beside=first)
    run.add(beside=first)
    assert [one.number for one in run.policy.choose(2, 0)] == [1, 2]
    run.policy.remove(second)
    assert [one.number for one in run.policy.choose(2, 0)] == [1, 3]


# -- whatever happens -------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(5, 100)), min_size=3, max_size=6),
    st.lists(
        st.tuples(st.sampled_from(["step", "step", "step", "more", "less"]), st.integers(0, 99), st.integers(1, 20)),
        min_size=20, max_size=120,
    ),
)  # fmt: skip
@settings(deadline=None)
def test_nobody_that_always_wants_more_falls_further_behind_than_a_turn_or_two(tasks, acts):
    """On one slot, whatever requests of tasks come and go beside the first of each."""
    run, extra = Run(), []
    things = [run.add(weight=weight, slice_ms=slice_ms) for weight, slice_ms in tasks]
    longest = max(slice_ms for _, slice_ms in tasks)
    for act, which, ms in acts:
        if act == "more":
            extra.append(run.add(beside=things[which % len(things)]))
        elif act == "less" and extra:
            run.policy.remove(extra.pop(which % len(extra)))
        elif act == "step":
            chosen = run.step(ms=ms)
            assert len(chosen) == 1
        for one in things:
            assert run.lag_ms(one) <= longest + 20
            assert run.lag_ms(one) >= -one.task.sched.slice_ms - 20
