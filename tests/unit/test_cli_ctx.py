"""`agentix ctx` against a scripted kernel."""

import json

import pytest
from test_cli_commands import answer, kernel, script  # noqa: F401

from agentix.cli.__main__ import main
from agentix.cli.ctx import HEADINGS
from agentix.cli.exits import Exit
from kernel.abi.errors import Errno

SESSION = {
    "session": 3, "pid": 77, "name": "plan", "durable": True, "model": "chat", "turns": 2, "messages": 5, "tokens": 412,
    "window": "drop", "dropped_turns": 1, "dropped_tokens": 96, "where": "memory", "kv_bytes": 9 << 20, "idle_s": 75.0,
}  # fmt: skip


@pytest.fixture
def answering(kernel):  # noqa: F811
    kernel.on["ctx.list"] = answer({"sessions": [SESSION], "more": False})
    return kernel


def test_sessions_are_listed_with_where_their_contexts_are(answering, capsys):
    assert main(["ctx", "ls"]) == Exit.OK
    assert answering.seen[-1].body == {"pid": 0, "after": 0}
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split() == list(HEADINGS)
    assert line.split() == ["3", "77", "plan", "chat", "2", "5", "412", "drop", "96", "memory", "9.0", "MiB", "1:15"]


def test_those_of_one_agent_are_asked_for_by_its_pid_and_machines_read_them_as_json(answering, capsys):
    assert main(["ctx", "ls", "77", "--json"]) == Exit.OK
    assert answering.seen[-1].body == {"pid": 77, "after": 0}
    assert json.loads(capsys.readouterr().out) == [SESSION]


def test_more_sessions_than_an_answer_holds_are_asked_for(kernel, capsys):  # noqa: F811
    def some(call):
        numbers = [number for number in (1, 2, 3) if number > call.body["after"]][:2]
        rows = [SESSION | {"session": number} for number in numbers]
        call.reply({"sessions": rows, "more": numbers[-1] < 3})

    kernel.on["ctx.list"] = some
    assert main(["ctx", "ls", "--json"]) == Exit.OK
    assert [row["session"] for row in json.loads(capsys.readouterr().out)] == [1, 2, 3]


def test_a_pid_that_there_is_not_is_said_in_one_line(kernel, capsys):  # noqa: F811
    kernel.on["ctx.list"] = lambda call: call.fail(Errno.ESRCH, "ctx.list: no task 5")
    assert main(["ctx", "ls", "5"]) != Exit.OK
    assert capsys.readouterr().err == "agentix ctx: ctx.list: no task 5\n"


def test_places_of_contexts_are_shown_with_what_they_hold(kernel, capsys):  # noqa: F811
    tiers = [
        {"tier": "slot", "contexts": 2, "bytes": 1 << 20, "limit_bytes": 1 << 30},
        {"tier": "memory", "contexts": 3, "bytes": 2 << 20, "limit_bytes": 1 << 30},
        {"tier": "disk", "contexts": 1, "bytes": 3 << 20, "limit_bytes": 8 << 30},
    ]
    model = {"name": "chat", "token_bytes": 9, "tiers": tiers, "waiting": 4, "written_bytes": 5 << 20, "read_bytes": 0}
    kernel.on["ctx.stat"] = answer({"models": [model]})
    assert main(["ctx", "stat"]) == Exit.OK
    heading, _, memory, disk = capsys.readouterr().out.splitlines()
    assert heading.split() == ["MODEL", "WHERE", "CONTEXTS", "KV", "LIMIT", "WAITING", "WRITTEN", "READ"]
    assert memory.split() == ["chat", "memory", "3", "2.0", "MiB", "1.0", "GiB", "-", "-", "-"]
    assert disk.split() == ["chat", "disk", "1", "3.0", "MiB", "8.0", "GiB", "4", "5.0", "MiB", "0", "B"]
    assert main(["ctx", "stat", "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == [model]
