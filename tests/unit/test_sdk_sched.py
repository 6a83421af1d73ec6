"""Scheduling as agents see it: what is sent, what the answers become, and that the awaited twins do the same."""

import asyncio

import pytest
from test_sdk_fake_kernel import PATIENCE_S, running_kernel

from agentix import Agent, AsyncAgent, errors
from agentix.schedcalls import Bound, Group, Param, Policy, SchedClass
from kernel.abi.errors import Errno

SCHEDULE = {
    "pid": 77, "group": "/team", "policy": "eevdf", "nice": 5, "weight": 33, "slice_ms": 20, "sched_class": "fair",
    "rt_priority": 1, "quota": {"tokens": 900},
}  # fmt: skip
BOUND = {
    "starve_s": 3.0, "tasks": 64, "rows": 8, "lease_s": 0.6, "step_s": 0.21, "reads_s": 0.3, "switch_s": 0.01,
    "banks_s": 0.0,
}  # fmt: skip
STANDING = {
    "pid": 77, "group": "/", "policy": "eevdf", "sched_class": "fair", "weight": 100, "attained_s": 1.5, "lag_s": -0.1,
    "wait_s": 2.0, "longest_wait_s": 0.7, "waits_now_s": 0.0, "stage": "", "switches": 4, "rescues": 0, "bound_s": 9.56,
    "bound": BOUND, "why": "task 77 waited 0.7 s for task 5",
}  # fmt: skip
GROUP = {
    "path": "/team", "attr": {"policy": "mlfq", "weight": 200}, "tasks": 3, "runnable": 1, "requests": 2,
    "attained_s": 0.5, "used": {"tokens": 7, "turns": 1, "wall_s": 9.0, "kv_tokens": 64},
}  # fmt: skip
POLICIES = {
    "policies": [
        {"name": "fcfs", "doc": "in order", "params": {}},
        {"name": "rr", "doc": "in turn", "params": {"quantum_tokens": {"min": 1, "max": 9, "default": 4, "doc": "t"}}},
    ],
    "classes": [{"name": "fair", "doc": "usual", "floor": 0.0}, {"name": "idle", "doc": "last", "floor": 0.01}],
    "current": "rr",
}  # fmt: skip


@pytest.fixture
def kernel():
    answers = {
        "sched.setattr": SCHEDULE, "sched.getattr": SCHEDULE, "sched.getpolicies": POLICIES, "sched.hint": {},
        "sched.stat": STANDING, "group.create": GROUP, "group.setattr": GROUP, "group.attach": {}, "group.remove": {},
        "group.stat": {"groups": [GROUP]}, "proc.spawn": {"pid": 5}, "task.create": {"pid": 6},
        "proc.wait": {"pid": 6, "usage": {}},
    }  # fmt: skip
    with running_kernel() as fake:
        fake.on |= {method: lambda call, body=body: call.reply(body) for method, body in answers.items()}
        yield fake


@pytest.fixture
def me(kernel):
    with Agent("writer", kernel=kernel.name) as agent:
        yield agent


def last(kernel):
    return kernel.seen[-1].method, kernel.seen[-1].body


def test_only_what_is_to_change_is_sent_and_what_is_in_force_comes_back(kernel, me):
    now = me.sched.set(nice=5)
    assert last(kernel) == ("sched.setattr", {"pid": 0, "nice": 5})
    assert (now.nice, now.weight, now.slice_s, now.group, now.quota) == (5, 33, 0.02, "/team", {"tokens": 900})
    me.sched.set(policy="", slice=0.0204, weight=7, sched_class="batch", rt_priority=2, quota={"turns": None}, pid=9)
    assert last(kernel)[1] == {
        "pid": 9, "policy": "", "slice_ms": 20, "weight": 7, "sched_class": "batch", "rt_priority": 2,
        "quota": {"turns": None},
    }  # fmt: skip
    assert me.sched.get(pid=9).sched_class == "fair"
    assert last(kernel) == ("sched.getattr", {"pid": 9})


def test_a_policy_without_slices_has_none(kernel, me):
    kernel.on["sched.getattr"] = lambda call: call.reply(SCHEDULE | {"slice_ms": None})
    assert me.sched.get().slice_s is None


def test_policies_tell_their_parameters_and_classes_their_floors(me):
    known = me.sched.policies()
    of_rr = {"quantum_tokens": Param(1, 9, 4, "t")}
    assert known.policies == {"fcfs": Policy("in order", {}), "rr": Policy("in turn", of_rr)}
    assert known.classes == {"fair": SchedClass("usual", 0.0), "idle": SchedClass("last", 0.01)}
    assert known.current == "rr"


def test_a_hint_is_sent_and_taken_back(kernel, me):
    assert me.sched.hint(40) is None
    assert last(kernel) == ("sched.hint", {"remaining_tokens": 40})
    me.sched.hint(None)
    assert last(kernel) == ("sched.hint", {})


def test_how_a_task_has_fared_is_named_and_its_bound_has_its_terms(kernel, me):
    standing = me.sched.stat(pid=77)
    assert last(kernel) == ("sched.stat", {"pid": 77})
    assert (standing.lag_s, standing.longest_wait_s, standing.bound_s) == (-0.1, 0.7, 9.56)
    assert standing.bound == Bound(3.0, 64, 8, 0.6, 0.21, 0.3, 0.01, 0.0)
    assert standing.why == STANDING["why"]


def test_groups_are_made_changed_joined_removed_and_looked_at(kernel, me):
    made = me.groups.create("/team", weight=200, policy="mlfq")
    assert last(kernel) == ("group.create", {"path": "/team", "attr": {"weight": 200, "policy": "mlfq"}})
    assert made == Group("/team", GROUP["attr"], 3, 1, 2, 0.5, GROUP["used"])
    me.groups.set("/team", weight=None, timeout=5)
    assert last(kernel) == ("group.setattr", {"path": "/team", "attr": {"weight": None}})
    me.groups.attach("/team", pid=9)
    assert last(kernel) == ("group.attach", {"path": "/team", "pid": 9})
    me.groups.remove("/team")
    assert last(kernel) == ("group.remove", {"path": "/team"})
    assert me.groups.stat() == [made]
    assert last(kernel) == ("group.stat", {"path": ""})


def test_children_and_held_tasks_may_begin_in_a_group(kernel, me):
    me.spawn("worker.py", group="/team")
    assert kernel.wait_seen("proc.spawn").body["group"] == "/team"
    with me.task("critic", group="/team"):
        assert kernel.wait_seen("task.create").body == {"name": "critic", "group": "/team"}
    me.spawn("worker.py")
    assert "group" not in last(kernel)[1]


@pytest.mark.parametrize(
    ("number", "kind"),
    [(Errno.EBUSY, errors.Busy), (Errno.ENOENT, errors.NoSuchGroup), (Errno.EPERM, errors.PermissionDenied)],
)
def test_a_group_that_cannot_be_removed_says_why(kernel, me, number, kind):
    kernel.on["group.remove"] = lambda call: call.fail(number, "its sentence")
    with pytest.raises(kind, match="its sentence"):
        me.groups.remove("/team")


def test_a_used_up_quota_is_an_error_of_its_own(kernel, me):
    kernel.on["llm.generate"] = lambda call: call.fail(Errno.EDQUOT, "group /team has used its 900 tokens")
    with pytest.raises(errors.QuotaUsed, match="900 tokens"):
        me.llm.generate("x")


def test_the_awaited_twins_send_and_answer_the_same(kernel, me):
    def ask(sched, groups):
        """The same calls of either."""
        return [
            sched.set(nice=5, slice=0.02), sched.get(9), sched.policies(), sched.hint(3), sched.stat(9),
            groups.create("/a", weight=1), groups.set("/a", weight=2), groups.attach("/a"), groups.remove("/a"),
            groups.stat("/a"),
        ]  # fmt: skip

    def sent():
        return [(call.method, call.body) for call in kernel.seen if call.method.startswith(("sched.", "group."))]

    answers = ask(me.sched, me.groups)
    expected = sent()

    async def body():
        async with AsyncAgent("writer", kernel=kernel.name) as other:
            assert [await one for one in ask(other.sched, other.groups)] == answers
            await other.spawn("worker.py", group="/a")
            async with other.task("critic", group="/a"):
                assert kernel.seen[-1].body == {"name": "critic", "group": "/a"}

    asyncio.run(asyncio.wait_for(body(), PATIENCE_S))
    assert sent() == expected * 2
    assert kernel.wait_seen("proc.spawn").body["group"] == "/a"
