"""The scheduler's bar about those who misbehave: nobody honest waits longer than the bound says, whatever they do.

Who calls it: sched_bars.py. What must hold: a wait is judged by the bound of the same task in the same run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.report import Row, at_most, must, only
from benchmarks.sched_figures import errors
from benchmarks.sched_live import Bench, Played, play, setups
from benchmarks.workloads import Job, Load, attackers, chat, cut, factor_of, wait_s

TASKS, BOUND_BAR_S = 64, 10.0
SLOTS = 24  # as many as a kernel has by default: a third of them is for the rescued
POLICIES = ("eevdf", "plas", "fcfs", "prio")  # the bound is the same for all; fcfs would starve without it


def hostile(bench: Bench, seeds: int, seconds: float) -> list[Row]:
    """A hog, a fork bomb, a waker, a hoarder of context and a liar beside honest agents, 64 tasks in all."""
    bench = replace(bench, slots=min(SLOTS, 2 * bench.slots))
    rows = []
    for policy in POLICIES:
        worst, closest, bounds, refused = 0.0, 0.0, [], {}
        for seed in range(1, seeds + 1):
            played = play(bench, setups(bench)[policy], load_of(bench, seed, seconds))
            refused |= errors(played)
            for wait, bound in honest_waits(played):
                worst, closest = max(worst, wait), max(closest, wait / bound)
                bounds.append(bound)
        text = f"{worst:.2f} s, {closest:.2f} W at most; {len(bounds)} agents"
        rows.append(must(f"{policy}: longest wait of an honest agent", text, "< W", closest < 1.0))
        rows.append(only(f"{policy}: errors", refused or "none"))
        rows.append(at_most(f"{policy}: largest W of these, {TASKS} tasks", max(bounds), BOUND_BAR_S, "s"))
    return rows


def load_of(bench: Bench, seed: int, seconds: float) -> Load:
    """Return the attackers, who begin first, and as many honest agents as make TASKS in all."""
    rng = np.random.default_rng([seed, 6])
    factor = factor_of("chat", bench.window_tokens)
    shapes = chat(rng, factor)
    bad = [cut(job, bench.window_tokens) for job in attackers(rng, factor)]
    honest = []
    for _ in range(TASKS - len(bad)):
        turns = tuple(_with_wait(cut(next(shapes), bench.window_tokens), wait_s(rng)) for _ in range(16))
        honest.append(Job("honest", turns, arrival_s=float(rng.uniform(1.0, 3.0)), repeats=True))
    return Load("hostile", seed, seconds, (*bad, *honest))


def _with_wait(job: Job, seconds: float) -> Any:
    (turn,) = job.turns
    return type(turn)(turn.prompt_tokens, turn.output_tokens, seconds)


def honest_waits(played: Played) -> list[tuple[float, float]]:
    """Return (longest wait, largest bound that was seen) of each honest agent, whether or not it came to an end."""
    found = []
    for pid in played.pids("honest"):
        bounds = [look.bounds_s[pid] for look in played.looks if pid in look.bounds_s]
        waits = [look.waits_s.get(pid, 0.0) for look in played.looks]
        stat = next(one["stat"] for one in played.jobs if one["pid"] == pid)
        if stat:
            waits.append(stat["longest_wait_s"])
            bounds.append(stat["bound_s"])
        if bounds:
            found.append((max(waits), max(bounds)))
    return found
