"""Tool calls without marks: the whole answer is one JSON object, or several. And answers without calls.

Who uses it: the formats "json", "content" and "think"; those whose models write bare calls beside marked
ones. What must hold: only an object that names a tool that was given is a call; any other JSON comes out as
content, as soon as its first key shows what it is.
"""

from __future__ import annotations

from agentix.chat.callobject import CallObjects
from agentix.chat.prose import Asked, Marks, Prose
from agentix.chat.reader import Markers, Reader, Reading
from agentix.chat.writer import Writer

FENCE = "```json"

JSON = Marks(bare=("{", "[", FENCE))
TEXT = Marks()
NOTHING = Markers()


def json_answer(reader: Reader, writer: Writer, asked: Asked) -> Reading[None]:
    """A call, a list of them, or several behind one another; in a fence or not."""
    calls = CallObjects(reader, writer, asked.tools)
    yield from Prose(reader, writer, asked, JSON).read_calls(lambda mark: read_bare(reader, calls, mark))


def think(reader: Reader, writer: Writer, asked: Asked) -> Reading[None]:
    """Reasoning and content, and no tools."""
    yield from Prose(reader, writer, asked, TEXT).read_calls(lambda _: reader.space())


def content(reader: Reader, writer: Writer, asked: Asked) -> Reading[None]:
    """Content, and no marks in it unless the prompt opened reasoning."""
    if asked.opens_reasoning:
        yield from think(reader, writer, asked)
    else:
        yield from reader.until(NOTHING, writer.content)


def read_bare(reader: Reader, calls: CallObjects, mark: str) -> Reading[None]:
    """Read calls behind a brace, a bracket or a fence."""
    is_fenced = mark == FENCE
    if is_fenced:
        yield from reader.space()
        mark = yield from reader.choice("{", "[")
    while True:
        if mark == "[":
            yield from calls.read_list()
        else:
            yield from calls.read(is_open=True)
        yield from reader.space()
        following = yield from reader.peek()
        if following and following in ";,":  # Llama sets a semicolon between calls
            yield from reader.choice(following)
            yield from reader.space()
            following = yield from reader.peek()
        if not following or following not in "{[":
            break
        mark = yield from reader.choice(following)
    if is_fenced:
        yield from reader.choice("```")
