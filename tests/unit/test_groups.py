"""Groups: a tree, what is in force in it, who may change it, and what is told of every mistake."""

from __future__ import annotations

import pytest

from kernel.abi.errors import Errno, KernelError
from kernel.config import Config
from kernel.limits import MAX_GROUPS
from kernel.objects import Call, Task
from kernel.sched.groups import Groups, lineage, parent_of, root_attr
from kernel.sched.policy import POLICIES
from kernel.taskattr import GroupAttr, SchedClass, TaskAttr

ROOT = {"policy": "eevdf", "gap": 2.5, "starve_ms": 2000}


def groups(*paths: str, **root) -> Groups:
    made = Groups(GroupAttr(**ROOT | root))
    for path in paths:
        made.create(path, {})
    return made


def call(group: str = "/", *capabilities: str) -> Call:
    """A call of a task in a group."""
    attr = TaskAttr(group=group)
    task = Task(7, 1, "it", 0, (7, 0), sched=attr, capabilities=frozenset(capabilities))
    return Call(7, False, 1, "group.attach", task)


OPERATOR = Call(1, True, 1, "group.attach")


def refused(number: Errno, text: str, does, *given) -> None:
    with pytest.raises(KernelError) as caught:
        does(*given)
    assert (caught.value.number, caught.value.text) == (number, text)


# -- the tree ---------------------------------------------------------------------------------------


def test_a_path_and_all_above_it():
    assert lineage("/a/b") == ["/a/b", "/a", "/"]
    assert lineage("/") == ["/"]
    assert (parent_of("/a/b"), parent_of("/a"), parent_of("/")) == ("/a", "/", "/")


def test_groups_are_found_by_path_and_told_in_the_order_in_which_they_came():
    made = groups("/a", "/a/b")
    assert [group.path for group in made] == ["/", "/a", "/a/b"]
    assert made.find("/a/b", "x") is made["/a/b"]
    assert [group.path for group in made.lineage("/a/b")] == ["/a/b", "/a", "/"]
    assert list(made["/a"].children) == ["/a/b"]
    refused(Errno.ENOENT, "group.stat: no group '/c'", made.find, "/c", "group.stat")


def test_a_group_that_exists_is_not_made_again():
    refused(Errno.EEXIST, "group.create: group /a exists", groups("/a").create, "/a", {})


def test_a_group_has_a_parent():
    refused(Errno.ENOENT, "group.create: no group '/a'", groups().create, "/a/b", {})


def test_there_are_so_many_groups_at_most():
    made = groups(*(f"/{number}" for number in range(MAX_GROUPS - 1)))
    refused(Errno.EAGAIN, f"group.create: {MAX_GROUPS} groups exist", made.create, "/more", {})


def test_a_part_may_have_all_the_signs_at_once():
    letters = "abcdefghijklmnopqrstuvwxyz"
    path = f"/{letters}{letters.upper()}0123456789._-"
    assert groups().create(path, {}).path == path


@pytest.mark.parametrize(
    "path",
    ["", "/", "a", "a/", "x/y", "a/b", "//a", "/a/", "/a b", "/.", "/a/..", "/ä", "/1" * 9, "/a//b"],
)
def test_what_is_no_path_is_refused(path):
    text = f"group.create: {path!a} is no group's path: wanted /name/name, of letters, digits, . _ -"
    refused(Errno.EINVAL, text, groups("/a").create, path, {})


def test_a_path_may_have_eight_parts_of_all_the_signs():
    made, path = groups(), ""
    for part in ("azAZ09", "._-", "...", "1", "1", "1", "1", "1"):
        path += f"/{part}"
        assert made.create(path, {}).path == path


def test_only_an_empty_group_is_removed():
    made = groups("/a", "/a/b")
    refused(Errno.EBUSY, "group.remove: /a has 1 groups and 0 tasks in it", made.remove, "/a")
    made.count("/a/b", 2)
    refused(Errno.EBUSY, "group.remove: /a/b has 0 groups and 2 tasks in it", made.remove, "/a/b")
    made.count("/a/b", -2)
    made.remove("/a/b")
    made.remove("/a")
    assert [group.path for group in made] == ["/"]
    assert made["/"].children == {}
    refused(Errno.ENOENT, "group.remove: no group '/a'", made.remove, "/a")


def test_tasks_are_counted_in_a_group_and_all_above_it():
    made = groups("/a", "/a/b")
    made.count("/a/b", 2)
    made.count("/a", 1)
    assert [made[path].tasks for path in ("/a/b", "/a", "/")] == [2, 3, 3]


# -- what is in force -------------------------------------------------------------------------------


def test_what_a_group_leaves_open_is_its_parents():
    made = groups("/a", "/a/b", slice_ms=9)
    made.set("/a", {"policy": "rr", "params": {"quantum_tokens": 3}, "gap": 0.0, "starve_ms": 500})
    found = made.effective("/a/b")
    assert (found.policy, found.params) == ("rr", {"quantum_tokens": 3})
    assert (found.slice_ms, found.gap, found.starve_ms) == (9, 0.0, 500)
    root = made.effective("/")
    assert (root.policy, root.params, root.gap, root.starve_ms) == ("eevdf", {}, 2.5, 2000)


def test_a_group_may_have_no_slice():
    assert groups("/a").effective("/a").slice_ms is None


def test_a_change_is_in_force_below_at_once():
    made = groups("/a", "/a/b")
    assert made.effective("/a/b").starve_ms == 2000
    made.set("/a", {"starve_ms": 300, "slice_ms": 7})
    assert (made.effective("/a/b").starve_ms, made.effective("/a/b").slice_ms) == (300, 7)
    made.set("/a", {"starve_ms": None})
    assert made.effective("/a/b").starve_ms == 2000


def test_a_group_that_is_made_again_has_nothing_of_the_old():
    made = groups("/a")
    made.set("/a", {"starve_ms": 300})
    assert made.effective("/a").starve_ms == 300
    made.remove("/a")
    made.create("/a", {})
    assert made.effective("/a").starve_ms == 2000


def test_the_policies_that_may_be_chosen_are_the_nearest_that_are_told():
    made = groups("/a", "/a/b", "/c")
    made.set("/a", {"policies": ["rr", "fcfs"]})
    assert made.allowed("/a/b") == ("rr", "fcfs")
    assert made.allowed("/c") == tuple(POLICIES)


def test_the_root_says_all_that_has_to_be_said():
    text = "group.setattr: policy, gap and starve_ms of / have no parent's to be instead"
    made = groups("/a")
    for name in ("policy", "gap", "starve_ms"):
        refused(Errno.EINVAL, text, made.set, "/", {name: None})
    assert made.set("/", {"gap": 0.0}).attr.gap == 0.0
    assert made.set("/a", {"policy": None, "gap": None, "starve_ms": None}).attr == GroupAttr()


def test_what_is_refused_changes_nothing():
    made = groups("/a")
    with pytest.raises(KernelError):
        made.set("/a", {"weight": 5, "max_share": 7})
    assert made["/a"].attr == GroupAttr()
    with pytest.raises(KernelError):
        made.create("/b", {"weight": 0})
    assert [group.path for group in made] == ["/", "/a"]
    assert list(made["/"].children) == ["/a"]


def test_some_attributes_are_limits():
    made = groups()
    limits = {"tokens": 1, "turns": 2, "wall_ms": 3, "requests": 4, "kv_tokens": 0}
    group = made.create("/a", limits | {"tasks": 5, "max_wait_ms": 6})
    assert group.quota == limits
    assert made.set("/a", {"turns": None}).quota == {name: limits[name] for name in limits if name != "turns"}


# -- attributes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("weight", 1, 10_000), ("slice_ms", 1, 10_000), ("starve_ms", 100, 3_600_000), ("kv_tokens", 0, 1 << 53),
        ("tasks", 0, 1 << 53), ("requests", 0, 1 << 53), ("tokens", 0, 1 << 53), ("turns", 0, 1 << 53),
        ("wall_ms", 0, 1 << 53), ("max_wait_ms", 0, 1 << 53),
    ],
)  # fmt: skip
def test_whole_numbers_have_their_ranges(name, low, high):
    made = groups("/a")
    for value in (low, high):
        assert getattr(made.set("/a", {name: value}).attr, name) == value
    for value in (low - 1, high + 1, 200.5, True, "9"):
        text = f"group.setattr: {name} is {value!r}, wanted a whole number from {low} to {high}"
        refused(Errno.EINVAL, text, made.set, "/a", {name: value})


@pytest.mark.parametrize(("name", "low", "high"), [("max_share", 0.001, 1.0), ("gap", 0.0, 1000.0)])
def test_numbers_have_their_ranges(name, low, high):
    made = groups("/a")
    for value in (low, high, int(high)):
        assert getattr(made.set("/a", {name: value}).attr, name) == value
    for value in (low - 0.01, high + 0.01, True, "9", float("nan")):
        text = f"group.setattr: {name} is {value!r}, wanted a number from {low} to {high}"
        refused(Errno.EINVAL, text, made.set, "/a", {name: value})


def test_a_floor_is_not_over_the_cap():
    made = groups("/a")
    assert made.set("/a", {"min_share": 0.5, "max_share": 0.5}).attr.min_share == 0.5
    refused(
        Errno.EINVAL, "group.setattr: min_share 0.6 is over max_share 0.5", made.set, "/a", {"min_share": 0.6}
    )  # fmt: skip
    for value in (-0.1, 1.1):
        text = f"group.setattr: min_share is {value}, wanted a number from 0.0 to 1.0"
        refused(Errno.EINVAL, text, made.set, "/a", {"min_share": value})


def test_an_unknown_attribute_is_refused_with_those_there_are():
    with pytest.raises(KernelError, match=r"^group.create: a group has no 'colour'; it has policy, params, .*max_wait"):
        groups().create("/a", {"colour": 1})


def test_none_is_the_default():
    made = groups("/a")
    made.set("/a", {"weight": 5, "max_share": 0.5, "policies": ["rr"]})
    assert made.set("/a", {"weight": None, "max_share": None, "policies": None}).attr == GroupAttr()


def test_what_is_not_given_stays():
    made = groups("/a")
    made.set("/a", {"weight": 5})
    assert made.set("/a", {"tasks": 3}).attr == GroupAttr(weight=5, tasks=3)


@pytest.mark.parametrize("value", ["best", 3, None])
def test_an_unknown_policy_is_refused(value):
    made, known = groups("/a"), ", ".join(POLICIES)
    if value is not None:
        refused(
            Errno.EINVAL, f"group.setattr: policy is {value!r}, wanted one of {known}", made.set, "/a",
            {"policy": value},
        )  # fmt: skip
    text = f"group.setattr: policies is {value!r}, wanted one of {known}"
    refused(Errno.EINVAL, text, made.set, "/a", {"policies": ["rr", value]})


def test_a_list_of_policies_is_no_longer_than_there_are():
    made = groups("/a")
    assert made.set("/a", {"policies": list(POLICIES)}).attr.policies == tuple(POLICIES)
    for value in ("rr", ["rr"] * 9):
        with pytest.raises(KernelError, match=r"^group.setattr: policies is .*, wanted a list of policies$"):
            made.set("/a", {"policies": value})


def test_params_are_those_of_the_policy():
    made = groups("/a")
    assert made.set("/a", {"policy": "rr", "params": {"quantum_tokens": 9}}).attr.params == {"quantum_tokens": 9}
    assert made.set("/a", {"params": {"quantum_tokens": 8}}).attr.params == {"quantum_tokens": 8}
    assert made.set("/a", {"policy": "fcfs"}).attr.params == {}, "another policy has its own"
    for value in (7, ["rr"], {1: 2}):
        refused(
            Errno.EINVAL, f"group.setattr: params is {value!r}, wanted a map", made.set, "/a", {"params": value}
        )  # fmt: skip
    text = "group.setattr: policy fcfs has no parameter 'slice_ms'; it has none"
    refused(Errno.EINVAL, text, made.set, "/a", {"params": {"slice_ms": 1}})
    text = "group.create: params go with a policy"
    refused(Errno.EINVAL, text, made.create, "/b", {"params": {"slice_ms": 1}})


# -- who may ----------------------------------------------------------------------------------------


def test_an_operator_may_do_anything_with_groups():
    made = groups("/a", "/b")
    made.check_right(OPERATOR, "/", "group.setattr")
    made.check_move(OPERATOR, "/a", "/b")
    made.check_join(OPERATOR, "/a", "proc.spawn")
    made.check_join(OPERATOR, "", "proc.spawn")


def test_a_task_may_change_groups_below_its_own_with_the_capability():
    made = groups("/a", "/a/b", "/c")
    made.check_right(call("/a", "sched.group"), "/a/b", "group.setattr")
    for one, path in (
        (call("/a"), "/a/b"), (call("/a", "sched.group"), "/a"), (call("/a", "sched.group"), "/"),
        (call("/a", "sched.group"), "/c"), (call("/a", "sched.raise"), "/a/b"),
    ):  # fmt: skip
        text = f"group.setattr: task 7 of group /a may not do this with group {path}"
        refused(Errno.EPERM, text, made.check_right, one, path, "group.setattr")


def test_a_task_may_move_others_within_its_own_group_with_the_capability():
    made = groups("/a", "/a/b", "/a/c", "/d")
    may = call("/a", "sched.group")
    made.check_move(may, "/a", "/a/b")
    made.check_move(may, "/a/b", "/a/c")
    for one, old, new in ((may, "/a/b", "/d"), (may, "/d", "/a/b"), (may, "/a", "/"), (call("/a"), "/a", "/a/b")):
        text = f"group.attach: task 7 of group /a may not move a task from {old} to {new}"
        refused(Errno.EPERM, text, made.check_move, one, old, new)


def test_a_child_begins_in_its_parents_group_or_below_it():
    made = groups("/a", "/a/b")
    made.check_join(call("/a"), "", "proc.spawn")
    made.check_join(call("/a"), "/a", "proc.spawn")
    made.check_join(call("/a", "sched.group"), "/a/b", "proc.spawn")
    text = "proc.spawn: task 7 of group /a may not do this with group /a/b"
    refused(Errno.EPERM, text, made.check_join, call("/a"), "/a/b", "proc.spawn")
    refused(Errno.ENOENT, "proc.spawn: no group '/x'", made.check_join, call("/a"), "/x", "proc.spawn")


@pytest.mark.parametrize("path", ["/a/b", "/a"])
def test_a_full_group_takes_nobody_in(path):
    made = groups("/a", "/a/b")
    made.set(path, {"tasks": 2})
    made.count("/a/b", 1)
    made.check_room("/a/b", "proc.spawn")
    made.count("/a/b", 1)
    text = f"proc.spawn: group {path} has 2 tasks, and may have 2"
    refused(Errno.EAGAIN, text, made.check_room, "/a/b", "proc.spawn")
    refused(Errno.EAGAIN, text, made.check_join, OPERATOR, "/a/b", "proc.spawn")
    refused(Errno.EAGAIN, text, made.check_join, call("/a/b"), "", "proc.spawn")


# -- those who are new ------------------------------------------------------------------------------


def test_a_child_is_scheduled_as_its_parent():
    made, parent = groups("/a"), call("/a").task
    parent.sched.sched_class, parent.sched.policy = SchedClass.BATCH, "rr"
    parent.sched.weight, parent.sched.slice_ms, parent.sched.quota = 7, 9, {"turns": 3}
    parent.sched.attained_ns, parent.sched.hint_until = 55, 4
    found = made.attr_of_child(parent, "")
    assert (found.sched_class, found.policy, found.weight, found.slice_ms) == (SchedClass.BATCH, "rr", 7, 9)
    assert (found.group, found.quota, found.attained_ns, found.hint_until) == ("/a", {"turns": 3}, 0, None)
    assert found.quota is not parent.sched.quota
    assert made.attr_of_child(parent, "/").group == "/"
    assert made.attr_of_child(None, "").group == "/"


def test_realtime_is_not_passed_on():
    parent = call().task
    parent.sched.sched_class, parent.sched.policy = SchedClass.REALTIME, "rr"
    found = groups().attr_of_child(parent, "")
    assert (found.sched_class, found.policy) == (SchedClass.FAIR, "")


def test_the_root_is_what_the_configuration_says():
    config = Config(models=(), policy="fcfs", gap=3.0, starve_ms=700)
    assert root_attr(config) == GroupAttr("fcfs", gap=3.0, starve_ms=700)
    assert root_attr(Config(models=(), policy="rr", quantum_tokens=5)).params == {"quantum_tokens": 5}
    assert root_attr(Config(models=(), policy="eevdf", quantum_tokens=5)).params == {}, "it counts no tokens"
    with pytest.raises(ValueError, match="quantum_tokens of policy rr is 0, wanted 1 to"):
        root_attr(Config(models=(), policy="rr", quantum_tokens=0))
