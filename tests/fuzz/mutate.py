"""Makes inputs for the fuzz targets: kept ones that are damaged, and new ones out of pieces.

Who uses it: run.py. What must hold: a seed gives the same inputs in the same order, as long as the corpus is
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from tests.fuzz import pieces

MAX_BYTES = 1 << 18  # an input grows no further
BYTES = bytes([0, 1, 2, 3, 4, 7, 8, 0x10, 0x7F, 0x80, 0x90, 0x93, 0xA0, 0xC1, 0xDC, 0xDF, 0xE0, 0xFE, 0xFF])
MSGPACK = (*pieces.LIES, *pieces.NESTS, *pieces.SCALARS, *pieces.BROKEN, *pieces.KEYS, *pieces.METHODS)
LENGTHS = tuple(
    size.to_bytes(width, "big")
    for width in (1, 2, 4, 8)
    for size in pieces.SIZES_BYTES
    if size < 1 << (8 * width)
)

# What a target's inputs are made of: a builder of new ones, and what is put into old ones.
GRAMMARS: dict[str, tuple[Callable[[Random], bytes], tuple[bytes, ...]]] = {
    "zmtp": (pieces.stream, pieces.PIECES),
    "call": (pieces.call, MSGPACK),
    "answer": (pieces.answer, MSGPACK),
    "conversation": (pieces.conversation, (*pieces.PIECES, *MSGPACK)),
}


class Mutator:
    """Inputs of one target without end: `next(mutator)`."""

    def __init__(self, target: str, kept: Sequence[bytes], seed: int) -> None:
        self._build, self._pieces = GRAMMARS[target]
        self._kept = kept
        self._random = Random(seed)
        self._damages = (
            self._flip, self._set, self._cut, self._repeat, self._splice, self._insert, self._insert,
            self._overwrite, self._lie, self._nest, self._end,
        )  # fmt: skip

    def __iter__(self) -> Mutator:
        return self

    def __next__(self) -> bytes:
        random = self._random.random
        dice = random()
        if dice < 0.45:
            return self._build(self._random)
        data = bytearray(self._build(self._random) if dice < 0.65 else self._old())
        damages = self._damages
        while True:
            damages[int(random() * len(damages))](data)
            if random() < 0.5:
                return bytes(data[:MAX_BYTES])

    # -- damages ------------------------------------------------------------------------------

    def _at(self, data: bytearray) -> int:
        return int(self._random.random() * len(data))

    def _old(self) -> bytes:
        return self._kept[int(self._random.random() * len(self._kept))]

    def _piece(self) -> bytes:
        return self._pieces[int(self._random.random() * len(self._pieces))]

    def _range(self, data: bytearray) -> slice:
        """A part, short ones more often than long ones."""
        at = self._at(data)
        return slice(at, at + 1 + int(self._random.random() ** 4 * (len(data) - at)))

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._at(data)] ^= 1 << int(self._random.random() * 8)

    def _set(self, data: bytearray) -> None:
        if data:
            data[self._at(data)] = BYTES[int(self._random.random() * len(BYTES))]

    def _cut(self, data: bytearray) -> None:
        del data[self._range(data)]

    def _end(self, data: bytearray) -> None:
        del data[self._at(data) :]

    def _repeat(self, data: bytearray) -> None:
        part = self._range(data)
        times = 1 + int(self._random.random() ** 8 * 300)
        data[part.stop : part.stop] = bytes(data[part]) * min(times, MAX_BYTES // 32)

    def _splice(self, data: bytearray) -> None:
        other = self._old()
        data[self._at(data) :] = other[int(self._random.random() * len(other)) :]

    def _insert(self, data: bytearray) -> None:
        at = self._at(data)
        data[at:at] = self._piece()

    def _overwrite(self, data: bytearray) -> None:
        at, piece = self._at(data), self._piece()
        data[at : at + len(piece)] = piece

    def _lie(self, data: bytearray) -> None:
        """Another length where one may stand."""
        at = self._at(data)
        length = LENGTHS[int(self._random.random() * len(LENGTHS))]
        data[at : at + len(length)] = length

    def _nest(self, data: bytearray) -> None:
        at = self._at(data)
        data[at:at] = pieces.NESTS[int(self._random.random() * len(pieces.NESTS))]
