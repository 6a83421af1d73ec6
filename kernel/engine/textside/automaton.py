"""A grammar as an automaton over bytes, whose states are made when a text first comes to them.

Who calls it: plan.py. What must hold: a state is a function of the grammar and of the text since its start,
whatever was asked before; its number is not.

The language is that of llama.cpp's own grammar sampler (a test compares them), but for tokens: one with an empty text
(a control token) comes only where the grammar names it by `<...>`, and malformed UTF-8 never does.
"""

from __future__ import annotations

import numpy as np

from kernel.engine.base import EngineError
from kernel.engine.textside.cost import INF, Cost, Costs, compile_rules
from kernel.engine.textside.gbnf import Grammar, Token
from kernel.engine.textside.lexicon import Lexicon
from kernel.engine.textside.stacks import Stacks, State
from kernel.engine.textside.utf8 import DONE, Residuals

DEAD = 0  # the state that nothing leads out of
MAX_ELEMENTS = 200_000
_NOTHING = State(frozenset(), frozenset(), False)
_UNKNOWN = -2


class Automaton:
    """Raises EngineError from the constructor for a grammar that cannot be run.

    `start` is the first state. All methods are cheap where the grammar is kind; a hostile one may take any
    time and memory, so they are called in a process with limits.
    """

    def __init__(self, grammar: Grammar, lexicon: Lexicon) -> None:
        _check(grammar, lexicon)
        self._lexicon = lexicon
        self._residuals = Residuals(lexicon.spelled)
        rules = compile_rules(grammar, self._residuals)
        self._costs = Costs(rules, grammar.names, self._residuals, lexicon)
        self._stacks = Stacks(rules, self._costs)
        self._states: list[State] = []
        self._numbers: dict[State, int] = {}
        self._state_costs: dict[int, Cost] = {}
        self._rows = np.full((64, 256), _UNKNOWN, dtype=np.int32)
        self._number(_NOTHING)
        self._rows[DEAD] = DEAD
        self.start = self._number(self._stacks.open_rule(grammar.root))

    def is_whole(self, state: int) -> bool:
        """Whether the text may end here."""
        return self._states[state].is_whole

    def step(self, state: int, byte: int) -> int:
        """Return the state after one more byte, DEAD if it cannot come."""
        following = int(self._rows[state, byte])
        if following == _UNKNOWN:
            self._fill(state)
            following = int(self._rows[state, byte])
        return following

    def step_token(self, state: int, token: int) -> int:
        """Return the state after a token, taken for its text, for its id, or for both at once."""
        if self._lexicon.is_end(token):
            return DEAD
        by_text = DEAD
        if self._lexicon.has_text(token):
            by_text = state
            for byte in self._lexicon.pieces[token]:
                by_text = self.step(by_text, byte)
        by_id = frozenset(
            stacks
            for wanted, is_negated, stacks in self._states[state].tokens
            if (wanted != token) == is_negated
        )
        if not by_id:
            return by_text
        opened = self._stacks.open(self._stacks.union(by_id))
        return self._number(self._union(opened, self._states[by_text]))

    def admitted(self, state: int) -> np.ndarray:
        """Return which tokens may come next, bool, shape (vocab,)."""
        lexicon = self._lexicon
        found = np.zeros(lexicon.size, dtype=bool)
        at = np.array([state], dtype=np.int64)
        for level in lexicon.levels:
            at = self._look_up(at[level.parents] * 256 + level.bytes)
            found[level.ends] = at[level.places] != DEAD
            if not at.any():
                break
        for token, is_negated, _ in self._states[state].tokens:
            if is_negated:
                found |= np.arange(lexicon.size) != token
            else:
                found[token] = True
        found[lexicon.ends] = self.is_whole(state)
        return found

    def cost(self, state: int) -> Cost:
        """Return how much must come at least until the text may end; see cost.py. inf: it never can."""
        known = self._state_costs.get(state)
        if known is None:
            known = (
                0
                if self.is_whole(state)
                else min([cost for cost, *_ in self._ways(state)], default=INF)
            )
            self._state_costs[state] = known
        return known

    def shortest(self, state: int) -> list[int]:
        """Return a shortest text to the end: bytes, and 256 + token for tokens taken by their ids.

        The same for the same state however it was reached. Only for a state whose cost is finite and small.
        """
        if self.is_whole(state):
            return []
        least = self.cost(state)
        return min(
            begin + self._stacks.spell(stacks)
            for cost, begin, stacks in self._ways(state)
            if cost == least
        )

    def _ways(self, state: int) -> list[tuple[Cost, list[int], int]]:
        """Return (cost, what comes first, stacks after it) of all that a state expects."""
        found: list[tuple[Cost, list[int], int]] = []
        for rest, stacks in self._states[state].chars:
            text = self._residuals.shortest[rest]
            found.append(
                (self._costs.of_text(text) + self._stacks.costs[stacks], list(text), stacks)
            )
        for token, is_negated, stacks in self._states[state].tokens:
            shown = 256 + self._costs.token(token, is_negated)
            found.append((1 + self._stacks.costs[stacks], [shown], stacks))
        return found

    def _number(self, state: State) -> int:
        known = self._numbers.get(state)
        if known is None:
            known = self._numbers[state] = len(self._states)
            self._states.append(state)
            if known == len(self._rows):
                self._rows = np.concatenate([self._rows, np.full_like(self._rows, _UNKNOWN)])
        return known

    def _look_up(self, pairs: np.ndarray) -> np.ndarray:
        """Return the states after (state * 256 + byte)."""
        following = self._rows.ravel()[pairs]
        missing = pairs[following == _UNKNOWN]
        if len(missing):
            for state in np.flatnonzero(np.bincount(missing >> 8)):
                self._fill(int(state))
            following = self._rows.ravel()[pairs]
        return following.astype(np.int64)

    def _fill(self, state: int) -> None:
        """Work out a state's whole row at once: bytes that mean the same to all its stacks go together."""
        pairs = tuple(self._states[state].chars)
        tables = [self._residuals.tables[rest] for rest, _ in pairs]
        known: dict[tuple[int, ...], int] = {}
        row = []
        for column in zip(*tables, strict=True):
            if column not in known:
                known[column] = self._advance(pairs, column)
            row.append(known[column])
        self._rows[state] = row or DEAD

    def _advance(self, pairs: tuple[tuple[int, int], ...], column: tuple[int, ...]) -> int:
        """Return the state after a byte, which leaves of each character what `column` says."""
        moved = [
            (rest, stacks) for (_, stacks), rest in zip(pairs, column, strict=True) if rest >= 0
        ]
        done = frozenset(stacks for rest, stacks in moved if rest == DONE)
        opened = self._stacks.open(self._stacks.union(done)) if done else _NOTHING
        inside = State(frozenset(pair for pair in moved if pair[0] != DONE), frozenset(), False)
        return self._number(self._union(opened, inside))

    def _union(self, one: State, other: State) -> State:
        if not (other.chars or other.tokens or other.is_whole):
            return one
        chars: dict[int, set[int]] = {}
        for rest, stacks in (*one.chars, *other.chars):
            chars.setdefault(rest, set()).add(stacks)
        return State(
            frozenset((rest, self._stacks.union(frozenset(sets))) for rest, sets in chars.items()),
            one.tokens | other.tokens,
            one.is_whole or other.is_whole,
        )


def _check(grammar: Grammar, lexicon: Lexicon) -> None:
    elements = [
        element for rule in grammar.rules for alternative in rule for element in alternative
    ]
    if len(elements) > MAX_ELEMENTS:
        raise EngineError(f"the grammar has {len(elements)} elements, the limit is {MAX_ELEMENTS}")
    for element in elements:
        if isinstance(element, Token) and not element.is_negated:
            if element.token >= lexicon.size or lexicon.is_end(element.token):
                raise EngineError(
                    f"grammar: token {element.token} ends a text, or is not in the vocabulary"
                )
