"""Batches of tokens, in memory that llama.cpp reads.

Who calls it: bank.py and embedding.py. What must hold: the arrays live as long as the structures that point at
them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

BYTES = ctypes.POINTER(ctypes.c_uint8)


class Feed(NamedTuple):
    """Tokens for one stream, from `position` on."""

    stream: int
    position: int
    tokens: Sequence[int]
    wanted: int | None = None  # of how many of the last tokens logits are wanted; None: of all


class Batch:
    """A llama_batch whose arrays are numpy's, filled without a Python loop per token."""

    def __init__(self, tokens: int, struct_type: Any) -> None:
        self._token = np.zeros(tokens, np.int32)
        self._position = np.zeros(tokens, np.int32)
        self._sequence = np.zeros(tokens, np.int32)
        self._counts = np.ones(tokens, np.int32)
        self._wanted = np.zeros(tokens, np.int8)
        address = self._sequence.ctypes.data + 4 * np.arange(tokens, dtype=np.uintp)
        self._addresses = address.astype(np.uintp)
        fields = dict(struct_type._fields_)
        self.struct = struct_type(
            token=ctypes.cast(self._token.ctypes.data, fields["token"]),
            pos=ctypes.cast(self._position.ctypes.data, fields["pos"]),
            n_seq_id=ctypes.cast(self._counts.ctypes.data, fields["n_seq_id"]),
            seq_id=ctypes.cast(self._addresses.ctypes.data, fields["seq_id"]),
            logits=ctypes.cast(self._wanted.ctypes.data, fields["logits"]),
        )

    def fill(self, feeds: Sequence[Feed]) -> None:
        """Lay feeds out one after the other."""
        used = 0
        for feed in feeds:
            end = used + len(feed.tokens)
            self._token[used:end] = feed.tokens
            self._position[used:end] = np.arange(feed.position, feed.position + len(feed.tokens))
            self._sequence[used:end] = feed.stream
            self._wanted[used:end] = feed.wanted is None
            if feed.wanted:
                self._wanted[end - feed.wanted : end] = 1
            used = end
        self.struct.n_tokens = used


def address_of(array: np.ndarray, offset: int = 0) -> Any:
    """Return a C pointer into a uint8 array."""
    return ctypes.cast(array.ctypes.data + offset, BYTES)
