"""How long an agent takes that has the model to itself, and how many such agents a workload's capacity is.

Who uses it: sched_throughput.py and the bars. Both are measured on the kernel at hand. A job's time alone is not that
of a run of its own, which takes as long again as the benchmark, but of rates fitted to a few requests made one at a
time. What must hold: rates are of the same model, slots and window as the runs that are told by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.report import progress
from benchmarks.sched_live import Bench, Played, play, setups
from benchmarks.workloads import WORKLOADS, Job, Load, Turn, factor_of, make_load

ROUNDS = 2  # over the table of lengths
QUICK_SPEEDUP = 2.0  # guess of what a batch gains, for how much work a measurement of capacity needs
DONE_PART = 0.8  # of the work: while the rest is made, slots are empty
CAPACITY_S = 12.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds alone: request + width * (prompt * (token + deep * depth) + ...); see _features."""

    coefficients: tuple[float, ...]
    error: float  # relative, mean, of the requests that they were fitted to

    def turn_s(self, turn: Turn, depth_tokens: int = 0) -> float:
        features = _features(turn.prompt_tokens, turn.output_tokens, depth_tokens, turn.width)
        return float(np.dot(self.coefficients, features))

    def job_s(self, job: Job) -> float:
        """Of all turns, without the waits between them."""
        depth, total = 0, 0.0
        for number, turn in enumerate(job.turns):
            is_first = job.keeps and not number
            asked = replace(turn, prompt_tokens=turn.prompt_tokens + job.preamble_tokens) if is_first else turn
            total += self.turn_s(asked, depth)
            if job.keeps:
                depth += asked.prompt_tokens + asked.output_tokens
        return total


def waits_s(job: Job) -> float:
    """Return how long a job waits for other things than the model; after its last turn it has ended."""
    return sum(turn.wait_s for turn in job.turns[:-1])


def measure_rates(bench: Bench) -> Rates:
    """Make requests one at a time and fit their times. Raises StandError."""
    turns = _table(bench.window_tokens)
    job = Job("alone", turns * ROUNDS)
    played = play(bench, setups(bench)["eevdf"], Load("alone", 1, 1.0, (job,)))
    requests = played.jobs[0]["requests"]
    rows, times = [], []
    for number, turn in enumerate(job.turns):
        mine = [one for one in requests if one["turn"] == number]
        rows.append(_features(turn.prompt_tokens, turn.output_tokens, 0, turn.width))
        times.append((max(one["ended_ns"] for one in mine) - mine[0]["due_ns"]) / 1e9)
    return fit(rows, times)


def fit(rows: Sequence[Sequence[float]], times_s: Sequence[float]) -> Rates:
    """Return coefficients that are not negative and make relative errors small."""
    scale = 1 / np.array(times_s)
    weighted = np.array(rows) * scale[:, None]
    free = np.ones(weighted.shape[1], bool)
    found = np.zeros(weighted.shape[1])
    while True:
        found[:] = 0.0
        found[free] = np.linalg.lstsq(weighted[:, free], np.ones(len(scale)), rcond=None)[0]
        if (found >= 0).all():
            break
        free &= found > 0
    return Rates(tuple(float(one) for one in found), float(np.abs(weighted @ found - 1).mean()))


def _table(window_tokens: int) -> tuple[Turn, ...]:
    small, middle, large = window_tokens // 32, window_tokens // 8, window_tokens // 2
    lengths = ((small, 8), (middle, 8), (large, 8), (small, 48), (middle, 48), (large, 48), (7 * middle, 16))
    wide = tuple(Turn(middle, 24, 0.0, width) for width in (2, 4))
    return tuple(Turn(prompt, output) for prompt, output in lengths) + wide


def _features(prompt: int, output: int, depth: int, width: int) -> tuple[float, ...]:
    """(requests, prompt tokens, these times the tokens before them, steps, rows beside the first, rows times depth)."""
    before = depth + prompt / 2
    return (
        1.0,
        float(width * prompt),
        width * prompt * before,
        float(output),
        float((width - 1) * output),
        width * output * (depth + prompt + output / 2),
    )


def measure_capacity(bench: Bench, name: str, rates: Rates, seed: int = 1) -> float:
    """Return how many seconds of work alone a second holds when everybody is there from the start, first come first
    served. Raises StandError."""
    rough = make_load(name, seed, 1.0, bench.window_tokens, CAPACITY_S * QUICK_SPEEDUP, rates.job_s)
    jobs = [replace(job, arrival_s=0.0, sched={}, group="") for job in rough.jobs if not job.repeats]
    shapes = WORKLOADS[name].shapes(np.random.default_rng([seed, 9]), factor_of(name, bench.window_tokens))
    while len(jobs) < 3 * bench.slots:  # few long ones do not fill the slots to the end
        jobs.append(replace(next(shapes), sched={}, group=""))
    played = play(bench, setups(bench)["fcfs"], Load(name, seed, 1.0, tuple(jobs)))
    capacity = capacity_of(played, rates)
    progress(f"{name}: capacity {capacity:.2f} s of work alone a second, of {len(jobs)} jobs")
    return capacity


def capacity_of(played: Played, rates: Rates) -> float:
    """Return the work of the requests that ended first, over the time until the last of them did."""
    done = []
    for job, record in zip(played.load.jobs, played.jobs, strict=True):
        total, requests = rates.job_s(job), record["requests"]
        done += [(one["ended_ns"], total / len(requests)) for one in requests if one["ended_ns"]]
    done.sort()
    wanted, made = DONE_PART * sum(work for _, work in done), 0.0
    for at_ns, work in done:
        made += work
        if made >= wanted:
            return made / ((at_ns - played.go_ns) / 1e9)
    raise ValueError(f"{played.load.name}: nothing ended")
