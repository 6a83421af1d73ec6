"""`group`: list, make, change and remove scheduling groups.

Who uses it: __main__.py, with an operator's connection; its functions are named as the actions are. What must hold: the
kernel alone says which attributes there are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from typing import Any

from agentix import calls, schedcalls
from agentix.cli.exits import CommandError, Exit
from agentix.cli.table import show, span, table
from agentix.cli.tasks import ANSWER_S
from agentix.client import Connection

HEADINGS = ("PATH", "TASKS", "RUNNABLE", "REQ", "CORE", "TOKENS", "TURNS", "KV", "SETTINGS")
LISTS = ("policies",)  # attributes that are lists, also of one
UNSET = {"min_share": 0, "max_share": 1}  # what says no more than that nothing was set


def ls(connection: Connection, options: argparse.Namespace) -> int:
    groups = connection.call(calls.plain("group.stat"), ANSWER_S)["groups"]
    if options.json:
        print(json.dumps(groups, indent=2))
    else:
        print(table(HEADINGS, [row(group) for group in groups]))
    return Exit.OK


def create(connection: Connection, options: argparse.Namespace) -> int:
    connection.call(schedcalls.group_create(options.path, attributes(options.attributes)), ANSWER_S)
    return Exit.OK


def set(connection: Connection, options: argparse.Namespace) -> int:
    connection.call(schedcalls.group_set(options.path, attributes(options.attributes)), ANSWER_S)
    return Exit.OK


def attach(connection: Connection, options: argparse.Namespace) -> int:
    connection.call(schedcalls.group_attach(options.path, options.pid), ANSWER_S)
    return Exit.OK


def rm(connection: Connection, options: argparse.Namespace) -> int:
    connection.call(schedcalls.group_remove(options.path), ANSWER_S)
    return Exit.OK


def row(group: Mapping[str, Any]) -> tuple[object, ...]:
    """A line of `group ls`: what a group has used, and what was set of it."""
    attr, used = group["attr"], group["used"]
    settings = {name: _shown(value) for name, value in attr.items() if _is_set(name, value)}
    return (
        group["path"],
        group["tasks"],
        group["runnable"],
        _of(group["requests"], attr.get("requests")),
        span(group["attained_s"]),
        _of(used["tokens"], attr.get("tokens")),
        _of(used["turns"], attr.get("turns")),
        _of(used["kv_tokens"], attr.get("kv_tokens")),
        settings,
    )


def _of(used: int, most: int | None) -> object:
    return used if most is None else f"{used}/{most}"


def _is_set(name: str, value: object) -> bool:
    return value is not None and value not in ("", [], (), {}) and UNSET.get(name) != value


def _shown(value: object) -> str:
    return ",".join(map(show, value)) if isinstance(value, list | tuple) else show(value)


def attributes(words: Iterable[str]) -> dict[str, Any]:
    """The attributes of KEY=VALUE words; a KEY like params.levels sets one entry of a map. Raises CommandError."""
    made: dict[str, Any] = {}
    for word in words:
        key, separator, text = word.partition("=")
        name, _, entry = key.partition(".")
        if not separator or not name or key.endswith("."):
            raise CommandError(Exit.USAGE, f"{word!r} is not KEY=VALUE")
        value = _value(text, name in LISTS)
        if not entry:
            made[name] = value
        elif isinstance(made.setdefault(name, {}), dict):
            made[name][entry] = value
        else:
            raise CommandError(Exit.USAGE, f"{word!r} after {name} was set as a whole")
    return made


def _value(text: str, is_list: bool) -> Any:
    if text.lower() == "none":
        return None
    if is_list or "," in text:
        return [_number(part.strip()) for part in text.split(",") if part.strip()]
    return _number(text)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
