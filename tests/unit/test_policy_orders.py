"""Exact orders on constructed cases of feedback queues, attained service, priorities and sizes of requests."""

from __future__ import annotations

import pytest
from test_policies import MS, Thing

from kernel.sched.mlfq import FeedbackQueues
from kernel.sched.plas import LeastAttainedService
from kernel.sched.priority import AgingPriority
from kernel.sched.srpt import ShortestRemaining
from kernel.sched.work import PROMPT_PER_TOKEN, left_tokens


def reader(number: int, chunks: int = 1) -> Thing:
    return Thing(number, prompt=64 * chunks)


def writer(number: int, generated: int = 0, nice: int = 0) -> Thing:
    made = Thing(number, nice=nice)
    made.generated_tokens = generated
    return made


# -- feedback queues ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generated", "nice", "level"),
    [(1023, 0, 4), (1024, 0, 5), (1 << 20, 0, 5), (1 << 20, 19, 5), (1 << 20, -5, 4), (0, -20, 0), (0, 19, 4)],
)
def test_there_are_six_levels_of_feedback_and_nice_is_counted_from_the_last(generated, nice, level):
    assert FeedbackQueues(quantum_tokens=4).level(writer(0, generated, nice)) == level


@pytest.mark.parametrize(("steps", "first"), [(13, 1), (14, 0)])
def test_a_chunk_puts_a_prompt_back_by_two_steps(steps, first):
    policy = FeedbackQueues(quantum_tokens=4)
    long, short = reader(0, chunks=8), reader(1)
    policy.add(long)
    for _ in range(steps):
        policy.choose(0, 0)
    policy.add(short)
    assert [one.number for one in policy.choose(1, 0)] == [first], "16 steps against 2, and those it came later"


def test_a_quarter_of_the_slots_and_no_more_is_for_prompts_that_writers_want():
    policy = FeedbackQueues(quantum_tokens=4)
    for number in range(16):
        policy.add(reader(number))
        policy.add(writer(100 + number))
    assert sum(one.number < 100 for one in policy.choose(16, 0)) == 4


def test_a_prompt_that_is_read_counts_as_a_prompt_no_more():
    policy = FeedbackQueues(quantum_tokens=4)
    readers = [reader(number) for number in range(4)]
    for one in (*readers, writer(100), writer(101), writer(102)):
        policy.add(one)
    assert [one.number for one in policy.choose(4, 0)] == [0, 1, 100, 101]
    for one in readers[:2]:
        one.kv_tokens = 64
        policy.charge(one, 1, 64)
    assert [one.number for one in policy.choose(5, 0)] == [0, 1, 100, 101, 2]


def test_what_came_after_the_charge_is_seen_at_the_next_choice():
    policy, old, new = FeedbackQueues(quantum_tokens=4), writer(0), writer(1)
    policy.add(old)
    assert policy.choose(1, 0) == [old]
    policy.charge(old, 1, 1)
    old.generated_tokens = 4
    policy.add(new)
    assert policy.choose(1, 0) == [new]


def test_who_was_not_chosen_and_ran_all_the_same_goes_down_a_level():
    policy = FeedbackQueues(quantum_tokens=4)
    holder, rescued, third = writer(0, nice=-5), writer(1), writer(2)
    for one in (holder, rescued, third):
        policy.add(one)
    assert policy.choose(1, 0) == [holder]
    rescued.generated_tokens = 4
    policy.charge(rescued, 1, 1)
    assert policy.choose(3, 0) == [holder, third, rescued]


def test_a_holder_keeps_its_slot_against_an_older_one_of_its_level_until_it_loses_it():
    policy, older, younger = FeedbackQueues(quantum_tokens=4), writer(0), writer(1)
    policy.add(younger)
    assert policy.choose(1, 0) == [younger]
    policy.add(older)
    assert policy.choose(1, 0) == [younger]
    assert policy.choose(0, 0) == []
    assert policy.choose(1, 0) == [older]


def test_feedback_queues_keep_nothing_of_who_left():
    policy, one = FeedbackQueues(quantum_tokens=4), reader(0)
    policy.add(one)
    policy.choose(1, 0)
    policy.remove(one)
    assert not policy._born
    assert not policy._chosen


# -- least attained service -----------------------------------------------------------------------


def attained(number: int, had_ms: int) -> Thing:
    return Thing(number, attained_ns=had_ms * MS)


def test_a_holder_that_came_down_to_a_level_ends_its_turn_before_those_who_waited_there():
    policy, there, comes = LeastAttainedService(slice_ms=40), attained(0, 40), attained(1, 39)
    policy.add(there)
    policy.add(comes)
    assert policy.choose(1, 0) == [comes]
    comes.task.sched.attained_ns += 2 * MS
    policy.charge(comes, 2 * MS, 1)
    assert policy.choose(1, 0) == [comes], "2 of 40 ms"
    assert policy.choose(0, 0) == []
    assert policy.choose(1, 0) == [there], "it lost its slot: those who waited longer go first"


def test_turns_of_attained_service_and_of_priority_are_over_to_the_nanosecond():
    for policy in (LeastAttainedService(slice_ms=1), AgingPriority(age_ms=1, slice_ms=1)):
        one, two = attained(0, 1000), attained(1, 1000)
        policy.add(one)
        policy.add(two)
        for _ in range(2):
            turn = policy.choose(1, 0)[0]
            policy.charge(turn, MS - 1, 1)
            assert policy.choose(1, 0) == [turn]
            policy.charge(turn, 1, 1)
            assert policy.choose(1, 2 * MS) != [turn]


def test_nothing_is_kept_of_who_left():
    policies = LeastAttainedService(slice_ms=1), AgingPriority(age_ms=1, slice_ms=1), ShortestRemaining()
    for policy in policies:
        one = Thing(0)
        policy.add(one)
        policy.choose(1, 0)
        policy.remove(one)
        kept = {name: value for name, value in vars(policy).items() if isinstance(value, dict | list)}
        assert not any(kept.values()), kept


# -- what is left ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "generated", "hint", "left"),
    [
        (100, 30, None, 70),
        (100, 100, None, 0),
        (100, 101, None, 0),
        (100, 30, 50, 20),
        (100, 35, 50, 15),
        (100, 49, 50, 1),
        (100, 50, 50, 50),
        (100, 95, 110, 5),
    ],
)
def test_left_is_what_was_hinted_at_until_that_is_spent_and_the_most_there_may_be_else(
    most, generated, hint, left
):
    one = Thing(0, most=most, hint=hint)
    one.generated_tokens = one.task.usage.generated_tokens = generated
    assert left_tokens(one) == left


def test_what_is_not_read_of_a_prompt_is_left_too_and_never_less_than_nothing():
    one = Thing(0, prompt=260, most=10)
    assert left_tokens(one) == pytest.approx(10 + 260 / PROMPT_PER_TOKEN)
    one.kv_tokens = 130
    assert left_tokens(one) == pytest.approx(10 + 50)
    one.kv_tokens = 270
    assert left_tokens(one) == 10
