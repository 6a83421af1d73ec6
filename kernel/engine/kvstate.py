"""llama.cpp's state of one sequence, taken apart as far as moving it to another context needs.

Who calls it: bank.py. What must hold: only bytes that llama.cpp wrote in this version are read here, each
model's layout is proved by a round trip before it is relied on (probe.py), and what does not parse to its
last byte is refused.

The layout (src/llama-kv-cache.cpp and src/llama-context.cpp of llama.cpp, read for 0.3.36's version): magic,
sequence id, then for each cache of cells: its number of streams, and for each stream a count of cells with,
unless it is 0, (position, number of ids, three more numbers in models that see pictures, ids) of each cell,
whether V is transposed, a number of layers, the rows of K and of V. A sliding window has two such caches, a
hybrid one and then its recurrent state.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HEAD_BYTES = 8  # magic and sequence id
PLAIN_CELL = 12  # position, one id, the id
CELL_BYTES = PLAIN_CELL, 24  # with x, y and token between
_K_ROW = struct.Struct("<iQ")  # type, bytes of a cell's row
_V_COLUMN = struct.Struct("<iII")  # type, bytes of an element, width


class LayoutError(Exception):
    """The bytes are no state of the layout that is known here."""


class Cells:
    """One cache of cells, as views of the bytes that it was read from."""

    def __init__(self, raw: np.ndarray, start: int, cell_bytes: int) -> None:
        self._raw, self._at, self._cell_bytes = raw, start, cell_bytes
        streams = self._int()
        counts = []
        for _ in range(streams):
            count = self._int()
            counts.append(count)
            if count:
                self._read_cells(count)
        if sum(count > 0 for count in counts) != 1:
            raise LayoutError(f"{counts} cells in {streams} streams, wanted one stream with some")
        self.end = self._at

    def _read_cells(self, count: int) -> None:
        meta = self._take(count * self._cell_bytes).view("<i4").reshape(count, -1)
        if (meta[:, 1] != 1).any():
            raise LayoutError("a cell belongs to more than one sequence")
        self.count, self._meta = count, meta
        self._is_transposed, layers = self._int(), self._int()
        self._keys = [self._rows(count) for _ in range(layers)]
        self._values = [
            self._columns(count) if self._is_transposed else self._rows(count) for _ in range(layers)
        ]

    def _rows(self, count: int) -> tuple[bytes, np.ndarray]:
        head = self._take(_K_ROW.size).tobytes()
        _, row_bytes = _K_ROW.unpack(head)
        return head, self._take(count * row_bytes).reshape(count, row_bytes)

    def _columns(self, count: int) -> tuple[bytes, np.ndarray]:
        head = self._take(_V_COLUMN.size).tobytes()
        _, size, width = _V_COLUMN.unpack(head)
        return head, self._take(count * size * width).reshape(width, count * size)

    def _int(self) -> int:
        return int.from_bytes(self._take(4).tobytes(), "little")

    def _take(self, size: int) -> np.ndarray:
        part = self._raw[self._at : self._at + size]
        if len(part) < size:
            raise LayoutError(f"{size} bytes wanted at {self._at} of {len(self._raw)}")
        self._at += size
        return part

    def parts(self, streams: int, total: int) -> list[np.ndarray]:
        """Return the bytes of these cells for a context of so many streams; total 0: as many as there are.

        Cells before the first position come back as zeros: a sliding window masks them, and every cell keeps
        its place. A larger total repeats the cells, for positions that go on.
        """
        first = int(self._meta[0, 0])
        total = total or first + self.count
        meta = np.empty((total, self._meta.shape[1]), "<i4")
        meta[:first] = self._meta[0]
        meta[first:] = np.resize(self._meta, (total - first, self._meta.shape[1]))
        meta[:, 0] = np.arange(total)
        head = struct.pack("<II", streams, total)
        tail = struct.pack("<II", self._is_transposed, len(self._keys))
        out = [_bytes(head), meta.reshape(-1).view(np.uint8), _bytes(tail)]
        for kept, data in self._keys:
            out += [_bytes(kept), *_padded_rows(data, first, total)]
        for kept, data in self._values:
            out.append(_bytes(kept))
            if self._is_transposed:
                size = data.shape[1] // self.count
                by_cell = data.reshape(len(data), self.count, size)
                whole = np.zeros((len(data), total, size), np.uint8)
                whole[:, first:] = np.resize(by_cell.swapaxes(0, 1), (total - first, len(data), size)).swapaxes(0, 1)
                out.append(whole.reshape(-1))
            else:
                out += _padded_rows(data, first, total)
        out.append(np.zeros(4 * (streams - 1), np.uint8))
        return out

    @staticmethod
    def of_parts(parts: Sequence[tuple[Cells, int, int]], streams: int) -> list[np.ndarray]:
        """Return the bytes of some cells of each, from one up to another, put one after the other.

        streams: of the context that they are for. Raises LayoutError where their positions do not follow.
        """
        one = parts[0][0]
        meta = np.concatenate([cells._meta[begin:end] for cells, begin, end in parts])
        if (np.diff(meta[:, 0]) != 1).any():
            raise LayoutError("the positions of cells do not follow one after the other")
        meta[:, 2] = 0  # the sequence that had them; llama.cpp reads cells into the one that they are for
        head, tail = struct.pack("<II", streams, len(meta)), struct.pack("<II", one._is_transposed, len(one._keys))
        out = [_bytes(head), meta.reshape(-1).view(np.uint8), _bytes(tail)]
        for kind in ("_keys", "_values"):
            for layers in zip(*(getattr(cells, kind) for cells, _, _ in parts), strict=True):
                if any(kept != layers[0][0] for kept, _ in layers):
                    raise LayoutError("layers of cells differ in how they are laid out")
                out.append(_bytes(layers[0][0]))
                for_cells = kind == "_values" and one._is_transposed
                cut = [
                    data.reshape(len(data), cells.count, -1)[:, begin:end] if for_cells else data[begin:end]
                    for (_, data), (cells, begin, end) in zip(layers, parts, strict=True)
                ]
                out.append(np.concatenate(cut, axis=1 if for_cells else 0).reshape(-1))
        out.append(np.zeros(4 * (streams - 1), np.uint8))
        return out

    @property
    def is_whole(self) -> bool:
        """Whether the cells are those of positions 0 to count - 1, in order."""
        return bool((self._meta[:, 0] == np.arange(self.count)).all())


def _bytes(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, np.uint8)


def _padded_rows(data: np.ndarray, first: int, total: int) -> list[np.ndarray]:
    """Return rows for cells 0 to total - 1, those before `first` zero."""
    rows = data if total - first == len(data) else np.resize(data, (total - first, data.shape[1]))
    return [np.zeros(first * data.shape[1], np.uint8), rows.reshape(-1)]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a model's states are laid out: caches of cells, which come first, and the bytes that name a cell.

    What follows the caches, recurrent state, is kept as it is.
    """

    caches: int
    cell_bytes: int = PLAIN_CELL

    def rewrite(self, state: np.ndarray, streams: int, total: int = 0) -> np.ndarray:
        """Return a sequence's state for a context of `streams` streams, every cell in its own place.

        state: uint8, as llama_state_seq_get_data wrote it for a context of any number of streams.
        total: cells to give it, by repeating those that there are; 0: leave their number. Raises LayoutError.
        """
        out = [state[:HEAD_BYTES]]
        at = HEAD_BYTES
        for _ in range(self.caches):
            cells = Cells(state, at, self.cell_bytes)
            out += cells.parts(streams, total)
            at = cells.end
        if total and at < len(state):
            raise LayoutError(f"{len(state) - at} bytes of recurrent state cannot be repeated")
        out.append(state[at:])
        return np.concatenate(out)

    def part(self, state: np.ndarray, begin: int, end: int) -> np.ndarray:
        """Return a state's cells from one position up to another, as a state of these. Raises LayoutError."""
        cells = self._only_cells(state)
        return np.concatenate([state[:HEAD_BYTES], *Cells.of_parts([(cells, begin, end)], 1)])

    def join(self, first: np.ndarray, second: np.ndarray, streams: int) -> np.ndarray:
        """Return the state whose parts these are, for a context of `streams` streams. Raises LayoutError."""
        parts = [(cells, 0, cells.count) for cells in map(self._only_cells, (first, second))]
        return np.concatenate([first[:HEAD_BYTES], *Cells.of_parts(parts, streams)])

    def _only_cells(self, state: np.ndarray) -> Cells:
        if self.caches != 1:
            raise LayoutError(f"a state of {self.caches} caches has no parts")
        cells = Cells(state, HEAD_BYTES, self.cell_bytes)
        if cells.end != len(state):
            raise LayoutError(f"{len(state) - cells.end} bytes follow the cells")
        return cells

    def is_whole(self, state: np.ndarray) -> bool:
        """Whether no cell before the last is missing, in any of the caches. Raises LayoutError."""
        at, found = HEAD_BYTES, True
        for _ in range(self.caches):
            cells = Cells(state, at, self.cell_bytes)
            found = found and cells.is_whole
            at = cells.end
        return found

    def streams_of(self, state: np.ndarray) -> int:
        """Return for how many streams a state was written; 0 where it does not matter."""
        if not self.caches:
            return 0
        return int.from_bytes(state[HEAD_BYTES : HEAD_BYTES + 4].tobytes(), "little")
