"""What a chat model's text is taken apart into: deltas while it comes, a message at its end.

Who uses it: the parser makes them, agents read them. What must hold: deltas put together one after another
are the message: CallDropped takes back the call that was started last, whose text follows as content.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """More of what the model says to its reader."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thinks first."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call begins; its arguments follow."""

    index: int  # its place in Message.tool_calls
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments: JSON text."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallDropped:
    """The call begun last was malformed: forget it. Its text comes as content; the next has its index."""

    index: int


Delta = Content | Reasoning | CallStart | CallArguments | CallDropped


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants called."""

    id: str
    name: str
    arguments: str  # a JSON object as text


@dataclass(frozen=True, slots=True)
class Message:
    """What an assistant's turn holds."""

    content: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
