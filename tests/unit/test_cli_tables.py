"""What the command line prints: tables, quantities, obituaries, and the figures of a demonstration."""

import json

import pytest

from agentix.calls import Exit as TaskExit
from agentix.cli.demo import launches
from agentix.cli.exits import MEANING, OF_ERROR, Exit, exit_of
from agentix.cli.figures import (
    AgentFigures,
    agents_of,
    jain,
    own_report,
    report_json,
    report_text,
    totals_of,
)
from agentix.cli.table import pairs, show, size, span, table
from agentix.cli.tasks import PS_HEADINGS, news, obituary, ps_row
from agentix.errors import AgentixError

USAGE = {"prompt_tokens": 10, "generated_tokens": 90, "switches": 4, "wait_s": 0.5, "ttft_s": 0.1}


def ended(status=0, signal=None, reason="", tail="", name="writer", pid=7):
    return TaskExit(pid, name, status, signal, reason, tail, USAGE)


def test_columns_of_numbers_are_right_aligned_and_texts_left():
    text = table(("NAME", "PID"), [("a", 5), ("longer", 1234)])
    assert text == "NAME     PID\na          5\nlonger  1234"


def test_an_empty_table_is_its_headings():
    assert table(("NAME", "PID"), []) == "NAME  PID"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), ("", "-"), (True, "yes"), (1.256, "1.26"), ("a\x1b[2Jb\n", "a?[2Jb?"), ({}, "-")],
)
def test_a_cell_is_one_printable_line(value, text):
    assert show(value) == text


def test_pairs_align_their_values():
    assert pairs({"a": 1, "long": "x"}) == "a     1\nlong  x"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")]
)
def test_sizes_are_in_binary_units(count, text):
    assert size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.42, "0.4 s"), (185, "3:05"), (7200, "2:00:00")])
def test_durations_are_short(seconds, text):
    assert span(seconds) == text


def test_a_row_of_ps_needs_no_field_that_an_older_kernel_lacks():
    assert len(ps_row({"pid": 5, "state": "ready", "throttled": True})) == len(PS_HEADINGS)
    assert ps_row({"state": "ready", "throttled": True})[3] == "ready throttled"


def test_an_obituary_names_agent_cause_and_last_lines():
    text = obituary(ended(status=1, reason="exit status 1", tail="one\ntwo\n"))
    assert text == "agent writer (pid 7) died: exit status 1; its last lines:\n  one\n  two"
    text = obituary(ended(status=None, signal=9, reason="it does not read its replies"))
    assert text == (
        "agent writer (pid 7) died: signal SIGKILL (it does not read its replies); it printed nothing"
    )


@pytest.mark.parametrize(
    ("shown", "text", "new"),
    [("", "ab", "ab"), ("ab", "abc", "c"), ("ab", "ab", ""), ("abcd", "cdef", "cdef")],
)
def test_of_a_log_only_what_is_new_is_shown(shown, text, new):
    assert news(shown, text) == new


def test_news_are_found_after_the_start_of_a_log_was_cut_off():
    log = "".join(f"line {number}\n" for number in range(500))
    assert news(log[:2000], log[1000:2500]) == log[2000:2500]


def test_every_error_has_an_exit_status_and_every_status_a_meaning():
    assert set(MEANING) == set(Exit)
    assert all(exit_of(kind("x")) is status for kind, status in OF_ERROR.items())
    assert exit_of(AgentixError("x")) is Exit.FAILED


@pytest.mark.parametrize("agents", range(1, 30))
def test_a_demonstration_has_exactly_as_many_agents_as_asked_for(agents):
    listed = list(launches(agents, 1, 3, 48))
    workers = sum(launch.args[3] for launch in listed if launch.kind == "planner")
    assert len(listed) + workers == agents
    assert len({launch.name for launch in listed}) == len(listed)
    assert all(launch.args[3] >= 1 for launch in listed if launch.kind == "planner")


def test_an_agents_own_report_is_its_last_one_and_nonsense_is_none():
    tail = 'agentix-report {"turns": 1}\nx\nagentix-report {"turns": 3}\n'
    assert own_report(tail) == {"turns": 3}
    assert own_report("agentix-report {") == own_report("agentix-report 3") == own_report("") == {}


def test_the_children_that_a_planner_tells_of_are_agents_too():
    child = {"pid": 8, "name": "w", "status": 0, "usage": USAGE, "turns": 3, "text_sha256": "ff"}
    told = {"turns": 2, "text_sha256": "ee", "children": [child]}
    agents = list(agents_of(ended(tail=f"agentix-report {json.dumps(told)}")))
    assert [(agent.pid, agent.turns, agent.text_sha256) for agent in agents] == [(7, 2, "ee"), (8, 3, "ff")]


def test_an_agent_killed_by_a_signal_has_failed():
    (agent,) = agents_of(ended(status=None, signal=9))
    assert (agent.exit, agent.has_failed, agent.text_sha256) == ("SIGKILL", True, None)


@pytest.mark.parametrize(
    ("values", "index"), [([1, 1, 1, 1], 1), ([1, 0, 0, 0], 0.25), ([], 1), ([0, 0], 1)]
)
def test_jains_index_is_one_for_equals_and_one_nth_for_a_monopoly(values, index):
    assert jain(values) == pytest.approx(index)


def test_the_report_has_exactly_the_agreed_names():
    agents = [figures for _ in range(2) for figures in agents_of(ended())]
    totals = totals_of(agents, {"switch_bytes": 5, "switch_s": 0.5}, 2.0, 1, 90)
    report = json.loads(report_json(agents, totals))
    assert set(report) == {"agents", "totals"}
    assert list(report["agents"][0]) == list(AgentFigures._fields) == [
        "pid", "name", "turns", "prompt_tokens", "generated_tokens", "ttft_s", "wait_s", "switches",
        "exit", "text_sha256",
    ]  # fmt: skip
    assert report["totals"] == {
        "generated_tokens": 180, "tokens_per_s": 90.0, "switches": 8, "switch_bytes": 5,
        "switch_s": 0.5, "jain": 1.0, "wall_s": 2.0, "failed": 0,
    }  # fmt: skip
    assert "2 of 2 agents finished; 180 tokens in 2.0 s, 90 tokens/s" in report_text(agents, totals)
