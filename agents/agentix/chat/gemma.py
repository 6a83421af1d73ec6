"""Gemma 2 and 3, which have no form of their own (bare JSON, or Python in a fence), and Gemma 4, which has.

Who uses it: the registry in formats.py. What must hold: see prose.py. Sources: Google's guide to function
calling with Gemma; the template of Gemma 4: <|tool_call>call:name{key:<|"|>text<|"|>,other:1}<tool_call|>.
"""

from __future__ import annotations

from agentix.chat import literals, pythonic
from agentix.chat.bare import FENCE, read_bare
from agentix.chat.callobject import CallObjects
from agentix.chat.prose import Asked, Marks, Prose, Think
from agentix.chat.reader import Reader, Reading
from agentix.chat.writer import Writer

CODE_FENCE = "```tool_code"
MARKS = Marks(calls=(CODE_FENCE,), bare=("{", "[", FENCE))

OPEN, CLOSE, QUOTE = "<|tool_call>", "<tool_call|>", '<|"|>'
CHANNEL, CHANNEL_END = "<|channel>", "<channel|>"
MARKS_4 = Marks(
    think=Think(CHANNEL, CHANNEL_END, label="thought", is_anywhere=True),
    calls=(OPEN,),
    closers=(CLOSE,),
    control=(OPEN, CLOSE, CHANNEL_END, QUOTE),
)


def gemma(reader: Reader, writer: Writer, asked: Asked) -> Reading[None]:
    calls = CallObjects(reader, writer, asked.tools)

    def read(mark: str) -> Reading[None]:
        if mark != CODE_FENCE:
            yield from read_bare(reader, calls, mark)
            return
        yield from reader.space()
        while True:
            yield from pythonic.calls(reader, writer)
            yield from reader.space()
            following = yield from reader.peek()
            if not following or following == "`":
                break
        if following:
            yield from reader.choice("```")

    yield from Prose(reader, writer, asked, MARKS).read_calls(read)


def gemma4(reader: Reader, writer: Writer, asked: Asked) -> Reading[None]:
    text = literals.marked_text(QUOTE)

    def read(_: str) -> Reading[None]:
        yield from reader.choice("call:")
        writer.begin_call((yield from reader.word("{")))
        yield from literals.members(reader, writer.arguments, QUOTE[0], text)
        writer.end_call()
        reader.record()
        if (yield from reader.peek()):
            yield from reader.choice(CLOSE)

    yield from Prose(reader, writer, asked, MARKS_4).read_calls(read)
