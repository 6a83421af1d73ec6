"""The tree of groups: policies share by the weights of who chose them, groups by theirs, and caps hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_policies import Thing

from kernel.sched.groups import Groups
from kernel.sched.tree import Tree
from kernel.taskattr import GroupAttr

MS = 1_000_000


class Run:
    """A tree, and the core time that passes in it."""

    def __init__(self, factor: int = 1, token_ns: int = 4 * MS, **root) -> None:
        self.groups = Groups(GroupAttr(**{"policy": "eevdf", "gap": 2.5, "starve_ms": 2000} | root))
        self.tree = Tree(self.groups, factor)
        self.token_ns = token_ns
        self.now_ns = self.work_ns = 0
        self.count = 0

    def add(self, group: str = "/", beside: Thing | None = None, nice: int = 0, **attr) -> Thing:
        """Add a request, of a task of its own or `beside` another of its task."""
        self.count += 1
        made = Thing(self.count, nice=nice, most=10**6, group=group, **attr)
        if beside is not None:
            made.task = beside.task
        self.tree.add(made)
        return made

    def chosen(self, slots: int) -> list[Thing]:
        return self.tree.choose(slots, self.work_ns, self.now_ns)

    def step(self, slots: int) -> list[Thing]:
        """Let whoever is chosen have a token's time; without work, 10 ms pass."""
        chosen = self.chosen(slots)
        for one in chosen:
            self.charge(one, self.token_ns)
        self.tree.pass_time(len(chosen) * self.token_ns)
        self.now_ns += len(chosen) * self.token_ns or 10 * MS
        return chosen

    def charge(self, one: Thing, core_ns: int) -> None:
        one.generated_tokens += 1
        one.task.sched.attained_ns += core_ns
        self.work_ns += core_ns
        self.tree.charge(one, core_ns, 1)

    def parts(self, slots: int, steps: int, *several: list[Thing]) -> list[float]:
        """Return what part of the core time each of these lots has over so many steps."""
        before = [sum(one.task.sched.attained_ns for one in lot) for lot in several]
        began_ns = self.work_ns
        for _ in range(steps):
            self.step(slots)
        had = [sum(one.task.sched.attained_ns for one in lot) for lot in several]
        return [(now - then) / (self.work_ns - began_ns) for now, then in zip(had, before, strict=True)]


# -- policies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["fcfs", "rr", "prio", "srpt", "plas", "hrrn", "mlfq"])
def test_those_of_two_policies_share_by_the_sum_of_their_weights(other):
    run = Run()
    fair = [run.add() for _ in range(3)]
    others = [run.add(policy=other, weight=200) for _ in range(3)]
    assert run.parts(2, 4000, fair, others) == [pytest.approx(3 / 9, rel=0.03), pytest.approx(6 / 9, rel=0.03)]


def test_a_tasks_weight_counts_once_however_many_requests_it_has():
    run = Run()
    fair = [run.add() for _ in range(3)]
    several = [run.add(policy="rr")]
    several += [run.add(beside=several[0]) for _ in range(5)]
    assert run.parts(1, 4000, fair, several[:1])[1] == pytest.approx(1 / 4, rel=0.03)
    for one in several[:5]:
        run.tree.remove(one)
    assert run.parts(1, 4000, fair, several[:1])[1] == pytest.approx(1 / 4, rel=0.03), "its last request has it too"


def test_nice_values_are_weights_between_policies():
    run = Run()
    low, high = run.add(nice=5), run.add(policy="fcfs", nice=0)
    second = run.add(beside=low), run.add(beside=high)
    assert run.parts(1, 6000, [low], [high])[1] == pytest.approx(100 / 133, rel=0.02), second


def test_who_leaves_takes_its_weight_along():
    run = Run()
    fair, others = [run.add() for _ in range(2)], [run.add(policy="fcfs") for _ in range(2)]
    run.parts(1, 100, fair)
    run.tree.remove(others.pop())
    assert run.parts(1, 3000, fair, others) == [pytest.approx(2 / 3, rel=0.03), pytest.approx(1 / 3, rel=0.03)]


def test_tasks_without_a_policy_go_by_their_groups_and_it_by_its_parents():
    run = Run(policy="fcfs")
    run.groups.create("/g", {})
    run.groups.create("/g/rr", {"policy": "rr", "params": {"quantum_tokens": 2}})
    first, second = run.add("/g"), run.add("/g")
    assert [run.step(1) for _ in range(30)] == [[first]] * 30
    run.tree.remove(first)
    run.tree.remove(second)
    one, two = run.add("/g/rr"), run.add("/g/rr")
    assert [run.step(1)[0] for _ in range(8)] == [one, one, two, two] * 2


def test_a_groups_params_are_not_those_of_another_policy_that_a_task_chooses():
    run = Run(policy="rr", params={"quantum_tokens": 1})
    one, two = run.add(policy="plas", attained_ns=10**9), run.add(policy="plas", attained_ns=10**9)
    run.token_ns = 25 * MS
    assert [run.step(1)[0] for _ in range(8)] == [one, one, two, two] * 2, "plas has its default of 50 ms"


def test_a_groups_slice_is_that_of_its_policy():
    run = Run(policy="plas", slice_ms=12)
    one, two = run.add(attained_ns=10**9), run.add(attained_ns=10**9)
    assert [run.step(1)[0] for _ in range(6)] == [one] * 3 + [two] * 3


def test_a_policys_own_slice_goes_before_its_groups():
    run = Run(policy="plas", params={"slice_ms": 4}, slice_ms=12)
    one, two = run.add(attained_ns=10**9), run.add(attained_ns=10**9)
    assert [run.step(1)[0] for _ in range(4)] == [one, two] * 2


def test_turns_are_as_many_times_longer_as_the_class_has_it_up_to_the_most_there_is():
    run = Run(factor=4, policy="plas", slice_ms=4)
    one, two = run.add(attained_ns=10**9), run.add(attained_ns=10**9)
    assert [run.step(1)[0] for _ in range(8)] == [one] * 4 + [two] * 4
    long = Run(factor=4, policy="plas", slice_ms=10_000, token_ns=2500 * MS)
    one, two = long.add(attained_ns=10**14), long.add(attained_ns=10**14)
    assert [long.step(1)[0] for _ in range(8)] == [one] * 4 + [two] * 4, "10 s"


def test_a_policys_params_may_change_while_nobody_is_ranked_by_it():
    run = Run(policy="rr", params={"quantum_tokens": 1})
    for quantum in (3, 2):
        run.groups.set("/", {"params": {"quantum_tokens": quantum}, "policy": "rr"})
        one, two = run.add(), run.add()
        assert [run.step(1)[0] for _ in range(quantum + 1)] == [one] * quantum + [two]
        run.tree.remove(one)
        run.tree.remove(two)


def test_coming_back_to_a_policy_buys_nothing():
    run = Run()
    fair = run.add(), run.add()
    waker = run.add(policy="fcfs")
    for _ in range(2000):
        if waker in run.step(1):
            run.tree.remove(waker)
            run.tree.add(waker)
    assert waker.task.sched.attained_ns / run.work_ns <= 1.05 / 3, fair


def test_who_was_ahead_when_it_left_is_as_far_ahead_when_it_comes_back():
    run = Run()
    fair, ahead = [run.add() for _ in range(2)], run.add(policy="fcfs")
    run.charge(ahead, 400 * MS)
    run.tree.remove(ahead)
    run.tree.add(ahead)
    assert [ahead in run.step(1) for _ in range(150)].count(True) == 0, "the others, of twice its weight, have 600 ms"
    assert fair


def test_it_is_known_by_which_policy_a_request_is_ranked():
    run = Run()
    one, two = run.add(), run.add(policy="fcfs")
    assert type(run.tree.policy_of(one)).__name__ == "Eevdf"
    assert type(run.tree.policy_of(two)).__name__ == "FirstComeFirstServed"
    assert len(run.tree) == 2


# -- groups -----------------------------------------------------------------------------------------


def test_groups_share_by_their_weights_and_the_tasks_of_their_parent_beside_them():
    run = Run()
    run.groups.create("/a", {"weight": 300})
    run.groups.create("/b", {"weight": 100})
    lots = [[run.add("/a") for _ in range(4)], [run.add("/b") for _ in range(9)], [run.add() for _ in range(2)]]
    parts = run.parts(3, 4000, *lots)
    assert parts == [pytest.approx(part, rel=0.03) for part in (3 / 6, 1 / 6, 2 / 6)]


def test_a_group_without_a_weight_has_that_of_all_who_want_to_run_in_it():
    run = Run()
    run.groups.create("/a", {})
    run.groups.create("/a/x", {"weight": 500})
    inside = [run.add("/a"), run.add("/a", weight=200)]
    below, beside = [run.add("/a/x")], [run.add(weight=200) for _ in range(2)]
    for lot in (below, beside):  # each wants more than it gets
        lot += [run.add("/a/x" if lot is below else "/") for _ in range(2)]
    lots = [inside, below, beside]
    assert run.parts(3, 6000, *lots) == [pytest.approx(part / 1400, rel=0.03) for part in (300, 500, 600)]


def test_a_group_loses_the_weight_of_those_who_leave_it():
    run = Run()
    run.groups.create("/a", {})
    inside, beside = [run.add("/a") for _ in range(4)], [run.add() for _ in range(2)]
    for one in inside[2:]:
        run.tree.remove(one)
    assert run.parts(1, 2000, inside[:2], beside) == [pytest.approx(1 / 2, rel=0.05)] * 2


def test_a_share_is_divided_again_within_a_group():
    run = Run()
    for path, weight in (("/a", 100), ("/a/x", 300), ("/a/y", 100), ("/b", 100)):
        run.groups.create(path, {"weight": weight})
    lots = [[run.add(path) for _ in range(3)] for path in ("/a/x", "/a/y", "/b")]
    assert run.parts(2, 8000, *lots) == [pytest.approx(part, rel=0.03) for part in (3 / 8, 1 / 8, 4 / 8)]


def test_a_group_that_comes_back_is_owed_nothing():
    run = Run()
    for path in ("/a", "/b"):
        run.groups.create(path, {"weight": 100})
    stays, gone = [run.add("/a") for _ in range(2)], run.add("/b")
    run.step(1)
    run.tree.remove(gone)
    run.parts(1, 1000, stays)
    back = [run.add("/b") for _ in range(2)]
    assert run.parts(1, 200, back)[0] == pytest.approx(1 / 2, abs=0.07)


def test_what_a_group_has_had_is_its_own_and_its_parents():
    run = Run()
    run.groups.create("/a", {})
    run.groups.create("/a/x", {})
    one, other = run.add("/a/x"), run.add()
    run.charge(one, 5)
    run.charge(other, 7)
    assert [run.groups[path].attained_ns for path in ("/a/x", "/a", "/")] == [5, 5, 12]


def test_a_group_that_was_made_again_is_another_one():
    run = Run()
    old = run.groups.create("/a", {"weight": 100})
    run.tree.remove(run.add("/a"))
    run.groups.remove("/a")
    run.tree.forget_group("/a")
    run.tree.forget_group("/never")
    new = run.groups.create("/a", {"weight": 300})
    assert "/a" not in run.tree._nodes
    lot, other = [run.add("/a") for _ in range(2)], [run.add()]
    other.append(run.add(beside=other[0]))
    assert run.parts(1, 4000, lot)[0] == pytest.approx(3 / 4, rel=0.03)
    assert (old.attained_ns, new.attained_ns > 0) == (0, True)


def test_a_groups_floor_holds_against_weights():
    run = Run()
    run.groups.create("/rich", {"weight": 10_000})
    run.groups.create("/poor", {"weight": 1, "min_share": 0.2})
    rich, poor = [run.add("/rich") for _ in range(4)], [run.add("/poor") for _ in range(3)]
    assert run.parts(2, 4000, poor)[0] == pytest.approx(0.2, rel=0.05), rich


# -- caps -------------------------------------------------------------------------------------------


def test_a_capped_group_is_held_back_and_it_is_told_until_when():
    run = Run(token_ns=10 * MS)
    run.groups.create("/a", {"max_share": 0.25})
    one = run.add("/a")
    assert run.chosen(2) == [one]
    assert run.tree.next_free_ns is None
    run.charge(one, 10 * MS)
    assert run.chosen(2) == []
    assert run.tree.next_free_ns == pytest.approx(40 * MS, abs=2)
    run.now_ns = run.tree.next_free_ns
    assert run.chosen(2) == [one]
    assert run.tree.next_free_ns is None


def test_of_several_that_are_held_back_the_first_that_may_go_on_is_told():
    run = Run()
    for path, part in (("/a", 0.5), ("/b", 0.25), ("/c", 0.4)):
        run.groups.create(path, {"max_share": part})
    several = [run.add(path) for path in ("/b", "/a", "/c")]
    assert run.chosen(3) == several
    for one in several:
        run.charge(one, 10 * MS)
    assert run.chosen(3) == []
    assert run.tree.next_free_ns == pytest.approx(20 * MS, abs=2)


def test_others_have_the_slots_of_one_that_is_held_back():
    run = Run()
    run.groups.create("/a", {"max_share": 0.2, "weight": 10_000})
    capped, others = [run.add("/a") for _ in range(3)], [run.add() for _ in range(3)]
    assert run.parts(2, 4000, capped, others) == [pytest.approx(0.2, rel=0.03), pytest.approx(0.8, rel=0.03)]


def test_the_root_can_be_capped():
    run = Run(max_share=0.5)
    one = run.add()
    assert run.chosen(1) == [one]
    run.charge(one, 10 * MS)
    assert run.chosen(1) == []
    assert run.tree.next_free_ns == pytest.approx(20 * MS, abs=2)


def test_a_cap_that_changes_is_in_force_from_the_next_request_on():
    run = Run()
    run.groups.create("/a", {"max_share": 0.5})
    one = run.add("/a")
    run.chosen(1)
    run.charge(one, 10 * MS)
    assert run.chosen(1) == []
    run.tree.remove(one)
    run.groups.set("/a", {"max_share": None})
    run.tree.add(one)
    assert run.chosen(1) == [one]


# -- whatever happens -------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "remove", "step", "step", "boost"]),
            st.integers(0, 1 << 16), st.integers(0, 5),
        ),
        max_size=60,
    )
)  # fmt: skip
@settings(deadline=None)
def test_nobody_is_lost_and_no_slot_is_left_that_somebody_wants(acts):
    run, present = Run(), []
    paths = ("/", "/a", "/a/x", "/b")
    for path, attr in zip(paths[1:], ({"weight": 50}, {"min_share": 0.3}, {"policy": "rr"}), strict=True):
        run.groups.create(path, attr)
    for act, value, slots in acts:
        if act == "add":
            policy = ("", "fcfs", "plas")[value % 3]
            present.append(run.add(paths[value % 4], weight=1 + value % 300, policy=policy))
        elif act == "remove" and present:
            run.tree.remove(present.pop(value % len(present)))
        elif act == "boost" and present:
            run.tree.boost(present[value % len(present)])
        elif act == "step":
            chosen = run.step(slots)
            assert len(set(chosen)) == len(chosen) == min(slots, len(present))
            assert set(chosen) <= set(present)
    for one in present:
        run.tree.remove(one)
    assert run.chosen(3) == []
    assert len(run.tree) == 0
