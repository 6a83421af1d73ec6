"""Commands about the kernel itself: up, down, info.

Who uses it: __main__.py. What must hold: `down` returns when the kernel is gone, not when it was asked to go.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from agentix import calls
from agentix.cli.exits import CommandError, Exit
from agentix.cli.table import pairs, table
from agentix.cli.tasks import ANSWER_S, Process
from agentix.client import Connection
from agentix.errors import KernelGone

MODEL_HEADINGS = (
    "MODEL", "STATE", "DESCRIPTION", "FAMILY", "EXACTNESS", "WINDOW", "SLOTS", "DEVICES", "REASON"
)  # fmt: skip
DOWN_S = 30.0  # for a kernel to end its agents and itself


def down(connection: Connection, _: argparse.Namespace) -> int:
    process = Process(connection.kernel_pid)
    try:
        with suppress(KernelGone):  # it was quicker than its answer
            connection.call(calls.plain("sys.shutdown"), ANSWER_S)
        if not process.wait(DOWN_S):
            text = f"kernel {connection.kernel!r} (pid {connection.kernel_pid}) is still there"
            raise CommandError(Exit.TIMED_OUT, f"{text} after {DOWN_S:g} s: kill it")
    finally:
        process.close()
    return Exit.OK


def info(connection: Connection, options: argparse.Namespace) -> int:
    facts = connection.call(calls.plain("sys.info"), ANSWER_S)
    counters = connection.call(calls.plain("sys.stat"), ANSWER_S)
    models = connection.call(calls.models(), ANSWER_S)
    if options.json:
        print(json.dumps({"info": facts, "stat": counters, "models": models}, indent=2))
        return Exit.OK
    for several in (facts, counters):
        several.pop("models", None)  # the first one's figures are shown by themselves
    parts = [pairs(facts), model_table(models), f"since boot\n{pairs(counters)}"]
    print("\n\n".join(parts))
    return Exit.OK


def model_table(models: Sequence[Mapping[str, Any]]) -> str:
    """A line for each model that the kernel serves."""
    rows = [
        (
            model["name"], model["state"], model["description"], model["family"], model["exactness"],
            model["window_tokens"] or None, model["slots"] or None, model["devices"], model["reason"],
        )
        for model in models
    ]  # fmt: skip
    return table(MODEL_HEADINGS, rows)
