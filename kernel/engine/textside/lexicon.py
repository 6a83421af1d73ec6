"""The text of every token of a vocabulary, arranged so that an automaton can be run over all of it at once.

Who calls it: server.py builds it once; the gates forked from there read it. What must hold: a token whose text is
empty (control tokens, all that end a text) is found by its id alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LONGEST_MATCH = 32  # bytes of a token that may stand in a planned text


class Level(NamedTuple):
    """The prefixes of one length that tokens have: where each goes on from in the level before, and by what byte.

    ends: tokens whose text is a prefix of this level, and places: which one.
    """

    parents: np.ndarray
    bytes: np.ndarray
    ends: np.ndarray
    places: np.ndarray


class Lexicon:
    """pieces: the text of each token; ends: the tokens that end a text, `end` the one to be preferred."""

    def __init__(self, pieces: list[bytes], ends: list[int], end: int) -> None:
        self.size = len(pieces)
        self.pieces = pieces
        self.ends = np.array(sorted(ends), dtype=np.int64)
        self.end = end
        self._is_end = frozenset(ends)
        self.by_text: dict[bytes, int] = {}
        for token in range(
            self.size
        ):  # of equal texts the last token: those of single bytes come first
            if self.has_text(token) and len(pieces[token]) <= LONGEST_MATCH:
                self.by_text[pieces[token]] = token
        self.spelled = frozenset(text[0] for text in self.by_text if len(text) == 1)
        self.levels = self._make_levels()

    def has_text(self, token: int) -> bool:
        return bool(self.pieces[token]) and token not in self._is_end

    def is_end(self, token: int) -> bool:
        return token in self._is_end

    def _make_levels(self) -> list[Level]:
        tokens = [token for token in range(self.size) if self.has_text(token)]
        tokens.sort(key=self.pieces.__getitem__)
        flat = np.frombuffer(b"".join([self.pieces[token] for token in tokens]), dtype=np.uint8)
        lengths = np.array([len(self.pieces[token]) for token in tokens], dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        ids = np.array(tokens, dtype=np.int64)
        nodes = np.zeros(len(tokens), dtype=np.int64)  # each token's prefix in the level before
        levels = []
        depth = 0
        while len(ids):
            column = flat[starts + depth]
            is_new = np.ones(len(ids), dtype=bool)
            is_new[1:] = (nodes[1:] != nodes[:-1]) | (column[1:] != column[:-1])
            places = np.cumsum(is_new) - 1
            depth += 1
            is_whole = lengths == depth
            levels.append(Level(nodes[is_new], column[is_new], ids[is_whole], places[is_whole]))
            ids, lengths, starts, nodes = (
                array[~is_whole] for array in (ids, lengths, starts, places)
            )
        return levels
