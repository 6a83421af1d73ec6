"""What each scheduling policy gives: throughput, switches, fairness and waiting for the same load.

24 agents on 6 slots (default model), each three requests of 96 prompt and 64 generated tokens, one after
the other; every policy in a kernel of its own. Under "prio" a third of the agents each have niceness 0,
5 and 10. Fairness is Jain's index over the agents' tokens per second up to their own end.

    python -m benchmarks.sched_throughput [--agents N] [--slots N] [--policy NAME ...] [--model FILE]
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

from benchmarks.models import model_path
from benchmarks.report import (
    Row,
    facts_line,
    jain,
    machine_facts,
    only,
    percentile,
    progress,
    table,
)
from benchmarks.stand import Stand, end_on_term
from kernel.sched.policy import POLICIES

AGENTS, SLOTS, TURNS, PROMPT, GENERATED, QUANTUM = 24, 6, 3, 96, 64, 16
NICENESS = (0, 5, 10)
HEADINGS = ("policy", "tok/s", "switches", "MB moved", "Jain", "wait p50 s", "wait p95 s", "first token p95 s")


class Outcome(NamedTuple):
    policy: str
    rate: float
    switches: int
    moved_mb: float
    fairness: float
    wait_p50: float
    wait_p95: float
    first_p95: float

    def cells(self) -> tuple[str, ...]:
        return (
            self.policy,
            f"{self.rate:.0f}",
            str(self.switches),
            f"{self.moved_mb:.0f}",
            f"{self.fairness:.3f}",
            f"{self.wait_p50:.2f}",
            f"{self.wait_p95:.2f}",
            f"{self.first_p95:.2f}",
        )


def run(quick: bool) -> list[Row]:
    agents, slots = (6, 2) if quick else (AGENTS, SLOTS)
    rows = []
    for policy in POLICIES:
        one = measure(policy, agents, slots, str(model_path()))
        shown = ", ".join(f"{name} {cell}" for name, cell in zip(HEADINGS[1:], one.cells()[1:], strict=True))
        rows.append(only(f"{policy}: {agents} agents, {slots} slots", shown))
    return rows


def measure(policy: str, agents: int, slots: int, model: str) -> Outcome:
    """Run the load under one policy."""
    settings = [
        {"prompt": PROMPT, "generated": GENERATED, "turns": TURNS, "seed": number}
        for number in range(agents)
    ]
    with Stand(
        model, slots=slots, window_tokens=512, policy=policy, quantum_tokens=QUANTUM
    ) as stand:
        pids = stand.crowd("streamer.py", settings)
        if policy == "prio":
            for number, pid in enumerate(pids):
                stand.call("sched.setattr", pid=pid, priority=NICENESS[number % len(NICENESS)])
        began_ns = stand.go(pids)
        records = stand.records(pids, 600)
        stat = stand.stat()
    turns = [turn for record in records for turn in record["turns"]]
    ends = [record["turns"][-1]["ended_ns"] for record in records]
    tokens = [sum(len(turn["tokens"]) for turn in record["turns"]) for record in records]
    waits = [turn["timings"]["wait_s"] for turn in turns]
    firsts = [(turn["arrivals"][0][0] - turn["sent_ns"]) / 1e9 for turn in turns]
    progress(f"{policy} done")
    return Outcome(
        policy,
        sum(tokens) / ((max(ends) - began_ns) / 1e9),
        stat["switches"],
        stat["switch_bytes"] / 1e6,
        jain([count / (end - began_ns) for count, end in zip(tokens, ends, strict=True)]),
        percentile(waits, 0.5),
        percentile(waits, 0.95),
        percentile(firsts, 0.95),
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sched_throughput", description=__doc__)
    parser.add_argument("--agents", type=int, default=AGENTS)
    parser.add_argument("--slots", type=int, default=SLOTS)
    parser.add_argument("--policy", nargs="*", choices=sorted(POLICIES), default=list(POLICIES))
    parser.add_argument("--model", default="", help="a GGUF file; the default model")
    options = parser.parse_args()
    end_on_term()
    model = options.model or str(model_path())
    print(facts_line(machine_facts() | {"model": model}))
    outcomes = [measure(policy, options.agents, options.slots, model) for policy in options.policy]
    print(f"{options.agents} agents, {options.slots} slots, quantum {QUANTUM} where the policy has one")
    print(table([one.cells() for one in outcomes], HEADINGS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
