"""What drawing keeps of one request: its parameters, the tokens that penalties count, the place in a grammar.

Who calls it: llama.py makes one from each Opening, sampler.py asks it and tells it what it drew. What must
hold: it is a function of the Opening's parameters and of the newest tokens, so that one made anew after a
preemption or a core's death equals one that saw every token come.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from kernel.engine.base import EngineError, Gate, Opening, Sampling

FORBIDS = -100.0  # a bias this low or lower
_LARGEST = 1e30  # of a parameter; the products of two still fit in float64
_HIGHEST = float(np.finfo(np.float32).max)

Edits = list[tuple[np.ndarray, np.ndarray]]


class Drawing:
    """One request's share in drawing. `generated` counts the tokens drawn so far."""

    __slots__ = ("_bias", "_biased", "_forbidden", "_seen", "gate", "generated", "sampling")

    def __init__(self, opening: Opening, vocab: int, gate: Gate | None) -> None:
        """Raises EngineError for a bias or a token that is none of the model's `vocab` tokens."""
        self.sampling = opening.sampling
        self.generated = opening.generated
        self.gate = gate
        biases: dict[int, float] = {}
        forbidden = set()
        for token, bias in self.sampling.logit_bias:
            if not 0 <= token < vocab:
                raise EngineError(f"logit_bias names token {token}, the model has {vocab}")
            biases[token] = biases.get(token, 0.0) + _finite(bias, 0.0)
            if bias <= FORBIDS:
                forbidden.add(token)
        self._biased = np.array(list(biases), np.intp)
        self._bias = np.array(list(biases.values()), np.float64)
        self._forbidden = np.array(sorted(forbidden), np.intp)
        self._seen = _Seen(self.sampling, vocab) if _penalises(self.sampling) else None
        if self._seen:
            for token in opening.tokens[-self.sampling.penalty_tokens :]:
                if not 0 <= token < vocab:
                    raise EngineError(f"the request holds token {token}, the model has {vocab}")
                self._seen.add(token)

    def accept(self, token: int) -> None:
        """The token was drawn. Raises EngineError if the grammar refuses it."""
        self.generated += 1
        if self._seen:
            self._seen.add(token)
        if self.gate:
            self.gate.accept(token)

    def forbids(self, token: int) -> bool:
        """Whether the request's bias rules this token out."""
        return token in self._forbidden

    def edit(self, row: np.ndarray) -> Edits:
        """Apply bias, penalties and what is forbidden, in this order, to logits in place.

        row: shape (vocab,), float32. Returns what undo needs. Finite logits stay finite unless they are
        forbidden, and others stay what they are.
        """
        edits: Edits = []
        if len(self._biased):
            values = row[self._biased] + self._bias
            _change(row, self._biased, values, edits)
        if self._seen:
            ids = self._seen.ids
            _change(row, ids, self._seen.penalised(row[ids]), edits)
        if len(self._forbidden):
            edits.append((self._forbidden, row[self._forbidden]))
            row[self._forbidden] = -math.inf
        return edits


def undo(row: np.ndarray, edits: Edits) -> None:
    """Make a row what it was before these edits."""
    for ids, logits in reversed(edits):
        row[ids] = logits


def _change(row: np.ndarray, ids: np.ndarray, values: np.ndarray, edits: Edits) -> None:
    logits = row[ids]
    edits.append((ids, logits))
    row[ids] = np.where(np.isfinite(logits), np.clip(values, -_HIGHEST, _HIGHEST), logits)


class _Seen:
    """The newest tokens, and how often each is among them, in arrays for all at once."""

    def __init__(self, sampling: Sampling, vocab: int) -> None:
        self._repeat = _finite(sampling.repeat_penalty, 1.0)
        self._presence = _finite(sampling.presence_penalty, 0.0)
        self._frequency = _finite(sampling.frequency_penalty, 0.0)
        self._newest: deque[int] = deque()
        self._size = sampling.penalty_tokens
        self._places: dict[int, int] = {}
        self._ids = np.empty(min(vocab, self._size), np.intp)
        self._counts = np.empty(len(self._ids), np.float64)

    @property
    def ids(self) -> np.ndarray:
        """The tokens seen, each once, in any order."""
        return self._ids[: len(self._places)]

    def penalised(self, logits: np.ndarray) -> np.ndarray:
        """Return what becomes of the logits of `ids`, as llama.cpp's penalties do it, in float64."""
        values = logits.astype(np.float64)
        values = np.where(values > 0.0, values / self._repeat, values * self._repeat)
        return values - (self._counts[: len(values)] * self._frequency + self._presence)

    def add(self, token: int) -> None:
        """Count a token, and no more the one that leaves the window for it."""
        if len(self._newest) == self._size:
            self._drop(self._newest.popleft())
        self._newest.append(token)
        place = self._places.get(token)
        if place is None:
            place = self._places[token] = len(self._places)
            self._ids[place], self._counts[place] = token, 0.0
        self._counts[place] += 1.0

    def _drop(self, token: int) -> None:
        place = self._places[token]
        self._counts[place] -= 1.0
        if self._counts[place] == 0.0:  # the last of the arrays takes its place
            del self._places[token]
            last = len(self._places)
            if place != last:
                moved = int(self._ids[last])
                self._places[moved] = place
                self._ids[place], self._counts[place] = moved, self._counts[last]


def _penalises(sampling: Sampling) -> bool:
    neutral = (1.0, 0.0, 0.0)
    found = (sampling.repeat_penalty, sampling.presence_penalty, sampling.frequency_penalty)
    return sampling.penalty_tokens > 0 and found != neutral


def _finite(parameter: float, neutral: float) -> float:
    return neutral if math.isnan(parameter) else min(max(parameter, -_LARGEST), _LARGEST)
