"""The gate: who would wait longer than its group lets it is told when to come back."""

from __future__ import annotations

import pytest
from test_policies import Thing

from kernel.abi.errors import Errno, KernelError
from kernel.sched.gate import Gate
from kernel.sched.groups import Groups
from kernel.sched.standing import Ends
from kernel.taskattr import GroupAttr

MS = 1_000_000


def nothing() -> float:
    return 0.0


def gate(**max_wait_ms: int) -> Gate:
    groups = Groups(GroupAttr(policy="eevdf", gap=2.5, starve_ms=2000))
    for path in ("/a", "/a/b"):
        groups.create(path, {"max_wait_ms": max_wait_ms.get(path[-1])})
    return Gate(groups)


def ends(count: int = 5, every_ms: int = 100) -> Ends:
    made = Ends()
    for number in range(count):
        made.add(number * every_ms * MS)
    return made


TASK = Thing(0, group="/a/b").task


def test_who_would_wait_longer_than_its_group_lets_it_is_refused():
    with pytest.raises(KernelError) as caught:
        gate(b=500).check(TASK, 7, ends(), nothing)
    text = "llm.generate: 7 tasks wait for a slot, which takes 0.7 s; group /a/b lets none wait longer than 0.5 s"
    assert (caught.value.number, caught.value.text) == (Errno.EAGAIN, text)
    assert caught.value.retry_after_ms == 200


def test_who_would_wait_just_as_long_may_enter():
    gate(b=500).check(TASK, 5, ends(), nothing)


def test_nobody_is_told_to_come_back_at_once():
    with pytest.raises(KernelError) as caught:
        gate(b=650).check(TASK, 7, ends(), nothing)
    assert caught.value.retry_after_ms == 100


def test_the_strictest_of_all_groups_above_counts():
    with pytest.raises(KernelError, match=r"group /a lets none wait longer than 0.3 s") as caught:
        gate(a=300, b=500).check(TASK, 7, ends(), nothing)
    assert caught.value.retry_after_ms == 400
    with pytest.raises(KernelError, match=r"group /a/b lets none wait longer than 0.2 s"):
        gate(a=300, b=200).check(TASK, 7, ends(), nothing)


def test_a_group_may_let_none_wait():
    gate(b=0).check(TASK, 0, ends(), nothing)
    with pytest.raises(KernelError, match="longer than 0 s"):
        gate(b=0).check(TASK, 1, ends(), nothing)


def test_without_a_limit_nobody_is_refused():
    gate().check(TASK, 10_000, ends(), nothing)


def test_nothing_is_expected_before_five_requests_have_ended():
    gate(b=1).check(TASK, 10_000, ends(4), nothing)
    with pytest.raises(KernelError):
        gate(b=1).check(TASK, 10_000, ends(5), nothing)


def test_others_prompts_are_a_wait_as_well_and_are_asked_for_only_where_there_is_a_limit():
    with pytest.raises(KernelError, match=r"others' prompts are to be read first, which takes 0\.9 s") as caught:
        gate(b=500).check(TASK, 3, ends(), lambda: 900.0 * MS)
    assert caught.value.retry_after_ms == 400
    gate(b=500).check(TASK, 3, ends(), lambda: 500.0 * MS)
    with pytest.raises(KernelError, match="7 tasks wait for a slot"):
        gate(b=500).check(TASK, 7, ends(), lambda: 600.0 * MS)
    gate().check(TASK, 3, ends(), lambda: pytest.fail("it was asked for"))
