"""What every scheduling policy and other systems' schedulers make of the same loads on the same engine.

Workloads (workloads.py) come at 0.7, 0.9 and 1.2 times the capacity, which is measured first; agents arrive whether or
not others are done. Every policy of the kernel and every baseline (baselines.py) plays the same seeds: seeds are the
outer loop, so that what the machine does meanwhile hits all alike. Means with 95 % intervals over the seeds.

    python -m benchmarks.sched_throughput --workload react chat --load 0.9 --seconds 20 --json a.json --plots plots
    python -m benchmarks.sched_compare a.json b.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import Row, facts_line, machine_facts, must, only, progress, table
from benchmarks.sched_figures import figures
from benchmarks.sched_live import Bench, play, setups
from benchmarks.sched_solo import Rates, measure_capacity, measure_rates
from benchmarks.sched_stats import interval
from benchmarks.stand import StandError, end_on_term
from benchmarks.workloads import WORKLOADS, factor_of, make_load

LOADS, SEEDS, SECONDS = (0.7, 0.9, 1.2), 5, 20.0
BETWEEN_S = 8.0  # to boot a kernel and drain a run: a guess, for how long all takes
IN_BENCH = ("react", "mixed")  # of `make bench`: all of them take hours
COLUMNS = (  # heading, figure
    ("tok/s", "tok_s"),
    ("useful", "useful"),
    ("TTFT mean", "ttft_mean"),
    ("p95", "ttft_p95"),
    ("gap p95", "gap_p95"),
    ("done mean", "completion_mean"),
    ("p95", "completion_p95"),
    ("slowdown p95", "slowdown_p95"),
    ("Jain", "jain"),
    ("wait max", "wait_max_s"),
    ("of W", "starvation"),
    ("switches", "switches"),
    ("switch %", "switch_percent"),
    ("recomp %", "recomputed_percent"),
    ("sched %", "sched_percent"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run."""

    workloads: tuple[str, ...]
    loads: tuple[float, ...]
    setups: tuple[str, ...]
    seeds: tuple[int, ...]
    seconds: float

    def count(self) -> int:
        return len(self.workloads) * len(self.loads) * len(self.setups) * len(self.seeds)


def run(quick: bool) -> list[Row]:
    bench = Bench.quick() if quick else Bench.full()
    if quick:
        plan = Plan(("chat",), (0.9,), ("eevdf", "fcfs", *_baselines(bench)), (1,), 3.0)
    else:
        plan = Plan(IN_BENCH, (0.9,), tuple(setups(bench)), tuple(range(1, SEEDS + 1)), 10.0)
    results = measure(bench, plan)
    rows = []
    for name in plan.workloads:
        for row in cells(results, name, 0.9):
            shown = ", ".join(f"{head} {cell}" for (head, _), cell in zip(COLUMNS, row[1:], strict=True))
            rows.append(only(f"{name} at 0.9: {row[0]}", shown))
    failed = len(results["failures"])
    return [*rows, must("runs that failed", failed, "none", failed == 0)]


def _baselines(bench: Bench) -> list[str]:
    return [name for name, setup in setups(bench).items() if setup.is_baseline]


def measure(bench: Bench, plan: Plan, file: Path | None = None) -> dict[str, Any]:
    """Run all; return the results, which are also written to the file after each run. A run that fails is noted."""
    known = setups(bench)
    rates = measure_rates(bench)
    progress(f"rates alone: mean error {100 * rates.error:.0f} %")
    results: dict[str, Any] = {
        "machine": machine_facts(),
        "bench": asdict(bench),
        "plan": asdict(plan),
        "rates": asdict(rates),
        "factors": {name: factor_of(name, bench.window_tokens) for name in plan.workloads},
        "capacity": {},
        "runs": [],
        "failures": [],
    }
    began_s, done = time.monotonic(), 0
    for name in plan.workloads:
        capacity = results["capacity"][name] = measure_capacity(bench, name, rates)
        for seed in plan.seeds:
            for load in plan.loads:
                for setup in plan.setups:
                    done += 1
                    key = {"workload": name, "load": load, "seed": seed, "setup": setup}
                    try:
                        found = _one(bench, known, plan, rates, key, capacity)
                    except StandError as error:  # the others are still wanted
                        progress(f"{key}: {error}")
                        results["failures"].append({**key, "error": str(error)[:500]})
                    else:
                        results["runs"].append({**key, "figures": found})
                    _say(results, plan, done, began_s)
                    if file is not None:
                        file.write_text(json.dumps(results, indent=1))
    return results


def _one(
    bench: Bench, known: dict[str, Any], plan: Plan, rates: Rates, key: dict[str, Any], capacity: float
) -> dict[str, float]:
    work = key["load"] * capacity * plan.seconds
    load = make_load(key["workload"], key["seed"], plan.seconds, bench.window_tokens, work, rates.job_s)
    return figures(play(bench, known[key["setup"]], load), rates)


def _say(results: dict[str, Any], plan: Plan, done: int, began_s: float) -> None:
    left_s = (time.monotonic() - began_s) / done * (plan.count() - done)
    text = f"{done} of {plan.count()}, about {left_s / 60:.0f} min left"
    if results["runs"]:
        last = results["runs"][-1]
        found = last["figures"]
        what = " ".join(str(last[name]) for name in ("workload", "load", "seed", "setup"))
        text += f": {what}: {found['tok_s']:.0f} tok/s, TTFT p95 {found.get('ttft_p95', 0):.2f} s"
    progress(text)


def values(results: dict[str, Any], workload: str, load: float, setup: str, name: str) -> dict[int, float]:
    """Return a figure by seed."""
    return {
        run["seed"]: run["figures"][name]
        for run in results["runs"]
        if (run["workload"], run["load"], run["setup"]) == (workload, load, setup) and name in run["figures"]
    }


def cells(results: dict[str, Any], workload: str, load: float) -> list[list[str]]:
    """Return the rows of a table: a setup's name, then a cell for each of COLUMNS."""
    rows = []
    for setup in results["plan"]["setups"]:
        row = [setup]
        for _, name in COLUMNS:
            found = list(values(results, workload, load, setup, name).values())
            row.append(interval(found).shown() if found else "-")
        rows.append(row)
    return rows


def text_of(results: dict[str, Any]) -> str:
    """Return all tables."""
    bench, parts = results["bench"], []
    for workload in results["plan"]["workloads"]:
        factor, capacity = results["factors"][workload], results["capacity"].get(workload, 0.0)
        for load in results["plan"]["loads"]:
            head = f"{workload} at {load} of capacity ({capacity:.2f} s of work alone a second), lengths x {factor:.3f}"
            parts.append(f"{head}\n{table(cells(results, workload, load), ['', *(one[0] for one in COLUMNS)])}")
    seeds = len(results["plan"]["seeds"])
    size = f"{bench['slots']} slots of {bench['window_tokens']} tokens; times in s; ±: 95 %, of {seeds} seeds"
    return "\n\n".join([size, *parts])


def main(arguments: Sequence[str]) -> int:
    bench = Bench.full()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sched_throughput", description=__doc__)
    parser.add_argument("--workload", nargs="+", choices=sorted(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--load", nargs="+", type=float, default=list(LOADS), help="of capacity (%(default)s)")
    parser.add_argument("--setup", nargs="+", choices=list(setups(bench)), default=list(setups(bench)))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many (%(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="in which agents arrive (%(default)s)")
    parser.add_argument("--slots", type=int, default=bench.slots)
    parser.add_argument("--window", type=int, default=bench.window_tokens, help="tokens (%(default)s)")
    parser.add_argument("--model", default=bench.model, help="a GGUF file; one of SmolLM2-135M's shape")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the results here, after each run")
    parser.add_argument("--plots", metavar="DIR", type=Path, help="also draw them, as PNG (needs matplotlib)")
    options = parser.parse_args(arguments)
    end_on_term()
    bench = Bench(options.model, options.slots, options.window)
    seeds = tuple(range(1, options.seeds + 1))
    plan = Plan(tuple(options.workload), tuple(options.load), tuple(options.setup), seeds, options.seconds)
    print(facts_line(machine_facts() | {"model": Path(bench.model).name}), flush=True)
    progress(f"{plan.count()} runs, about {plan.count() * (plan.seconds + BETWEEN_S) / 60:.0f} min")
    results = measure(bench, plan, options.json)
    print(text_of(results))
    if options.plots is not None:
        from benchmarks.sched_plot import draw

        for path in draw(results, options.plots):
            print(f"drawn: {path}")
    for failure in results["failures"]:
        print(f"failed: {failure}")
    return int(bool(results["failures"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
