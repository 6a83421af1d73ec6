"""Pictures of a run of sched_throughput.py: one for each workload, as PNG.

Who uses it: sched_throughput.py; by hand for results that were kept:

    python -m benchmarks.sched_plot results.json plots

Needs matplotlib (the extra `bench`); without it nothing is drawn and that is said. What must hold: every scale that
shows amounts begins at zero or is logarithmic; a setup keeps its colour; all carry the interval over the seeds.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import progress
from benchmarks.sched_stats import Interval, interval

PANELS = (  # title, figure, logarithmic
    ("Generated tokens per second (more is better)", "tok_s", False),
    ("Useful part of the work (more is better)", "useful", False),
    ("Time to first token, P95, s (less is better)", "ttft_p95", True),
    ("Worst gap between tokens, P95, s (less is better)", "gap_p95", True),
    ("Completion, mean, s (less is better)", "completion_mean", True),
    ("Slowdown against alone, P95 (less is better)", "slowdown_p95", True),
    ("Longest wait for a slot, s (less is better)", "wait_max_s", True),
    ("Jain's index of core time over entitlement (1 is best)", "jain", False),
    ("Switching, % of the core's time (less is better)", "switch_percent", False),
)
COLOURS = {
    "eevdf": "#0b6e4f", "plas": "#1f77b4", "hrrn": "#17becf", "srpt": "#9467bd", "mlfq": "#2ca02c", "prio": "#bcbd22",
    "rr": "#8c564b", "fcfs": "#7f7f7f", "fcfs-llama-server": "#d62728", "fcfs-aios": "#ff7f0e", "fcfs-vllm": "#e377c2",
}  # fmt: skip
COLUMNS, WIDTH, HEIGHT, DPI = 3, 6.0, 3.6, 100  # inches


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draw a picture for each workload; return their paths, none without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        progress("no plots: matplotlib is not installed (pip install agentix[bench])")
        return []
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    return [_picture(results, name, folder / f"{name}.png") for name in results["plan"]["workloads"]]


def series(results: dict[str, Any], workload: str, setup: str, figure: str) -> list[tuple[float, Interval]]:
    """Return (load, mean with interval) of a figure."""
    found = []
    for load in results["plan"]["loads"]:
        numbers = [
            run["figures"][figure]
            for run in results["runs"]
            if (run["workload"], run["load"], run["setup"]) == (workload, load, setup) and figure in run["figures"]
        ]
        if numbers:
            found.append((load, interval(numbers)))
    return found


def _picture(results: dict[str, Any], workload: str, path: Path) -> Path:
    from matplotlib import pyplot

    rows = -(-len(PANELS) // COLUMNS)
    figure, axes = pyplot.subplots(rows, COLUMNS, figsize=(COLUMNS * WIDTH, rows * HEIGHT), layout="constrained")
    is_one_load = len(results["plan"]["loads"]) == 1
    for place, (title, name, is_log) in zip(axes.flat, PANELS, strict=False):
        (_bars if is_one_load else _lines)(place, results, workload, name, is_log)
        place.set_title(title, fontsize=10)
        place.grid(True, axis="both" if not is_one_load else "x", alpha=0.3)
    if not is_one_load:
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=9)
    bench, seeds = results["bench"], len(results["plan"]["seeds"])
    loads = ", ".join(str(load) for load in results["plan"]["loads"])
    figure.suptitle(
        f"{workload} at {loads} of capacity: {Path(bench['model']).stem}, {bench['slots']} slots of "
        f"{bench['window_tokens']} tokens, {'one seed' if seeds == 1 else f'{seeds} seeds, 95 % intervals'}",
        fontsize=12,
    )
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
    return path


def _lines(place: Any, results: dict[str, Any], workload: str, name: str, is_log: bool) -> None:
    shown: list[float] = []
    for setup in results["plan"]["setups"]:
        points = series(results, workload, setup, name)
        if not points:
            continue
        means = [found.mean for _, found in points]
        shown += means
        style = "--" if setup.startswith("fcfs-") else "-"
        place.errorbar(
            [load for load, _ in points], means, yerr=[_half(found) for _, found in points], label=setup,
            color=COLOURS.get(setup), linestyle=style, marker="o", markersize=3, capsize=2, linewidth=1.2,
        )  # fmt: skip
    place.set_xticks(results["plan"]["loads"])
    place.set_xlabel("load, of capacity", fontsize=8)
    if is_log and shown and min(shown) > 0:
        place.set_yscale("log")
    else:
        place.set_ylim(bottom=0)


def _bars(place: Any, results: dict[str, Any], workload: str, name: str, is_log: bool) -> None:
    setups = list(reversed(results["plan"]["setups"]))
    found = [(setup, points[0][1]) for setup in setups if (points := series(results, workload, setup, name))]
    names, means = [setup for setup, _ in found], [one.mean for _, one in found]
    halves = [_half(one) for _, one in found] if len(results["plan"]["seeds"]) > 1 else None
    colours = [COLOURS.get(setup, "#333333") for setup in names]
    place.barh(names, means, xerr=halves, color=colours, capsize=2, height=0.7)
    for row, one in enumerate(found):
        place.annotate(f" {one[1].mean:.3g}", (one[1].mean, row), fontsize=7, va="bottom")
    place.tick_params(labelsize=8)
    place.margins(x=0.15)  # for the numbers
    place.set_xlim(left=0)


def _half(found: Interval) -> float:
    half = (found.high - found.low) / 2
    return half if math.isfinite(half) else 0.0


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 2:
        print((__doc__ or "").strip(), file=sys.stderr)
        return 2
    paths = draw(json.loads(Path(arguments[0]).read_text()), Path(arguments[1]))
    for path in paths:
        print(path)
    return 0 if paths else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
