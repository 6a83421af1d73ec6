"""Two runs of sched_throughput.py beside each other: by how much each figure changed, with its interval.

    python -m benchmarks.sched_compare before.json after.json [--figure tok_s ttft_p95 ...] [--all]

Runs with the same workload, load, seed and setup are pairs. A ratio is after over before, the geometric mean over the
seeds; shown are those whose interval does not hold 1, and all of them with --all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import table
from benchmarks.sched_stats import Interval, ratio, short

FIGURES = (
    "tok_s", "useful", "ttft_mean", "ttft_p95", "gap_p95", "completion_mean", "completion_p95", "slowdown_p95",
    "jain", "wait_max_s", "switch_percent", "sched_percent",
)  # fmt: skip
HEADINGS = ("workload", "load", "setup", "figure", "before", "after", "after / before", "seeds")


class Change(NamedTuple):
    """Of one figure of one setup."""

    workload: str
    load: float
    setup: str
    figure: str
    before: float
    after: float
    ratio: Interval

    @property
    def is_clear(self) -> bool:
        """Whether the interval is on one side of 1."""
        return not self.ratio.low <= 1.0 <= self.ratio.high


def changes(before: dict[str, Any], after: dict[str, Any], figures: Sequence[str] = FIGURES) -> list[Change]:
    """Return every figure that both have of a setup, in the order of `before`; zeros have no ratio and are left out."""
    theirs = {_key(run): run["figures"] for run in after["runs"]}
    pairs: dict[tuple[str, float, str], list[tuple[dict[str, float], dict[str, float]]]] = {}
    for run in before["runs"]:
        if _key(run) in theirs:
            place = (run["workload"], run["load"], run["setup"])
            pairs.setdefault(place, []).append((run["figures"], theirs[_key(run)]))
    found = []
    for place, both in pairs.items():
        for figure in figures:
            old, new = ([one.get(figure, 0.0) for one in side] for side in zip(*both, strict=True))
            if min(*old, *new) > 0:
                found.append(Change(*place, figure, _mean(old), _mean(new), ratio(new, old)))
    return found


def _key(run: dict[str, Any]) -> tuple[str, float, int, str]:
    return run["workload"], run["load"], run["seed"], run["setup"]


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what makes two runs hard to compare."""
    named = [(name, before["bench"][name], after["bench"][name]) for name in ("model", "slots", "window_tokens")]
    named += [("cpu", before["machine"]["cpu"], after["machine"]["cpu"])]
    named += [("seconds", before["plan"]["seconds"], after["plan"]["seconds"])]
    named += [
        (f"capacity of {name}", short(old), short(after["capacity"][name]))
        for name, old in before["capacity"].items()
        if name in after["capacity"]
    ]
    return [f"{name}: {old} before, {new} after" for name, old, new in named if old != new]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sched_compare", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--figure", nargs="+", default=FIGURES)
    parser.add_argument("--all", action="store_true", help="also what may be chance")
    options = parser.parse_args(arguments)
    before, after = (json.loads(path.read_text()) for path in (options.before, options.after))
    found = changes(before, after, options.figure)
    if not found:
        print("the two have no run in common", file=sys.stderr)
        return 1
    for line in differences(before, after):
        print(line)
    rows = [
        (one.workload, one.load, one.setup, one.figure, short(one.before), short(one.after), one.ratio.ends(),
         one.ratio.count)
        for one in found
        if one.is_clear or options.all
    ]  # fmt: skip
    print(table(rows, HEADINGS) if rows else f"none of {len(found)} figures changed clearly")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
