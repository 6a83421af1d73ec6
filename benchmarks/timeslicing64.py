"""64 agents share 16 slots with a quantum of 16 tokens, against 16 agents that never wait for a slot.

Both do the same work in all: 64 requests of 520 prompt and 112 generated tokens; the 16 agents do four
each, one after the other. The rate is all generated tokens over the time from the start signal to the
last token; runs alternate and the figure is the ratio of the means.
"""

from __future__ import annotations

from statistics import fmean
from typing import NamedTuple

from benchmarks.models import model_path
from benchmarks.report import Row, at_least, must, only, progress
from benchmarks.stand import Stand

SLOTS, TIMES, PROMPT, GENERATED, QUANTUM = 16, 4, 520, 112, 16
BAR = 0.95
SWITCHES = 6


class Outcome(NamedTuple):
    rate: float
    least_switches: int
    bytes_moved: int
    switch_s: float
    busy_s: float


def run(quick: bool) -> list[Row]:
    slots, prompt, generated, quantum, rounds = (
        (4, 96, 48, 6, 1) if quick else (SLOTS, PROMPT, GENERATED, QUANTUM, 2)
    )
    model = str(model_path("default" if quick else "smollm2-135m", "q8_0"))
    shared, alone = [], []
    for _ in range(rounds):
        for agents, turns, kept in ((slots * TIMES, 1, shared), (slots, TIMES, alone)):
            with Stand(
                model,
                slots=slots,
                window_tokens=prompt + generated + 20,
                policy="rr",
                quantum_tokens=quantum,
            ) as stand:
                kept.append(_measure(stand, agents, turns, prompt, generated))
            progress(f"{agents} agents on {slots} slots: {kept[-1].rate:.1f} tok/s")
    moved = sum(one.bytes_moved for one in shared)
    least = min(one.least_switches for one in shared)
    ratio = fmean(one.rate for one in shared) / fmean(one.rate for one in alone)
    cost = sum(one.switch_s for one in shared) / sum(one.busy_s for one in shared)
    return [
        only(f"{slots} agents on {slots} slots", _shown(alone)),
        only(f"{slots * TIMES} agents on {slots} slots, quantum {quantum}", _shown(shared)),
        only("time of the core spent switching", f"{100 * cost:.1f} %"),
        must("bytes moved by switches", f"{moved:,}", "> 0", moved > 0),
        must("fewest switches of an agent", least, f">= {SWITCHES}", least >= SWITCHES),
        at_least("shared / never waiting", ratio, BAR, "x"),
    ]


def _measure(stand: Stand, agents: int, turns: int, prompt: int, generated: int) -> Outcome:
    settings = [
        {"prompt": prompt, "generated": generated, "turns": turns, "seed": number}
        for number in range(agents)
    ]
    pids = stand.crowd("streamer.py", settings)
    began_ns = stand.go(pids)
    done = [turn for record in stand.records(pids, 900) for turn in record["turns"]]
    ended_ns = max(turn["arrivals"][-1][0] for turn in done)
    stat = stand.stat()
    return Outcome(
        sum(len(turn["tokens"]) for turn in done) / ((ended_ns - began_ns) / 1e9),
        min(int(turn["timings"]["switches"]) for turn in done),
        stat["switch_bytes"],
        stat["switch_s"],
        stat["core_busy_s"],
    )


def _shown(outcomes: list[Outcome]) -> str:
    return ", ".join(f"{one.rate:.1f}" for one in outcomes) + " tok/s"
