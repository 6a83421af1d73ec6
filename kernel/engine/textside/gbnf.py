"""GBNF, llama.cpp's grammar language, read into rules.

Who calls it: automaton.py. What must hold: a text that llama.cpp's own parser takes means the same here; one that it
takes for something else than what it says (a repetition beyond 2,000, which it makes endless; an empty class) is
exact here or refused. Whatever the text, the answer is rules or an EngineError.

The language: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from kernel.engine.base import EngineError

MAX_NESTING = 200  # of parentheses
LAST_CODE_POINT = 0x10FFFF
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
_DIGITS = frozenset("0123456789")
_PLAIN_ESCAPES = {"t": "\t", "r": "\r", "n": "\n"} | {char: char for char in '\\"[]-'}
_HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}

Ranges = tuple[tuple[int, int], ...]  # of code points, inclusive, ascending, apart


class Chars(NamedTuple):
    """One character out of `ranges`."""

    ranges: Ranges


class Reference(NamedTuple):
    rule: int


class Repeat(NamedTuple):
    """A rule `low` to `high` times, one after the other; high None: any number."""

    rule: int
    low: int
    high: int | None


class Token(NamedTuple):
    """One token by its id, whatever its text, or any other one."""

    token: int
    is_negated: bool


Element = Chars | Reference | Repeat | Token


@dataclass(frozen=True, slots=True)
class Grammar:
    """Rules by number; each is a list of alternatives, each of these a sequence of elements."""

    names: list[str]
    rules: list[list[list[Element]]]
    root: int


def parse(text: str, token_of: Callable[[str], int | None]) -> Grammar:
    """Return the grammar that starts at the rule "root".

    token_of: the token written `<...>`, None if that is not exactly one. Raises EngineError.
    """
    return _Parser(text, token_of).parse()


class _Parser:
    def __init__(self, text: str, token_of: Callable[[str], int | None]) -> None:
        self._text = text + "\0"  # a sentinel: no test for the end at each character
        self._at = 0
        self._token_of = token_of
        self._numbers: dict[str, int] = {}
        self._rules: list[list[list[Element]] | None] = []
        self._names: list[str] = []
        self._used_at: dict[int, int] = {}
        self._depth = 0

    def parse(self) -> Grammar:
        self._skip(newlines=True)
        while self._text[self._at] != "\0":
            self._rule()
        if self._at < len(self._text) - 1:
            raise self._error("a NUL character")
        if "root" not in self._numbers:
            raise EngineError("grammar: there is no rule root")
        for number, rule in enumerate(self._rules):
            if rule is None:
                self._at = self._used_at[number]
                raise self._error(f"rule {self._names[number][:80]} is not defined")
        return Grammar(self._names, [rule or [] for rule in self._rules], self._numbers["root"])

    def _error(self, what: str) -> EngineError:
        line = self._text.count("\n", 0, self._at) + 1
        column = self._at - self._text.rfind("\n", 0, self._at)
        return EngineError(f"grammar, line {line}, column {column}: {what}")

    def _skip(self, newlines: bool) -> None:
        while True:
            char = self._text[self._at]
            if char == "#":
                while self._text[self._at] not in "\r\n\0":
                    self._at += 1
            elif char in " \t" or (newlines and char in "\r\n"):
                self._at += 1
            else:
                return

    def _take(self, wanted: frozenset[str], what: str) -> str:
        start = self._at
        while self._text[self._at] in wanted:
            self._at += 1
        if self._at == start:
            raise self._error(f"expected {what}")
        return self._text[start : self._at]

    def _expect(self, what: str) -> None:
        if not self._text.startswith(what, self._at):
            raise self._error(f"expected {what}")
        self._at += len(what)

    def _number(self, name: str) -> int:
        """Return a named rule's number, new if need be."""
        if name not in self._numbers:
            self._numbers[name] = self._new(name)
        return self._numbers[name]

    def _new(self, name: str) -> int:
        self._names.append(name)
        self._rules.append(None)
        return len(self._rules) - 1

    def _rule(self) -> None:
        name = self._take(_WORD, "a rule's name")
        self._skip(newlines=False)
        self._expect("::=")
        self._skip(newlines=True)
        number = self._number(name)
        self._rules[number] = self._alternatives(name, is_nested=False)
        if self._text[self._at] not in "\r\n\0":
            raise self._error("expected a new line or the end")
        self._skip(newlines=True)

    def _alternatives(self, name: str, is_nested: bool) -> list[list[Element]]:
        found = [self._sequence(name, is_nested)]
        while self._text[self._at] == "|":
            self._at += 1
            self._skip(newlines=True)
            found.append(self._sequence(name, is_nested))
        return found

    def _sequence(self, name: str, is_nested: bool) -> list[Element]:
        found: list[Element] = []
        last: list[Element] | None = None  # what a repetition sign would repeat
        while True:
            char = self._text[self._at]
            if char in "*+?{":
                if last is None:
                    raise self._error(f"nothing before {char} to repeat")
                low, high = self._bounds(char)
                last = [self._repeat(name, last, low, high)]
            else:
                symbol = self._symbol(name, char)
                if symbol is None:
                    return found + (last or [])
                found += last or []
                last = symbol
            self._skip(newlines=is_nested)

    def _symbol(self, name: str, char: str) -> list[Element] | None:
        """Return the elements of the next symbol, None where the sequence ends."""
        if char == '"':
            return self._literal()
        if char == "[":
            return [self._class()]
        if char in "<!":
            return [self._token()]
        if char == ".":
            self._at += 1
            return [Chars(((1, LAST_CODE_POINT),))]
        if char == "(":
            return [self._group(name)]
        if char in _WORD:
            start = self._at
            number = self._number(self._take(_WORD, "a name"))
            self._used_at.setdefault(number, start)
            return [Reference(number)]
        return None

    def _group(self, name: str) -> Reference:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._error(f"parentheses are nested more than {MAX_NESTING} deep")
        self._at += 1
        self._skip(newlines=True)
        number = self._new(name)
        self._rules[number] = self._alternatives(name, is_nested=True)
        self._expect(")")
        self._depth -= 1
        return Reference(number)

    def _bounds(self, sign: str) -> tuple[int, int | None]:
        self._at += 1
        if sign != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        self._skip(newlines=True)
        low = self._count()
        high: int | None = low
        if self._text[self._at] == ",":
            self._at += 1
            self._skip(newlines=True)
            high = self._count() if self._text[self._at] in _DIGITS else None
        self._expect("}")
        if high is not None and high < low:
            raise self._error(f"a repetition of {low} to {high}")
        return low, high

    def _count(self) -> int:
        digits = self._take(_DIGITS, "a number")
        self._skip(newlines=True)
        if len(digits) > 9:
            raise self._error(f"a repetition of {digits[:20]} times")
        return int(digits)

    def _repeat(self, name: str, repeated: list[Element], low: int, high: int | None) -> Repeat:
        if len(repeated) == 1 and isinstance(repeated[0], Reference):
            return Repeat(repeated[0].rule, low, high)
        number = self._new(name)
        self._rules[number] = [repeated]
        return Repeat(number, low, high)

    def _literal(self) -> list[Element]:
        self._at += 1
        found: list[Element] = []
        while self._text[self._at] != '"':
            code = self._char()
            found.append(Chars(((code, code),)))
        self._at += 1
        return found

    def _class(self) -> Chars:
        self._at += 1
        is_negated = self._text[self._at] == "^"
        self._at += is_negated
        ranges = []
        while self._text[self._at] != "]":
            low = high = self._char()
            if self._text[self._at] == "-" and self._text[self._at + 1] != "]":
                self._at += 1
                high = self._char()
            ranges.append((low, high))
        if not ranges:
            raise self._error("a class of no characters")
        self._at += 1
        merged = merge(ranges)
        return Chars(complement(merged) if is_negated else merged)

    def _char(self) -> int:
        char = self._text[self._at]
        if char == "\0":
            raise self._error("the text ends inside a literal or a class")
        self._at += 1
        if char != "\\":
            return ord(char)
        escape = self._text[self._at]
        self._at += 1
        if escape in _PLAIN_ESCAPES:
            return ord(_PLAIN_ESCAPES[escape])
        digits = self._text[self._at : self._at + _HEX_ESCAPES.get(escape, 0)]
        try:
            code = int(digits, 16) if digits.isalnum() else -1
        except ValueError:
            code = -1
        if len(digits) != _HEX_ESCAPES.get(escape) or not 0 <= code <= LAST_CODE_POINT:
            raise self._error(f"escape \\{escape}{digits}"[:40])
        self._at += len(digits)
        return code

    def _token(self) -> Token:
        is_negated = self._text[self._at] == "!"
        self._at += is_negated
        start = self._at
        self._expect("<")
        end = self._text.find(">", self._at)
        if end < 0:
            raise self._error("a token without its >")
        written = self._text[start : end + 1]
        number = written[2:-2]
        if written.startswith("<[") and written.endswith("]>") and set(number) <= _DIGITS:
            token = int(number) if 0 < len(number) < 10 else None
        else:
            token = self._token_of(written)
        if token is None:
            raise self._error(f"{written[:80]} is not one token of this model")
        self._at = end + 1
        return Token(token, is_negated)


def merge(ranges: list[tuple[int, int]]) -> Ranges:
    """Return the same set of code points, ascending and without overlaps; code point 0 is no text."""
    found: list[tuple[int, int]] = []
    for first, high in sorted(ranges):
        low = max(first, 1)
        if low > high:
            continue
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return tuple(found)


def complement(ranges: Ranges) -> Ranges:
    """Return all other code points."""
    found = []
    start = 1
    for low, high in ranges:
        if start < low:
            found.append((start, low - 1))
        start = high + 1
    if start <= LAST_CODE_POINT:
        found.append((start, LAST_CODE_POINT))
    return tuple(found)
