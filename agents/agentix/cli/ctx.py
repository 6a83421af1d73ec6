"""`ctx`: the sessions that agents have open, and where their contexts are.

Who uses it: __main__.py, with an operator's connection; its functions are named as the actions are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from agentix import calls
from agentix.cli.exits import Exit
from agentix.cli.table import size, span, table
from agentix.cli.tasks import ANSWER_S
from agentix.client import Connection

HEADINGS = ("SESSION", "PID", "MODEL", "TURNS", "MESSAGES", "TOKENS", "WHERE", "KV", "IDLE")


def ls(connection: Connection, options: argparse.Namespace) -> int:
    sessions = every_session(connection, options.pid)
    if options.json:
        print(json.dumps(sessions, indent=2))
    else:
        print(table(HEADINGS, [row(session) for session in sessions]))
    return Exit.OK


def every_session(connection: Connection, pid: int) -> list[Mapping[str, Any]]:
    """All sessions, however many calls that takes."""
    found: list[Mapping[str, Any]] = []
    while True:
        answer = connection.call(calls.ctx_list(pid, found[-1]["session"] if found else 0), ANSWER_S)
        found += answer["sessions"]
        if not answer["more"]:
            return found


def row(session: Mapping[str, Any]) -> tuple[object, ...]:
    """A line of `ctx ls`."""
    return (
        session["session"],
        session["pid"],
        session["model"],
        session["turns"],
        session["messages"],
        session["tokens"],
        session["where"],
        size(session["kv_bytes"]),
        span(session["idle_s"]),
    )
