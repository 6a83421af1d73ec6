"""Every policy, whatever is added, removed, charged and chosen: never more than the slots, nobody lost."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.sched.policy import DESCRIPTIONS, POLICIES


class Thing:
    """As much of a request as a policy may look at."""

    def __init__(self, number: int, pid: int, priority: int) -> None:
        self.number = number
        self.prompt_tokens, self.kv_tokens, self.generated_tokens = 64 * (1 + number % 5), 0, 0
        self.task = SimpleNamespace(pid=pid, priority=priority)

    def work(self) -> None:
        """A step's progress: a chunk of the prompt, or a token."""
        if self.kv_tokens < self.prompt_tokens:
            self.kv_tokens += 64
        else:
            self.generated_tokens += 1

    def __repr__(self) -> str:
        return f"{self.number} of {self.task.pid} at {self.task.priority}"


acts = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "choose", "choose", "choose"]), st.integers(0, 1 << 16)),
    max_size=80,
)


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=150, deadline=None)
@given(acts=acts, slots=st.integers(1, 4), quantum=st.integers(1, 5))
def test_a_choice_is_work_conserving_and_within_the_slots(name, acts, slots, quantum):
    policy, present, holding = POLICIES[name](quantum), [], []
    for number, (act, value) in enumerate(acts):
        if act == "add":
            present.append(Thing(number, value % 4, value % 3))
            policy.add(present[-1])
        elif act == "remove" and present:
            gone = present.pop(value % len(present))
            policy.remove(gone)
            holding = [thing for thing in holding if thing is not gone]
        elif act == "choose":
            chosen = policy.choose(slots)
            assert len(set(chosen)) == len(chosen) == min(slots, len(present))
            assert set(chosen) <= set(present)
            for thing in chosen:
                thing.work()
                policy.charge(thing, 1)
            holding = chosen
    for thing in present:
        policy.remove(thing)
    assert policy.choose(slots) == []


@pytest.mark.parametrize("name", ["rr", "fcfs", "prio"])
def test_everyone_is_served_in_the_end(name):
    policy = POLICIES[name](2)
    things = [Thing(number, number % 5, number % 3) for number in range(12)]
    left = dict.fromkeys(things, 7)
    for thing in things:
        policy.add(thing)
    for _ in range(200):
        for thing in policy.choose(3):
            policy.charge(thing, 1)
            left[thing] -= 1
            if not left[thing]:
                policy.remove(thing)
    assert set(left.values()) == {0}


def test_round_robin_gives_each_task_the_same_however_many_requests_it_has():
    policy = POLICIES["rr"](4)
    many = [Thing(number, 1, 0) for number in range(9)]
    one = Thing(9, 2, 0)
    for thing in (*many, one):
        policy.add(thing)
    steps = [policy.charge(thing, 1) or thing for _ in range(800) for thing in policy.choose(1)]
    assert steps.count(one) == 400


def test_round_robin_lets_a_request_run_on_while_nobody_waits():
    policy = POLICIES["rr"](1)
    one, two = Thing(0, 1, 0), Thing(1, 2, 0)
    policy.add(one)
    for _ in range(10):
        assert policy.choose(1) == [one]
        policy.charge(one, 1)
    policy.add(two)
    assert policy.choose(1) == [two]


def test_round_robin_switches_after_the_quantum_and_not_before():
    policy = POLICIES["rr"](3)
    one, two = Thing(0, 1, 0), Thing(1, 2, 0)
    policy.add(one)
    policy.add(two)
    order = [policy.charge(thing, 1) or thing for _ in range(9) for thing in policy.choose(1)]
    assert order == [one] * 3 + [two] * 3 + [one] * 3


def test_priority_goes_by_nice_value_and_then_by_arrival():
    policy = POLICIES["prio"](1)
    things = [Thing(number, number, priority) for number, priority in enumerate([5, 0, 0, -3])]
    for thing in things:
        policy.add(thing)
    assert policy.choose(3) == [things[3], things[1], things[2]]


def test_first_come_is_first_served_until_it_ends():
    policy = POLICIES["fcfs"](1)
    things = [Thing(number, 1, -number) for number in range(3)]
    for thing in things:
        policy.add(thing)
    for _ in range(50):
        policy.charge(things[0], 1)
        assert policy.choose(1) == [things[0]]
    policy.remove(things[0])
    assert policy.choose(1) == [things[1]]


def test_every_policy_is_described():
    assert set(DESCRIPTIONS) == set(POLICIES)
    assert all(len(text.split()) > 5 for text in DESCRIPTIONS.values())
