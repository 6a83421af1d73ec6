"""500 agents at once on one machine: each completes its turns; how long they wait and what they take.

500 agent processes of the SDK over 32 slots, two turns each of 256 prompt tokens and 32 streamed ones, on
the default model unless --model says otherwise: what is measured is the kernel, and 290,000 tokens
of a 135M model take an hour of two cores. Memory is the PSS that Linux accounts to each agent (shared
pages divided among their users), taken when all have said hello.

    python -m benchmarks.agents500 [--agents N] [--model FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import fmean

from benchmarks.models import model_path
from benchmarks.report import Row, jain, must, only, percentile, progress, result_table
from benchmarks.rss import rss_bytes
from benchmarks.stand import Stand, end_on_term

AGENTS, SLOTS, TURNS, PROMPT, GENERATED = 500, 32, 2, 256, 32
LIMIT_S = 3600


def run(quick: bool) -> list[Row]:
    return measure(24 if quick else AGENTS, 4 if quick else SLOTS, str(model_path()))


def measure(agents: int, slots: int, model: str) -> list[Row]:
    settings = [
        {"prompt": PROMPT, "generated": GENERATED, "turns": TURNS, "seed": number}
        for number in range(agents)
    ]
    with Stand(model, slots=slots, window_tokens=512, policy="rr", quantum_tokens=16) as stand:
        began = time.monotonic()
        pids = stand.crowd("streamer.py", settings)
        spawned_s = time.monotonic() - began
        progress(f"{agents} agents said hello in {spawned_s:.0f} s")
        memory = [pss_bytes(pid) / (1 << 20) for pid in pids]
        began_ns = stand.go(pids)
        records = stand.records(pids, LIMIT_S)
        stat = stand.stat()
        kernel_mib = rss_bytes(stand.kernel_pid) / (1 << 20)
        core_mib = rss_bytes(stand.info()["core_pid"]) / (1 << 20)
    turns = [turn for record in records for turn in record["turns"]]
    wall_s = (max(turn["ended_ns"] for turn in turns) - began_ns) / 1e9
    whole = sum(
        not turn["error"] and turn["is_once"] and len(turn["tokens"]) == GENERATED for turn in turns
    )
    waits = [turn["timings"]["wait_s"] for turn in turns if turn["timings"]]
    firsts = [(turn["arrivals"][0][0] - turn["sent_ns"]) / 1e9 for turn in turns if turn["arrivals"]]
    tokens = sum(len(turn["tokens"]) for turn in turns)
    wanted = agents * TURNS
    shares = [GENERATED * TURNS / (record["turns"][-1]["ended_ns"] - began_ns) for record in records]
    return [
        must(f"turns of {GENERATED} tokens over {PROMPT}", f"{whole} of {wanted}", "all", whole == wanted),
        only("model, slots", f"{Path(model).name}, {slots}"),
        only("wait for a slot in a turn, p50, p99", f"{percentile(waits, 0.5):.2f}, {percentile(waits, 0.99):.2f} s"),
        only("first token, p50, p99", f"{percentile(firsts, 0.5):.2f}, {percentile(firsts, 0.99):.2f} s"),
        only("memory of an agent (PSS), mean, largest", f"{fmean(memory):.1f}, {max(memory):.1f} MiB"),
        only("memory of kernel, core", f"{kernel_mib:.0f}, {core_mib:.0f} MiB"),
        only("memory of parked contexts", f"{stat['segment_bytes'] / (1 << 20):.0f} MiB"),
        only("spawned and ready", f"{spawned_s:.1f} s, {agents / spawned_s:.0f} agents/s"),
        only("wall time, generated rate", f"{wall_s:.1f} s, {tokens / wall_s:.0f} tok/s"),
        only("switches, bytes moved", f"{stat['switches']:,}, {stat['switch_bytes']:,}"),
        only("fairness (Jain) of agents' rates", f"{jain(shares):.3f}"),
    ]


def pss_bytes(pid: int) -> int:
    """Return a process's proportional set size."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/{pid}/smaps_rollup has no Pss line")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agents500")
    parser.add_argument("--agents", type=int, default=AGENTS)
    parser.add_argument("--slots", type=int, default=SLOTS)
    parser.add_argument("--model", default="", help="a GGUF file; the default model")
    options = parser.parse_args()
    end_on_term()
    print(result_table(measure(options.agents, options.slots, options.model or str(model_path()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
