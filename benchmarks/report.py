"""Rows of results and how they are printed: tables for people, JSON for programs, facts of the machine.

Who calls it: every benchmark. What must hold: a figure comes from a run of now; nothing is rounded
before it is compared with its bar.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from kernel.engine.build import PACKAGE
from kernel.engine.hostcpu import read_cpu

HEADINGS = ("what", "figure", "bar", "met")


class Row(NamedTuple):
    """One line of a table. `met` is None where there is nothing to meet."""

    what: str
    figure: str
    bar: str = ""
    met: bool | None = None


def at_most(what: str, value: float, limit: float, unit: str, note: str = "") -> Row:
    """A row whose figure must not exceed a limit."""
    return Row(what, f"{_short(value)} {unit}{note}", f"<= {_short(limit)} {unit}", value <= limit)


def at_least(what: str, value: float, limit: float, unit: str, note: str = "") -> Row:
    """A row whose figure must reach a limit."""
    return Row(what, f"{_short(value)} {unit}{note}", f">= {_short(limit)} {unit}", value >= limit)


def must(what: str, figure: object, bar: str, met: bool) -> Row:
    """A row with a condition of its own."""
    return Row(what, str(figure), bar, met)


def only(what: str, figure: object) -> Row:
    """A row that is told and not judged."""
    return Row(what, str(figure))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` (0 to 1) of the values do not exceed."""
    if not values:
        raise ValueError(f"percentile {share} of no values")
    ordered = sorted(values)
    rank = -(-len(ordered) * share // 1)  # the ceiling
    return ordered[min(len(ordered), max(1, int(rank))) - 1]


def jain(values: Sequence[float]) -> float:
    """Return Jain's index of fairness: 1 when all are equal, 1/n when one has everything."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def table(rows: Sequence[Sequence[object]], headings: Sequence[str]) -> str:
    """Return aligned columns, numbers and texts alike to the left."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [
        max(len(heading), *(len(row[column]) for row in cells), 0)
        for column, heading in enumerate(headings)
    ]
    lines = [list(headings), ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def result_table(rows: Sequence[Row]) -> str:
    """Return results as `what, figure, bar, met`."""
    words = {True: "yes", False: "NO", None: ""}
    return table([(row.what, row.figure, row.bar, words[row.met]) for row in rows], HEADINGS)


def machine_facts() -> dict[str, object]:
    """What figures depend on, and the time they were taken at."""
    cpu = read_cpu()
    return {
        "cpu": cpu.model,
        "cores": len(os.sched_getaffinity(0)),
        "amx": any(name.startswith("amx") for name in cpu.features),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "llama_cpp_python": importlib.metadata.version(PACKAGE),
        "uid": os.getuid(),
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def facts_line(facts: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def progress(text: str) -> None:
    """Say what goes on, on stderr, so that stdout holds the tables alone."""
    print(f"    {text}", file=sys.stderr, flush=True)


def _short(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.5f}"
