"""Sets of code points as the sequences of bytes that write them, and a table to walk these byte by byte.

Who calls it: automaton.py. What must hold: exactly the well-formed UTF-8 of RFC 3629 is taken: no overlong forms, no
surrogates, nothing beyond U+10FFFF.
"""

from __future__ import annotations

from kernel.engine.textside.gbnf import Ranges

DONE = 0  # the character is whole
NO_BYTE = -1  # this byte cannot come here

Sequence = tuple[tuple[int, int], ...]  # a range of bytes for each place

_LENGTH_LIMITS = ((0x7F, 1), (0x7FF, 2), (0xFFFF, 3), (0x10FFFF, 4))
_SURROGATES = (0xD800, 0xDFFF)
_LIKED = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def sequences(ranges: Ranges) -> tuple[Sequence, ...]:
    """Return byte sequences that together write exactly these code points."""
    found: list[Sequence] = []
    for low, high in ranges:
        for start, end in (
            (low, min(high, _SURROGATES[0] - 1)),
            (max(low, _SURROGATES[1] + 1), high),
        ):
            at = start
            for limit, length in _LENGTH_LIMITS:
                if at <= min(limit, end):
                    _split(at, min(limit, end), length, found)
                    at = limit + 1
    return tuple(found)


def _split(low: int, high: int, length: int, found: list[Sequence]) -> None:
    """Append sequences for a range whose code points all take `length` bytes.

    A range is cut until all but its first differing byte run from 80 to BF, as then each place is a range of its own.
    """
    for place in range(1, length):
        mask = (1 << 6 * place) - 1
        if low & ~mask != high & ~mask:
            if low & mask:
                _split(low, low | mask, length, found)
                _split((low | mask) + 1, high, length, found)
                return
            if high & mask != mask:
                _split(low, (high & ~mask) - 1, length, found)
                _split(high & ~mask, high, length, found)
                return
    found.append(tuple(zip(chr(low).encode(), chr(high).encode(), strict=True)))


class Residuals:
    """Characters of which some bytes have come, by number; DONE is the whole character.

    tables[n][byte] is where the n-th goes on, or NO_BYTE.
    """

    def __init__(self, spelled: frozenset[int]) -> None:
        self._spelled = spelled  # bytes that are tokens of their own
        self._numbers: dict[tuple[Sequence, ...], int] = {((),): DONE}
        self.tables: list[list[int]] = [[NO_BYTE] * 256]
        self.shortest: list[bytes] = [
            b""
        ]  # a shortest way to the whole, of spelled bytes if there is one

    def number(self, rest: tuple[Sequence, ...]) -> int:
        """Return the number of what may still come, new if need be."""
        known = self._numbers.get(rest)
        if known is not None:
            return known
        number = self._numbers[rest] = len(self.tables)
        self.tables.append([])
        self.shortest.append(self._shortest(rest))
        following: dict[tuple[Sequence, ...], int] = {}
        table = []
        for byte in range(256):
            after = tuple([one[1:] for one in rest if one[0][0] <= byte <= one[0][1]])
            if not after:
                table.append(NO_BYTE)
                continue
            if after not in following:
                following[after] = self.number(after)
            table.append(following[after])
        self.tables[number] = table
        return number

    def is_spelled(self, text: bytes) -> bool:
        return self._spelled.issuperset(text)

    def _shortest(self, rest: tuple[Sequence, ...]) -> bytes:
        """Digits and letters first, so that a text that is cut short reads well."""
        best: tuple[tuple[bool, int], bytes] | None = None
        for one in rest:
            if len(one) == 1:
                low, high = one[0]
                liked = [byte for byte in _LIKED if low <= byte <= high and byte in self._spelled]
                text = bytes([liked[0]]) if liked else self._first(one)
                rank = (not self.is_spelled(text), 1 - bool(liked))
            else:
                text = self._first(one)
                rank = (not self.is_spelled(text), 1 + len(text))
            if best is None or rank < best[0]:
                best = rank, text
        return best[1] if best else b""

    def _first(self, one: Sequence) -> bytes:
        places = []
        for low, high in one:
            places.append(
                next((byte for byte in range(low, high + 1) if byte in self._spelled), low)
            )
        return bytes(places)
