"""Mistral: [TOOL_CALLS][{"name": ..., "arguments": {...}, "id": ...}], later [TOOL_CALLS]name[ARGS]{...}.

Who uses it: the registry in formats.py. What must hold: see prose.py. Both ways of writing are read for both
formats, since no name begins with a bracket. Source: the templates of these models.
"""

from __future__ import annotations

from agentix.chat.callobject import CallObjects
from agentix.chat.prose import Asked, Marks, Prose, Think
from agentix.chat.reader import Broken, Reader, Reading
from agentix.chat.writer import Writer

OPEN, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
MARKS = Marks(think=Think("[THINK]", "[/THINK]"), calls=(OPEN,), control=(OPEN, ARGS, CALL_ID))


def mistral(reader: Reader, writer: Writer, asked: Asked) -> Reading[None]:
    calls = CallObjects(reader, writer, id_is_last=True)

    def read(_: str) -> Reading[None]:
        yield from reader.space()
        if (yield from reader.peek()) == "[":
            yield from reader.choice("[")
            yield from calls.read_list()
        else:
            yield from _named(reader, writer)

    yield from Prose(reader, writer, asked, MARKS).read_calls(read)


def _named(reader: Reader, writer: Writer) -> Reading[None]:
    name = yield from reader.word("[{")
    call_id = ""
    if (yield from reader.peek()) == "[":
        if (yield from reader.choice(ARGS, CALL_ID)) == CALL_ID:
            call_id = yield from reader.word("[")
            yield from reader.choice(ARGS)
        yield from reader.space()
    if (yield from reader.peek()) != "{":
        raise Broken("its arguments are no object")
    writer.begin_call(name.strip(), call_id)
    yield from reader.value(writer.arguments)
    writer.end_call()
