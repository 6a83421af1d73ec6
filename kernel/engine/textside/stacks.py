"""What a grammar still expects at a place in a text: sets of stacks that share all that they have in common.

Who calls it: automaton.py. What must hold: a set is a function of the grammar and the text before it; its number is
not. Ambiguity costs no more than the grammar's own size: two stacks with the same top are one, whose lower part is the
set of both (the graph-structured stack of M. Tomita, Efficient Parsing for Natural Language, 1986).
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from typing import NamedTuple

from kernel.engine.textside.cost import INF, Class, Compiled, Cost, Costs
from kernel.engine.textside.gbnf import Reference, Token
from kernel.engine.textside.utf8 import DONE

EMPTY = 0  # the set of the one stack that expects nothing more

Top = tuple[
    int, int, int, int
]  # rule, alternative, place in it, how often the element there has come


class State(NamedTuple):
    """What may come next: the rest of a character, or a token by its id; each with the set of stacks after it."""

    chars: frozenset[tuple[int, int]]
    tokens: frozenset[tuple[int, bool, int]]
    is_whole: bool  # the text may end here


class Stacks:
    """Sets of stacks by number."""

    def __init__(self, rules: Compiled, costs: Costs) -> None:
        self._rules = rules
        self._costs = costs
        self._tops: list[dict[Top, int]] = [
            {}
        ]  # of each set: the tops of its stacks, and what is below
        self._is_whole = [True]  # whether one of its stacks is empty
        self._numbers: dict[tuple[bool, frozenset[tuple[Top, int]]], int] = {
            (True, frozenset()): EMPTY
        }
        self.costs: list[Cost] = [0]  # of each set: a shortest text to the end
        self._unions: dict[frozenset[int], int] = {}
        self._opened: dict[int, State] = {}

    def push(self, rule: int, alternative: int, place: int, times: int, below: int) -> int:
        """Return the set that expects the rest of an alternative, then what `below` expects."""
        if place == len(self._rules[rule][alternative]):
            return below
        return self._number(False, {(rule, alternative, place, times): below})

    def union(self, sets: frozenset[int]) -> int:
        """Return the set of all stacks of these."""
        if len(sets) == 1:
            return next(iter(sets))
        known = self._unions.get(sets)
        if known is None:
            merged: defaultdict[Top, set[int]] = defaultdict(set)
            for one in sets:
                for top, below in self._tops[one].items():
                    merged[top].add(below)
            tops = {top: self.union(frozenset(belows)) for top, belows in merged.items()}
            known = self._number(any(self._is_whole[one] for one in sets), tops)
            self._unions[sets] = known
        return known

    def open(self, stacks: int) -> State:
        """Return what a set expects once the rules on its tops are opened down to characters and tokens."""
        known = self._opened.get(stacks)
        if known is None:
            known = self._opened[stacks] = self._open(stacks)
        return known

    def open_rule(self, rule: int) -> State:
        """Return what a text of this rule may begin with."""
        alternatives = range(len(self._rules[rule]))
        return self.open(
            self.union(frozenset(self.push(rule, one, 0, 0, EMPTY) for one in alternatives))
        )

    def spell(self, stacks: int) -> list[int]:
        """Return a shortest text that a set expects: bytes, and 256 + token for a token by its id."""
        found: list[int] = []
        while not self._is_whole[stacks]:
            least = self.costs[stacks]
            tops = self._tops[stacks]
            top = min(
                top
                for top, below in tops.items()
                if self._costs.rest(*top) + self.costs[below] == least
            )
            found += self._costs.spell(*top)
            stacks = tops[top]
        return found

    def _number(self, is_whole: bool, tops: dict[Top, int]) -> int:
        key = (is_whole, frozenset(tops.items()))
        known = self._numbers.get(key)
        if known is None:
            known = self._numbers[key] = len(self._tops)
            self._tops.append(tops)
            self._is_whole.append(is_whole)
            costs = [self._costs.rest(*top) + self.costs[below] for top, below in tops.items()]
            self.costs.append(0 if is_whole else min(costs, default=INF))
        return known

    def _open(self, stacks: int) -> State:
        """Open tops in an order in which nothing is added to one that was opened before.

        Tops after a character first, then rules before those that they may start with. An element that may be
        empty is passed over where it stands, so that no rule opened here has to be left again.
        """
        cells, is_whole = self._settle(stacks)
        queue = [(self._costs.order(*top), top) for top in cells]
        heapq.heapify(queue)
        chars: defaultdict[int, set[int]] = defaultdict(set)
        tokens: defaultdict[Token, set[int]] = defaultdict(set)
        while queue:
            _, top = heapq.heappop(queue)
            below = self.union(frozenset(cells[top]))
            rule, alternative, place, times = top
            element = self._rules[rule][alternative][place]
            following = self.push(rule, alternative, place + 1, 0, below)
            if isinstance(element, Class):
                chars[element.first].add(following)
                continue
            if isinstance(element, Token):
                tokens[element].add(following)
                continue
            may_pass = self._costs.is_nullable(element.rule)
            if not isinstance(element, Reference):
                may_pass = may_pass or times >= element.low
                counted = times if element.high is None and times >= element.low else times + 1
                following = self.push(rule, alternative, place, counted, below)
            opened: list[tuple[Top, int]] = []
            if may_pass and place + 1 < len(self._rules[rule][alternative]):
                opened.append(((rule, alternative, place + 1, 0), below))
            if isinstance(element, Reference) or times != element.high:
                alternatives = enumerate(self._rules[element.rule])
                opened += [
                    ((element.rule, number, 0, 0), following) for number, one in alternatives if one
                ]
            for inner, under in opened:
                if inner not in cells:
                    cells[inner] = set()
                    heapq.heappush(queue, (self._costs.order(*inner), inner))
                cells[inner].add(under)
        chars.pop(DONE, None)  # an empty set of characters: nothing matches it
        return State(
            frozenset((first, self.union(frozenset(sets))) for first, sets in chars.items()),
            frozenset((*token, self.union(frozenset(sets))) for token, sets in tokens.items()),
            is_whole,
        )

    def _settle(self, stacks: int) -> tuple[dict[Top, set[int]], bool]:
        """Return all tops that may be the next to open, those under what may be empty too; whether none need be."""
        cells: dict[Top, set[int]] = {}
        is_whole = False
        seen = {stacks}
        todo = [stacks]
        while todo:
            one = todo.pop()
            is_whole = is_whole or self._is_whole[one]
            for top, below in self._tops[one].items():
                cells.setdefault(top, set()).add(below)
                if below not in seen and self._costs.rest(*top) == 0:
                    seen.add(below)
                    todo.append(below)
        return cells, is_whole
