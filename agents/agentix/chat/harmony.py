"""Harmony, the format of gpt-oss: messages with a header each, in channels.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>
    <|channel|>commentary to=functions.name <|constrain|>json<|message|>{...}<|call|>

Who uses it: the registry in formats.py. What must hold: analysis is reasoning, what goes to a function is a
call, all else is content; marks never are. A text without any header is content. Source: OpenAI's guide to
the format.
"""

from __future__ import annotations

import re

from agentix.chat.prose import Asked
from agentix.chat.reader import Broken, Markers, Reader, Reading
from agentix.chat.writer import Writer

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")
IN_HEADER = Markers(START, CHANNEL, CONSTRAIN, MESSAGE, *ENDS)
IN_BODY = Markers(START, CHANNEL, *ENDS)
RECIPIENT = re.compile(r"\bto=(\S+)")
FUNCTIONS = "functions."
NOBODY = ("", "assistant", "all")  # recipients of what is no call
MAX_HEADER_CHARS = 512


def harmony(reader: Reader, writer: Writer, asked: Asked) -> Reading[None]:
    messages = _Messages(reader, writer, asked)
    if asked.opens_reasoning:
        writer.open_reasoning()
        mark = yield from reader.until(IN_BODY, writer.reasoning)
    else:
        mark = yield from messages.first()
    while mark:
        mark = yield from messages.read(mark)


class _Messages:
    """Reads message after message; a method returns the mark at which it stopped, empty at the end."""

    def __init__(self, reader: Reader, writer: Writer, asked: Asked) -> None:
        self._reader, self._writer = reader, writer
        self._has_tools = bool(asked.tools)
        self._channel = self._recipient = ""

    def first(self) -> Reading[str]:
        """Read what comes before the first header: all of a text that has none."""
        self._reader.record()
        yield from self._reader.space()
        for sign in (CHANNEL, START, CONSTRAIN, MESSAGE, "to="):
            if (yield from self._reader.starts(sign)):
                return ENDS[0]
        self._writer.content(self._reader.recorded())
        return (yield from self._reader.until(IN_BODY, self._writer.content))

    def read(self, mark: str) -> Reading[str]:
        """Read a message whose header begins behind a mark."""
        self._reader.record("" if mark in ENDS else mark)
        try:
            mark = yield from self._header(mark)
            if mark != MESSAGE:
                return mark
            if self._has_tools and self._recipient.startswith(FUNCTIONS):
                yield from self._call(self._recipient.removeprefix(FUNCTIONS))
            elif self._has_tools and self._recipient not in NOBODY:
                raise Broken(f"{self._recipient[:40]!a} is no function")
        except Broken as fault:
            self._writer.drop_call()
            self._writer.content(self._reader.recorded())
            self._writer.faults.append(f"tool call {self._writer.calls}: {fault}")
            return (yield from self._reader.until(IN_BODY, self._writer.content))
        self._reader.recorded()
        if self._channel == "analysis" and self._recipient in NOBODY:
            self._writer.open_reasoning()
            return (yield from self._reader.until(IN_BODY, self._writer.reasoning))
        self._writer.new_content()
        return (yield from self._reader.until(IN_BODY, self._writer.content))

    def _header(self, mark: str) -> Reading[str]:
        """Note the channel and the recipient; return the mark that ends the header."""
        self._channel = self._recipient = ""
        words: list[str] = []
        left = MAX_HEADER_CHARS
        while True:
            parts: list[str] = []
            following = yield from self._reader.until(IN_HEADER, parts.append, left)
            text = "".join(parts)
            left -= len(text)
            if recipient := RECIPIENT.search(text):
                self._recipient = recipient[1]
            words += text.split()
            if mark == CHANNEL:
                self._channel = text.split()[0] if text.split() else ""
            mark = following
            if mark not in (CHANNEL, CONSTRAIN):
                break
        if mark != MESSAGE and words not in ([], ["assistant"]):
            raise Broken("its header is cut off")
        return mark

    def _call(self, name: str) -> Reading[None]:
        reader, writer = self._reader, self._writer
        writer.begin_call(name)
        yield from reader.space()
        is_empty = False
        for end in ENDS:
            is_empty = is_empty or (yield from reader.starts(end))
        if is_empty:
            writer.arguments("{}")
        elif (yield from reader.peek()) == "{":
            yield from reader.value(writer.arguments)
        else:
            raise Broken("its arguments are no object")
        writer.end_call()
