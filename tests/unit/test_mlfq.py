"""Feedback queues: short requests go before long ones."""

from __future__ import annotations

from test_policies import Thing

from kernel.sched.mlfq import FeedbackQueues

QUANTUM = 4


def served(policy: FeedbackQueues, slots: int) -> list[Thing]:
    chosen = policy.choose(slots, 0)
    for thing in chosen:
        thing.work()
        policy.charge(thing, 1, 1)
    return chosen


def thing(number: int, *, chunks: int = 1, generated: int = 0, nice: int = 0) -> Thing:
    made = Thing(number, nice=nice)
    made.prompt_tokens, made.generated_tokens = 64 * chunks, generated
    if generated:
        made.kv_tokens = made.prompt_tokens
    return made


def test_a_newcomer_takes_the_slot_of_one_that_has_had_its_quantum():
    policy, old = FeedbackQueues(quantum_tokens=QUANTUM), thing(0)
    policy.add(old)
    for _ in range(1 + QUANTUM):
        assert served(policy, 1) == [old]
    new = thing(1)
    policy.add(new)
    assert served(policy, 1) == [new]


def test_one_that_is_within_its_quantum_keeps_its_slot_against_its_like():
    policy, old = FeedbackQueues(quantum_tokens=QUANTUM), thing(0)
    policy.add(old)
    served(policy, 1)
    served(policy, 1)
    policy.add(thing(1, generated=1))
    assert served(policy, 1) == [old]


def test_the_next_level_allows_four_times_as_much():
    policy = FeedbackQueues(quantum_tokens=QUANTUM)
    levels = [policy.level(thing(0, generated=count)) for count in (0, 3, 4, 15, 16, 63, 64)]
    assert levels == [0, 0, 1, 1, 2, 2, 3]


def test_five_of_nice_are_a_level():
    policy = FeedbackQueues(quantum_tokens=QUANTUM)
    assert [policy.level(thing(0, nice=nice)) for nice in (-20, 0, 5, 10, 19)] == [0, 0, 1, 2, 4]
    assert policy.level(thing(0, generated=4, nice=-5)) == 0


def test_a_short_prompt_goes_before_a_long_one_that_came_with_it():
    policy, long, short = FeedbackQueues(quantum_tokens=QUANTUM), thing(0, chunks=8), thing(1)
    policy.add(long)
    policy.add(short)
    assert served(policy, 1) == [short]


def test_a_long_prompt_is_not_put_back_for_ever():
    policy, long = FeedbackQueues(quantum_tokens=QUANTUM), thing(0, chunks=8)
    policy.add(long)
    for number in range(1, 40):
        short = thing(number)
        policy.add(short)
        if long in served(policy, 1):
            return
        policy.remove(short)
    raise AssertionError("40 short prompts went before a long one")


def test_prompts_leave_slots_to_those_that_generate():
    policy = FeedbackQueues(quantum_tokens=QUANTUM)
    for number in range(16):
        policy.add(thing(number, chunks=8))
    writers = [thing(100 + number, generated=1) for number in range(12)]
    for writer in writers:
        policy.add(writer)
    assert set(writers) <= set(served(policy, 16))


def test_prompts_have_what_slots_are_left():
    policy = FeedbackQueues(quantum_tokens=QUANTUM)
    for number in range(16):
        policy.add(thing(number, chunks=8))
    policy.add(thing(100, generated=1))
    assert len(served(policy, 8)) == 8


def test_two_prompts_are_read_beside_those_that_generate_however_few_slots_there_are():
    policy = FeedbackQueues(quantum_tokens=QUANTUM)
    for number in range(8):
        policy.add(thing(number, chunks=8))
        policy.add(thing(100 + number, generated=1))
    assert sum(one.number < 100 for one in served(policy, 4)) == 2
