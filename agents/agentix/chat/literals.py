"""Values as models write them that are not quite JSON, made into JSON: Python's literals, Gemma's own.

Who uses it: pythonic.py and gemma.py. What must hold: what is handed on is a prefix of JSON as it comes, up
to jsontext.MAX_DEPTH deep; anything that is no such value raises Broken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from agentix.chat.jsontext import MAX_DEPTH, NUMBER
from agentix.chat.reader import Broken, Markers, Reader, Reading, Sink

CONSTANTS = {
    "true": "true",
    "false": "false",
    "null": "null",
    "True": "true",
    "False": "false",
    "None": "null",
}
ENDS = ",:]})"
SPACES = " \t\n\r"
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
HEX_DIGITS = {"x": 2, "u": 4}

Text = Callable[[Reader, Sink], Reading[None]]  # reads a string, with its quotes, and hands on what it says


def value(reader: Reader, sink: Sink, quotes: str, text: Text, depth: int = 0) -> Reading[None]:
    """Read one value. `quotes` are the characters that a string begins with, `text` reads one."""
    if depth > MAX_DEPTH:
        raise Broken(f"a value is nested deeper than {MAX_DEPTH}")
    first = yield from reader.peek()
    if first and first in quotes:
        yield from _string(reader, sink, text)
    elif first == "{":
        yield from members(reader, sink, quotes, text, depth)
    elif first and first in "[(":
        close = "]" if (yield from reader.choice(first)) == "[" else ")"
        sink("[")
        yield from _items(reader, sink, close, lambda: value(reader, sink, quotes, text, depth + 1))
        sink("]")
    else:
        sink((yield from _scalar(reader)))


def members(reader: Reader, sink: Sink, quotes: str, text: Text, depth: int = 0) -> Reading[None]:
    """Read {key: value, ...}, its keys quoted or not."""

    def member() -> Reading[None]:
        first = yield from reader.peek()
        if first and first in quotes:
            yield from _string(reader, sink, text)
        else:
            sink(json.dumps((yield from reader.word(":" + ENDS)).strip(SPACES), ensure_ascii=False))
        yield from reader.space()
        yield from reader.choice(":")
        sink(": ")
        yield from reader.space()
        yield from value(reader, sink, quotes, text, depth + 1)

    yield from reader.choice("{")
    sink("{")
    yield from _items(reader, sink, "}", member)
    sink("}")


def _items(reader: Reader, sink: Sink, close: str, item: Callable[[], Reading[None]]) -> Reading[None]:
    """Read items with commas between them, the last may have one too, and what closes them."""
    before = ""
    while True:
        yield from reader.space()
        if (yield from reader.peek()) == close:
            yield from reader.choice(close)
            return
        sink(before)
        yield from item()
        before = ", "
        yield from reader.space()
        if (yield from reader.choice(",", close)) == close:
            return


def _string(reader: Reader, sink: Sink, text: Text) -> Reading[None]:
    sink('"')
    yield from text(reader, lambda piece: sink(json.dumps(piece, ensure_ascii=False)[1:-1]))
    sink('"')


def _scalar(reader: Reader) -> Reading[str]:
    word = (yield from reader.word(ENDS + SPACES)).strip()
    if word in CONSTANTS:
        return CONSTANTS[word]
    if not NUMBER.fullmatch(word):
        raise Broken(f"{word[:40]!a} is no value")
    return word


def python_text(reader: Reader, sink: Sink) -> Reading[None]:
    """Read a Python string in single or double quotes; escapes that Python does not know stay."""
    quote = yield from reader.choice('"', "'")
    plain = _PLAIN[quote]
    while True:
        yield from reader.run(plain, sink)
        char = yield from reader.peek()
        if not char:
            raise Broken("it is cut off")
        yield from reader.choice(char)
        if char == quote:
            return
        yield from _escape(reader, sink)


_PLAIN = {quote: re.compile(rf"[^\\{quote}]+") for quote in "\"'"}


def _escape(reader: Reader, sink: Sink) -> Reading[None]:
    char = yield from reader.peek()
    if not char:
        raise Broken("it is cut off")
    yield from reader.choice(char)
    if char not in HEX_DIGITS:
        sink(ESCAPES.get(char, char if char in "\\\"'/" else "\\" + char))
        return
    digits = ""
    while len(digits) < HEX_DIGITS[char]:
        digit = yield from reader.peek()
        if not digit or digit not in "0123456789abcdefABCDEF":
            raise Broken(f"{digit!a} came in an escape of a string")
        digits += yield from reader.choice(digit)
    code = int(digits, 16)
    sink("\ufffd" if 0xD800 <= code < 0xE000 else chr(code))


def marked_text(mark: str) -> Text:
    """Return what reads a string between two of these marks, with no escapes inside."""
    end = Markers(mark)

    def read(reader: Reader, sink: Sink) -> Reading[None]:
        yield from reader.choice(mark)
        if not (yield from reader.until(end, sink)):
            raise Broken("it is cut off")

    return read
