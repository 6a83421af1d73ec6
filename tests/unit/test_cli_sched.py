"""The commands about scheduling against a scripted kernel, and what `ps` and `top` show of it."""

import json

import pytest
from test_cli_commands import answer, kernel, script  # noqa: F401
from test_sdk_sched import BOUND, GROUP, POLICIES, SCHEDULE, STANDING

from agentix.cli.__main__ import main
from agentix.cli.exits import CommandError, Exit
from agentix.cli.groups import attributes, row
from agentix.cli.sched import bound_text
from agentix.cli.tasks import PS_HEADINGS, ps_row
from agentix.cli.topview import COLUMNS, Look, rows, shown_columns
from agentix.schedcalls import Bound
from kernel.abi.errors import Errno

TASK = {
    "pid": 5, "name": "writer", "state": "ready", "priority": 3, "in_flight": 1, "context_tokens": 31,
    "context_limit": 8192, "prompt_tokens": 7, "generated_tokens": 9, "wait_s": 1.0, "switches": 2,
}  # fmt: skip
WAITING = {
    "sched_class": "batch", "policy": "srpt", "group": "/team", "waits_now_s": 2.14, "stage": "warn", "bound_s": 9.56,
    "attained_s": 0.5,
}  # fmt: skip
NO_SLOTS = {"models": [{"name": "chat", "banks": []}]}


@pytest.fixture
def answering(kernel):  # noqa: F811
    for method, body in {
        "sched.setattr": SCHEDULE, "sched.getattr": SCHEDULE, "sched.stat": STANDING, "sched.getpolicies": POLICIES,
        "group.create": GROUP, "group.setattr": GROUP, "group.attach": {}, "group.remove": {},
        "group.stat": {"groups": [GROUP]},
    }.items():  # fmt: skip
        kernel.on[method] = answer(body)
    return kernel


def sent(kernel):  # noqa: F811
    return kernel.seen[-1].method, kernel.seen[-1].body


# --- one agent -------------------------------------------------------------------------------------------------


def test_nice_changes_a_nice_value_and_takes_negative_ones(answering, capsys):
    assert main(["nice", "-5", "77"]) == Exit.OK
    assert sent(answering) == ("sched.setattr", {"pid": 77, "nice": -5})
    assert capsys.readouterr().out == ""


def test_chrt_without_options_shows_what_is_in_force(answering, capsys):
    assert main(["chrt", "77"]) == Exit.OK
    assert sent(answering) == ("sched.getattr", {"pid": 77})
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (shown["policy"], shown["slice_ms"], shown["quota"]) == ("eevdf", "20", "tokens 900")


def test_chrt_changes_what_was_given_and_nothing_else(answering, capsys):
    assert main(["chrt", "77", "--policy", "", "--slice", "20"]) == Exit.OK
    assert sent(answering) == ("sched.setattr", {"pid": 77, "policy": "", "slice_ms": 20})
    assert main(["chrt", "77", "--class", "realtime", "--rt", "9", "--weight", "50"]) == Exit.OK
    assert sent(answering)[1] == {"pid": 77, "sched_class": "realtime", "rt_priority": 9, "weight": 50}
    assert capsys.readouterr().out == ""


def test_what_the_kernel_refuses_ends_with_its_status(answering, capsys):
    answering.on["sched.setattr"] = lambda call: call.fail(Errno.EINVAL, "sched.setattr: policy 'x' is not one of rr")
    assert main(["chrt", "77", "--policy", "x"]) == Exit.USAGE
    assert capsys.readouterr().err == "agentix chrt: sched.setattr: policy 'x' is not one of rr\n"


def test_why_tells_the_last_wait_the_bound_with_its_terms_and_the_longest_wait(answering, capsys):
    assert main(["why", "77"]) == Exit.OK
    assert capsys.readouterr().out.splitlines() == [
        "task 77 waited 0.7 s for task 5",
        "W = 3.0 s + ceil(64 tasks / 8 rows) * (0.60 s + 0.21 s + 0.01 s) + 0.30 s = 9.6 s",
        "longest wait so far: 0.70 s",
    ]
    assert main(["why", "77", "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == STANDING


def test_why_of_a_task_that_never_waited_says_so(answering, capsys):
    answering.on["sched.stat"] = answer(STANDING | {"why": "", "longest_wait_s": 0.0})
    assert main(["why", "77"]) == Exit.OK
    first, _, last = capsys.readouterr().out.splitlines()
    assert (first, last) == ("task 77 has not waited yet", "longest wait so far: 0 s")


def test_the_terms_of_the_bound_are_the_ones_that_count():
    usual = Bound(**BOUND)._replace(reads_s=0.0)
    assert bound_text(usual._replace(lease_s=0.21), 1.0).endswith("* (0.21 s + 0.21 s + 0.01 s) = 1.0 s")
    assert bound_text(usual._replace(reads_s=0.42), 1.0).endswith("* (0.60 s + 0.21 s + 0.01 s) + 0.42 s = 1.0 s")
    assert "ceil(1 task / 8 rows)" in bound_text(usual._replace(tasks=1), 1.0)
    assert bound_text(usual._replace(step_s=0.004, switch_s=0.00001), 1.0).endswith(
        "* (0.60 s + 0.004 s + 0 s) = 1.0 s"
    )
    assert bound_text(usual._replace(banks_s=1.25), 1.0).endswith("* (0.60 s + 0.21 s + 0.01 s) + 1.2 s = 1.0 s")


def test_run_places_an_agent_in_a_group_and_sets_its_policy_and_class(answering, script, capsys):  # noqa: F811
    answering.on["proc.spawn"] = answer({"pid": 5})
    given = ["--group", "/team", "--nice", "4", "--policy", "srpt", "--class", "batch"]
    assert main(["run", "--detach", *given, script]) == Exit.OK
    spawned = answering.wait_seen("proc.spawn").body
    assert (spawned["group"], spawned["priority"]) == ("/team", 4)
    assert sent(answering) == ("sched.setattr", {"pid": 5, "policy": "srpt", "sched_class": "batch"})
    assert main(["run", "--detach", "--priority", "4", script]) == Exit.OK
    assert sent(answering)[0] == "proc.spawn"
    assert "group" not in sent(answering)[1]


def test_run_with_a_policy_that_is_none_leaves_no_agent_behind(answering, script):  # noqa: F811
    answering.on |= {
        "proc.spawn": answer({"pid": 5}),
        "sched.setattr": lambda call: call.fail(Errno.EINVAL, "no such policy"),
        "proc.kill": answer({}),
        "proc.wait": answer({"pid": 5, "usage": {}}),
    }
    assert main(["run", "--policy", "x", script]) == Exit.USAGE
    assert answering.wait_seen("proc.kill").body == {"pid": 5, "signal": "TERM"}
    assert sent(answering)[0] == "proc.wait"


@pytest.mark.parametrize("option", ["--group", "--policy", "--class"])
def test_a_program_has_no_group_policy_and_class_of_its_own(kernel, option, capsys):  # noqa: F811
    assert main(["run", option, "x", "--", "program"]) == Exit.USAGE
    assert "a program's calls are in the gateway's group" in capsys.readouterr().err


# --- the machine -----------------------------------------------------------------------------------------------


def test_policies_are_listed_with_their_parameters_and_the_classes(answering, capsys):
    assert main(["policies"]) == Exit.OK
    docs, params, classes = capsys.readouterr().out.split("\n\n")
    assert docs.splitlines() == ["policies", "fcfs  in order", 'rr    in turn (of the group "/")']
    assert params.splitlines()[1].split() == ["rr", "quantum_tokens", "4", "1", "9", "t"]
    assert classes.splitlines()[1:] == ["fair  usual", "idle  last; at least 1%"]
    assert main(["policies", "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == POLICIES


def test_pressure_is_told_for_slots_and_memory_of_each_model(kernel, capsys):  # noqa: F811
    def part(avg10):
        return {"avg10": avg10, "avg60": 2.0, "avg300": 0.5, "total_s": 75.0}

    told = {"models": [{"name": "chat", **{key: {"some": part(12.25), "full": part(0)} for key in ("slots", "kv")}}]}
    kernel.on["sys.pressure"] = answer(told)
    assert main(["pressure"]) == Exit.OK
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert lines[0] == ["chat", "a", "slot", "some", "12.2", "%", "2.0", "%", "0.5", "%", "1:15"]
    assert [line[1:4] for line in lines] == [
        ["a", "slot", "some"], ["a", "slot", "full"], ["memory", "some", "12.2"], ["memory", "full", "0.0"],
    ]  # fmt: skip
    assert main(["pressure", "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == told


# --- groups ----------------------------------------------------------------------------------------------------


def test_groups_are_listed_with_what_they_have_used_and_what_was_set(answering, capsys):
    attr = GROUP["attr"] | {
        "policies": ["rr", "fcfs"], "params": {}, "min_share": 0.0, "max_share": 1.0, "gap": 0.0, "tokens": 50,
        "turns": None,
    }  # fmt: skip
    cells = row(GROUP | {"attr": attr})
    assert cells[:8] == ("/team", 3, 1, 2, "0.5 s", "7/50", 1, 64)
    assert cells[8] == {"policy": "mlfq", "weight": "200", "policies": "rr,fcfs", "gap": "0.00", "tokens": "50"}
    assert main(["group", "ls"]) == Exit.OK
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split()[0] == "PATH"
    assert line.endswith("policy mlfq, weight 200")
    assert main(["group", "ls", "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == [GROUP]


def test_groups_are_made_changed_joined_and_removed(answering, capsys):
    assert main(["group", "create", "/team", "weight=200", "policy=mlfq"]) == Exit.OK
    assert sent(answering) == ("group.create", {"path": "/team", "attr": {"weight": 200, "policy": "mlfq"}})
    assert main(["group", "set", "/team", "weight=none"]) == Exit.OK
    assert sent(answering) == ("group.setattr", {"path": "/team", "attr": {"weight": None}})
    assert main(["group", "attach", "/team", "5"]) == Exit.OK
    assert sent(answering) == ("group.attach", {"path": "/team", "pid": 5})
    assert main(["group", "rm", "/team"]) == Exit.OK
    assert sent(answering) == ("group.remove", {"path": "/team"})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("place", ["before", "after"])
def test_the_kernel_of_a_group_is_named_before_or_after_the_action(answering, monkeypatch, place):
    monkeypatch.setenv("AGENTIX_KERNEL", "nowhere")
    named = ["--kernel", answering.name]
    words = ["group", *named, "ls"] if place == "before" else ["group", "ls", *named]
    assert main(words) == Exit.OK


def test_attributes_are_numbers_texts_lists_maps_or_none():
    words = ["a=1", "b=0.5", "c=mlfq", "d=rr,3", "e=NONE", "policies=rr", "params.x=2", "params.y=3"]
    assert attributes(words) == {
        "a": 1, "b": 0.5, "c": "mlfq", "d": ["rr", 3], "e": None, "policies": ["rr"], "params": {"x": 2, "y": 3},
    }  # fmt: skip
    assert attributes(["policies="]) == {"policies": []}


@pytest.mark.parametrize("words", [["weight"], ["=5"], ["params.=5"], [".x=5"], ["params=5", "params.x=1"]])
def test_a_word_that_is_no_attribute_is_wrong_usage(words):
    with pytest.raises(CommandError) as raised:
        attributes(words)
    assert raised.value.status == Exit.USAGE


# --- ps and top ------------------------------------------------------------------------------------------------


def test_ps_shows_class_policy_group_and_the_wait_at_hand():
    cells = dict(zip(PS_HEADINGS, ps_row(TASK | WAITING), strict=True))
    shown = tuple(cells[name] for name in ("CLASS", "NICE", "POLICY", "GROUP", "WAITS", "W"))
    assert shown == ("batch", "3", "srpt", "/team", "2.1 s warn", "9.6 s")
    usual = dict(zip(PS_HEADINGS, ps_row(TASK | {"group": "/", "policy": "", "bound_s": 0.0}), strict=True))
    assert [usual[name] for name in ("POLICY", "GROUP", "WAITS", "W")] == ["-", "-", "-", "-"]


def made(*tasks):
    stat = {"requests": {}, "generated_tokens": 0, "core_busy_s": 0.0}
    return rows(Look(1.0, tasks, {"policy": "rr"}, stat, NO_SLOTS), None, "PID")


def test_top_shows_what_ps_shows_and_leaves_out_columns_that_hold_nothing():
    usual, waiting = made(TASK, TASK | WAITING | {"pid": 6})
    cells = dict(zip(COLUMNS, waiting.cells(), strict=True))
    assert [cells[name] for name in ("CLASS", "NICE", "POLICY", "GROUP", "WAITS", "W")] == [
        "batch", "3", "srpt", "/team", "2.1 s warn", "9.6 s",
    ]  # fmt: skip
    assert {COLUMNS[at] for at in shown_columns([usual], 200)} == set(COLUMNS) - {"POLICY", "GROUP"}
    assert len(shown_columns([usual, waiting], 200)) == len(COLUMNS)
    assert len(shown_columns([], 200)) == len(COLUMNS) - 2
    assert (usual.sched_class, usual.bound_s, usual.attained_s, waiting.attained_s) == ("", 0.0, 0.0, 0.5)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_top_gives_up_columns_until_the_rest_find_room(width):
    tasks = made(TASK, TASK | WAITING | {"pid": 6})
    columns = shown_columns(tasks, width)
    lines = [COLUMNS, *(task.cells() for task in tasks)]
    taken = sum(12 if COLUMNS[at] == "NAME" else max(len(line[at]) for line in lines) for at in columns)
    assert taken + 3 * len(columns) <= width or width == 60
    assert {"PID", "NAME", "STATE", "NICE", "TOK/S", "WAITS", "W"} <= {COLUMNS[at] for at in columns}
    assert columns == sorted(columns)


def test_top_renices_with_a_key(answering):
    from agentix.cli.top import Screen
    from agentix.client import Connection

    answering.on |= {
        "proc.ps": answer({"tasks": [TASK]}),
        "sys.info": answer({"policy": "rr"}),
        "sys.stat": answer({"requests": {}}),
        "sys.slots": answer(NO_SLOTS),
    }
    connection = Connection("operator", answering.name, "top", 10)
    try:
        screen = Screen(connection)
        screen.look()
        assert screen.press("+")
        assert sent(answering) == ("sched.setattr", {"pid": 5, "nice": 4})
        assert screen.said == "writer has nice 4"
    finally:
        connection.close()
