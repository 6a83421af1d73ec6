"""What a step of an LLM core costs: a linear model, learned from the steps that were made, and split among its members.

Who calls it: charging.py. What must hold: the parts of a step come to its modelled time exactly, whatever it holds; no
part is negative; the same steps teach the same model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

_FORGET = 0.995  # of what older steps said, at each new one: half is gone after 140
_PRIOR_WEIGHT = 0.5  # of the first guess, in steps
_REFIT_STEPS = 8
_WARM_STEPS = 32  # from here on a step that took far longer than predicted is the machine's disturbance
_OUTLIER = 4.0  # times the prediction
_PACE = 0.15  # of what the last step says of the machine's pace, which changes faster than the model forgets
_PACE_LIMITS = 0.5, 2.0
_PASS_TOKENS = 256  # of prompts: so many share a pass
_USUAL_NS = 1e8  # of a step, as far as the weight of the first guess goes
_RECENT = 512  # steps whose errors are told
# A step: [decodes at all, rows, their depth, passes over prompts, prompt tokens, these times their depth]
_GUESS_NS = np.array([10e6, 1e6, 500.0, 10e6, 1e6, 1000.0])
_SCALE = np.array([1.0, 8.0, 4096.0, 1.0, 128.0, 128.0 * 512])
_FLOOR_NS = np.array([1e3, 1e2, 1e-2, 1e3, 1e2, 1e-3])
_SWITCH_GUESS_NS = np.array([2e5, 1e3])  # of a save or restore, and each of its tokens


class Part(NamedTuple):
    """What one request is fed in a step."""

    key: Hashable  # of who pays
    tokens: int  # 1, or those of a prompt's chunks
    depth_tokens: int  # in its context before
    is_chunk: bool


class StepModel:
    """T = c0 [any decodes] + cd rows + ca depths + cb passes + cp tokens + cq tokens x depth; nanoseconds.

    Least squares with exponential forgetting, as kernel/engine/cost.py has for passes inside a core; times the pace of
    the last few steps, for others' work on the same machine makes all of it slower for a second or a minute.
    """

    def __init__(self) -> None:
        self._steps = _Fit(_GUESS_NS, _SCALE, _FLOOR_NS)
        self._switches = _Fit(_SWITCH_GUESS_NS, np.array([1.0, 512.0]), np.array([1e3, 1.0]))
        self._pace = 1.0
        self._errors: deque[float] = deque(maxlen=_RECENT)
        self._took: deque[float] = deque(maxlen=_RECENT)
        self._missed: deque[float] = deque(maxlen=_RECENT)  # ns

    def predict(self, parts: Sequence[Part]) -> float:
        """Return the time of a step."""
        return self._pace * _sum(self._steps.found, _features(parts))

    def split(self, parts: Sequence[Part]) -> tuple[dict[Hashable, int], int]:
        """Return who pays what of a step, and what they pay together: its modelled time."""
        first, row, depth, per_pass, token, deep = (self._pace * one for one in self._steps.found)
        rows = sum(not part.is_chunk for part in parts)
        charges: dict[Hashable, int] = {}
        total, exact = 0, 0.0
        for part in parts:
            if part.is_chunk:
                passes = -(-part.tokens // _PASS_TOKENS)
                exact += per_pass * passes + part.tokens * (token + deep * part.depth_tokens)
            else:
                exact += first / rows + row + depth * part.depth_tokens
            whole = round(exact) - total  # what rounding leaves of one goes to the next
            charges[part.key] = charges.get(part.key, 0) + whole
            total += whole
        return charges, total

    def learn(self, parts: Sequence[Part], took_ns: int) -> None:
        """Take a step that was made, without its saves and restores."""
        if not parts or took_ns <= 0:
            return
        features = _features(parts)
        usual = _sum(self._steps.found, features)
        predicted = self._pace * usual
        if self._steps.count >= _WARM_STEPS:
            self._errors.append(abs(predicted - took_ns) / took_ns)
            self._took.append(float(took_ns))
            self._missed.append(predicted - took_ns)
            took_ns = min(took_ns, int(_OUTLIER * predicted))
            low, high = _PACE_LIMITS
            self._pace += _PACE * (min(high, max(low, took_ns / usual)) - self._pace)
        self._steps.learn(features, took_ns)

    # -- saves and restores -------------------------------------------------------------------

    def split_switches(self, moves: Sequence[tuple[Hashable, int]]) -> tuple[dict[Hashable, int], int]:
        """Return who pays what for (who, tokens moved), and all of it."""
        charges: dict[Hashable, int] = {}
        total = 0
        for key, tokens in moves:
            part = int(self.switches_ns([tokens]))
            charges[key] = charges.get(key, 0) + part
            total += part
        return charges, total

    def learn_switches(self, moves: Sequence[tuple[Hashable, int]], took_ns: int) -> None:
        """Take what a step's saves and restores took together."""
        if moves and took_ns > 0:
            if self._switches.count >= _WARM_STEPS:
                took_ns = min(took_ns, int(_OUTLIER * self.switches_ns([moved for _, moved in moves])))
            tokens = float(sum(moved for _, moved in moves))
            self._switches.learn((float(len(moves)), tokens), took_ns)

    def switches_ns(self, tokens: Sequence[int]) -> float:
        """Return the time of saves and restores of contexts of these lengths."""
        return _sum(self._switches.found, (float(len(tokens)), float(sum(tokens))))

    # -- how good it is -----------------------------------------------------------------------

    @property
    def p95_error(self) -> float:
        """The relative error that 95 of 100 of the last steps stayed below, predicted before they were learned."""
        return float(np.quantile(self._errors, 0.95)) if self._errors else 0.0

    @property
    def r_squared(self) -> float:
        """How much of the variance of the last steps' times it tells; 1: all."""
        if len(self._took) < 2:
            return 0.0
        took, missed = np.array(self._took), np.array(self._missed)
        spread = float(((took - took.mean()) ** 2).sum())
        return 1.0 - float((missed**2).sum()) / spread if spread else 0.0


class _Fit:
    """Coefficients of one linear model."""

    def __init__(self, guess: np.ndarray, scale: np.ndarray, floor: np.ndarray) -> None:
        self._scale = scale
        self._floor = floor
        self._squares = np.eye(len(guess)) * _PRIOR_WEIGHT
        self._products = self._squares @ (guess * scale)
        self._batch: list[tuple[tuple[float, ...], float]] = []
        self.count = 0
        self.found = tuple(float(value) for value in guess)

    def learn(self, features: tuple[float, ...], took_ns: float) -> None:
        self.count += 1
        self._batch.append((features, took_ns))
        if len(self._batch) < _REFIT_STEPS and self.count > _REFIT_STEPS:
            return
        rows = np.array([one for one, _ in self._batch]) / self._scale
        took = np.array([one for _, one in self._batch])
        weights = _FORGET ** np.arange(len(took) - 1, -1, -1)
        # Weighed by the reciprocal of the prediction, the times predicted come to those taken, over many steps.
        weights = weights * _USUAL_NS / np.maximum(rows @ (np.array(self.found) * self._scale), 1.0)
        keep = _FORGET ** len(took)
        self._squares = keep * self._squares + (rows.T * weights) @ rows
        self._products = keep * self._products + (rows.T * weights) @ took
        self._batch.clear()
        self.found = self._solve()

    def _solve(self) -> tuple[float, ...]:
        """Least squares in which no coefficient is below its floor: those that are, are set to it, and left out."""
        floor = self._floor * self._scale
        free = np.ones(len(floor), bool)
        found = floor.copy()
        for _ in range(len(floor)):
            rest = self._products - self._squares[:, ~free] @ floor[~free]
            found[free] = np.linalg.lstsq(self._squares[np.ix_(free, free)], rest[free], rcond=None)[0]
            found[~free] = floor[~free]
            low = free & (found < floor)
            if not low.any():
                break
            free &= ~low
        return tuple(float(value) for value in np.maximum(found, floor) / self._scale)


def _features(parts: Sequence[Part]) -> tuple[float, ...]:
    rows = depths = passes = tokens = deep = 0
    for part in parts:
        if part.is_chunk:
            passes += -(-part.tokens // _PASS_TOKENS)
            tokens += part.tokens
            deep += part.tokens * part.depth_tokens
        else:
            rows += 1
            depths += part.depth_tokens
    return (float(rows > 0), float(rows), float(depths), float(passes), float(tokens), float(deep))


def _sum(found: Sequence[float], features: Sequence[float]) -> float:
    return sum(one * other for one, other in zip(found, features, strict=True))
