"""The statistics of the scheduler's benchmarks: means and ratios with intervals, shares, fairness over time.

Who uses it: sched_figures.py, sched_compare.py, sched_bars.py. What must hold: pure; nothing is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from benchmarks.report import jain, percentile

# Student's t at 97.5 %, for 1, 2, ... degrees of freedom; beyond, the next smaller entry is on the safe side.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
PERCENTILES = (0.5, 0.95, 0.99)


class Interval(NamedTuple):
    """A mean, and where the true one is in 95 of 100 cases; infinitely wide for one value."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def at_least(self) -> float:
        """The end that has to reach a bar; one value has only itself."""
        return self.low if self.count > 1 else self.mean

    @property
    def at_most(self) -> float:
        """The end that must not be above a bar."""
        return self.high if self.count > 1 else self.mean

    def shown(self, digits: int = 3) -> str:
        mean = short(self.mean, digits)
        return mean if self.count < 2 else f"{mean} ±{short((self.high - self.low) / 2, 2)}"

    def ends(self, digits: int = 3) -> str:
        """Both ends, for a ratio, whose interval is not symmetric."""
        mean = short(self.mean, digits)
        return mean if self.count < 2 else f"{mean} ({short(self.low, digits)} to {short(self.high, digits)})"


class Window(NamedTuple):
    """A time in which somebody wants to be served, and with what weight."""

    who: str
    begin: float
    end: float
    weight: float = 1.0


def short(value: float, digits: int = 3) -> str:
    """So many significant digits, without an exponent."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(places, 6)}f}"


def t_value(freedom: int) -> float:
    """Student's t at 97.5 %."""
    return _T[min(freedom, len(_T)) - 1] if freedom >= 1 else math.inf


def interval(values: Sequence[float]) -> Interval:
    """Return the mean with its 95 % interval. Raises ValueError for no values."""
    if not values:
        raise ValueError("an interval of no values")
    mean = fmean(values)
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf, 1)
    half = t_value(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Return the geometric mean of ratios of paired values with its interval.

    Raises ValueError for different counts, or values that are not positive.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} values beside {len(theirs)}")
    if any(value <= 0 for value in (*ours, *theirs)):
        raise ValueError("a ratio of values that are not positive")
    logs = interval([math.log(one / other) for one, other in zip(ours, theirs, strict=True)])
    return Interval(math.exp(logs.mean), math.exp(logs.low), _exp(logs.high), logs.count)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def summary(name: str, values: Sequence[float]) -> dict[str, float]:
    """Return {name_mean, name_p50, name_p95, name_p99}; nothing for no values."""
    if not values:
        return {}
    cuts = {f"{name}_p{round(100 * share)}": percentile(values, share) for share in PERCENTILES}
    return {f"{name}_mean": fmean(values), **cuts}


def entitlements(windows: Iterable[Window]) -> dict[str, float]:
    """Return what each is entitled to: of every moment its part by weight among those who want to be served then.

    That is what generalized processor sharing gives (Parekh and Gallager 1993). Who is in several windows at once
    counts once, with the largest weight.
    """
    edges: list[tuple[float, str, float]] = []
    found: dict[str, float] = {}
    for window in windows:
        found.setdefault(window.who, 0.0)
        if window.end > window.begin:
            edges += [(window.begin, window.who, window.weight), (window.end, window.who, -window.weight)]
    active: dict[str, list[float]] = {}
    last = 0.0
    for at, who, weight in sorted(edges):
        if at > last and active:
            now = {one: max(weights) for one, weights in active.items()}
            total = sum(now.values())
            for one, own in now.items():
                found[one] += (at - last) * own / total
        last = at
        if weight > 0:
            active.setdefault(who, []).append(weight)
        else:
            active[who].remove(-weight)
            if not active[who]:
                del active[who]
    return found


def fairness(service: Mapping[str, float], entitled: Mapping[str, float]) -> float:
    """Return Jain's index of service over entitlement, of those who are entitled to anything."""
    return jain([service.get(who, 0.0) / due for who, due in entitled.items() if due > 0])


def worst_window(samples: Sequence[tuple[float, Sequence[float]]], length: float) -> tuple[float, float]:
    """Return the least and the mean Jain's index of what was gained in any window of at least this length.

    samples: (time, what each has had so far). Windows begin at each sample. Raises ValueError when none is so long.
    """
    found = []
    for first, (begin, before) in enumerate(samples):
        after = next((had for at, had in samples[first:] if at - begin >= length), None)
        if after is None:
            break
        found.append(jain([new - old for new, old in zip(after, before, strict=True)]))
    if not found:
        raise ValueError(f"no two of {len(samples)} samples are {length} apart")
    return min(found), fmean(found)


def share_errors(had: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Return by how much each one's share is off its weight's, in percent of that; with the sign."""
    total, weight = sum(had.values()), sum(weights.values())
    return {name: 100 * (had[name] / total / (weights[name] / weight) - 1) for name in weights}
