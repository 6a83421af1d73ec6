"""The scheduler's bars about shares: equal agents, weights, groups; what charges are worth; what preemption costs idle.

Who calls it: sched_bars.py. What must hold: service is modelled core time as the kernel's table tells it, between looks
at least as far apart as the bar says; the first seconds, in which everybody begins at once, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from benchmarks.report import Row, must, only
from benchmarks.sched_growth import measure
from benchmarks.sched_live import Bench, Played, play, setups
from benchmarks.sched_stats import interval, ratio, share_errors, short, worst_window
from benchmarks.stand import Stand
from benchmarks.workloads import Job, Load, Turn, stretched

SETTLE_S = 3.0
WEIGHTS_SETTLE_S = 20.0  # the lightest pay for their first prompts for so long
LOOK_S = 0.25
JAIN_BAR, WINDOW_S = 0.99, 10.0
SHARE_BAR = 2.0  # percent
IDLE_BAR, ALTERNATE_S = 0.98, 4.0
CHARGED_BAR, ERROR_BAR = 5.0, 15.0  # percent
SCHED_BAR = 3.0  # percent
PROMPTS, ANSWERS = (8, 64), (40, 320)  # tokens, from the shortest agent to the longest: eightfold
PATIENT = {"starve_ms": 30_000}  # the smallest weights' fair turns come more seldom than tasks are rescued by default
WEIGHTS = (1, 2, 4, 8)
GROUP_SIZES = (6, 8, 8, 10)  # of groups with equal shares

Had = Sequence[tuple[float, Sequence[float]]]  # (seconds since the start, core time of each)


def equal_agents(count: int, seconds: float, seed: int) -> Load:
    """Return agents that ask all the time, each with lengths of its own, from the shortest to eight times as long."""
    lengths = zip(stretched(*PROMPTS, count), stretched(*ANSWERS, count), strict=True)
    jobs = tuple(Job("equal", (Turn(*each),), repeats=True) for each in lengths)
    return Load("equal", seed, seconds, jobs)


def grouped(load: Load, sizes: Sequence[int], weights: Sequence[int]) -> Load:
    """Return the same agents in groups of these sizes, so that each group has short and long ones."""
    left, jobs = list(sizes), []
    for number, job in enumerate(load.jobs):
        place = max(range(len(sizes)), key=lambda one: (left[one] / sizes[one], (one + number) % len(sizes)))
        left[place] -= 1
        jobs.append(Job(f"group-{place}", job.turns, group=f"/group-{place}", repeats=True, streams=job.streams))
    groups = {f"/group-{place}": {"weight": 100 * weight} for place, weight in enumerate(weights)}
    return Load("groups", load.seed, load.seconds, tuple(jobs), groups)


def weighted(seconds: float, seed: int, each: int = 8) -> Load:
    """Return `each` agents of every weight. Each has two requests in flight: with one, the heaviest, entitled to more
    than a slot, have nothing to use it with."""
    lengths = tuple(zip(stretched(*PROMPTS, each), stretched(*ANSWERS, each), strict=True))
    jobs = tuple(
        Job(f"weight-{weight}", (Turn(*length),), sched={"weight": 100 * weight}, repeats=True, streams=2)
        for weight in WEIGHTS
        for length in lengths
    )
    return Load("weights", seed, seconds, jobs)


def attained(played: Played, sets: Sequence[Sequence[int]], settle_s: float = SETTLE_S) -> Had:
    """Return what each set of tasks has had at each look between the settling and the load's end."""
    samples = []
    for look in played.looks:
        at_s = (look.at_ns - played.go_ns) / 1e9
        if settle_s <= at_s <= played.load.seconds:
            samples.append((at_s, [sum(look.attained_s[pid] for pid in pids) for pids in sets]))
    return samples


def fairness(bench: Bench, seeds: int, seconds: float) -> list[Row]:
    """32 equal agents on 16 slots, lengths spread eightfold: Jain's index in every window of 10 s, and of groups."""
    count = 2 * bench.slots
    rows = []
    for what in ("agents", "groups"):
        worst, means = [], []
        for seed in range(1, seeds + 1):
            load = equal_agents(count, seconds, seed)
            if what == "groups":
                load = grouped(load, _scaled(GROUP_SIZES, count), [1] * len(GROUP_SIZES))
            played = play(bench, setups(bench)["eevdf"], load, LOOK_S)
            kinds = sorted({job.kind for job in load.jobs})
            sets = [played.pids(kind) for kind in kinds] if what == "groups" else [[one["pid"]] for one in played.jobs]
            least, mean = worst_window(attained(played, sets), WINDOW_S)
            worst.append(least)
            means.append(mean)
        name = f"{count} equal {what}" if what == "agents" else f"{len(GROUP_SIZES)} equal groups of {count} agents"
        rows.append(only(f"{name}: mean of windows", interval(means).shown(4)))
        text = f"{min(worst):.4f}, of {seeds} runs {interval(worst).shown(4)}"
        rows.append(must(f"{name}: Jain in the worst window of 10 s", text, f">= {JAIN_BAR}", min(worst) >= JAIN_BAR))
    return rows


def _scaled(sizes: Sequence[int], count: int) -> list[int]:
    made = [size * count // sum(sizes) for size in sizes]
    made[-1] += count - sum(made)
    return made


def weights(bench: Bench, seeds: int, seconds: float) -> list[Row]:
    """Weights 1:2:4:8, eight agents of each on 16 slots; then four groups with these weights."""
    rows = []
    for what in ("agents", "groups"):
        errors: dict[str, list[float]] = {}
        for seed in range(1, seeds + 1):
            load = weighted(seconds, seed, max(1, bench.slots // 2))
            if what == "groups":
                plain = Load("weights", seed, seconds, tuple(load.jobs))
                load = grouped(plain, [len(load.jobs) // len(WEIGHTS)] * len(WEIGHTS), WEIGHTS)
            played = play(bench, replace(setups(bench)["eevdf"], root=PATIENT), load, LOOK_S)
            for name, error in _errors(played, what).items():
                errors.setdefault(name, []).append(error)
        for name, found in errors.items():
            error = interval(found)
            worst = max(-error.at_least, error.at_most)
            shown = f"{error.shown(2)} %"
            rows.append(must(f"{what}, {name}: share's error", shown, f"<= {SHARE_BAR} %", worst <= SHARE_BAR))
    return rows


def _errors(played: Played, what: str) -> Mapping[str, float]:
    names = [f"weight-{weight}" if what == "agents" else f"group-{place}" for place, weight in enumerate(WEIGHTS)]
    samples = attained(played, [played.pids(name) for name in names], min(WEIGHTS_SETTLE_S, played.load.seconds / 3))
    had = dict(zip(names, (new - old for old, new in zip(samples[0][1], samples[-1][1], strict=True)), strict=True))
    return share_errors(had, dict(zip(names, WEIGHTS, strict=True)))


def idle_preemption(bench: Bench, seeds: int, seconds: float) -> list[Row]:
    """As many agents as slots, so that nobody ever waits: throughput under EEVDF against FCFS, which take turns."""
    rates: dict[str, list[float]] = {"eevdf": [], "fcfs": []}
    for seed in range(1, seeds + 1):
        alternation = Alternation(tuple(rates), min(ALTERNATE_S, seconds / 6), seconds)
        play(bench, setups(bench)["eevdf"], equal_agents(bench.slots, seconds, seed), LOOK_S, alternation)
        pairs = min(len(found) for found in alternation.rates.values())
        for name, found in alternation.rates.items():
            rates[name] += found[:pairs]
    found = ratio(rates["eevdf"], rates["fcfs"])
    shown = {name: f"{fmean(values):.0f} tok/s" for name, values in rates.items()}
    return [
        *(only(name, text) for name, text in shown.items()),
        must("eevdf / fcfs, nobody waits", found.ends(), f">= {IDLE_BAR}", found.at_least >= IDLE_BAR),
    ]


def charges(bench: Bench, seeds: int, seconds: float) -> list[Row]:
    """Twice as many agents as slots, all lengths: modelled core time against the core's own, and the model's error."""
    apart, errors, fits = [], [], []
    for seed in range(1, seeds + 1):
        played = play(bench, setups(bench)["eevdf"], equal_agents(2 * bench.slots, seconds, seed))
        apart.append(100 * (played.grew("charged_s") / played.grew("core_busy_s") - 1))
        errors.append(100 * played.after["cost_p95_error"])
        fits.append(played.after["cost_r2"])
    off, worst = interval(apart), max(abs(one) for one in apart)
    return [
        must("charged, apart from the core's time", f"{off.shown(2)} %", f"<= {CHARGED_BAR} %", worst <= CHARGED_BAR),
        must("P95 error of a step", f"{interval(errors).shown(3)} %", f"<= {ERROR_BAR} %", max(errors) <= ERROR_BAR),
        only("R^2 of the last steps", interval(fits).shown(3)),
    ]


def sched_time(bench: Bench, seeds: int, seconds: float) -> list[Row]:
    """The scheduler's time for a step with 64 runnable, as sched_growth.py has it, of a live step's."""
    count = 4 * bench.slots
    parts, with_delivery, times = [], [], []
    for seed in range(1, seeds + 1):
        played = play(bench, setups(bench)["eevdf"], equal_agents(count, seconds, seed))
        step_us = 1e6 * played.grew("core_busy_s") / played.grew("steps")
        times.append(measure("eevdf", count))
        parts.append(100 * times[-1] / step_us)
        with_delivery.append(100 * played.grew("sched_s") / played.grew("core_busy_s"))
    found = interval(parts)
    return [
        only(f"a step's accounts and the next plan, {count} runnable", f"{short(fmean(times))} us"),
        must("of a step's time", f"{found.shown()} %", f"<= {SCHED_BAR} %", found.at_most <= SCHED_BAR),
        only("with tokens sent to their agents", f"{interval(with_delivery).shown()} %"),
    ]


class Alternation:
    """Gives the root group one policy after the other, and notes the tokens per second of each of their turns."""

    def __init__(self, names: Sequence[str], every_s: float, until_s: float) -> None:
        self.rates: dict[str, list[float]] = {name: [] for name in names}
        self._every_s, self._until_s = every_s, until_s
        self._name = ""  # in force
        self._begun = (0.0, 0)  # seconds, tokens

    def __call__(self, stand: Stand, at_s: float) -> None:
        if at_s < SETTLE_S or at_s < self._begun[0] + self._every_s or at_s > self._until_s:
            return
        stat = stand.stat()
        tokens = stat["generated_tokens"] + stat["prompt_tokens"]
        if self._name:
            self.rates[self._name].append((tokens - self._begun[1]) / (at_s - self._begun[0]))
        names = list(self.rates)
        self._name = names[(names.index(self._name) + 1) % len(names)] if self._name else names[0]
        stand.call("group.setattr", path="/", attr={"policy": self._name})
        self._begun = (at_s, tokens)


def tokens_within(played: Played, begin_s: float, end_s: float, *kinds: str) -> float:
    """Return the tokens, of prompts and answers, that were made in a time; a request's are spread evenly over its own.
    """
    total = 0.0
    for job, record in zip(played.load.jobs, played.jobs, strict=True):
        if kinds and job.kind not in kinds:
            continue
        for one in record["requests"]:
            if one["first_ns"] and one["ended_ns"]:
                first, last = ((one[name] - played.go_ns) / 1e9 for name in ("due_ns", "ended_ns"))
                inside = min(last, end_s) - max(first, begin_s)
                total += (one["tokens"] + one["new_tokens"]) * max(0.0, inside) / max(1e-9, last - first)
    return total
