"""Text that comes in pieces, for grammars that read on as if it were all there.

Who uses it: the grammars of the formats, which are generators: they yield where they want more text. What
must hold: what a grammar sees does not depend on the cuts; text is held back only while it may be the start
of a marker; every character is looked at a bounded number of times (`work` counts, a test holds it to that).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeVar

from agentix.chat.jsontext import SPACE, JsonText

T = TypeVar("T")
Reading = Generator[None, None, T]
Sink = Callable[[str], object]

MAX_WORD_CHARS = 256  # of a name, an id, a header


class Broken(Exception):
    """What was read is no tool call; the reason in words."""


class Markers:
    """Literals to look for. None may be inside another, so that the leftmost is the same in any cut."""

    __slots__ = ("_found", "_starts", "longest")

    def __init__(self, *literals: str) -> None:
        literals = tuple(dict.fromkeys(literals))
        for one in literals:
            for other in literals:
                assert one == other or one not in other, f"marker {one!r} is inside {other!r}"
        self._found = re.compile("|".join(map(re.escape, literals)) or "(?!)")
        self._starts = {literal[:size] for literal in literals for size in range(1, len(literal))}
        self.longest = max(map(len, literals), default=1)

    def find(self, text: str, start: int, end: int) -> re.Match[str] | None:
        return self._found.search(text, start, end)

    def held(self, text: str, start: int) -> int:
        """How many characters at the end of text may be the start of a marker."""
        for size in range(min(self.longest - 1, len(text) - start), 0, -1):
            if text[len(text) - size :] in self._starts:
                return size
        return 0


class Reader:
    """The text. Every method that reads is a generator; what it takes is also kept while recording."""

    def __init__(self) -> None:
        self.work = 0  # characters looked at, copies included
        self._text = ""
        self._at = 0
        self._is_over = False
        self._record: list[str] | None = None

    def feed(self, text: str) -> None:
        self._text = self._text[self._at :] + text
        self._at = 0
        self.work += len(self._text)

    def close(self) -> None:
        """No more text comes."""
        self._is_over = True

    def record(self, first: str = "") -> None:
        """Keep what is taken from here on, and `first` before it."""
        self._record = [first]

    def recorded(self) -> str:
        """Stop keeping; return what was kept."""
        text = "".join(self._record or ())
        self._record = None
        self.work += len(text)
        return text

    def _take(self, end: int) -> str:
        piece = self._text[self._at : end]
        self._at = end
        self.work += len(piece)
        if self._record is not None:
            self._record.append(piece)
        return piece

    def peek(self) -> Reading[str]:
        """The next character, not taken; empty at the end of the text."""
        while self._at == len(self._text):
            if self._is_over:
                return ""
            yield
        return self._text[self._at]

    def until(self, markers: Markers, sink: Sink, most: int | None = None) -> Reading[str]:
        """Hand text to `sink` up to a marker; take and return the marker, empty at the end of the text.

        Raises Broken once `most` characters came and no marker.
        """
        while True:
            size = len(self._text)
            end = size if most is None else min(size, self._at + most + markers.longest)
            found = markers.find(self._text, self._at, end)
            self.work += (found.end() if found else end) - self._at
            if found is not None:
                stop = found.start()
            else:
                stop = size if self._is_over else size - markers.held(self._text, self._at)
            if most is not None:
                is_long = stop - self._at > most
                stop = min(stop, self._at + most)
                most -= stop - self._at
            if stop > self._at:
                sink(self._take(stop))
            if most is not None and is_long:
                raise Broken("a mark does not come")
            if found is not None:
                return self._take(found.end())
            if self._is_over:
                return ""
            yield

    def run(self, pattern: re.Pattern[str], sink: Sink) -> Reading[None]:
        """Hand to `sink` the characters that match, a pattern of single ones, and stop before the next."""
        while (yield from self.peek()):
            match = pattern.match(self._text, self._at)
            if match is None:
                return
            sink(self._take(match.end()))

    def space(self) -> Reading[None]:
        """Read over white space."""
        while (yield from self.peek()) and self._text[self._at] in SPACE:
            self._take(self._at + 1)

    def word(self, stops: str) -> Reading[str]:
        """Return the text up to a character of `stops`, which stays. Raises Broken if it is long."""
        chars: list[str] = []
        while (char := (yield from self.peek())) and char not in stops:
            chars.append(self._take(self._at + 1))
            if len(chars) > MAX_WORD_CHARS:
                raise Broken(f"no {stops!a} within {MAX_WORD_CHARS} characters")
        if not char:
            raise Broken("it is cut off")
        return "".join(chars)

    def choice(self, *literals: str) -> Reading[str]:
        """Take the one of the literals that comes; return it. Raises Broken if none does."""
        while True:
            ahead = self._text[self._at : self._at + max(map(len, literals))]
            self.work += len(ahead)
            for literal in literals:
                if ahead.startswith(literal):
                    return self._take(self._at + len(literal))
            is_possible = any(literal.startswith(ahead) for literal in literals)
            if not is_possible:
                raise Broken(f"{_strange(ahead, literals)!a} came, wanted {' or '.join(literals)}")
            if self._is_over:
                raise Broken("it is cut off")
            yield

    def starts(self, literal: str) -> Reading[bool]:
        """Whether this literal comes next; nothing is taken."""
        while True:
            ahead = self._text[self._at : self._at + len(literal)]
            self.work += len(ahead)
            if ahead == literal or not literal.startswith(ahead) or self._is_over:
                return ahead == literal
            yield

    def value(self, sink: Sink) -> Reading[None]:
        """Hand one JSON value to `sink` as it comes. Raises Broken where it is none, or is cut off."""
        value = JsonText()
        while True:
            end = value.feed(self._text, self._at)
            self.work += end - self._at
            if end > self._at:
                sink(self._take(end))
            if not value.is_whole and not value.fault and self._is_over:
                value.close()
            if value.fault:
                raise Broken(value.fault)
            if value.is_whole:
                return
            yield


def _strange(text: str, literals: tuple[str, ...]) -> str:
    """Return as much of a text as shows that none of the literals comes."""
    sizes = range(1, len(text) + 1)
    return next(text[:size] for size in sizes if not any(one.startswith(text[:size]) for one in literals))
