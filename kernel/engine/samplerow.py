"""From one row of logits to one token, looking closely at as few tokens as can be.

Who calls it: sampler.py, for the rows of a step, on several threads at once. What must hold: the answer
depends on the logits, the parameters and the number alone. Tokens are ranked by logit, equal ones by id.
Without top-k a guess says above which logit the tokens lie that matter; if it was too high the whole
vocabulary is ranked, which is the most that a row of any shape costs.
"""

from __future__ import annotations

import math

import numpy as np

from kernel.engine.base import Sampling
from kernel.engine.samplefilters import (
    NOTHING,
    Rest,
    is_unfiltered,
    least_kept,
    mass_temperature,
    place,
)
from kernel.engine.sampletop import Top, block_maxima, block_width, tops

_SHORT = 8192  # rows of fewer logits are ranked whole
_LOW, _HIGH = -16.0, 32.0  # a row whose largest logit is about this has exponentials that fit in float32
_STRIDE = 128  # each such logit stands for all when a bound is guessed
_RARE, _COMMON = 0.065, 0.12  # shares of a mask between which numpy finds what it holds most slowly
_MARGIN = 0.7  # of the mass that may lie below a bound, for the sample is not the row
_STEPS = 3  # of the sample to go further down: far up it is too thin to be trusted
_MOST = 0.5  # beyond this share it is quicker to rank all


class Room:
    """Work space of one thread for rows of `vocab` logits."""

    def __init__(self, vocab: int) -> None:
        self.weights = np.empty(vocab, np.float32)
        self.ranking = np.empty(vocab, np.float32)
        self.mask = np.empty(vocab, np.bool_)


def is_greedy(sampling: Sampling) -> bool:
    """Whether the likeliest token is the one, whatever the filters."""
    return not sampling.temperature > 0.0 or sampling.top_k == 1


def pick(row: np.ndarray, sampling: Sampling, number: float, room: Room) -> int | None:
    """Return the token that `number` in [0, 1) stands for; None if every logit is -inf.

    row: shape (vocab,), float32. Raises ValueError if the largest logit is NaN or infinite.
    """
    if is_greedy(sampling):
        likeliest = int(row.argmax())  # numpy takes a NaN for the largest
        return likeliest if is_possible(row[likeliest]) else None
    if 0 < sampling.top_k < len(row) and (width := block_width(len(row), sampling.top_k)):
        maxima = block_maxima(row, width)
        if not is_possible(maxima[maxima.argmax()]):
            return None
        return pick_of_top(_top(row, maxima, sampling.top_k, width), sampling, number)
    count = sampling.top_k if 0 < sampling.top_k < len(row) else len(row)
    token = _pick_above_bound(row, sampling, number, room) if count == len(row) else None
    if token is not None:
        return token
    if not is_possible(row[row.argmax()]):
        return None
    ranking = np.negative(row, out=room.ranking)
    ranking.sort()
    return _ranked(row, ranking, place(ranking[:count], sampling, number))


def pick_of_top(top: Top, sampling: Sampling, number: float) -> int:
    """Return the token that `number` stands for among the largest logits of a row."""
    drawn = place(top.ranking, sampling, number)
    assert drawn is not None
    return int(top.ids[drawn])


def likeliest(row: np.ndarray, count: int) -> np.ndarray:
    """Return the ids of the `count` largest logits, at most all, largest first, equal ones by id."""
    if width := block_width(len(row), count):
        return _top(row, block_maxima(row, width), count, width).ids
    return np.argsort(-row, kind="stable")[:count]


def log_mass(row: np.ndarray, room: Room) -> float:
    """Return the logarithm of the sum of exp(logit): a logit less this is a logarithm of a probability.

    Raises ValueError if the largest logit is not finite.
    """
    largest = row[row.argmax()]
    if not is_possible(largest):
        raise ValueError(f"the model's largest logit is {largest}")
    return float(largest) + math.log(_mass(row, largest, 1.0, room))


def is_possible(largest: np.float32) -> bool:
    """Whether a token can be drawn from a row whose largest logit is this. Raises ValueError: see pick."""
    if not largest < math.inf:
        raise ValueError(f"the model's largest logit is {largest}")
    return bool(largest > -math.inf)


def _top(row: np.ndarray, maxima: np.ndarray, count: int, width: int) -> Top:
    return tops(row[None], np.zeros(1, np.intp), maxima[None], np.array([count]), width)[0]


def _ranked(logits: np.ndarray, ranking: np.ndarray, drawn: int | None) -> int:
    """Return which of the logits has a place in their ranking."""
    assert drawn is not None
    equals = (logits == -ranking[drawn]).nonzero()[0]
    return int(equals[drawn - int(ranking.searchsorted(ranking[drawn]))])


def _pick_above_bound(row: np.ndarray, sampling: Sampling, number: float, room: Room) -> int | None:
    """Draw from the tokens above a logit that is guessed; None if that was too high or is no help."""
    if len(row) < _SHORT:
        return None
    is_typical, is_free = sampling.typical_p < 1.0, is_unfiltered(sampling)
    sample = np.sort(row[::_STRIDE])
    top = sample[-1]  # from which masses are told: any large logit will do, unless the largest is asked for
    if is_free or sampling.min_p > 0.0 or not math.isfinite(top):
        top = row[row.argmax()]
    if not math.isfinite(top):
        return None
    mass = 0.0
    bound = np.float32(-math.inf) if is_typical else least_kept(sampling, top)
    if is_typical or is_free or sampling.top_p < 1.0:
        temperature = mass_temperature(sampling)
        mass = _mass(row, top, temperature, room)
        if not 0.0 < mass < math.inf:
            return None
        if is_typical:  # most of what is left out may be likelier than what is kept
            spare = 0.2 * (1.0 - sampling.typical_p)
        else:
            spare = 1.0 - (number if is_free else sampling.top_p)
        bound = max(bound, _guess(sample, top, temperature, spare * mass))
    if bound == -math.inf:
        return None
    ids = np.greater_equal(row, bound, out=room.mask).nonzero()[0]
    if len(ids) > _MOST * len(row):
        return None
    logits = row[ids]
    ranking = -logits
    ranking.sort()
    rise = -float(ranking[0]) - float(top)
    mean_fall = rise + _mean_fall(row, top, room) if is_typical else 0.0
    drawn = place(ranking, sampling, number, Rest(bound, mass * math.exp(-rise), mean_fall))
    return None if drawn is None else int(ids[_ranked(logits, ranking, drawn)])


def _mass(row: np.ndarray, top: np.float32, temperature: float, room: Room) -> float:
    """Return the sum of exp((logit - top) / temperature), not finite if top is far too low or a logit is NaN.

    Multiples of its terms stay in room.weights.
    """
    weights, scale = room.weights, 1.0
    if temperature == 1.0 and _LOW < top < _HIGH:
        np.exp(row, out=weights)
        scale = math.exp(-top)
    else:
        np.subtract(row, top, out=weights)
        np.divide(weights, temperature, out=weights)
        np.exp(weights, out=weights)
    return _sum(weights) * scale


def _mean_fall(row: np.ndarray, top: np.float32, room: Room) -> float:
    """Return the mean of top - logit over the probabilities whose multiples are in room.weights."""
    falls = np.subtract(top, row, out=room.ranking)
    np.minimum(falls, NOTHING, out=falls)  # of what is -inf as well
    np.multiply(falls, room.weights, out=falls)
    return _sum(falls) / _sum(room.weights)


def _sum(values: np.ndarray) -> float:
    """Return the sum of many float32; adding slices to one another is quicker than along, and as exact."""
    whole = len(values) // 32 * 32
    slices = values[:whole].reshape(32, -1).sum(axis=0)
    return float(slices.sum(dtype=np.float64)) + float(values[whole:].sum(dtype=np.float64))


def _guess(sample: np.ndarray, top: np.float32, temperature: float, spare: float) -> np.float32:
    """Return a logit below which a little less than a spare mass lies; -inf if most logits are above.

    It is judged from a sorted sample of the row.
    """
    masses = np.exp((sample - top) / temperature).cumsum(dtype=np.float64) * _STRIDE
    below = max(int(masses.searchsorted(_MARGIN * spare)) - _STEPS, 0)
    share = 1.0 - below / len(sample)
    if share > _MOST:
        return np.float32(-math.inf)
    if _RARE < share < _COMMON:
        below = int((1.0 - _COMMON) * len(sample))
    return sample[below]
