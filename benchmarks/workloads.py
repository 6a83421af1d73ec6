"""The scheduler's workloads: what agents ask for and when, drawn from a seed.

Who uses it: sched_throughput.py and sched_bars.py. What must hold: the same name, seed and size give the same load, for
every policy; lengths are those of the sources times one published factor, such that the 95th percentile of a context
fits a slot, and what is longer is cut to it.

Sources: chat and code are the traces of Azure's LLM inference of 2023 (Patel et al., "Splitwise", ISCA 2024), as
lognormal fits; the waits of react are those of coding agents (86 % below 1 s, 95 % below 10 s); vtc is Sheng et al.,
"Fairness in Serving Large Language Models", OSDI 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

LEAST_PROMPT, LEAST_OUTPUT = 8, 2  # tokens
MOST_WAIT_S = 5.0  # of a tool: a run lasts tens of seconds
PREAMBLE_TOKENS = 512  # of react's shared system prompt, before the factor
SAMPLED = 4000  # jobs, for the 95th percentile
CODE_BURST = 7.0  # mean size of a geometric burst: (2 - p) / p = 13 = variance / mean of counts


@dataclass(frozen=True, slots=True)
class Turn:
    """One request, or `width` of them at once; then a wait for something else than the model."""

    prompt_tokens: int  # new ones
    output_tokens: int
    wait_s: float = 0.0
    width: int = 1


@dataclass(frozen=True, slots=True)
class Job:
    """What one agent does."""

    kind: str
    turns: tuple[Turn, ...]
    arrival_s: float = 0.0
    sched: Mapping[str, Any] = field(default_factory=dict)  # fields of sched.setattr
    group: str = ""
    keeps: bool = False  # each turn goes on with all that was said before
    preamble_tokens: int = 0  # before the first turn, the same for all jobs
    repeats: bool = False  # begins anew until the load's end
    streams: int = 1  # that go through the turns beside each other
    is_traced: bool = False  # every token's arrival is recorded
    hint_tokens: int | None = None  # what it says is left to generate

    @property
    def context_tokens(self) -> int:
        """Of its largest request at its end."""
        sizes = [turn.prompt_tokens + turn.output_tokens for turn in self.turns]
        return self.preamble_tokens + (sum(sizes) if self.keeps else max(sizes))


@dataclass(frozen=True, slots=True)
class Load:
    """What a run asks of the kernel. Groups are made before it, with these attributes."""

    name: str
    seed: int
    seconds: float  # in which all jobs arrive, and after which none begins anew
    jobs: tuple[Job, ...]
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def plain(self) -> Load:
        """Return the same without what a scheduler is told: for those that know no classes, weights and groups."""
        return replace(self, jobs=tuple(replace(job, sched={}, group="") for job in self.jobs), groups={})

    def described(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


Shapes = Callable[[np.random.Generator, float], Iterator[Job]]  # endless; takes the factor of lengths
Arrivals = Callable[[np.random.Generator, int], np.ndarray]  # of so many jobs, ascending, from 0 to 1


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of load: jobs that come one after the other, and some that are there all the time."""

    doc: str
    shapes: Shapes
    arrivals: Arrivals
    beside: Callable[[np.random.Generator, float], list[Job]] = lambda rng, factor: []
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def factor_of(name: str, window_tokens: int) -> float:
    """Return what lengths are multiplied with so that the 95th percentile of a context fits the window, 1 at most."""
    shapes = WORKLOADS[name].shapes(np.random.default_rng(0), 1.0)
    sizes = [next(shapes).context_tokens for _ in range(SAMPLED)]
    return min(1.0, window_tokens / float(np.quantile(sizes, 0.95)))


def make_load(
    name: str,
    seed: int,
    seconds: float,
    window_tokens: int,
    work: float,
    work_of: Callable[[Job], float],
    factor: float | None = None,
) -> Load:
    """Return a load whose jobs come to as much work as is given.

    work_of: of one job, in whatever unit `work` is in. factor: of lengths; as factor_of has it if left out. Jobs that
    repeat are no part of the sum: they take what is left.
    """
    kind = WORKLOADS[name]
    factor = factor_of(name, window_tokens) if factor is None else factor
    shapes_rng, arrivals_rng, beside_rng = (np.random.default_rng([seed, part]) for part in range(3))
    jobs: list[Job] = []
    for shape in kind.shapes(shapes_rng, factor):
        job = cut(shape, window_tokens)
        work -= work_of(job)
        if jobs and work < -work_of(job) / 2:  # without it the sum is nearer
            break
        jobs.append(job)
        if work <= 0:
            break
    at_s = kind.arrivals(arrivals_rng, len(jobs)) * seconds
    jobs = [replace(job, arrival_s=float(at)) for job, at in zip(jobs, at_s, strict=True)]
    beside = [cut(job, window_tokens) for job in kind.beside(beside_rng, factor)]
    return Load(name, seed, seconds, (*beside, *jobs), kind.groups)


def cut(job: Job, window_tokens: int) -> Job:
    """Return a job whose contexts fit the window: prompts are shortened, of turns that add up the last ones dropped."""
    most = window_tokens - job.preamble_tokens
    turns, used = [], 0
    for turn in job.turns:
        output = min(turn.output_tokens, max(LEAST_OUTPUT, most // 2))
        prompt = min(turn.prompt_tokens, most - output)
        if job.keeps:
            if used and used + prompt + output > most:
                break
            used += prompt + output
        turns.append(replace(turn, prompt_tokens=prompt, output_tokens=output))
    return replace(job, turns=tuple(turns))


# -- lengths and times ---------------------------------------------------------------------------


def lognormal(rng: np.random.Generator, mu: float, sigma: float, factor: float, least: int) -> int:
    """Return a length in tokens."""
    return max(least, round(factor * float(rng.lognormal(mu, sigma))))


def wait_s(rng: np.random.Generator) -> float:
    """Return a tool's time: 86 % are below 1 s and 95 % below 10 s; cut at MOST_WAIT_S."""
    return min(MOST_WAIT_S, float(rng.lognormal(-4.40, 4.075)))


def renewal(variation: float) -> Arrivals:
    """Return arrivals whose intervals have this coefficient of variation: gamma distributed; 1 is Poisson's."""

    def arrivals(rng: np.random.Generator, count: int) -> np.ndarray:
        shape = 1 / variation**2
        return _within(np.cumsum(rng.gamma(shape, 1 / shape, count + 1)))

    return arrivals


def bursts(mean_size: float) -> Arrivals:
    """Return arrivals in bursts of geometric size at a Poisson process's times."""

    def arrivals(rng: np.random.Generator, count: int) -> np.ndarray:
        sizes: list[int] = []
        while sum(sizes) < count:
            sizes.append(int(rng.geometric(1 / mean_size)))
        starts = _within(np.cumsum(rng.exponential(1.0, len(sizes) + 1)))
        return np.repeat(starts, sizes)[:count]

    return arrivals


def _within(times: np.ndarray) -> np.ndarray:
    """Scale to 0 to 1; the last one only says how long it would have been until the next."""
    return times[:-1] / times[-1]


def two_phases(rng: np.random.Generator, count: int) -> np.ndarray:
    """Twice the mean rate for two fifths of the time, then a third of it."""
    early = round(0.8 * count)
    first = np.sort(rng.uniform(0.0, 0.4, early))
    return np.concatenate([first, np.sort(rng.uniform(0.4, 1.0, count - early))])


def growing(rng: np.random.Generator, count: int) -> np.ndarray:
    """The rate grows from nothing, evenly."""
    return np.sort(np.sqrt(rng.uniform(0.0, 1.0, count)))


def on_off(rng: np.random.Generator, count: int) -> np.ndarray:
    """Every other tenth of the time."""
    at = rng.uniform(0.0, 0.5, count)
    return np.sort(at + np.floor(at * 10) / 10)


# -- shapes --------------------------------------------------------------------------------------


def chat(rng: np.random.Generator, factor: float) -> Iterator[Job]:
    while True:
        prompt = lognormal(rng, 6.63, 0.98, factor, LEAST_PROMPT)
        yield Job("chat", (Turn(prompt, lognormal(rng, 5.02, 0.86, factor, LEAST_OUTPUT)),))


def code(rng: np.random.Generator, factor: float) -> Iterator[Job]:
    while True:
        prompt = lognormal(rng, 7.00, 1.36, factor, LEAST_PROMPT)
        yield Job("code", (Turn(prompt, lognormal(rng, 2.79, 0.85, factor, LEAST_OUTPUT)),))


def react(rng: np.random.Generator, factor: float) -> Iterator[Job]:
    """Agents whose context grows by an observation and a thought each turn, after the same system prompt."""
    preamble = round(factor * PREAMBLE_TOKENS)
    while True:
        turns = tuple(
            Turn(
                lognormal(rng, 4.6, 0.8, factor, LEAST_PROMPT),
                lognormal(rng, 4.1, 0.6, factor, LEAST_OUTPUT),
                wait_s(rng),
            )
            for _ in range(max(1, round(float(rng.normal(10.9, 2.1)))))
        )
        yield Job("react", turns, keeps=True, preamble_tokens=preamble)


def tree(rng: np.random.Generator, factor: float) -> Iterator[Job]:
    """Best of n, and a search three levels deep: the requests of a level run at once."""
    while True:
        prompt = lognormal(rng, 6.0, 0.6, factor, LEAST_PROMPT)
        is_search = rng.uniform() < 0.5
        widths = (2, 4, 4) if is_search else (int(rng.integers(3, 9)),)
        turns = tuple(
            Turn(prompt, lognormal(rng, 4.4, 0.6, factor, LEAST_OUTPUT), 0.0, width) for width in widths
        )
        yield Job("search" if is_search else "best-of-n", turns)


def batch(rng: np.random.Generator, factor: float) -> Iterator[Job]:
    """Long answers that nobody waits for."""
    while True:
        turn = Turn(lognormal(rng, 6.0, 0.5, factor, LEAST_PROMPT), lognormal(rng, 6.0, 0.4, factor, LEAST_OUTPUT))
        yield Job("batch", (turn,), sched={"sched_class": "batch"})


def talks(rng: np.random.Generator, factor: float, count: int = 4) -> list[Job]:
    """People who read and answer: short turns with some seconds between them, until the end."""
    return [
        Job("interactive", tuple(_talk(rng, factor) for _ in range(64)), arrival_s=0.3 * number, repeats=True)
        for number in range(count)
    ]


def _talk(rng: np.random.Generator, factor: float) -> Turn:
    prompt = lognormal(rng, 5.0, 0.5, factor, LEAST_PROMPT)
    return Turn(prompt, lognormal(rng, 4.6, 0.4, factor, LEAST_OUTPUT), float(rng.uniform(0.5, 2.0)))


def _mixed_beside(rng: np.random.Generator, factor: float) -> list[Job]:
    tick = Turn(max(LEAST_PROMPT, round(64 * factor)), max(LEAST_OUTPUT, round(16 * factor)), 1.0)
    periodic = Job("periodic", (tick,), sched={"sched_class": "realtime", "rt_priority": 50}, repeats=True)
    return [*talks(rng, factor), periodic]


def clients(weights: Sequence[int], rates: Sequence[float], outputs: Sequence[float] = ()) -> Shapes:
    """Return shapes of clients, a group each: rates say how often which asks; outputs multiply its answers' length."""

    def shapes(rng: np.random.Generator, factor: float) -> Iterator[Job]:
        share = np.array(rates) / sum(rates)
        for job in chat(rng, factor):
            number = int(rng.choice(len(weights), p=share))
            (turn,) = job.turns
            if outputs:
                turn = replace(turn, output_tokens=max(LEAST_OUTPUT, round(turn.output_tokens * outputs[number])))
            yield replace(job, kind=f"client-{number + 1}", turns=(turn,), group=f"/client-{number + 1}")

    return shapes


def client_groups(weights: Iterable[int]) -> dict[str, dict[str, Any]]:
    return {f"/client-{number}": {"weight": 100 * weight} for number, weight in enumerate(weights, 1)}


def attackers(rng: np.random.Generator, factor: float, bombs: int = 16) -> list[Job]:
    """A hog, a fork bomb, a waker, a hoarder of context and one whose hints are lies.

    The bomb's tasks come 1, 2, 4, ... half a second apart.
    """
    long = round(1400 * factor)
    hog = Job("hog", (Turn(round(256 * factor), long),), repeats=True, streams=16)
    waker = Job("waker", (Turn(LEAST_PROMPT, 1, 0.01),), repeats=True, streams=4)
    hoarder = Job("hoarder", (Turn(2 * long, LEAST_OUTPUT),), repeats=True, streams=8)
    liar = Job("liar", (Turn(round(256 * factor), long),), repeats=True, hint_tokens=1)
    bomb = [
        Job(
            "bomb",
            (Turn(int(rng.integers(16, 65)), max(LEAST_OUTPUT, round(400 * factor))),),
            arrival_s=0.5 * (number + 1).bit_length(),
            repeats=True,
        )
        for number in range(bombs)
    ]
    return [hog, waker, hoarder, liar, *bomb]


_POISSON = renewal(1.0)
WORKLOADS: dict[str, Workload] = {
    "chat": Workload("one question each, lengths with heavy tails", chat, renewal(1.09)),
    "code": Workload("long prompts, short answers, in bursts", code, bursts(CODE_BURST)),
    "react": Workload("about 11 turns with tools between them; contexts grow", react, _POISSON),
    "tree": Workload("best of n and searches: several requests of an agent at once", tree, _POISSON),
    "mixed": Workload("4 who talk, batch jobs, one periodic", batch, _POISSON, _mixed_beside),
    "vtc": Workload(
        "two clients, one asks twice as often", clients((1, 1), (1.5, 3)), _POISSON, groups=client_groups((1, 1))
    ),
    "vtc-weighted": Workload(
        "four clients weighted 1:2:3:4 that ask alike",
        clients((1, 2, 3, 4), (1, 1, 1, 1)),
        _POISSON,
        groups=client_groups((1, 2, 3, 4)),
    ),
    "vtc-onoff": Workload(
        "two clients who come and go", clients((1, 1), (1, 1)), on_off, groups=client_groups((1, 1))
    ),
    "vtc-increasing": Workload(
        "two clients who ask more and more", clients((1, 1), (1, 1)), growing, groups=client_groups((1, 1))
    ),
    "vtc-lengths": Workload(
        "short answers against long ones",
        clients((1, 1), (4, 1), (0.5, 2.0)),
        _POISSON,
        groups=client_groups((1, 1)),
    ),
    "hostile": Workload("chat beside five who misbehave", chat, _POISSON, attackers),
    "overload": Workload("chat at twice the rate, then at a third", chat, two_phases),
}


def stretched(low: int, high: int, count: int) -> list[int]:
    """Return lengths from low to high, each as many times its neighbour."""
    return [round(low * (high / low) ** (place / max(1, count - 1))) for place in range(count)]
