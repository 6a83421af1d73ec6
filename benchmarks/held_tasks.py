"""64 tasks without a process, held by one, beside 64 agents: each gets the same share of the model.

All 128 stream over a few slots, round robin with a small quantum, on the default model. The shares are of the
tokens generated between two looks at the kernel's table, taken when all stream and when a task has some
hundreds more, so that a quantum is less than a hundredth of what each got. Then one of the 64 is killed: its
stream ends and nobody else's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.models import model_path
from benchmarks.report import Row, at_most, jain, must, only, progress
from benchmarks.stand import Stand

EACH, SLOTS, QUANTUM, PROMPT = 64, 8, 4, 16
TOKENS = 450  # of each between the two looks
WINDOW_TOKENS = 1024
SHARE_BAR = 2.0  # percent
AFTER_TOKENS = 3 * QUANTUM  # of each that is left, after the kill
LIMIT_S, LOOK_S = 900.0, 0.25


def run(quick: bool) -> list[Row]:
    each, tokens = (4, 60) if quick else (EACH, TOKENS)
    config = {"slots": 2 if quick else SLOTS, "window_tokens": WINDOW_TOKENS}
    with Stand(model_path(), policy="rr", quantum_tokens=QUANTUM, **config) as stand:
        over = stand.folder / "streams-over"
        stream = {"prompt": PROMPT, "generated": WINDOW_TOKENS - PROMPT - 8, "seed": 1, "until": str(over)}
        agents = stand.crowd("streamer.py", [stream | {"seed": 2 + number} for number in range(each)])
        holder = stand.spawn("holder.py", stream | {"tasks": each}, capabilities=["task.create"])
        stand.wait_files([holder], "ready", 60)
        held = json.loads((stand.folder / f"{holder}.tasks").read_text())
        stand.go([holder, *agents])
        first = _look_when(stand, [*agents, *held], QUANTUM)
        began = time.monotonic()
        last = _look_when(stand, [*agents, *held], tokens, first)
        seconds = time.monotonic() - began
        of_agents, of_held = (_between(first, last, group) for group in (agents, held))
        victim, *left = held
        stand.call("proc.kill", pid=victim, signal="KILL")
        at_kill = stand.tasks()
        after = _look_when(stand, [*agents, *left], AFTER_TOKENS, at_kill)
        lost = sum(not _is_streaming(after.get(pid)) for pid in [*agents, *left])
        (of_dead,) = _between(at_kill, at_kill | after, [victim])
        over.touch()
        (outcomes,) = stand.records([holder], 60)
        is_holder_well = stand.call("proc.wait", pid=holder, timeout_ms=30_000)["status"] == 0
    ended = {int(pid): one["ended"] for pid, one in outcomes.items() if one["ended"]}
    apart = 100 * abs(fmean(of_held) / fmean(of_agents) - 1)
    return [
        only(f"{each} agents: tokens of each", _shown(of_agents)),
        only(f"{each} held tasks: tokens of each", _shown(of_held)),
        only("time, rate", f"{seconds:.1f} s, {(sum(of_held) + sum(of_agents)) / seconds:.0f} tok/s"),
        only("a quantum, of what each got", f"{100 * QUANTUM / fmean(of_held + of_agents):.2f} %"),
        at_most("mean share of held tasks, apart from agents'", apart, SHARE_BAR, "%"),
        only("fairness (Jain) of all", f"{jain(of_held + of_agents):.5f}"),
        must("streams that ended as a task was killed", ended, f"{victim} alone", list(ended) == [victim]),
        must(f"of {2 * each - 1} others, those that do not go on", lost, "none", lost == 0),
        must("tokens of the dead after the kill was answered", of_dead, "<= 1 (a step)", of_dead <= 1),
        must("the holder ends by itself", "yes" if is_holder_well else "no", "yes", is_holder_well),
    ]


def _look_when(
    stand: Stand, pids: Sequence[int], tokens: int, since: Mapping[int, Mapping[str, Any]] | None = None
) -> dict[int, dict[str, Any]]:
    """Return the table of tasks as soon as each of these has generated so many tokens since a look."""
    end_s = time.monotonic() + LIMIT_S
    say_at_s = 0.0
    while True:
        rows = stand.tasks()
        counts = [
            rows[pid]["generated_tokens"] - (since[pid]["generated_tokens"] if since else 0)
            for pid in pids
            if pid in rows
        ]
        if len(counts) == len(pids) and min(counts) >= tokens:
            return rows
        now_s = time.monotonic()
        if now_s > end_s:
            text = f"{len(counts)} of {len(pids)} tasks are there"
            raise TimeoutError(f"{text}, the least has {min(counts, default=0)} of {tokens} tokens")
        if now_s > say_at_s:
            say_at_s = now_s + 10
            progress(f"{min(counts, default=0)} of {tokens} tokens of each")
        time.sleep(LOOK_S)


def _between(
    first: Mapping[int, Mapping[str, Any]], last: Mapping[int, Mapping[str, Any]], pids: Sequence[int]
) -> list[int]:
    return [last[pid]["generated_tokens"] - first[pid]["generated_tokens"] for pid in pids]


def _is_streaming(row: Mapping[str, Any] | None) -> bool:
    return row is not None and row["status"] is None and row["signal"] is None and row["in_flight"] > 0


def _shown(counts: Sequence[int]) -> str:
    spread = 100 * (max(counts) - min(counts)) / fmean(counts)
    return f"mean {fmean(counts):.1f}, {min(counts)} to {max(counts)} (spread {spread:.1f} %)"
