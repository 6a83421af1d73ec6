"""What is around tool calls: content, and reasoning between its marks. The frame of every marked format.

Who uses it: the grammars of the formats. What must hold: reasoning opens only where no content came before,
so that a text about its marks keeps them; a call that breaks comes out where it stood, in content or
reasoning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agentix.chat.reader import Broken, Markers, Reader, Reading
from agentix.chat.writer import Writer


class Think(NamedTuple):
    """The marks of reasoning."""

    open: str
    close: str
    label: str = ""  # that follows the opening mark
    is_anywhere: bool = False  # it may open after content: its marks are never text


TAGS = Think("<think>", "</think>")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request brought that its answer is read by."""

    opens_reasoning: bool = False  # the prompt ended inside reasoning
    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # name -> schema of its parameters


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of a format."""

    think: Think = TAGS
    calls: tuple[str, ...] = ()  # each opens a tool call, or several
    bare: tuple[str, ...] = ()  # the same, but only where no content came before
    closers: tuple[str, ...] = ()  # dropped where a whole call was followed by something else before them
    control: tuple[str, ...] = ()  # names of control tokens: never text
    call_ends_reasoning: bool = False


class NoCall(Broken):
    """What was read was never meant as a tool call."""


class Prose:
    """Reads content and reasoning up to the next tool call."""

    def __init__(self, reader: Reader, writer: Writer, asked: Asked, marks: Marks) -> None:
        self._reader, self._writer = reader, writer
        self._think = marks.think
        self._calls = marks.calls if asked.tools else ()
        self._bare = marks.bare if asked.tools else ()
        self._control = frozenset(marks.control)
        self._closers = marks.closers
        self._left_over: set[str] = set()
        always = (*marks.calls, *marks.closers, *marks.control)
        self._in_content = Markers(*marks.think[:2], *always, *self._bare)
        in_thought = self._calls if marks.call_ends_reasoning else ()
        label = (marks.think.label,) if marks.think.label else ()
        self._in_thought = Markers(*marks.think[:2], *label, *in_thought)
        self._is_thinking = asked.opens_reasoning
        self._may_label = False
        if asked.opens_reasoning:
            writer.open_reasoning()

    def _next_call(self) -> Reading[str]:
        """Return the mark that opens the next call, empty at the end of the text."""
        while True:
            if self._is_thinking:
                mark = yield from self._reader.until(self._in_thought, self._writer.reasoning)
            else:
                mark = yield from self._reader.until(self._in_content, self._writer.content)
            if not mark or self._pass(mark):
                return mark

    def read_calls(self, read: Callable[[str], Reading[None]]) -> Reading[None]:
        """Read the whole text; `read` gets each mark of a call and reads on behind it."""
        while mark := (yield from self._next_call()):
            yield from self._attempt(read(mark), mark)

    def _attempt(self, reading: Reading[None], mark: str) -> Reading[None]:
        """Read a call, or several; what breaks comes out as text from the last call that was whole."""
        before = self._writer.calls
        self._reader.record(mark)
        fault = None
        try:
            yield from reading
        except Broken as broken:
            fault = broken
        if self._writer.calls > before and self._is_thinking:
            self._is_thinking = False
            self._left_over.add(self._think.close)
        text = self._reader.recorded()
        if fault is None:
            return
        if self._writer.calls > before:
            self._left_over.update(self._closers)
        self._writer.drop_call()
        (self._writer.reasoning if self._is_thinking else self._writer.content)(text)
        if not isinstance(fault, NoCall):
            self._writer.faults.append(f"tool call {self._writer.calls}: {fault}")

    def _pass(self, mark: str) -> bool:
        """Whether a mark opens a call; one that does not is dealt with."""
        think = self._think
        if mark in self._calls or (mark in self._bare and not self._writer.has_content):
            return True
        if self._is_thinking:
            is_first = self._writer.is_thought_blank
            if mark == think.close:
                self._is_thinking = False
            elif mark == think.label and is_first and self._may_label:
                self._may_label = False
            elif mark == think.label or not is_first:  # opened again at its start it is the prompt's own mark
                self._writer.reasoning(mark)
        elif mark == think.open and (think.is_anywhere or not self._writer.has_content):
            self._is_thinking = self._may_label = True
            self._writer.open_reasoning()
        elif mark in self._left_over:
            self._left_over.discard(mark)
        elif mark not in self._control:
            self._writer.content(mark)
        return False
