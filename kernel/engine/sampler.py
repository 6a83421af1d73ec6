"""Draw the next token from logits, from a counter and not from hidden state.

Who calls it: llama.py after each decode. What must hold: the token depends on the row's logits, the
sampling parameters, the seed and the position alone, so a preempted, moved or replayed request draws
what it would have drawn undisturbed.
"""

from __future__ import annotations

import numpy as np

from kernel.engine.base import Sampling

_MASK = (1 << 64) - 1


def uniform(seed: int, position: int) -> float:
    """Return a number in [0, 1) that is a function of (seed, position).

    SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014) over a counter.
    """
    mixed = (seed * 0xD1342543DE82EF95 + position * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((mixed ^ (mixed >> 31)) >> 11) * 2.0**-53


def sample(logits: np.ndarray, sampling: Sampling, position: int) -> int:
    """Return a token id for one row of logits, shape (vocab,), float32.

    Order of the filters: top-k, temperature, top-p; the candidates are ranked by logit and, among
    equals, by id, so that the draw is defined for ties as well. Raises ValueError for logits that
    are not finite: the context is damaged.
    """
    likeliest = int(logits.argmax())  # numpy takes a NaN for the largest
    if not np.isfinite(logits[likeliest]):
        raise ValueError(f"the model's logit of token {likeliest} is {logits[likeliest]}")
    if sampling.temperature <= 0.0:
        return likeliest
    ids = _top(logits, sampling.top_k)
    scaled = logits[ids].astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled[0])
    mass = np.cumsum(weights)
    if sampling.top_p < 1.0:
        kept = int(np.searchsorted(mass, sampling.top_p * mass[-1])) + 1
        mass = mass[: min(kept, len(mass))]
    drawn = int(np.searchsorted(mass, uniform(sampling.seed, position) * mass[-1], side="right"))
    return int(ids[min(drawn, len(mass) - 1)])


def _top(logits: np.ndarray, count: int) -> np.ndarray:
    """Return the ids of the `count` largest logits (0: all), largest first, ties by id."""
    if 0 < count < len(logits):
        threshold = np.partition(_block_maxima(logits, count), -count)[-count]
        ids = np.flatnonzero(logits >= threshold)
    else:
        ids = np.arange(len(logits))
    order = np.lexsort((ids, -logits[ids]))
    return ids[order][: count or None]


def _block_maxima(logits: np.ndarray, count: int) -> np.ndarray:
    """Return maxima of strided blocks, at least `count` of them.

    The count-th largest of these is at most the count-th largest logit, so everything at or above it
    holds the whole top: a linear pass stands in for a partition of the vocabulary.
    """
    blocks = max(4 * count, 256)
    if len(logits) < 2 * blocks:
        return logits
    whole = len(logits) // blocks * blocks
    maxima = logits[:whole].reshape(-1, blocks).max(axis=0)
    return np.concatenate([maxima, logits[whole:]])
