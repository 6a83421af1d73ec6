"""The text of a chat model, in pieces, taken apart into content, reasoning and tool calls.

Who uses it: the SDK's chat() and chat_stream(), and anybody with a model's text. What must hold: the message
is the same whatever the cuts; nothing is lost; the cost is linear in the text. No clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentix.chat.formats import FORMATS
from agentix.chat.messages import tool_schemas
from agentix.chat.parts import Delta, Message
from agentix.chat.prose import Asked
from agentix.chat.reader import Reader
from agentix.chat.writer import Writer
from agentix.errors import InvalidValue


class Parser:
    """Reads one answer: feed() it pieces, finish() it, and take `message`."""

    def __init__(
        self,
        format: str,
        *,
        opens_reasoning: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        first_call: int = 0,
    ) -> None:
        """Start on the answer of a model of this format. Raises InvalidValue for an unknown one.

        opens_reasoning: the prompt ended inside reasoning. tools: what the model was shown; without any, no
        tool call is read and the text stays content. first_call: how many calls the conversation holds
        already, so that the ids made here are new in it.
        """
        if format not in FORMATS:
            known = ", ".join(name for name in FORMATS if name)
            raise InvalidValue(f"chat format is {format!r}, known are {known}")
        self._reader = Reader()
        self._writer = Writer(first_call)
        asked = Asked(opens_reasoning, tool_schemas(tools or ()))
        self._grammar = FORMATS[format].grammar(self._reader, self._writer, asked)
        self._is_over = False
        next(self._grammar)

    def feed(self, text: str) -> list[Delta]:
        """Take the next piece of the text; return what it settles."""
        assert not self._is_over, "fed after its end"
        self._reader.feed(text)
        next(self._grammar)
        return self._writer.take()

    def finish(self) -> list[Delta]:
        """Say that the text is over; return what was held back."""
        if not self._is_over:
            self._is_over = True
            self._reader.close()
            for _ in self._grammar:
                raise AssertionError("a grammar wants more than there is")
            self._writer.close()
        return self._writer.take()

    @property
    def message(self) -> Message:
        """What has been read so far."""
        return self._writer.message()

    @property
    def faults(self) -> list[str]:
        """The tool calls that were malformed and came out as text: which, and why."""
        return self._writer.faults

    @property
    def work(self) -> int:
        """Characters looked at so far, copies included."""
        return self._reader.work
