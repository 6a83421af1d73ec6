"""agentix.chat: what a chat model writes as content, reasoning and tool calls; messages the other way.

Who imports it: llm.py and aio.py, when chat() is first called; anybody who has a model's text. What must
hold: no I/O, no clock, nothing but the standard library and the SDK's errors.
"""

from __future__ import annotations

from agentix.chat.formats import FORMATS
from agentix.chat.parser import Parser
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

__all__ = [
    "FORMATS",
    "CallArguments",
    "CallDropped",
    "CallStart",
    "Content",
    "Delta",
    "Message",
    "Parser",
    "Reasoning",
    "ToolCall",
]
