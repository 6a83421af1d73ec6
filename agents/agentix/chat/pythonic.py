"""A tool call written as Python: name(key=value, ...).

Who uses it: the grammars of Gemma and Llama. What must hold: arguments are named, values are literals:
nothing is evaluated.
"""

from __future__ import annotations

import json

from agentix.chat import literals
from agentix.chat.reader import Broken, Reader, Reading, Sink
from agentix.chat.writer import Writer

QUOTES = "\"'"


def call(reader: Reader, writer: Writer) -> Reading[None]:
    """Read one call."""
    name = yield from reader.word("(\n")
    writer.begin_call(name.strip())
    yield from arguments(reader, writer.arguments)
    writer.end_call()
    reader.record()


def calls(reader: Reader, writer: Writer) -> Reading[None]:
    """Read a call, or a list of them in brackets."""
    if (yield from reader.peek()) != "[":
        yield from call(reader, writer)
        return
    yield from reader.choice("[")
    while True:
        yield from reader.space()
        yield from call(reader, writer)
        yield from reader.space()
        if (yield from reader.choice(",", "]")) == "]":
            return


def arguments(reader: Reader, sink: Sink) -> Reading[None]:
    """Read (key=value, ...) and hand on a JSON object."""
    yield from reader.choice("(")
    before = "{"
    while True:
        yield from reader.space()
        if (yield from reader.peek()) == ")":
            break
        key = (yield from reader.word("=,()\"'{[")).strip()
        if not key.isidentifier():
            raise Broken(f"an argument is named {key[:40]!a}")
        yield from reader.choice("=")
        yield from reader.space()
        sink(f"{before}{json.dumps(key, ensure_ascii=False)}: ")
        before = ", "
        yield from literals.value(reader, sink, QUOTES, literals.python_text)
        yield from reader.space()
        if (yield from reader.peek()) == ")":
            break
        yield from reader.choice(",")
    yield from reader.choice(")")
    sink("{}" if before == "{" else "}")
