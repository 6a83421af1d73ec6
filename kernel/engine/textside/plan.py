"""What a constraint lets come next, and whether the text can still be whole within its tokens.

Who calls it: gatechild.py. What must hold: after any accepted tokens, one that is admitted leaves a way to the end that
fits; all of it is a function of the grammar, max_tokens and the tokens accepted, so that a rebuilt gate goes on as
the lost one would have.
"""

from __future__ import annotations

import numpy as np

from kernel.engine.base import EngineError
from kernel.engine.textside.automaton import DEAD, Automaton
from kernel.engine.textside.cost import UNSPELLED
from kernel.engine.textside.lexicon import LONGEST_MATCH, Lexicon

MAX_PLANNED_BYTES = 16 << 10
_KEPT_MASKS = 64


class Plan:
    """The place in a grammar, and the tokens that remain. Raises EngineError where no text fits.

    needed: tokens that a shortest text takes, -1 where the vocabulary cannot spell it.
    """

    def __init__(self, automaton: Automaton, lexicon: Lexicon, max_tokens: int) -> None:
        self._automaton = automaton
        self._lexicon = lexicon
        self._state = automaton.start
        self._left = max_tokens
        self._tail: list[int] | None = (
            None  # the tokens that a text is closed with, once they matter
        )
        self._covers: dict[int, list[int] | None] = {}  # by state
        self._masks: dict[int, np.ndarray] = {}  # by state, packed
        if automaton.cost(self._state) == float("inf"):
            raise EngineError("grammar: no text that follows it ever ends")
        cover = self._cover(self._state)
        self.needed = -1 if cover is None else len(cover)
        if self.needed > max_tokens:
            raise EngineError(
                f"the shortest text that follows the grammar takes {self.needed} tokens,"
                f" max_tokens is {max_tokens}"
            )
        if self._is_near(self._state, self._left):
            self._tail = cover

    def admits(self, token: int) -> bool:
        """Whether the token may come and the text be whole within the tokens that are left after it."""
        if self._lexicon.is_end(token):
            return self._automaton.is_whole(self._state)
        state = self._automaton.step_token(self._state, token)
        if state == DEAD or not self._left:
            return False
        if not self._is_near(state, self._left - 1):
            return True
        tail = self._next_tail(state, token)
        if tail is None:  # as good as any other where the vocabulary cannot spell the end
            return self._tail is None and self._cover(self._state) is None
        return len(tail) <= self._left - 1

    def admitted(self) -> np.ndarray:
        """Return which tokens the grammar alone lets come, bits in the order of np.packbits."""
        mask = self._masks.get(self._state)
        if mask is None:
            if len(self._masks) == _KEPT_MASKS:
                self._masks.clear()
            mask = self._masks[self._state] = np.packbits(self._automaton.admitted(self._state))
        return mask

    def closing(self) -> int:
        """Return the next token of a short way to the end."""
        tail = self._tail or self._cover(self._state)
        if tail:
            return tail[0]
        if tail is not None:
            return self._lexicon.end
        admitted = np.flatnonzero(self._automaton.admitted(self._state))
        if not len(admitted):
            raise EngineError("grammar: no token of this model can come next")
        return int(admitted[0])

    def accept(self, token: int) -> None:
        """The token came."""
        if self._lexicon.is_end(token):
            return
        state = self._automaton.step_token(self._state, token)
        if state == DEAD:
            raise EngineError(f"grammar: token {token} came, which it does not admit")
        self._left -= 1
        self._tail = self._next_tail(state, token) if self._is_near(state, self._left) else None
        self._state = state

    def _is_near(self, state: int, left: int) -> bool:
        """Whether the end must be planned for: a byte for each token that is left may not do."""
        return self._automaton.cost(state) > left

    def _next_tail(self, state: int, token: int) -> list[int] | None:
        """Return the tokens to the end after one more: on the way that we were on, if we still are."""
        if self._tail and self._tail[0] == token:
            return self._tail[1:]
        return self._cover(state)

    def _cover(self, state: int) -> list[int] | None:
        """Return the fewest tokens that write a shortest text from a state on; None if none do."""
        if state not in self._covers:
            if len(self._covers) > 1024:
                self._covers.clear()
            self._covers[state] = self._make_cover(state)
        return self._covers[state]

    def _make_cover(self, state: int) -> list[int] | None:
        cost = self._automaton.cost(state)
        if cost == float("inf"):
            return None
        if cost % UNSPELLED > MAX_PLANNED_BYTES or cost > UNSPELLED * MAX_PLANNED_BYTES:
            raise EngineError(
                f"the shortest text that follows the grammar is longer than {MAX_PLANNED_BYTES} bytes"
            )
        text = self._automaton.shortest(state)
        tokens: list[int] = []
        start = 0
        for at, unit in enumerate([*text, 256]):
            if unit >= 256:
                run = cover_text(bytes(text[start:at]), self._lexicon.by_text)
                if run is None:
                    return None
                tokens += run
                tokens += [unit - 256] if at < len(text) else []
                start = at + 1
        return tokens


def cover_text(text: bytes, by_text: dict[bytes, int]) -> list[int] | None:
    """Return the fewest tokens whose texts make up this one, longer ones first; None if none do."""
    fewest: list[int | None] = [None] * len(text) + [0]
    longest = [0] * len(text)
    for start in range(len(text) - 1, -1, -1):
        for end in range(min(len(text), start + LONGEST_MATCH), start, -1):
            after = fewest[end]
            if after is not None and text[start:end] in by_text:
                best = fewest[start]
                if best is None or after + 1 < best:
                    fewest[start], longest[start] = after + 1, end - start
    if fewest[0] is None:
        return None
    tokens = []
    at = 0
    while at < len(text):
        tokens.append(by_text[text[at : at + longest[at]]])
        at += longest[at]
    return tokens
