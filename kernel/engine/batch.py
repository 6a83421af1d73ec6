"""Memory that llama.cpp reads and writes: batches of rows, and segments mapped into the core.

Who calls it: llama.py. What must hold: the arrays live as long as the structures that point at them.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np

from kernel.engine import snapshot
from kernel.engine.base import Row


class Batch:
    """A llama_batch whose arrays are numpy's, filled without a Python loop per token."""

    def __init__(self, rows: int, struct_type: Any) -> None:
        self._token = np.zeros(rows, np.int32)
        self._position = np.zeros(rows, np.int32)
        self._sequence = np.zeros(rows, np.int32)
        self._counts = np.ones(rows, np.int32)
        self._wanted = np.zeros(rows, np.int8)
        address = self._sequence.ctypes.data + 4 * np.arange(rows, dtype=np.uintp)
        self._addresses = address.astype(np.uintp)
        fields = dict(struct_type._fields_)
        self.struct = struct_type(
            token=ctypes.cast(self._token.ctypes.data, fields["token"]),
            pos=ctypes.cast(self._position.ctypes.data, fields["pos"]),
            n_seq_id=ctypes.cast(self._counts.ctypes.data, fields["n_seq_id"]),
            seq_id=ctypes.cast(self._addresses.ctypes.data, fields["seq_id"]),
            logits=ctypes.cast(self._wanted.ctypes.data, fields["logits"]),
        )

    def fill(self, rows: list[Row], all_outputs: bool) -> list[Row]:
        """Lay rows out one after the other; return those whose last token's logits will be there."""
        used = 0
        self._wanted[:] = 0
        wanted = []
        for row in rows:
            end = used + len(row.tokens)
            self._token[used:end] = row.tokens
            self._position[used:end] = np.arange(row.position, row.position + len(row.tokens))
            self._sequence[used:end] = row.slot
            if all_outputs or row.sampling is not None:
                self._wanted[end - 1] = 1
                wanted.append(row)
            used = end
        self.struct.n_tokens = used
        return wanted


class Mapping:
    """A segment in this process's memory, as numpy and as the pointer that llama.cpp wants.

    Populated at once: a page fault for each 4 KiB of the first save costs more than the copy.
    """

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._map = mmap.mmap(fd, size_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self.array = np.frombuffer(self._map, dtype=np.uint8)
        self.payload = ctypes.cast(
            self.array.ctypes.data + snapshot.HEADER_BYTES, ctypes.POINTER(ctypes.c_uint8)
        )

    def close(self) -> None:
        del self.array  # the map cannot close under a view
        self._map.close()
