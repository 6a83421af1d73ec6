"""How much text each part of a grammar needs at least, and what a shortest one is.

Who calls it: automaton.py. What must hold: all of it follows from the grammar and the vocabulary alone.

A cost counts bytes, plus UNSPELLED for a character that the vocabulary has no single-byte tokens for, and 1 for a token
asked for by its id; inf: no text is finite. So below UNSPELLED it is an upper bound of the tokens that the text takes.
The costs of rules are found as in D. E. Knuth, A generalization of Dijkstra's algorithm (1977): cheapest first.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

from kernel.engine.base import EngineError
from kernel.engine.textside.gbnf import Chars, Grammar, Reference, Repeat, Token
from kernel.engine.textside.lexicon import Lexicon
from kernel.engine.textside.utf8 import DONE, Residuals, sequences

UNSPELLED = 1 << 24
INF = float("inf")
Cost = int | float


class Class(NamedTuple):
    """One character of a set: `first` numbers it among the residuals; DONE: the set is empty."""

    first: int


Compiled = list[list[list[Class | Reference | Repeat | Token]]]


def compile_rules(grammar: Grammar, residuals: Residuals) -> Compiled:
    """Return the grammar's rules with every set of characters numbered."""
    numbers: dict[Chars, Class] = {}

    def compiled(element: Chars | Reference | Repeat | Token) -> Class | Reference | Repeat | Token:
        if not isinstance(element, Chars):
            return element
        if element not in numbers:
            written = sequences(element.ranges)
            numbers[element] = Class(residuals.number(written) if written else DONE)
        return numbers[element]

    return [
        [[compiled(one) for one in alternative] for alternative in rule] for rule in grammar.rules
    ]


class Costs:
    """Of the rules of one grammar. Raises EngineError when a rule starts with itself."""

    def __init__(
        self, rules: Compiled, names: list[str], residuals: Residuals, lexicon: Lexicon
    ) -> None:
        self._rules = rules
        self._residuals = residuals
        self._lexicon = lexicon
        self._of_rule: list[Cost] = [INF] * len(rules)
        self._best = [0] * len(rules)  # the alternative that a shortest text takes
        self._find_rule_costs()
        # of each place of each alternative: what it and all after it cost
        self._rests = [[self._suffixes(alternative) for alternative in rule] for rule in rules]
        # of each alternative: how many elements at its start may be empty
        self._leading = [[self._count_empty(alternative) for alternative in rule] for rule in rules]
        self._ranks = self._rank(
            names
        )  # of each rule: above those that a text of it may start with

    def is_nullable(self, rule: int) -> bool:
        return self._of_rule[rule] == 0

    def order(self, rule: int, alternative: int, place: int, times: int) -> tuple[int, int]:
        """Return a key: a place comes after all those from which it may be reached without a character."""
        is_first = not times and place <= self._leading[rule][alternative]
        return (-self._ranks[rule] if is_first else -len(self._ranks) - 1, place)

    def rest(self, rule: int, alternative: int, place: int, times: int) -> Cost:
        """Return the cost of an alternative from `place` on, whose first element has come `times` times."""
        rests = self._rests[rule][alternative]
        if not times:
            return rests[place]
        element = self._rules[rule][alternative][place]
        assert isinstance(element, Repeat)
        return self._repeated(element, times) + rests[place + 1]

    def of_text(self, text: bytes) -> Cost:
        return len(text) if self._residuals.is_spelled(text) else UNSPELLED

    def of_first(self, first: int) -> Cost:
        return INF if first == DONE else self.of_text(self._residuals.shortest[first])

    def token(self, token: int, is_negated: bool) -> int:
        """Return a token that will do where this one, or any other than this one, is asked for."""
        if not is_negated:
            return token
        candidates = [other for other in self._lexicon.by_text.values() if other != token]
        return min(
            candidates, key=lambda other: (len(self._lexicon.pieces[other]), other), default=token
        )

    def spell(self, rule: int, alternative: int, place: int, times: int) -> list[int]:
        """Return a shortest text of an alternative from `place` on: bytes, and 256 + token."""
        found: list[int] = []
        todo = [(rule, alternative, place, times)]
        while todo:
            rule, alternative, place, times = todo.pop()
            if place == len(self._rules[rule][alternative]):
                continue
            element = self._rules[rule][alternative][place]
            todo.append((rule, alternative, place + 1, 0))
            if isinstance(element, Class):
                found += self._residuals.shortest[element.first]
            elif isinstance(element, Token):
                found.append(256 + self.token(*element))
            elif self._of_rule[element.rule]:  # what costs nothing is no text
                count = max(0, element.low - times) if isinstance(element, Repeat) else 1
                todo += [(element.rule, self._best[element.rule], 0, 0)] * count
        return found

    # -- construction -------------------------------------------------------------------------

    def _find_rule_costs(self) -> None:
        waiting: list[list[tuple[int, int]]] = [
            [] for _ in self._rules
        ]  # alternatives that need a rule
        missing: dict[tuple[int, int], int] = {}  # how many rules an alternative still needs
        ready: list[tuple[Cost, int, int]] = []
        for rule, alternatives in enumerate(self._rules):
            for number, alternative in enumerate(alternatives):
                needed = {
                    element.rule
                    for element in alternative
                    if isinstance(element, Reference)
                    or (isinstance(element, Repeat) and element.low)
                }
                for one in needed:
                    waiting[one].append((rule, number))
                missing[rule, number] = len(needed)
                if not needed:
                    ready.append((sum(map(self._cost, alternative)), rule, number))
        heapq.heapify(ready)
        while ready:
            cost, rule, number = heapq.heappop(ready)
            if self._of_rule[rule] <= cost:
                continue
            self._of_rule[rule], self._best[rule] = cost, number
            for user, alternative in waiting[rule]:
                missing[user, alternative] -= 1
                if not missing[user, alternative]:
                    total = sum(map(self._cost, self._rules[user][alternative]))
                    heapq.heappush(ready, (total, user, alternative))

    def _cost(self, element: Class | Reference | Repeat | Token) -> Cost:
        if isinstance(element, Class):
            return self.of_first(element.first)
        if isinstance(element, Token):
            return 1
        if isinstance(element, Reference):
            return self._of_rule[element.rule]
        return self._repeated(element, 0)

    def _repeated(self, element: Repeat, times: int) -> Cost:
        count = element.low - times
        return self._of_rule[element.rule] * count if count > 0 else 0

    def _suffixes(self, alternative: list[Class | Reference | Repeat | Token]) -> list[Cost]:
        found: list[Cost] = [0]
        for element in reversed(alternative):
            found.append(self._cost(element) + found[-1])
        return found[::-1]

    def _count_empty(self, alternative: list[Class | Reference | Repeat | Token]) -> int:
        count = 0
        while count < len(alternative) and self._cost(alternative[count]) == 0:
            count += 1
        return count

    def _rank(self, names: list[str]) -> list[int]:
        """A rule that may come back to itself before any text has no rank, and is refused."""
        ranks = [0] * len(self._rules)
        rank = 0
        for start in range(len(self._rules)):
            path: list[tuple[int, list[int]]] = (
                [] if ranks[start] else [(start, self._leftmost(start))]
            )
            on_path = {start}
            while path:
                rule, following = path[-1]
                if not following:
                    path.pop()
                    on_path.discard(rule)
                    rank += 1
                    ranks[rule] = rank
                    continue
                inner = following.pop()
                if inner in on_path:
                    raise EngineError(f"grammar: rule {names[inner][:80]} starts with itself")
                if not ranks[inner]:
                    path.append((inner, self._leftmost(inner)))
                    on_path.add(inner)
        return ranks

    def _leftmost(self, rule: int) -> list[int]:
        """Return the rules that a text of this rule may start with."""
        found = []
        for number, alternative in enumerate(self._rules[rule]):
            for element in alternative[: self._leading[rule][number] + 1]:
                if isinstance(element, Reference | Repeat):
                    found.append(element.rule)
        return list(dict.fromkeys(found))
