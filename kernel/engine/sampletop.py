"""The largest logits of many rows at once: a linear pass over each row, then one over a few blocks of all.

Who calls it: samplerow.py for a row by itself, sampler.py for all rows of a step that want few. What must
hold: what a row gets is its largest logits in order, equal ones by id, whatever rows are beside it.

The count-th largest of the maxima of disjoint blocks is at most the count-th largest logit. So every logit
that is wanted lies in a block whose maximum is as large, and there are few of these.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_WIDEST = 256  # logits to a block: numpy finds where a block's maximum is at memory speed from here on
_NARROWEST = 16


class Top(NamedTuple):
    """The largest logits of a row, largest first."""

    ids: np.ndarray
    ranking: np.ndarray  # the logits negated: ascending, float32


def block_width(vocab: int, count: int) -> int:
    """Return how many logits a block should hold where `count` are wanted; 0: ranking the row is quicker."""
    width = min(_WIDEST, vocab // (2 * count))
    return 1 << width.bit_length() - 1 if width >= _NARROWEST else 0  # numpy is slow with odd widths


def block_maxima(row: np.ndarray, width: int) -> np.ndarray:
    """Return the maximum of each block of a row, shape (vocab,), and of what is left; NaN counts as such."""
    whole = len(row) // width * width
    largest = row[:whole].reshape(-1, width).argmax(axis=1) + np.arange(0, whole, width)
    if whole < len(row):
        largest = np.append(largest, whole + row[whole:].argmax())
    return row[largest]


def tops(
    logits: np.ndarray, indices: np.ndarray, maxima: np.ndarray, counts: np.ndarray, width: int
) -> list[Top]:
    """Return the counts[i] largest logits of each row logits[indices[i]].

    logits: (rows, vocab), float32, no NaN; maxima[i]: block_maxima of that row with this width.
    """
    number, vocab = len(indices), logits.shape[1]
    blocks = vocab // width
    least = np.sort(maxima, axis=1)[np.arange(number), -counts]
    owners, chosen = np.divmod(np.flatnonzero(maxima >= least[:, None]), maxima.shape[1])
    found = np.full((len(chosen), width), np.nan, np.float32)  # a NaN is never wanted
    is_whole = chosen < blocks
    cut = logits[:, : blocks * width].reshape(len(logits), blocks, width)
    found[is_whole] = cut[indices[owners[is_whole]], chosen[is_whole]]
    found[~is_whole, : vocab - blocks * width] = logits[indices[owners[~is_whole]], blocks * width :]
    hits = np.flatnonzero(found >= least[owners][:, None])
    ids = chosen[hits // width] * width + hits % width
    falling = -found.ravel()[hits]
    bounds = owners[hits // width].searchsorted(np.arange(number + 1))
    results = []
    for index, count in enumerate(counts.tolist()):
        part = slice(bounds[index], bounds[index + 1])
        order = falling[part].argsort(kind="stable")[:count]
        results.append(Top(ids[part][order], falling[part][order]))
    return results
