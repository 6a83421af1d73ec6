"""Classes: the higher first, the floors of the lower, and the rescued before all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_policies import Thing

from kernel.sched.classes import ClassQueues, put_first
from kernel.sched.groups import Groups
from kernel.taskattr import GroupAttr, SchedClass

MS = 1_000_000


class Run:
    """The classes of a bank, and the core time that passes in them."""

    def __init__(self, token_ns: int = 4 * MS, **root) -> None:
        self.groups = Groups(GroupAttr(**{"policy": "eevdf", "gap": 2.5, "starve_ms": 2000} | root))
        self.queues = ClassQueues(self.groups)
        self.token_ns = token_ns
        self.now_ns = self.work_ns = 0
        self.count = 0

    def add(self, sched_class: str = "FAIR", beside: Thing | None = None, **attr) -> Thing:
        self.count += 1
        made = Thing(self.count, most=10**6, sched_class=SchedClass[sched_class], **attr)
        if beside is not None:
            made.task = beside.task
        self.queues.add(made)
        return made

    def chosen(self, slots: int, rescued: tuple = (), inner: tuple = ()) -> list[Thing]:
        return self.queues.choose(slots, self.work_ns, self.now_ns, rescued, inner)

    def step(self, slots: int, rescued: tuple = ()) -> list[Thing]:
        chosen = self.chosen(slots, rescued)
        for one in chosen:
            self.charge(one, self.token_ns)
        self.queues.pass_time(len(chosen) * self.token_ns)
        self.now_ns += len(chosen) * self.token_ns
        return chosen

    def charge(self, one: Thing, core_ns: int) -> None:
        one.task.sched.attained_ns += core_ns
        self.work_ns += core_ns
        self.queues.charge(one, core_ns, 1)

    def part(self, slots: int, steps: int, *things: Thing) -> float:
        """Return what part of the core time these have over so many steps."""
        before, began_ns = sum(one.task.sched.attained_ns for one in things), self.work_ns
        for _ in range(steps):
            self.step(slots)
        return (sum(one.task.sched.attained_ns for one in things) - before) / (self.work_ns - began_ns)


# -- the order --------------------------------------------------------------------------------------


def test_classes_go_first_in_their_order():
    run = Run()
    idle, batch, fair, realtime = (run.add(name) for name in ("IDLE", "BATCH", "FAIR", "REALTIME"))
    assert run.chosen(4) == [realtime, fair, batch, idle]
    assert run.chosen(2) == [realtime, fair]
    assert run.chosen(0) == []


def test_a_higher_class_has_the_slots_at_once():
    run = Run()
    low = [run.add("BATCH") for _ in range(3)]
    assert run.step(2) == low[:2]
    high = run.add("FAIR")
    assert run.step(2)[0] is high


def test_a_class_has_what_the_higher_leave():
    run = Run()
    high, low = [run.add("REALTIME") for _ in range(2)], [run.add("IDLE") for _ in range(3)]
    assert run.chosen(4) == [*high, *low[:2]]


def test_realtime_goes_by_priority_among_itself():
    run = Run()
    low, high = run.add("REALTIME", rt_priority=3), run.add("REALTIME", rt_priority=4)
    assert run.chosen(1) == [high]
    run.queues.remove(high)
    assert run.chosen(1) == [low]


def test_batch_and_idle_have_turns_four_times_as_long():
    for name, factor in (("FAIR", 1), ("BATCH", 4), ("IDLE", 4)):
        run = Run(policy="plas", slice_ms=8)
        one, two = (run.add(name, attained_ns=10**10) for _ in range(2))
        assert [run.step(1)[0] for _ in range(4 * factor)] == [one] * (2 * factor) + [two] * (2 * factor)


# -- floors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("above", "below", "floor"),
    [("FAIR", "BATCH", 0.05), ("FAIR", "IDLE", 0.01), ("BATCH", "IDLE", 0.01), ("REALTIME", "FAIR", 0.05)],
)
@pytest.mark.parametrize("slots", [1, 3])
def test_a_lower_class_has_its_floor_beside_hogs_of_a_higher_one(above, below, floor, slots):
    run = Run()
    for _ in range(4):
        run.add(above)
    low = [run.add(below) for _ in range(2)]
    run.part(slots, 2000, *low)
    assert run.part(slots, 15_000, *low) == pytest.approx(floor, rel=0.05)


def test_all_floors_hold_at_once():
    run = Run()
    for _ in range(2):
        run.add("REALTIME")
    lots = {name: [run.add(name) for _ in range(2)] for name in ("FAIR", "BATCH", "IDLE")}
    had = {name: sum(one.task.sched.attained_ns for one in lot) for name, lot in lots.items()}
    assert set(had.values()) == {0}
    run.part(1, 20_000, *lots["FAIR"])
    parts = [sum(one.task.sched.attained_ns for one in lot) / run.work_ns for lot in lots.values()]
    assert parts == [pytest.approx(part, rel=0.05) for part in (0.05, 0.05, 0.01)]


def test_a_floor_gets_a_slot_once_40_ms_are_owed_and_until_they_are_had():
    run = Run(token_ns=10 * MS)
    hog, low = run.add("FAIR"), run.add("BATCH")
    seen = [run.step(1)[0] for _ in range(90)]
    first = seen.index(low)
    assert first == 80, "5 % of 800 ms are 40 ms"
    assert seen[first:] == [low] * 5 + [hog] * 5, "4 steps for the 40 ms, one for the 2 ms that came meanwhile"


def test_with_too_few_slots_the_class_that_is_owed_most_goes_first():
    run = Run(token_ns=10 * MS)
    run.add("REALTIME")
    fair, batch = run.add("FAIR"), run.add("BATCH")
    run.queues.pass_time(1000 * MS)
    run.queues.charge(fair, 1 * MS, 1)
    assert run.chosen(1) == [batch]
    run.queues.charge(batch, 2 * MS, 1)
    assert run.chosen(1) == [fair]


def test_who_has_had_more_than_its_floor_waits_for_a_bounded_time():
    run = Run(token_ns=10 * MS)
    low = run.add("BATCH")
    for _ in range(1000):
        run.step(1)
    run.add("FAIR")
    seen = [run.step(1)[0] for _ in range(200)]
    assert seen.index(low) <= 161, "40 ms to make up and 40 ms to be owed, of a twentieth each"
    assert seen.index(low) >= 155


def test_a_class_that_wanted_nothing_is_owed_nothing():
    run = Run(token_ns=10 * MS)
    run.add("FAIR")
    low = run.add("BATCH")
    for _ in range(79):
        run.step(1)
    run.queues.remove(low)
    run.step(1)
    run.queues.add(low)
    assert [run.step(1) for _ in range(50)].count([low]) == 0


def test_a_class_that_left_while_it_was_owed_a_slot_takes_none():
    run = Run(token_ns=10 * MS)
    hog, low = run.add("FAIR"), run.add("BATCH")
    for _ in range(81):
        run.step(1)
    run.queues.remove(low)
    run.queues.add(low)
    assert run.chosen(1) == [hog]


def test_a_class_that_is_owed_has_no_more_than_a_slot():
    run = Run()
    high, low = [run.add("FAIR") for _ in range(4)], [run.add("BATCH") for _ in range(4)]
    run.queues.pass_time(10_000 * MS)
    assert run.chosen(3) == [*high[:2], low[0]]


def test_groups_within_a_class_have_their_floors():
    run = Run()
    run.groups.create("/rich", {"weight": 10_000})
    run.groups.create("/poor", {"weight": 1, "min_share": 0.3})
    rich, poor = [run.add(group="/rich") for _ in range(4)], [run.add(group="/poor") for _ in range(4)]
    assert run.part(2, 4000, *poor) == pytest.approx(0.3, rel=0.05), rich


# -- what else is known -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["REALTIME", "FAIR", "BATCH"])
def test_what_a_class_has_had_is_its_groups(name):
    run = Run()
    run.groups.create("/a", {})
    run.charge(run.add(name, group="/a"), 7)
    assert [run.groups[path].attained_ns for path in ("/a", "/")] == [7, 7]


def test_realtime_takes_turns_by_what_it_is_charged():
    run = Run(token_ns=40 * MS)
    one, two = run.add("REALTIME", policy="rr"), run.add("REALTIME", policy="rr")
    assert [run.step(1)[0] for _ in range(4)] == [one, two, one, two]


def test_a_boost_puts_first_in_the_own_class_only():
    run = Run(policy="fcfs")
    fair, _, batch, late = run.add(), run.add("REALTIME"), run.add("BATCH"), run.add("BATCH")
    for one in (late, run.add("REALTIME", rt_priority=1)):
        run.queues.boost(one)
    assert run.chosen(4)[2:] == [fair, late], batch


def test_it_is_told_when_the_first_that_is_held_back_may_go_on():
    run = Run()
    assert run.queues.next_free_ns() is None
    for path, part in (("/a", 0.5), ("/b", 0.25)):
        run.groups.create(path, {"max_share": part})
    one, two = run.add("FAIR", group="/b"), run.add("BATCH", group="/a")
    run.chosen(2)
    for each in (one, two):
        run.charge(each, 10 * MS)
    assert run.chosen(2) == []
    assert run.queues.next_free_ns() == pytest.approx(20 * MS, abs=2)


def test_it_is_known_by_what_a_request_is_ranked():
    run = Run()
    fair, realtime, gone = run.add(policy="fcfs"), run.add("REALTIME"), run.add()
    run.queues.remove(gone)
    names = [type(run.queues.policy_of(one)).__name__ for one in (fair, realtime, gone)]
    assert names == ["FirstComeFirstServed", "RealtimeQueue", "NoneType"]
    assert len(run.queues) == 2


def test_a_group_that_is_gone_is_forgotten_in_every_class():
    run = Run()
    run.groups.create("/a", {})
    run.queues.remove(run.add("BATCH", group="/a"))
    run.groups.remove("/a")
    run.queues.forget_group("/a")
    assert run.chosen(1) == []


# -- the rescued ------------------------------------------------------------------------------------


def test_the_rescued_hold_a_slot_whoever_else_wants_it():
    run = Run()
    realtime = [run.add("REALTIME") for _ in range(3)]
    idle, other = run.add("IDLE"), run.add("IDLE")
    assert run.chosen(2, rescued=(other, idle)) == [other, idle]
    assert run.chosen(3, rescued=(other,)) == [other, *realtime[:2]]


def test_a_rescued_one_that_was_chosen_anyway_takes_no_second_slot():
    one, two, three = Thing(0), Thing(1), Thing(2)
    assert put_first([three], [], [one, two, three], 3) == [three, one, two]


def test_whoever_waits_long_takes_the_last_slot_of_its_own_task():
    first, other = Thing(0), Thing(1)
    second, late = Thing(2), Thing(3)
    second.task = late.task = first.task
    assert put_first([], [late], [first, second, other], 3) == [first, late, other]
    assert put_first([], [late], [other], 3) == [other], "its task has none"
    assert put_first([], [late], [first, late], 2) == [first, late]


def test_the_slot_of_one_that_is_rescued_is_not_taken_by_its_own_task():
    first, late, other = Thing(0), Thing(1), Thing(2)
    late.task = first.task
    assert put_first([first], [late], [other], 2) == [first, other]


def test_without_anybody_to_rescue_the_choice_is_what_it_was():
    chosen = [Thing(0)]
    assert put_first([], [], chosen, 1) is chosen


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "remove", "step", "step"]), st.integers(0, 1 << 16), st.integers(0, 5)
        ),
        max_size=60,
    )
)
@settings(deadline=None)
def test_nobody_is_lost_and_no_slot_is_left_that_somebody_wants(acts):
    run, present = Run(token_ns=30 * MS), []
    for act, value, slots in acts:
        if act == "add":
            present.append(run.add(list(SchedClass)[value % 4].name))
        elif act == "remove" and present:
            run.queues.remove(present.pop(value % len(present)))
        elif act == "step":
            rescued = tuple(present[value % len(present) :][:slots]) if present else ()
            chosen = run.step(slots, rescued)
            assert len(set(chosen)) == len(chosen) == min(slots, len(present))
            assert chosen[: len(rescued)] == list(rescued)
    for one in present:
        run.queues.remove(one)
    assert run.chosen(3) == []
