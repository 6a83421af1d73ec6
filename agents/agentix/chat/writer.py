"""What a grammar finds, made into deltas and into the message.

Who uses it: the grammars write, the parser takes the deltas. What must hold: white space around reasoning and
tool calls is dropped, any other text comes out as it went in; a call that breaks is taken back and its text
becomes content, so that nothing the model wrote is lost.
"""

from __future__ import annotations

import re

from agentix.chat.jsontext import SPACE
from agentix.chat.parts import (
    CallArguments,
    CallDropped,
    CallStart,
    Content,
    Delta,
    Message,
    Reasoning,
    ToolCall,
)
from agentix.chat.reader import Broken

NAME = re.compile(r"[\w.:/@+-]{1,128}")  # of a function, an id; \w takes no half of a surrogate pair


class Writer:
    """Deltas of one message. `first_call` is the number of the first id that it gives out."""

    def __init__(self, first_call: int) -> None:
        self.faults: list[str] = []
        self.calls = 0  # that are whole
        self.is_thought_blank = True  # no text of the present block of reasoning has come
        self._first_call = first_call
        self._deltas: list[Delta] = []
        self._run: list[str] = []  # texts that go into one delta
        self._run_kind: type[Content | Reasoning] | int = Content  # or the index of a call
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._tool_calls: list[tuple[str, str, list[str]]] = []
        self._space: list[str] = []  # of content, until more text comes after it
        self._thought_space: list[str] = []
        self._is_apart = False  # a tool call or reasoning has come: space before and after it is nobody's

    @property
    def has_content(self) -> bool:
        return bool(self._content)

    def content(self, text: str) -> None:
        head = text.lstrip(SPACE)
        if not head:
            self._space.append(text)
            return
        if self._is_apart and not self._content:
            self._space.clear()
            text = head
        body = text.rstrip(SPACE)
        self._emit(Content, "".join(self._space) + body)
        self._space = [text[len(body) :]]

    def new_content(self) -> None:
        """The content that follows is another part: a line of its own."""
        if self._content:
            self._space = ["\n"]

    def open_reasoning(self) -> None:
        self._is_apart = True
        self.is_thought_blank = True
        self._thought_space.clear()

    def reasoning(self, text: str) -> None:
        if self.is_thought_blank:
            text = text.lstrip(SPACE)
            if not text:
                return
            self.is_thought_blank = False
            if self._reasoning:
                self._thought_space = ["\n"]
        body = text.rstrip(SPACE)
        if not body:
            self._thought_space.append(text)
            return
        self._emit(Reasoning, "".join(self._thought_space) + body)
        self._thought_space = [text[len(body) :]]

    def begin_call(self, name: str, call_id: str = "") -> None:
        """Start a call; without a plain id it gets one. Raises Broken if the name is no function's.

        The ids made here have nine letters and digits, as Mistral's templates demand, and are the same
        whenever the conversation is, since a template may show them to the model.
        """
        if not NAME.fullmatch(name):
            raise Broken(f"{name[:40]!a} is no function's name")
        index = len(self._tool_calls)
        if not NAME.fullmatch(call_id):
            call_id = f"call{self._first_call + index:05d}"
        self._tool_calls.append((call_id, name, []))
        self._flush()
        self._deltas.append(CallStart(index, call_id, name))

    def arguments(self, text: str) -> None:
        self._emit(len(self._tool_calls) - 1, text)

    def end_call(self) -> None:
        self.calls += 1
        self._is_apart = True

    def drop_call(self) -> None:
        """Take back the call that has begun, if there is one."""
        if len(self._tool_calls) > self.calls:
            self._flush()
            self._tool_calls.pop()
            self._deltas.append(CallDropped(len(self._tool_calls)))

    def close(self) -> None:
        """The text is over: white space at its end is content unless a call or reasoning came."""
        if not self._is_apart:
            self._emit(Content, "".join(self._space))
            self._space.clear()

    def take(self) -> list[Delta]:
        """The deltas since the last time."""
        self._flush()
        deltas, self._deltas = self._deltas, []
        return deltas

    def message(self) -> Message:
        calls = tuple(ToolCall(call_id, name, "".join(texts)) for call_id, name, texts in self._tool_calls)
        return Message("".join(self._content), "".join(self._reasoning), calls)

    def _emit(self, kind: type[Content | Reasoning] | int, text: str) -> None:
        if not text:
            return
        if kind != self._run_kind:
            self._flush()
            self._run_kind = kind
        self._run.append(text)
        if kind is Content:
            self._content.append(text)
        elif kind is Reasoning:
            self._reasoning.append(text)
        else:
            self._tool_calls[-1][2].append(text)

    def _flush(self) -> None:
        if not self._run:
            return
        text, kind = "".join(self._run), self._run_kind
        self._run.clear()
        self._deltas.append(CallArguments(kind, text) if isinstance(kind, int) else kind(text))
