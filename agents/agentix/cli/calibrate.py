"""`agentix calibrate`: measures how this machine runs a model best, shows the figures, and keeps the choice.

Who uses it: __main__.py. What must hold: what is shown was measured just now, in a child; the kernel is not
asked, and finds the choice at its next start.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any

from agentix.cli.boot import default_model
from agentix.cli.engine import ask
from agentix.cli.exits import CommandError
from agentix.cli.table import table

CALIBRATE = "kernel.engine.calibrate"


def calibrate(options: argparse.Namespace) -> int:
    """Measure every mode of a model and print the table and the choice."""
    model = options.model or default_model()
    lines = []
    try:
        for line in ask(CALIBRATE, *(["--fast"] if options.fast else []), "--kv-type", options.kv_type, "--", model):
            if "error" in line:
                raise CommandError(line["status"], line["error"])
            if "progress" in line:
                print(line["progress"], file=sys.stderr)
            else:
                lines.append(line)
    except CommandError:
        if lines and not options.json:
            print(table_of(lines))
        raise
    print(json.dumps(report_of(lines), indent=2) if options.json else report_text(lines))
    return 0


def report_of(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """All that was told, as one object: {modes: [...], slots, choice, path}."""
    report: dict[str, Any] = {"modes": []}
    for line in lines:
        if "measured" in line:
            report["modes"].append(line["measured"])
        else:
            report |= line
    return report


def report_text(lines: list[dict[str, Any]]) -> str:
    last = lines[-1]
    chosen = last["choice"]
    state = "on" if chosen["flash_attention"] else "off"
    text = (
        f"{table_of(lines)}\n\n"
        f"chosen: {chosen['threads']} threads, flash attention {state}, KV {last['kv_type']}, {chosen['slots']} slots,"
        f" {chosen['prefill_tokens']} prompt tokens a step{', fast' if chosen['is_fast'] else ''}\n"
        f"kept in {last['path']}: kernels obey it from their next start on"
    )
    if any(_mode(line).get("is_disturbed") for line in lines):
        text += "\nother programs were busy (!): measure again on a quiet machine"
    return text


def table_of(lines: Iterable[dict[str, Any]]) -> str:
    """A row for each mode, and one for the chosen mode with other numbers of slots."""
    modes = [mode for line in lines if (mode := _mode(line))]
    counts = sorted({int(rows) for mode in modes for rows in mode["decode_tokens_s"]})
    decodes = (f"DECODE/s {rows}" for rows in counts)
    headings = ("THREADS", "FLASH", "DEPTH", "PREFILL/s", *decodes, "STEP ms", "")
    rows = []
    for mode in modes:
        rates = {int(rows): rate for rows, rate in mode["decode_tokens_s"].items()}
        steps = {int(rows): seconds for rows, seconds in mode["step_s"].items()}
        middle = 8 if 8 in steps else max(steps)
        rows.append((
            mode["threads"], "on" if mode["flash_attention"] else "off", mode["depth_tokens"],
            f"{mode['prefill_tokens_s']:.0f}",
            *(f"{rates[count]:.0f}" if count in rates else None for count in counts),
            f"{1e3 * steps[middle]:.1f}", "!" if mode["is_disturbed"] else " ",
        ))  # fmt: skip
    return table(headings, rows)


def _mode(line: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = line.get("measured") or line.get("slots") or {}
    return found
