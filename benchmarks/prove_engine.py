"""The engine under proof: the product's own, that also notes which logits every token was drawn from.

Who calls it: prove.py makes it, prove_cases.py reads it. What must hold: the noting changes nothing; a digest
covers every bit of a row of logits, so contexts that differ are told apart even where they draw the same
token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import llama_cpp
import numpy as np

from kernel.engine.base import EngineOptions, Row, Sampled
from kernel.engine.llama import LlamaEngine

DIGEST_BYTES = 8


class WatchedEngine(LlamaEngine):
    """Keeps a digest of logits for each (request, position drawn) since `forget`."""

    def __init__(self, path: str, options: EngineOptions) -> None:
        self._digests: dict[tuple[int, int], bytes] = {}
        self.changed: list[str] = []  # what was drawn twice, after a core's death, from other logits
        super().__init__(path, options)

    def close(self) -> None:
        """Give back memory and the text side's process: a proof loads one model after the other."""
        self.text.close()
        for bank in self._banks:
            if bank is not None:
                bank.close()
        llama_cpp.llama_model_free(self._model)

    def forget(self) -> None:
        """Begin anew: another kernel numbers its requests from 1 again."""
        self._digests.clear()
        self.changed.clear()

    def logits_of(self, request: int) -> tuple[tuple[int, bytes], ...]:
        """Return (position, digest) of all that was drawn for a request, in order."""
        return tuple(
            sorted(
                (position, digest)
                for (number, position), digest in self._digests.items()
                if number == request
            )
        )

    def _draw(
        self, number: int, rows: Sequence[Row], logits: np.ndarray, refused: dict[int, str]
    ) -> list[Sampled]:
        first = self._first_slot(number)
        for row, values in zip(rows, logits, strict=False):  # a chunk that draws nothing has no logits
            if not row.is_last:
                continue
            key = (self._openings[first + row.slot].request, row.position + len(row.tokens))
            digest = hashlib.blake2b(values.tobytes(), digest_size=DIGEST_BYTES).digest()
            if self._digests.setdefault(key, digest) != digest:
                self.changed.append(f"request {key[0]} at position {key[1]}")
        return super()._draw(number, rows, logits, refused)


def make_watched(
    model: str, *, slots: int, slot_tokens: int, window_tokens: int, threads: int, kv_bytes: int = 0
) -> WatchedEngine:
    """Return an engine; with a window longer than slot_tokens it has several banks, as far as kv_bytes go."""
    options = EngineOptions(
        slots=slots,
        slot_tokens=slot_tokens,
        window_tokens=window_tokens,
        threads=threads,
        kv_bytes=kv_bytes,
    )
    return WatchedEngine(model, options)
