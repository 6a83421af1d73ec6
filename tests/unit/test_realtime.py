"""The class REALTIME: the highest priority first, equals by arrival or in turns."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from test_policies import Thing

from kernel.sched.realtime import RealtimeQueue

MS = 1_000_000


def queue(*things: Thing) -> RealtimeQueue:
    made = RealtimeQueue()
    for thing in things:
        made.add(thing)
    return made


def served(made: RealtimeQueue, steps: int, core_ns: int = 10 * MS) -> list[Thing]:
    seen = []
    for _ in range(steps):
        seen += made.choose(1)
        made.charge(seen[-1], core_ns)
    return seen


def test_the_highest_priority_goes_first_and_equals_by_arrival():
    things = [Thing(number, rt_priority=priority) for number, priority in enumerate([1, 50, 99, 50])]
    made = queue(*things)
    assert made.choose(3) == [things[2], things[1], things[3]]
    assert made.choose(0) == []
    assert len(made) == 4


def test_whoever_has_the_slot_keeps_it_from_its_equals():
    one, two = Thing(0), Thing(1)
    assert served(queue(one, two), 50) == [one] * 50


def test_those_of_rr_take_turns_of_40_ms():
    one, two = Thing(0, policy="rr"), Thing(1, policy="rr")
    assert served(queue(one, two), 10) == [one] * 4 + [two] * 4 + [one] * 2


def test_a_turn_is_over_to_the_nanosecond_and_the_next_is_as_long():
    one, two = Thing(0, policy="rr"), Thing(1, policy="rr")
    made = queue(one, two)
    for holder, other in ((one, two), (two, one), (one, two)):
        made.charge(holder, 40 * MS - 1)
        assert made.choose(1) == [holder]
        made.charge(holder, 1)
        assert made.choose(1) == [other]


def test_a_tasks_slice_is_its_turn():
    one, two = Thing(0, policy="rr", slice_ms=20), Thing(1, policy="rr", slice_ms=30)
    assert served(queue(one, two), 10) == [one] * 2 + [two] * 3 + [one] * 2 + [two] * 3


def test_a_turn_over_is_no_place_lost_to_a_lower_priority():
    high, low = Thing(0, policy="rr", rt_priority=2), Thing(1, policy="rr", rt_priority=1)
    assert served(queue(high, low), 10) == [high] * 10


def test_who_goes_by_arrival_is_not_put_behind_by_one_that_takes_turns():
    turns, stays = Thing(0, policy="rr"), Thing(1, policy="fcfs")
    assert served(queue(turns, stays), 12) == [turns] * 4 + [stays] * 8


def test_who_comes_back_begins_a_turn_behind_the_others():
    one, two = Thing(0, policy="rr"), Thing(1, policy="rr")
    made = queue(one, two)
    served(made, 3)
    made.remove(one)
    made.add(one)
    assert served(made, 8) == [two] * 4 + [one] * 4


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "charge"]), st.integers(0, 1 << 10)), max_size=60))
@settings(deadline=None)
def test_the_choice_is_always_in_the_order_of_priorities(acts):
    made, present = RealtimeQueue(), []
    for number, (act, value) in enumerate(acts):
        if act == "add":
            present.append(Thing(number, policy=("rr", "")[value % 2], rt_priority=1 + value % 5))
            made.add(present[-1])
        elif act == "remove" and present:
            made.remove(present.pop(value % len(present)))
        elif act == "charge" and present:
            made.charge(present[value % len(present)], 15 * MS)
        chosen = made.choose(len(present))
        assert set(chosen) == set(present)
        priorities = [one.task.sched.rt_priority for one in chosen]
        assert priorities == sorted(priorities, reverse=True)
