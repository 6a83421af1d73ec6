"""How the scheduler's time for a step grows with the agents that want the model: from 10 to 10,000.

The product's scheduler on a simulated core, 24 slots, everybody with one request; timed are the plan of a step and what
is done with its result. Also in groups, for a tree is walked then.

    python -m benchmarks.sched_growth [--policy NAME ...] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from math import log2
from statistics import median

from benchmarks.report import table
from benchmarks.sched_machine import Simulation
from kernel.sched.policy import POLICIES

COUNTS = (10, 64, 1000, 10_000)
SLOTS = 24
STEPS = 120
WARM_STEPS = 40
GROUPS = 16


class Timed(Simulation):
    """One that is not watched, and whose scheduler is timed."""

    def __init__(self, policy: str) -> None:
        super().__init__(1, SLOTS, policy=policy, starve_ms=3_600_000)
        self.took_ns: list[int] = []
        plan, done = self.scheduler.plan, self.scheduler.step_done

        def timed_plan(now_ns: int):
            began = time.perf_counter_ns()
            made = plan(now_ns)
            self.took_ns.append(time.perf_counter_ns() - began)
            return made

        def timed_done(result):
            began = time.perf_counter_ns()
            told = done(result)
            self.took_ns[-1] += time.perf_counter_ns() - began
            return told

        self.scheduler.plan, self.scheduler.step_done = timed_plan, timed_done  # type: ignore[method-assign]

    def _watch(self) -> None:
        pass


def measure(policy: str, count: int, groups: int = 0) -> float:
    """Return the median microseconds of a step."""
    simulation = Timed(policy)
    for number in range(groups):
        simulation.groups.create(f"/g{number}", {})
    for number in range(count):
        group = f"/g{number % groups}" if groups else "/"
        simulation.ask(simulation.agent(group=group), 8 + number % 60, 60 + number % 200)
    for _ in range(WARM_STEPS + STEPS):
        for request in simulation.step():
            simulation.ask(simulation.tasks[request.task.pid - 100], 8 + request.number % 60, 60)
    return median(simulation.took_ns[WARM_STEPS:]) / 1000


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sched_growth", description=__doc__)
    parser.add_argument("--policy", nargs="*", choices=sorted(POLICIES), default=sorted(POLICIES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found = {policy: [measure(policy, count) for count in COUNTS] for policy in options.policy}
    if "eevdf" in found:
        found[f"eevdf in {GROUPS} groups"] = [measure("eevdf", count, GROUPS) for count in COUNTS]
    if options.json:
        print(json.dumps({"counts": COUNTS, "us": found}))
        return 0
    ratio, doublings = log2(COUNTS[-1]) / log2(COUNTS[1]), f"{COUNTS[1]:,} to {COUNTS[-1]:,}"
    rows = [
        [name, *(f"{value:.0f}" for value in values), f"{values[-1] / values[1]:.2f} x"]
        for name, values in found.items()
    ]
    print(f"microseconds of a step, {SLOTS} slots; the logarithm grows {ratio:.2f} x from {doublings}\n")
    print(table(rows, ["policy", *(f"{count:,} agents" for count in COUNTS), doublings]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
