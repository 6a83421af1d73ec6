"""Commands about how agents share the models: nice, chrt, why, policies, pressure.

Who uses it: __main__.py, with an operator's connection. What must hold: what changes something prints nothing when it
has been done.
"""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

from agentix import calls, schedcalls
from agentix.calls import Call
from agentix.cli.exits import Exit
from agentix.cli.table import pairs, span, table
from agentix.cli.tasks import ANSWER_S
from agentix.client import Connection
from agentix.schedcalls import Bound, Standing

PARAM_HEADINGS = ("POLICY", "PARAMETER", "DEFAULT", "FROM", "TO", "WHAT IT IS")
PRESSURE_HEADINGS = ("MODEL", "WAITS FOR", "WHO", "AVG10", "AVG60", "AVG300", "TOTAL")


def nice(connection: Connection, options: argparse.Namespace) -> int:
    connection.call(schedcalls.sched_set(pid=options.pid, nice=options.nice), ANSWER_S)
    return Exit.OK


def chrt(connection: Connection, options: argparse.Namespace) -> int:
    """Change what was given; show what is in force when nothing was."""
    wanted = calls.given(
        sched_class=options.sched_class,
        policy=options.policy,
        slice_ms=options.slice,
        weight=options.weight,
        rt_priority=options.rt,
    )
    if wanted:
        connection.call(Call("sched.setattr", {"pid": options.pid} | wanted, calls.nothing), ANSWER_S)
    else:
        print(pairs(connection.call(calls.plain("sched.getattr", pid=options.pid), ANSWER_S)))
    return Exit.OK


def why(connection: Connection, options: argparse.Namespace) -> int:
    if options.json:
        print(json.dumps(connection.call(calls.plain("sched.stat", pid=options.pid), ANSWER_S), indent=2))
    else:
        print(why_text(connection.call(schedcalls.sched_stat(options.pid), ANSWER_S)))
    return Exit.OK


def why_text(standing: Standing) -> str:
    """The last wait, the longest that one may be, and the longest that was."""
    return "\n".join(
        (
            standing.why or f"task {standing.pid} has not waited yet",
            bound_text(standing.bound, standing.bound_s),
            f"longest wait so far: {_seconds(standing.longest_wait_s)}",
        )
    )


def bound_text(bound: Bound, bound_s: float) -> str:
    """The bound with its terms; see kernel/sched/rescue.py."""
    turn = " + ".join(_seconds(term) for term in (bound.lease_s, bound.step_s, bound.switch_s))
    rest = "".join(f" + {_seconds(term)}" for term in (bound.reads_s, bound.banks_s) if term)
    tasks = "1 task" if bound.tasks == 1 else f"{bound.tasks} tasks"
    return (
        f"W = {_seconds(bound.starve_s)} + ceil({tasks} / {bound.rows} rows) * ({turn}){rest} = {_seconds(bound_s)}"
    )


def _seconds(value: float) -> str:
    """One digit after the point where that is enough, two below a second, two that count below a tenth."""
    if value >= 1:
        return f"{value:.1f} s"
    return f"{value:.2f} s" if value >= 0.1 else f"{round(value, 4):.2g} s"


def policies(connection: Connection, options: argparse.Namespace) -> int:
    known = connection.call(calls.plain("sched.getpolicies"), ANSWER_S)
    if options.json:
        print(json.dumps(known, indent=2))
    else:
        print(policies_text(known, shutil.get_terminal_size().columns))
    return Exit.OK


def policies_text(known: Mapping[str, Any], columns: int) -> str:
    """Policies, what can be set of them, and classes."""
    docs = {one["name"]: one["doc"] for one in known["policies"]}
    docs[known["current"]] = f"{docs[known['current']]} (of the group \"/\")"
    rows = [
        (one["name"], name, param["default"], param["min"], param["max"], param["doc"])
        for one in known["policies"]
        for name, param in one["params"].items()
    ]
    floors = {one["name"]: f"; at least {one['floor']:.0%}" if one["floor"] else "" for one in known["classes"]}
    classes = {one["name"]: f"{one['doc']}{floors[one['name']]}" for one in known["classes"]}
    parts = (
        f"policies\n{_wrapped(docs, columns)}",
        table(PARAM_HEADINGS, rows),
        f"classes, who goes first above\n{_wrapped(classes, columns)}",
    )
    return "\n\n".join(parts)


def _wrapped(items: Mapping[str, str], columns: int) -> str:
    """Names and texts, the texts in a column of their own."""
    width = max(map(len, items), default=0) + 2
    return "\n".join(
        textwrap.fill(
            text,
            max(columns, width + 20),
            initial_indent=name.ljust(width),
            subsequent_indent=" " * width,
        )
        for name, text in items.items()
    )


def pressure(connection: Connection, options: argparse.Namespace) -> int:
    told = connection.call(calls.plain("sys.pressure"), ANSWER_S)
    if options.json:
        print(json.dumps(told, indent=2))
    else:
        print(table(PRESSURE_HEADINGS, pressure_rows(told)))
    return Exit.OK


def pressure_rows(told: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A line for each model, what is waited for, and whether some or all of those who want the model do."""
    return [
        (
            model["name"],
            "a slot" if resource == "slots" else "memory",
            who,
            *(f"{model[resource][who][window]:.1f} %" for window in ("avg10", "avg60", "avg300")),
            span(model[resource][who]["total_s"]),
        )
        for model in told["models"]
        for resource in ("slots", "kv")
        for who in ("some", "full")
    ]
