"""What a step costs in this core, learned from the steps that it made.

Who calls it: bank.py, for placement.py to decide with. What must hold: it decides only where contexts
stand, never what they compute; a wrong figure makes a step slower and nothing else.
"""

from __future__ import annotations

import numpy as np

_MEMORY_BYTES_PER_NS = 8.0  # until it is known better: what a small machine reads
_ROWS_PER_PASS = 16  # the same: so many rows cost as much again as reading the weights
_FORGET = 0.98  # of what older steps said, at each new one
_PRIOR_WEIGHT = 2.0  # of the first guess, in steps
_REFIT_STEPS = 8


class StepCosts:
    """Time of one pass: pass_ns + rows * row_ns + rows * cells * cell_ns.

    Least squares with exponential forgetting over the steps made, drawn towards a first guess from the bytes
    that a step reads. `cells` is the longest extent in the pass: each row computes that many.
    """

    def __init__(self, weights_bytes: int, kv_bytes_per_token: int) -> None:
        passing = weights_bytes / _MEMORY_BYTES_PER_NS
        self._guess = np.array(
            [passing, passing / _ROWS_PER_PASS, kv_bytes_per_token / _MEMORY_BYTES_PER_NS]
        )
        self._scale = np.array([1.0, 8.0, 8.0 * 512])  # of the features, so that the sums are of one size
        self._squares = np.eye(3) * _PRIOR_WEIGHT
        self._products = self._squares @ (self._guess * self._scale)
        self._steps = 0
        self.pass_ns, self.row_ns, self.cell_ns = (float(value) for value in self._guess)
        self.move_ns_per_token = max(1.0, 4 * kv_bytes_per_token / _MEMORY_BYTES_PER_NS)

    def saw_pass(self, rows: int, cells: int, took_ns: int) -> None:
        """Learn from one pass of decoding rows."""
        features = np.array([1.0, rows, rows * cells]) / self._scale
        self._squares = _FORGET * self._squares + np.outer(features, features)
        self._products = _FORGET * self._products + features * took_ns
        self._steps += 1
        if self._steps % _REFIT_STEPS == 0:
            found = np.linalg.lstsq(self._squares, self._products, rcond=None)[0] / self._scale
            found = np.maximum(found, self._guess / 20)
            self.pass_ns, self.row_ns, self.cell_ns = (float(value) for value in found)

    def saw_move(self, tokens: int, took_ns: int) -> None:
        """Learn from one context that changed places."""
        if tokens:
            self.move_ns_per_token += (took_ns / tokens - self.move_ns_per_token) / 8

    def of_pass(self, rows: int, cells: int) -> float:
        """Return the nanoseconds that a pass of `rows` takes when the longest has `cells` before it."""
        return self.pass_ns + rows * self.row_ns + rows * cells * self.cell_ns
