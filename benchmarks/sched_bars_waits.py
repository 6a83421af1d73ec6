"""The scheduler's bars about waiting: talk beside batch work, agents with tools, short beside long, overload.

Who calls it: sched_bars.py. What must hold: the two sides of a ratio are run one after the other in the same
invocation, on the same seeds, and the order changes with each seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from benchmarks.report import Row, must, only, percentile, progress
from benchmarks.sched_bars_shares import tokens_within
from benchmarks.sched_figures import errors, figures
from benchmarks.sched_live import Bench, Played, play, setups
from benchmarks.sched_solo import measure_capacity, measure_rates
from benchmarks.sched_stats import interval, ratio
from benchmarks.workloads import Job, Load, Turn, chat, cut, factor_of, make_load, renewal, talks

POLICY = "eevdf"  # of the bars that leave the choice between it and plas
BASELINE = "fcfs-llama-server"
TALK_BAR, BATCH_BAR, TURNS_BAR = 2.0, 0.90, 300
BATCH_AGENTS, BATCH_TURN = 12, Turn(192, 256)
REACT_BAR, REACT_TOKENS_BAR, REACT_LOAD = 2.0, 0.98, 0.9
LONG_TOKENS = 4000
SHORT, SHORT_BAR, SHORTS_PER_S = Turn(32, 8), 5.0, 3.0
STREAMS, GAP_BAR = 8, 2.5
OVER, BEFORE_S, RECOVERED_S, AFTER_S, NORMAL_LOAD, NORMAL_BAR, MAX_WAIT_MS = 2.0, 15.0, 10.0, 40.0, 0.5, 1.5, 3000


def ttft_s(requests: Sequence[Mapping[str, Any]]) -> list[float]:
    return [(one["first_ns"] - one["due_ns"]) / 1e9 for one in requests]


def sides(names: Sequence[str], seed: int) -> Sequence[str]:
    """Return them in an order that changes with the seed."""
    turn = seed % len(names)
    return [*names[turn:], *names[:turn]]


def mixed(bench: Bench, seeds: int, seconds: float) -> list[Row]:
    """4 who talk and 12 batch agents, against each of the two alone."""
    alone: dict[str, list[float]] = {"ttft": [], "gap": [], "tokens": []}
    beside: dict[str, list[float]] = {"ttft": [], "gap": [], "tokens": []}
    talking: list[float] = []
    turns = 0
    for seed in range(1, seeds + 1):
        rng = np.random.default_rng([seed, 3])
        people = tuple(cut(job, bench.window_tokens) for job in talks(rng, factor_of("chat", bench.window_tokens)))
        work = tuple(
            Job("batch", (BATCH_TURN,), sched={"sched_class": "batch"}, repeats=True) for _ in range(BATCH_AGENTS)
        )
        parts = {"talk": people, "batch": work, "both": people + work}
        for name in sides(tuple(parts), seed):
            played = play(bench, setups(bench)[POLICY], Load(name, seed, seconds, parts[name]))
            kept = beside if name == "both" else alone
            if name != "batch":
                asked = played.of_kind("interactive")
                kept["ttft"].append(percentile(ttft_s(asked), 0.95))
                kept["gap"].append(percentile([one["worst_gap_ns"] / 1e9 for one in asked], 0.95))
                turns += len(asked) * (name == "both")
            if name == "both":
                talking.append(_talking_part(played))
            if name != "talk":
                kept["tokens"].append(tokens_within(played, 2.0, seconds, "batch") / (seconds - 2.0))
    ttft, gap, tokens = (ratio(beside[name], alone[name]) for name in ("ttft", "gap", "tokens"))
    return [
        must("interactive turns", turns, f">= {TURNS_BAR}", turns >= TURNS_BAR),
        only("P95 TTFT alone, beside batch", f"{_ms(alone['ttft'])}, {_ms(beside['ttft'])}"),
        only("P95 of a turn's worst gap alone, beside batch", f"{_ms(alone['gap'])}, {_ms(beside['gap'])}"),
        must("P95 TTFT, times alone", ttft.ends(), f"<= {TALK_BAR}", ttft.at_most <= TALK_BAR),
        must("P95 worst gap, times alone", gap.ends(), f"<= {TALK_BAR}", gap.at_most <= TALK_BAR),
        only("talk's part of the core time beside batch", interval(talking).ends()),
        must("batch's tokens, times alone", tokens.ends(), f">= {BATCH_BAR}", tokens.at_least >= BATCH_BAR),
    ]


def _talking_part(played: Played) -> float:
    """Return those who talk's part of all core time that was charged."""
    had = [(job.kind, record["stat"]["attained_s"]) for job, record in zip(played.load.jobs, played.jobs, strict=True)]
    return sum(core_s for kind, core_s in had if kind == "interactive") / sum(core_s for _, core_s in had)


def _ms(seconds: Sequence[float]) -> str:
    return f"{1000 * median(seconds):.0f} ms"


def react(bench: Bench, seeds: int, seconds: float) -> list[Row]:
    """Agents with tools at 0.9 of capacity, against FCFS as llama-server."""
    rates = measure_rates(bench)
    capacity = measure_capacity(bench, "react", rates)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in (POLICY, BASELINE)}
    for seed in range(1, seeds + 1):
        work = REACT_LOAD * capacity * seconds
        load = make_load("react", seed, seconds, bench.window_tokens, work, rates.job_s)
        for name in sides(tuple(found), seed):
            for key, value in figures(play(bench, setups(bench)[name], load), rates).items():
                found[name].setdefault(key, []).append(value)
    ours, theirs = found[POLICY], found[BASELINE]
    faster = ratio(theirs["completion_mean"], ours["completion_mean"])
    tokens = ratio(ours["tok_s"], theirs["tok_s"])
    shown = {name: interval(one["completion_mean"]).shown() for name, one in found.items()}
    return [
        *(only(f"{name}: mean completion", f"{text} s") for name, text in shown.items()),
        must(f"{BASELINE} / {POLICY}", faster.ends(), f">= {REACT_BAR}", faster.at_least >= REACT_BAR),
        must("throughput", tokens.ends(), f">= {REACT_TOKENS_BAR}", tokens.at_least >= REACT_TOKENS_BAR),
    ]


def long_bench(bench: Bench) -> Bench:
    """Half the slots, each long enough for the long prompt."""
    return replace(bench, slots=max(2, bench.slots // 2), window_tokens=LONG_TOKENS + 256)


def short_beside_long(bench: Bench, seeds: int, seconds: float) -> list[Row]:
    """Short requests while one job of 4,000 tokens after the other runs, against FCFS as llama-server."""
    bench = long_bench(bench)
    found: dict[str, list[float]] = {POLICY: [], BASELINE: []}
    count = int(SHORTS_PER_S * seconds)
    for seed in range(1, seeds + 1):
        at_s = renewal(1.0)(np.random.default_rng([seed, 4]), count) * seconds
        shorts = tuple(Job("short", (SHORT,), arrival_s=float(at)) for at in at_s)
        long = Job("long", (Turn(LONG_TOKENS, 16, 0.2),), repeats=True)
        load = Load("short-long", seed, seconds, (long, *shorts))
        for name in sides(tuple(found), seed):
            played = play(bench, setups(bench)[name], load)
            spans = [(one["due_ns"], one["ended_ns"]) for one in played.of_kind("long")]
            took = [
                (one["ended_ns"] - one["due_ns"]) / 1e9
                for one in played.of_kind("short")
                if any(begin <= one["due_ns"] < end for begin, end in spans)
            ]
            found[name].append(percentile(took, 0.95))
    better = ratio(found[BASELINE], found[POLICY])
    return [
        *(only(f"{name}: P95 of a short request", f"{_ms(values)}") for name, values in found.items()),
        must(f"{BASELINE} / {POLICY}", better.ends(), f">= {SHORT_BAR}", better.at_least >= SHORT_BAR),
    ]


def long_prompt(bench: Bench, seeds: int, seconds: float) -> list[Row]:
    """A prompt of 4,000 tokens arrives every few seconds beside 8 streams: their worst gap meanwhile, of the usual."""
    bench = replace(bench, slots=STREAMS + 1, window_tokens=LONG_TOKENS + 256)
    ratios, usual_ms = [], []
    for seed in range(1, seeds + 1):
        streams = tuple(Job("stream", (Turn(64, 1500),), repeats=True, is_traced=True) for _ in range(STREAMS))
        long = Job("long", (Turn(LONG_TOKENS, 2, 4.0),), arrival_s=4.0, repeats=True)
        played = play(bench, setups(bench)[POLICY], Load("long-prompt", seed, seconds, (*streams, long)))
        spans = [(one["due_ns"], one["first_ns"]) for one in played.of_kind("long")]
        usual, worst = gaps_beside(played, spans)
        usual_ms.append(usual / 1e6)
        ratios += [one / usual for one in worst]
    found = interval(ratios)
    return [
        only("usual gap (median), prompts", f"{median(usual_ms):.1f} ms, {len(ratios)} prompts"),
        only("worst of all prompts, of the usual", f"{max(ratios):.2f}"),
        must("worst gap beside a prompt, of the usual", found.shown(), f"<= {GAP_BAR}", found.at_most <= GAP_BAR),
    ]


def gaps_beside(played: Played, spans: Sequence[tuple[int, int]]) -> tuple[float, list[float]]:
    """Return the median gap of streams outside these times, and the worst one of all streams in each of them; ns."""
    outside: list[int] = []
    worst = [0] * len(spans)
    traces = [asked["arrivals"] for one in played.jobs for asked in one["requests"]]
    for before, after in (pair for arrivals in traces for pair in pairwise(arrivals)):
        inside = [place for place, (begin, end) in enumerate(spans) if before < end and after > begin]
        for place in inside:
            worst[place] = max(worst[place], after - before)
        if not inside:
            outside.append(after - before)
    return float(median(outside)), [float(one) for one in worst if one]


def overload(bench: Bench, seeds: int, seconds: float) -> list[Row]:
    """Half the capacity, twice the capacity for a minute, half again: errors, and when the times are normal again.

    What is normal is what the same requests of the last part take that come without the part before.
    """
    rates = measure_rates(bench)
    capacity = measure_capacity(bench, "chat", rates)
    setup = replace(setups(bench)[POLICY], root={"max_wait_ms": MAX_WAIT_MS})
    refused: Counter[str] = Counter()
    normal, during, after = [], [], []
    for seed in range(1, seeds + 1):
        load = phases(bench, seed, seconds, capacity, rates.job_s)
        end_s = BEFORE_S + seconds
        calm = replace(load, jobs=tuple(job for job in load.jobs if not BEFORE_S <= job.arrival_s < end_s))
        for name in sides(("calm", "peak"), seed):
            played = play(bench, setup, load if name == "peak" else calm)
            asked = [one for one in played.of_kind("chat") if one["first_ns"]]
            last = percentile(ttft_s(_due(played, asked, end_s + RECOVERED_S, load.seconds)), 0.95)
            (after if name == "peak" else normal).append(last)
            progress(f"{name}, seed {seed}: P95 TTFT of the last part {last:.2f} s")
            if name == "peak":
                refused.update(errors(played))
                during.append(percentile(ttft_s(_due(played, asked, BEFORE_S, end_s)), 0.95))
    back = ratio(after, normal)
    others = {name: count for name, count in refused.items() if name != "EAGAIN"}
    return [
        only("P95 TTFT during; from 10 s after; of these without it", ", ".join(map(_ms, (during, after, normal)))),
        only("refused with EAGAIN", refused["EAGAIN"]),
        must("other errors", others or "none", "none", not others),
        must("P95 TTFT from 10 s after, of that without", back.ends(), f"<= {NORMAL_BAR}", back.at_most <= NORMAL_BAR),
    ]


def _due(played: Played, asked: Sequence[Mapping[str, Any]], begin_s: float, end_s: float) -> list[Mapping[str, Any]]:
    return [one for one in asked if begin_s <= (one["due_ns"] - played.go_ns) / 1e9 < end_s]


def phases(bench: Bench, seed: int, seconds: float, capacity: float, work_of: Any) -> Load:
    """Return chat at half the capacity, at OVER times it for `seconds`, and at half again."""
    factor = factor_of("chat", bench.window_tokens)
    rng = np.random.default_rng([seed, 5])
    shapes = chat(rng, factor)
    jobs: list[Job] = []
    begin_s = 0.0
    for lasts_s, share in ((BEFORE_S, NORMAL_LOAD), (seconds, OVER), (RECOVERED_S + AFTER_S, NORMAL_LOAD)):
        part: list[Job] = []
        left = share * capacity * lasts_s
        while left > 0:
            part.append(cut(next(shapes), bench.window_tokens))
            left -= work_of(part[-1])
        at_s = begin_s + renewal(1.0)(rng, len(part)) * lasts_s
        jobs += [replace(job, arrival_s=float(at)) for job, at in zip(part, at_s, strict=True)]
        begin_s += lasts_s
    return Load("overload", seed, begin_s, tuple(jobs))
