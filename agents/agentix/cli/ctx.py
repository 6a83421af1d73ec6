"""`ctx`: the sessions that agents have open, where their contexts are, and how much of each place is in use.

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

HEADINGS = (
    "SESSION", "PID", "NAME", "MODEL", "TURNS", "MESSAGES", "TOKENS", "WINDOW", "DROPPED", "WHERE", "KV", "IDLE"
)  # fmt: skip
TIER_HEADINGS = ("MODEL", "WHERE", "CONTEXTS", "KV", "LIMIT", "WAITING", "WRITTEN", "READ")


def ls(connection: Connection, options: argparse.Namespace) -> int:
    sessions = every_session(connection, options.pid)
    if options.json:
        print(json.dumps(sessions, indent=2))
    else:
        print(table(HEADINGS, [row(session) for session in sessions]))
    return Exit.OK


def stat(connection: Connection, options: argparse.Namespace) -> int:
    models = connection.call(calls.ctx_stat(), ANSWER_S)
    if options.json:
        print(json.dumps(models, indent=2))
    else:
        print(table(TIER_HEADINGS, [line for model in models for line in tier_rows(model)]))
    return Exit.OK


def tier_rows(model: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """A model's lines of `ctx stat`."""
    disk = (model["waiting"], size(model["written_bytes"]), size(model["read_bytes"]))
    return [
        (
            model["name"],
            tier["tier"],
            tier["contexts"],
            size(tier["bytes"]),
            size(tier["limit_bytes"]),
            *(disk if tier["tier"] == "disk" else ("", "", "")),
        )
        for tier in model["tiers"]
    ]


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
        session["name"],
        session["model"],
        session["turns"],
        session["messages"],
        session["tokens"],
        session["window"],
        session["dropped_tokens"],
        session["where"],
        size(session["kv_bytes"]),
        span(session["idle_s"]),
    )
