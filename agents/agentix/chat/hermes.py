"""Hermes and Qwen 2.5, QwQ, Qwen 3: <tool_call>{"name": ..., "arguments": {...}}</tool_call>.

Who uses it: the registry in formats.py. What must hold: see prose.py. Source: the templates of these models.
"""

from __future__ import annotations

from agentix.chat.callobject import CallObjects
from agentix.chat.prose import Asked, Marks, Prose
from agentix.chat.reader import Reader, Reading
from agentix.chat.writer import Writer

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MARKS = Marks(calls=(OPEN,), closers=(CLOSE,))


def hermes(reader: Reader, writer: Writer, asked: Asked) -> Reading[None]:
    calls = CallObjects(reader, writer)

    def read(_: str) -> Reading[None]:
        yield from reader.space()
        yield from calls.read()
        yield from reader.space()
        while (following := (yield from reader.peek())) == "{":  # several in one pair of tags
            yield from calls.read()
            yield from reader.space()
        if following:  # a text that ends here lacks only its last mark
            yield from reader.choice(CLOSE)

    yield from Prose(reader, writer, asked, MARKS).read_calls(read)
