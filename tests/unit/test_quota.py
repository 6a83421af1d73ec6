"""Quotas of tasks and of the groups above them: counted, refused, given back once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_policies import Thing

from kernel.abi.errors import Errno, KernelError
from kernel.sched.groups import Groups
from kernel.sched.quota import QUOTAS, Quotas, check_quota
from kernel.taskattr import GroupAttr, Used

MS = 1_000_000


class Run:
    """Tasks in the groups /, /a and /a/b, with the quotas that are given."""

    def __init__(self, **by_path) -> None:
        self.groups = Groups(GroupAttr(policy="eevdf", gap=2.5, starve_ms=2000))
        for path in ("/a", "/a/b", "/c"):
            self.groups.create(path, by_path.get(path.strip("/").replace("/", "_"), {}))
        self.quotas = Quotas(self.groups)
        self.count = 0

    def task(self, group: str = "/a/b", **quota):
        task = Thing(7, pid=7, group=group, quota=quota).task
        task.requests = []
        return task

    def ask(self, task, now_ns: int = 0, prompt: int = 10, kv: int = 30) -> Thing:
        """Let a request in."""
        self.quotas.enter(task, now_ns)
        self.count += 1
        made = Thing(self.count)
        made.task, made.kv_reserved = task, 0
        task.requests.append(made)
        self.quotas.admit(made, prompt, kv)
        return made

    def end(self, request: Thing) -> None:
        request.task.requests.remove(request)
        self.quotas.leave(request)

    def used(self, task, *paths: str) -> list[Used]:
        return [task.sched.used, *(self.groups[path].used for path in paths)]


def told(one: Used) -> tuple:
    return one.tokens, one.turns, one.first_ns, one.requests, one.kv_tokens


def refused(number: Errno, text: str, does, *given) -> None:
    with pytest.raises(KernelError) as caught:
        does(*given)
    assert (caught.value.number, caught.value.text) == (number, f"llm.generate: {text}")


def test_what_is_used_counts_for_the_task_and_every_group_above_it():
    run = Run()
    task = run.task()
    first = run.ask(task, 5)
    run.ask(task, 9)
    assert run.quotas.count(first, 9) == ""
    for used in run.used(task, "/a/b", "/a", "/"):
        assert told(used) == (21, 2, 5, 2, 60)
    assert told(run.groups["/c"].used) == (0, 0, None, 0, 0)
    run.end(first)
    for used in run.used(task, "/a/b", "/a", "/"):
        assert told(used) == (21, 2, 5, 1, 30)


@pytest.mark.parametrize("where", ["", "a_b", "a"])
def test_who_has_had_its_turns_has_no_other(where):
    run = Run(**{where: {"turns": 2}}) if where else Run()
    task = run.task(**({} if where else {"turns": 2}))
    name = f"group /{where.replace('_', '/')}" if where else "task 7"
    run.end(run.ask(task))
    run.end(run.ask(task))
    refused(Errno.EDQUOT, f"{name} has used up its quota of 2 turns", run.quotas.enter, task, 0)
    assert task.sched.used.turns == 2


def test_who_has_had_its_tokens_has_no_other_turn():
    run = Run()
    task = run.task(tokens=12)
    request = run.ask(task, prompt=10)
    assert run.quotas.count(request, 0) == ""
    run.quotas.enter(task, 0)
    assert run.quotas.count(request, 0) == "tokens"
    refused(Errno.EDQUOT, "task 7 has used up its quota of 12 tokens", run.quotas.enter, task, 0)


def test_time_runs_from_the_first_request_on():
    run = Run()
    task = run.task(wall_ms=50)
    request = run.ask(task, 1000 * MS)
    assert run.quotas.count(request, 1050 * MS - 1) == ""
    assert run.quotas.count(request, 1050 * MS) == "wall_ms"
    run.quotas.enter(task, 1050 * MS - 1)
    refused(Errno.EDQUOT, "task 7 has used up its quota of 50 ms", run.quotas.enter, task, 1050 * MS)


def test_requests_in_flight_are_limited_for_now():
    run = Run(a={"requests": 2})
    task = run.task()
    first = run.ask(task)
    run.ask(task)
    refused(Errno.EAGAIN, "group /a has 2 requests in flight, its quota", run.quotas.enter, task, 0)
    assert [used.turns for used in run.used(task, "/a/b", "/a", "/")] == [2] * 4, "who is refused changes nothing"
    run.end(first)
    run.ask(task)


def test_a_quota_of_nothing_lets_nobody_in():
    run = Run()
    refused(Errno.EDQUOT, "task 7 has used up its quota of 0 turns", run.quotas.enter, run.task(turns=0), 0)
    refused(Errno.EDQUOT, "task 7 has used up its quota of 0 tokens", run.quotas.enter, run.task(tokens=0), 0)
    refused(Errno.EAGAIN, "task 7 has 0 requests in flight, its quota", run.quotas.enter, run.task(requests=0), 0)
    run.quotas.enter(run.task(wall_ms=0), 0)
    task = run.task(wall_ms=0)
    run.quotas.enter(task, 0)
    refused(Errno.EDQUOT, "task 7 has used up its quota of 0 ms", run.quotas.enter, task, 0)


def test_contexts_in_flight_are_limited_for_now_and_one_that_never_fits_for_ever():
    run = Run(a_b={"kv_tokens": 100})
    task = run.task()
    run.ask(task, kv=60)
    text = "group /a/b: 60 of 100 tokens of context are in use, and this request may take"
    refused(Errno.EAGAIN, f"{text} 41", run.ask, task, 0, 10, 41)
    refused(Errno.EAGAIN, f"{text} 100", run.ask, task, 0, 10, 100)
    refused(Errno.EDQUOT, f"{text} 101", run.ask, task, 0, 10, 101)
    assert [used.kv_tokens for used in run.used(task, "/a/b", "/a", "/")] == [60] * 4
    assert [used.tokens for used in run.used(task, "/a/b", "/a", "/")] == [10] * 4
    assert run.ask(task, kv=40).kv_reserved == 40


def test_a_request_that_was_not_admitted_gives_back_no_room():
    run = Run()
    task = run.task(kv_tokens=50)
    run.ask(task, kv=30)
    with pytest.raises(KernelError):
        run.ask(task, kv=30)
    run.end(task.requests[-1])
    assert told(task.sched.used)[3:] == (1, 30)


def test_the_first_quota_that_is_reached_is_told_and_all_are_counted():
    run = Run(a_b={"wall_ms": 1}, a={"tokens": 11})
    task = run.task()
    request = run.ask(task)
    assert run.quotas.count(request, 1 * MS) == "wall_ms"
    assert [used.tokens for used in run.used(task, "/a/b", "/a", "/")] == [11] * 4
    assert run.quotas.count(request, 0) == "tokens"


def test_a_task_that_moves_takes_along_what_it_has_in_flight():
    run = Run()
    task = run.task("/a/b")
    run.ask(task, kv=30)
    run.ask(task, kv=20)
    run.quotas.move(task, "/c")
    task.sched.group = "/c"
    counted = {path: told(run.groups[path].used)[3:] for path in ("/a/b", "/a", "/c", "/")}
    assert counted == {"/a/b": (0, 0), "/a": (0, 0), "/c": (2, 50), "/": (2, 50)}
    for request in list(task.requests):
        run.end(request)
    assert {told(run.groups[path].used)[3:] for path in counted} == {(0, 0)}


@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "ask", "end", "count", "move"]), st.integers(0, 99), st.integers(0, 60)),
        max_size=50,
    )
)
@settings(deadline=None)
def test_what_is_in_flight_is_within_the_limits_and_given_back_once(acts):
    run = Run(a={"requests": 3, "kv_tokens": 100}, c={"kv_tokens": 50})
    tasks, flying = [run.task("/a/b"), run.task("/a"), run.task("/c", requests=2)], []
    for act, which, kv in acts:
        task = tasks[which % 3]
        if act == "ask":
            try:
                flying.append(run.ask(task, kv=kv))
            except KernelError:
                if len(task.requests) > sum(one.task is task for one in flying):
                    run.end(task.requests[-1])
        elif act == "end" and flying:
            run.end(flying.pop(which % len(flying)))
        elif act == "count" and flying:
            run.quotas.count(flying[which % len(flying)], 0)
        elif act == "move" and not task.requests:
            path = ("/a", "/c")[kv % 2]
            run.quotas.move(task, path)
            task.sched.group = path
        assert run.groups["/a"].used.requests <= 3
        assert run.groups["/a"].used.kv_tokens <= 100
        assert run.groups["/"].used.kv_tokens == sum(one.kv_reserved for one in flying)
        assert run.groups["/"].used.requests == len(flying)
    for one in flying:
        run.end(one)
    assert all(told(group.used)[3:] == (0, 0) for group in run.groups)


# -- what may be set --------------------------------------------------------------------------------


def test_every_quota_takes_a_number_or_none():
    for name in QUOTAS:
        for value in (0, 1 << 53, None):
            check_quota({name: value}, "sched.setattr")


@pytest.mark.parametrize("value", [-1, (1 << 53) + 1, 1.5, True, "9"])
def test_what_is_no_quota_is_refused(value):
    with pytest.raises(KernelError) as caught:
        check_quota({"turns": 1, "tokens": value}, "sched.setattr")
    text = f"sched.setattr: quota tokens is {value!r}, wanted 0 to {1 << 53}"
    assert (caught.value.number, caught.value.text) == (Errno.EINVAL, text)


def test_an_unknown_quota_is_refused_with_those_there_are():
    with pytest.raises(KernelError) as caught:
        check_quota({"tasks": 1}, "sched.setattr")
    text = "sched.setattr: quota 'tasks' is not one of tokens, turns, wall_ms, requests, kv_tokens"
    assert (caught.value.number, caught.value.text) == (Errno.EINVAL, text)
