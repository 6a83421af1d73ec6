"""The logprobs of a request's tokens, packed: as objects those of one long answer would be tens of megabytes.

Who uses it: the kernel, for each token of a request that asked. What must hold: rows come out as they went in.
"""

from __future__ import annotations

from array import array
from typing import Any

from kernel.engine.base import Sampled


class Logprobs:
    """For each token that was generated: its own, and those of the likeliest in its place."""

    __slots__ = ("_ends", "_tokens", "_values")

    def __init__(self) -> None:
        self._tokens = array("i")  # of each row: the one drawn, then the likeliest
        self._values = array("d")
        self._ends = array("l")  # of each row in these two

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, item: Sampled) -> None:
        """Keep what a core said of a token."""
        assert item.logprob is not None
        for token, value in ((item.token, item.logprob), *item.top):
            self._tokens.append(token)
            self._values.append(value)
        self._ends.append(len(self._tokens))

    def rows(self, newest: int) -> list[dict[str, Any]]:
        """Return the rows of the newest tokens, as the protocol has them."""
        first = len(self._ends) - newest
        start = self._ends[first - 1] if first else 0
        rows = []
        for end in self._ends[first:]:
            pairs = zip(self._tokens[start:end], self._values[start:end], strict=True)
            (token, value), *top = pairs
            rows.append({"token": token, "logprob": value, "top": top})
            start = end
        return rows
