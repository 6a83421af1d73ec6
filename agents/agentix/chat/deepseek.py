"""DeepSeek R1 and V3: calls between marks, the arguments as JSON, in R1 in a fence behind the name.

Who uses it: the registry in formats.py. What must hold: see prose.py. Source: the templates of these models.
"""

from __future__ import annotations

from agentix.chat.prose import Asked, Marks, Prose
from agentix.chat.reader import MAX_WORD_CHARS, Broken, Markers, Reader, Reading
from agentix.chat.writer import Writer

CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, SEPARATOR, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
MARKS = Marks(calls=(CALLS, CALL), control=(CALLS, CALLS_END, CALL, SEPARATOR, CALL_END))
HEAD_END = Markers(SEPARATOR)


def deepseek(reader: Reader, writer: Writer, asked: Asked) -> Reading[None]:
    def read(mark: str) -> Reading[None]:
        if mark == CALLS:
            yield from reader.space()
            yield from reader.choice(CALL)
        while True:
            yield from _call(reader, writer)
            reader.record()
            yield from reader.space()
            if not (yield from reader.peek()) or (yield from reader.choice(CALL, CALLS_END)) == CALLS_END:
                return

    yield from Prose(reader, writer, asked, MARKS).read_calls(read)


def _call(reader: Reader, writer: Writer) -> Reading[None]:
    head: list[str] = []
    if not (yield from reader.until(HEAD_END, head.append, MAX_WORD_CHARS)):
        raise Broken("it is cut off")
    is_fenced = (yield from reader.peek()) != "{"
    if is_fenced:  # the head is the call's type
        name = yield from reader.word("\n")
        yield from reader.space()
        yield from reader.choice("```json")
        yield from reader.space()
    else:
        name = "".join(head)
    if (yield from reader.peek()) != "{":
        raise Broken("its arguments are no object")
    writer.begin_call(name.strip())
    yield from reader.value(writer.arguments)
    yield from reader.space()
    if is_fenced:
        yield from reader.choice("```")
        yield from reader.space()
    if (yield from reader.peek()):
        yield from reader.choice(CALL_END)
    writer.end_call()
