"""Waits are watched: warned of, boosted and rescued on time, first come first served, for a lease."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.sched.rescue import Bound, Rescue, Stage, lease_ns, rows_of

MS = 1_000_000
STARVE_NS = 1000 * MS
LEASE = 300 * MS  # with 64 tasks or fewer
CORE = 40 * MS  # that ends a lease


class Thing:
    """As much of a request as is watched."""

    def __init__(self, number: int, beside: Thing | None = None) -> None:
        self.number = number
        self.task = beside.task if beside else SimpleNamespace(pid=100 + number, running=0, ran_ns=0)

    def __repr__(self) -> str:
        return f"{self.number} of {self.task.pid}"


class Run:
    """A bank's rescue tier, and what it told."""

    def __init__(self, slots: int = 3) -> None:
        self.slots = slots
        self.told: list[tuple[int, str, int]] = []
        self.rescue = Rescue(lambda one, stage, since_ns: self.told.append((one.number, stage.name, since_ns)))

    def wait(self, *things: Thing, at: int = 0) -> None:
        for thing in things:
            self.rescue.waits(thing, at, STARVE_NS)

    def look(self, now_ns: int, tasks: int = 1) -> list[Thing]:
        return self.rescue.look(now_ns, self.slots, tasks)[0]

    def inner(self, now_ns: int) -> list[Thing]:
        return self.rescue.look(now_ns, self.slots, 1)[1]

    def run(self, thing: Thing, at: int) -> None:
        thing.task.running += 1
        self.rescue.runs(thing, at)

    def leave(self, thing: Thing, at: int) -> None:
        """It has no slot any more, and wants one."""
        thing.task.running -= 1
        thing.task.ran_ns = at
        self.wait(thing, at=at)


# -- stages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "stage"), [(0.5, "WARN"), (0.75, "BOOST"), (1.0, "RESCUE")])
def test_a_stage_is_reached_at_its_part_of_the_time_and_not_before(part, stage):
    run, one = Run(), Thing(1)
    run.wait(one, at=70)
    at_ns = 70 + int(part * STARVE_NS)
    run.look(at_ns - 1)
    assert stage not in [name for _, name, _ in run.told]
    assert run.rescue.stage(one) == Stage[stage] - 1
    run.look(at_ns)
    assert run.told[-1] == (1, stage, 70)
    assert run.rescue.stage(one) is Stage[stage]
    run.look(at_ns + 1)
    assert len(run.told) == Stage[stage], "each is told once"


def test_a_look_that_comes_late_tells_of_all_stages():
    run, one = Run(), Thing(1)
    run.wait(one)
    assert run.look(2 * STARVE_NS) == [one]
    assert [name for _, name, _ in run.told] == ["WARN", "BOOST", "RESCUE"]


def test_who_gets_a_slot_in_time_is_not_rescued():
    run, one = Run(), Thing(1)
    run.wait(one)
    run.look(STARVE_NS // 2)
    run.run(one, STARVE_NS - 1)
    assert run.rescue.stage(one) is Stage.NONE
    assert run.look(5 * STARVE_NS) == []
    assert len(run.told) == 1


def test_a_wait_that_is_told_of_again_keeps_its_start():
    run, one = Run(), Thing(1)
    run.wait(one)
    run.wait(one, at=STARVE_NS - 1)
    assert run.look(STARVE_NS) == [one]


def test_who_is_queued_anew_waits_since_when_it_said():
    run, one = Run(), Thing(1)
    run.wait(one)
    run.look(STARVE_NS // 2)
    run.rescue.gone(one)
    assert run.rescue.stage(one) is Stage.NONE
    run.wait(one, at=0)
    assert run.look(STARVE_NS) == [one]


def test_each_has_the_time_of_its_own_group():
    run, quick, slow = Run(6), Thing(1), Thing(2)
    run.rescue.waits(slow, 0, STARVE_NS)
    run.rescue.waits(quick, 0, 100 * MS)
    assert run.look(100 * MS) == [quick]


def test_alarms_of_waits_that_ended_are_dropped_and_those_of_others_kept():
    run, one, other = Run(), Thing(1), Thing(2)
    run.wait(one)
    for _ in range(2000):
        run.wait(other)
        run.rescue.gone(other)
    assert len(run.rescue._alarms) < 300
    assert run.look(STARVE_NS) == [one]


def test_alarms_go_off_in_their_order_though_many_were_dropped():
    run, other = Run(300), Thing(999)
    starves = [100 + 37 * number % 900 for number in range(60)]
    things = [Thing(number) for number in range(60)]
    for number, ms in enumerate(starves):
        run.rescue.waits(things[number], 0, ms * MS)
        for early in range(8):
            run.rescue.waits(other, 0, (9 - early) * number * MS)
            run.rescue.gone(other)
    run.look(2000 * MS)
    told = [number for number, name, _ in run.told if name == "WARN"]
    assert told == sorted(range(60), key=lambda number: (starves[number], number))


# -- who is rescued ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("slots", "rows"), [(1, 1), (2, 1), (4, 1), (5, 2), (7, 2), (8, 3), (24, 9), (256, 102)])
def test_two_fifths_of_the_slots_are_for_the_rescued(slots, rows):
    assert rows_of(slots) == rows
    run, things = Run(slots), [Thing(number) for number in range(rows + 1)]
    run.wait(*things)
    assert run.look(STARVE_NS) == things[:rows]


def test_tasks_are_rescued_in_the_order_in_which_they_starved():
    run, things = Run(), [Thing(number) for number in range(3)]
    for number in (2, 0, 1):
        run.wait(things[number], at=(2, 3, 1)[number])
    order = []
    for now_ns in range(2 * STARVE_NS, 2 * STARVE_NS + 4 * LEASE, LEASE):
        for one in run.look(now_ns):
            order.append(one.number)
            run.run(one, now_ns)
            run.rescue.fed(one, 1)
    assert order == [2, 0, 1]


def test_many_requests_of_a_task_are_one_place_in_the_queue():
    run, first = Run(), Thing(0)
    second, third, other = Thing(1, first), Thing(2, first), Thing(3)
    run.wait(first, second, other, third)
    assert run.look(STARVE_NS) == [first]
    run.rescue.gone(first)
    assert run.look(STARVE_NS) == [other], "the task queues up again behind the other"
    run.rescue.gone(other)
    assert run.look(STARVE_NS) == [second]
    run.rescue.gone(second)
    assert run.look(STARVE_NS) == [third]


def test_a_task_keeps_its_place_when_one_of_its_starving_requests_ends():
    run, head = Run(), Thing(9)
    first, other = Thing(0), Thing(2)
    second = Thing(1, first)
    run.wait(head, first, second, other)
    assert run.look(STARVE_NS) == [head]
    run.rescue.gone(first)
    run.rescue.gone(head)
    assert run.look(STARVE_NS) == [second]


def test_who_is_gone_is_not_rescued():
    run, one, other = Run(), Thing(0), Thing(1)
    run.wait(one, other)
    assert run.look(STARVE_NS) == [one]
    run.rescue.gone(one)
    run.rescue.gone(other)
    assert run.look(STARVE_NS) == []
    assert not run.rescue._starving, "and nothing is kept of it"


def test_who_got_a_slot_while_it_queued_is_not_rescued():
    run, one, other = Run(), Thing(0), Thing(1)
    run.wait(one, other)
    assert run.look(STARVE_NS) == [one]
    run.run(other, STARVE_NS)
    run.rescue.gone(one)
    assert run.look(STARVE_NS) == []


# -- leases -----------------------------------------------------------------------------------------


def rescued(tasks: int = 1) -> tuple[Run, Thing, Thing]:
    """One that was rescued and runs since STARVE_NS, and one that queues behind it."""
    run, one, other = Run(), Thing(0), Thing(1)
    run.wait(one, other)
    assert run.look(STARVE_NS, tasks) == [one]
    run.run(one, STARVE_NS)
    return run, one, other


def test_a_lease_lasts_for_its_time():
    run, one, other = rescued()
    run.rescue.fed(one, 1)
    assert run.look(STARVE_NS + LEASE - 1) == [one]
    assert run.look(STARVE_NS + LEASE) == [other]


def test_a_lease_does_not_end_before_it_was_fed():
    run, one, _ = rescued()
    assert run.look(STARVE_NS + 10 * LEASE) == [one]


def test_a_lease_does_not_begin_before_it_has_a_slot():
    run, one, other = Run(), Thing(0), Thing(1)
    run.wait(one, other)
    run.look(STARVE_NS)
    run.rescue.fed(one, CORE)
    assert run.look(STARVE_NS + 10 * LEASE) == [one]


def test_a_lease_ends_early_once_it_had_40_ms_of_core_time_and_its_row_rests():
    run, one, other = rescued()
    run.rescue.fed(one, CORE - 1)
    assert run.look(STARVE_NS + 1) == [one]
    run.rescue.fed(one, 1)
    assert run.look(STARVE_NS + 2) == []
    assert run.look(STARVE_NS + LEASE - 1) == []
    assert run.look(STARVE_NS + LEASE) == [other]


def test_a_lease_that_ended_on_time_lets_no_row_rest():
    run, one, other = rescued()
    run.rescue.fed(one, CORE)
    assert run.look(STARVE_NS + LEASE) == [other]


def test_rows_rest_one_by_one():
    run, things = Run(6), [Thing(number) for number in range(4)]
    run.wait(*things)
    assert run.look(STARVE_NS) == things[:2]
    for one, at in zip(things, (0, 50 * MS), strict=False):
        run.run(one, STARVE_NS + at)
        run.rescue.fed(one, CORE)
    assert run.look(STARVE_NS + 60 * MS) == []
    assert run.look(STARVE_NS + LEASE) == [things[2]]
    assert run.look(STARVE_NS + LEASE + 50 * MS) == things[2:]


@pytest.mark.parametrize(("tasks", "lasts"), [(1, 300), (64, 300), (65, 304.6875), (128, 600), (640, 3000)])
def test_leases_are_longer_the_more_tasks_there_are(tasks, lasts):
    assert lease_ns(tasks) == int(lasts * MS)
    run, one, other = rescued(tasks)
    run.rescue.fed(one, 1)
    assert run.look(STARVE_NS + int(lasts * MS) - 1, tasks) == [one]
    assert run.look(STARVE_NS + int(lasts * MS), tasks) == [other]


def test_who_loses_its_slot_in_a_lease_has_it_still_and_from_its_next_slot_on():
    run, one, other = rescued()
    run.rescue.fed(one, 1)
    run.leave(one, STARVE_NS + 5)
    assert run.look(STARVE_NS + 2 * LEASE) == [one]
    run.run(one, STARVE_NS + 2 * LEASE)
    assert run.look(STARVE_NS + 3 * LEASE - 1) == [one]
    assert run.look(STARVE_NS + 3 * LEASE) == [other]


def test_who_starves_anew_in_a_lease_has_no_second_one():
    run, one, _ = rescued()
    run.leave(one, STARVE_NS)
    assert run.look(9 * STARVE_NS) == [one]
    run.run(one, 9 * STARVE_NS)
    run.rescue.gone(one)
    run.slots = 30
    assert one not in run.look(9 * STARVE_NS)


def test_what_was_had_before_the_lease_does_not_count():
    run, one, _ = Run(), Thing(0), Thing(1)
    run.rescue.fed(one, CORE)
    run.wait(one)
    run.look(STARVE_NS)
    run.run(one, STARVE_NS)
    assert run.look(STARVE_NS + 1) == [one]


def test_a_second_lease_is_as_long_as_the_first():
    run, one, other = rescued()
    run.rescue.fed(one, CORE)
    run.look(STARVE_NS + LEASE)
    run.rescue.gone(other)
    run.leave(one, STARVE_NS + LEASE)
    assert run.look(2 * STARVE_NS + LEASE) == [one]
    run.run(one, 2 * STARVE_NS + LEASE)
    run.rescue.fed(one, 1)
    assert run.look(2 * STARVE_NS + LEASE + 1) == [one]


def test_who_is_gone_takes_what_it_had_along():
    run, one, other = rescued()
    run.rescue.fed(one, CORE)
    run.rescue.gone(one)
    assert run.look(STARVE_NS + 1) == [other], "and its row does not rest"
    run.rescue.gone(other)
    one.task.running = 0
    run.wait(one, at=STARVE_NS)
    assert run.look(2 * STARVE_NS) == [one]
    run.rescue.runs(one, 2 * STARVE_NS)
    assert run.look(2 * STARVE_NS + 1) == [one]


def test_who_is_queued_anew_keeps_its_place_among_those_who_starve():
    run = Run()
    things = [Thing(number) for number in range(4)]
    for thing in things:
        run.wait(thing, at=thing.number)
    assert run.look(STARVE_NS + 10) == things[:1], "one row of three slots"
    run.rescue.gone(things[1])
    run.wait(things[1], at=1)
    seen = []
    for turn in range(1, 4):
        now_ns = (turn + 1) * 2 * STARVE_NS
        run.run(run.look(now_ns - STARVE_NS)[0], now_ns - STARVE_NS)
        seen.append(run.look(now_ns - STARVE_NS)[0].number)
        run.rescue.fed(things[seen[-1]], 1)
    assert seen == [0, 1, 2]


# -- the bound --------------------------------------------------------------------------------------


def bound(**given) -> Bound:
    values = {
        "starve_s": 2.0, "tasks": 10, "rows": 3, "lease_s": 0.3, "step_s": 0.1, "reads_s": 0.0, "switch_s": 0.05,
        "banks_s": 0.0,
    }  # fmt: skip
    return Bound(**values | given)


def test_the_bound_is_that_of_the_formula():
    assert bound().seconds == pytest.approx(2.0 + 4 * 0.45), "10 tasks in 3 rows are 4 turns"
    assert bound(tasks=9).seconds == pytest.approx(2.0 + 3 * 0.45)
    assert bound(tasks=1, banks_s=5.0).seconds == pytest.approx(2.0 + 0.45 + 5.0)
    assert bound(reads_s=1.0).seconds == pytest.approx(2.0 + 4 * 0.45 + 1.0)


@given(st.integers(1, 9), st.integers(1, 12), st.lists(st.integers(1, 60), min_size=1, max_size=8))
@settings(deadline=None, max_examples=40)
def test_nobody_waits_longer_than_the_bound_though_no_other_slot_is_ever_given(slots, count, took):
    """Steps take what `took` says, in ms; whoever has a row is fed in each."""
    run, things = Run(slots), [Thing(number) for number in range(count)]
    step_ns = max(took) * MS
    most_s = bound(
        starve_s=1.0, tasks=count, rows=rows_of(slots), step_s=step_ns / 1e9, reads_s=0.0, switch_s=0.0
    ).seconds  # fmt: skip
    now_ns, since, on = 0, dict.fromkeys(things, 0), set()
    run.wait(*things)
    for number in range(1500):
        first = run.look(now_ns, count)
        assert len(first) == len(set(first)) <= rows_of(slots)
        for one in on - set(first):
            run.leave(one, now_ns)
            since[one] = now_ns
        for one in set(first) - on:
            run.run(one, now_ns)
            assert now_ns - since.pop(one) <= most_s * 1e9
        on = set(first)
        assert all(now_ns - began <= most_s * 1e9 for began in since.values())
        now_ns += took[number % len(took)] * MS
        for one in on:
            run.rescue.fed(one, took[number % len(took)] * MS)
    assert Counter(name for _, name, _ in run.told)["RESCUE"] >= 1
