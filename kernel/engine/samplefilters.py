"""Which place of a ranking is drawn: typical, top-p, min-p, then the temperature, then a number in [0, 1).

Who calls it: samplerow.py, with all tokens of a row in order, or with those above a bound. What must hold:
the answer is that of the whole row, or None where tokens under the bound would have to be looked at. The
order is that of llama.cpp's default chain: each filter takes the probabilities of what the one before it
left, at temperature 1; the temperature applies to what is left in the end, side by side in order of rank.

A ranking is an ascending float32 array of negated logits. Masses are sums of exp(logit - largest logit), of
float32 weights in float64: what is kept, and what is drawn, is what exact arithmetic would keep and draw for
a parameter and a number that differ by TOLERANCE at most.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

import numpy as np

from kernel.engine.base import Sampling

TOLERANCE = 1e-6
NOTHING = 200.0  # a fall from the largest logit that leaves a weight of 0
_PART = 256  # weights summed before sums are accumulated: accumulating takes 4 ns for each number
_FEW = 1024  # weights that are accumulated one by one
_COLDEST, _HOTTEST = 1e-30, 1e30  # float32 divides by these without a NaN


@dataclass(frozen=True, slots=True)
class Rest:
    """What is known of a whole row when only its tokens above a bound are ranked."""

    bound: np.float32  # the others' logits are smaller
    mass: float  # of all tokens, at mass_temperature; unused if only min-p filters
    mean_fall: float  # of largest logit - logit over all tokens' probabilities; for typical sampling alone


def is_unfiltered(sampling: Sampling) -> bool:
    """Whether every token of a ranking may be drawn."""
    return not (sampling.typical_p < 1.0 or sampling.top_p < 1.0 or sampling.min_p > 0.0)


def mass_temperature(sampling: Sampling) -> float:
    """Return the temperature of the first masses that are needed."""
    return _bounded(sampling.temperature) if is_unfiltered(sampling) else 1.0


def least_kept(sampling: Sampling, largest: np.float32) -> np.float32:
    """Return the smallest float32 that min-p keeps beside this largest logit; -inf if it keeps all."""
    if not sampling.min_p > 0.0:
        return np.float32(-math.inf)
    least = float(largest) + min(math.log(sampling.min_p), 0.0)
    rounded = np.float32(least)
    return rounded if float(rounded) >= least else np.nextafter(rounded, np.float32(math.inf))


def place(ranking: np.ndarray, sampling: Sampling, number: float, rest: Rest | None = None) -> int | None:
    """Return the place in a ranking that `number` in [0, 1) stands for, or None if the rest must be ranked.

    At least one logit must be finite. Without a Rest the answer is never None.
    """
    ranking = ranking[: ranking.searchsorted(np.float32(math.inf))]
    drops = ranking[0] - ranking  # from the largest logit: 0 and below
    first, end = 0, len(ranking)
    is_open = rest is not None  # tokens of the rest may be among those kept
    masses = None
    if sampling.typical_p < 1.0 or sampling.top_p < 1.0:
        masses = _Masses(np.exp(drops))
        mass = masses.before(end) if rest is None else rest.mass
        if sampling.typical_p < 1.0:
            kept = _typical(-drops, masses, sampling.typical_p, rest, -ranking[0])
            if kept is None:
                return None
            first, end = kept
            is_open, mass = False, masses.before(end) - masses.before(first)
        if sampling.top_p < 1.0:
            last = masses.reach(masses.before(first) + sampling.top_p * mass)
            is_open = is_open and last == len(ranking)
            end = min(end, max(last, first) + 1)
    if sampling.min_p > 0.0:
        least = least_kept(sampling, -ranking[first])
        is_open = is_open and bool(least < rest.bound)
        end = min(end, int(ranking.searchsorted(-least, side="right")))
    if is_open and not is_unfiltered(sampling):
        return None
    start = 0  # the place of the first weight
    if masses is None or sampling.temperature != 1.0:
        start = first
        masses = _Masses(np.exp((drops[first:end] - drops[first]) / _bounded(sampling.temperature)))
    before = masses.before(first - start)
    mass = rest.mass if is_open else masses.before(end - start) - before
    drawn = start + masses.reach(before + number * mass, is_past=True)
    if drawn < end:
        return max(drawn, first)
    return None if is_open else start + int(np.count_nonzero(masses.weights[: end - start])) - 1  # rounded up


def _typical(
    falls: np.ndarray, masses: _Masses, share: float, rest: Rest | None, largest: np.float32
) -> tuple[int, int] | None:
    """Return the first place kept and the one after the last, or None if the rest must be ranked.

    Locally typical sampling (Meister et al., TACL 2023), but that tokens as typical as the last one kept are
    kept as well. A token's |information - entropy| is |fall - mean fall|, for the mass cancels; so those kept
    are neighbours in the ranking.
    """
    if rest is None:
        mass = masses.before(len(falls))
        near = np.minimum(falls, NOTHING)
        mean_fall = float((masses.weights * near).sum(dtype=np.float64)) / mass
    else:
        mass, mean_fall = rest.mass, rest.mean_fall
    distances = np.abs(falls - np.float32(mean_fall))
    middle = int(falls.searchsorted(np.float32(mean_fall)))
    above, below = distances[:middle][::-1].copy(), distances[middle:]  # going away from the middle

    def kept(radius: np.float32) -> tuple[int, int]:
        first = middle - int(above.searchsorted(radius, side="right"))
        return first, middle + int(below.searchsorted(radius, side="right"))

    def mass_within(radius: np.float32) -> float:
        first, end = kept(radius)
        return masses.before(end) - masses.before(first)

    radii = []
    for side in (above, below):
        place = bisect.bisect_right(side, share * mass, key=mass_within)
        radii += side[place : place + 1].tolist()
    radius = np.float32(min(radii, default=math.inf))
    if rest and largest - rest.bound - np.float32(mean_fall) <= radius:
        return None
    return kept(radius)


def _bounded(temperature: float) -> float:
    return min(max(temperature, _COLDEST), _HOTTEST)


class _Masses:
    """Weights and their sums up to any place."""

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights
        self._part = 1 if len(weights) <= _FEW else _PART
        sums = weights
        if self._part > 1:
            whole = len(weights) // _PART * _PART
            sums = np.append(weights[:whole].reshape(-1, _PART).sum(axis=1), weights[whole:].sum())
        self._sums = sums.cumsum(dtype=np.float64)

    def before(self, place: int) -> float:
        """Return the mass of all places before this one."""
        part, more = divmod(place, self._part)
        mass = float(self._sums[part - 1]) if part else 0.0
        return mass + float(self.weights[place - more : place].sum(dtype=np.float64)) if more else mass

    def reach(self, mass: float, is_past: bool = False) -> int:
        """Return the first place that brings the sum up to a mass (or past it); else the number of places."""
        side = "right" if is_past else "left"
        part = int(self._sums.searchsorted(mass, side=side))
        if self._part == 1 or part == len(self._sums):
            return min(part * self._part, len(self.weights))
        start = part * _PART
        inside = self.weights[start : start + _PART].cumsum(dtype=np.float64)
        return start + int(inside.searchsorted(mass - self.before(start), side=side))
