"""One turn of a chat: what is asked of the kernel, and what its answer says. No I/O.

Who uses it: llm.py and aio.py's chat(), stream.py. What must hold: the kernel's reply is kept beside what was
read out of it; the format comes with the answer, so that the answer of any model is read as that model
writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentix import calls
from agentix.calls import Call, Reply
from agentix.chat.choice import choose, constraint_of
from agentix.chat.formats import FORMATS
from agentix.chat.messages import normalise, tool_list
from agentix.chat.parser import Parser
from agentix.chat.parts import Delta, ToolCall
from agentix.errors import InvalidValue, NoSuchModel

OWN_ID = re.compile(r"call([0-9]{5,})")  # as writer.py makes them


@dataclass(frozen=True, slots=True)
class ChatReply:
    """An assistant's turn."""

    content: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str  # "stop", "length", or "tool_calls" for a turn that ended with one at least
    usage: dict[str, int]  # prompt_tokens, generated_tokens
    faults: tuple[str, ...]  # tool calls that were malformed; their text is in content
    raw: Reply  # the kernel's

    @property
    def dropped_turns(self) -> int:
        """How many turns of its session this one was given without: see `window` of Agent.session()."""
        return self.raw.dropped_turns

    @property
    def dropped_tokens(self) -> int:
        return self.raw.dropped_tokens

    def as_message(self) -> dict[str, Any]:
        """Return this turn as a message, to be followed by one of role "tool" for each of its calls."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        return message


class Turn:
    """Made from what the caller gives, turned into a call, fed with its answer."""

    def __init__(
        self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any], told: int = 0
    ) -> None:
        """Take messages, of which the kernel knows the first `told`, and options as in choice.Chatting.

        Raises InvalidValue.
        """
        self._messages = normalise(messages)
        self._told = told
        self._options = dict(options)
        tools = tool_list(self._options.pop("tools", None) or ())
        self._tools, self._forced = choose(tools, self._options.pop("tool_choice", None))
        self._parser: Parser | None = None
        self.reply: ChatReply | None = None
        if self._forced and (options.get("json_schema") or options.get("grammar")):
            raise InvalidValue("tool_choice forces a call, and json_schema or grammar forces something else")

    @property
    def wants_format(self) -> bool:
        """Whether force() must be called before call()."""
        return bool(self._forced) and "json_schema" not in self._options

    def force(self, models: Sequence[Mapping[str, Any]]) -> None:
        """Take what llm.models answers: how this model is made to call a tool.

        Raises InvalidValue where it cannot be, NoSuchModel.
        """
        name = self._options.get("model") or ""
        for model in models:
            if model["name"] == name or (not name and not model["embedding_width"]):
                if not model["chat_format"]:
                    raise InvalidValue(
                        f"tool_choice: model {model['name']!r} has no chat template, or is not loaded"
                    )
                self._options |= constraint_of(self._forced, model["chat_format"])
                self._options["thinking"] = False  # nothing comes before the call
                return
        raise NoSuchModel(f"there is no model {name!r}")

    def call(self, stream: bool) -> Call:
        options = self._options | ({"tools": json.dumps(self._tools)} if self._tools else {})
        return calls.generate(self._messages[self._told :], options, stream)

    def feed(self, chunk: Mapping[str, Any]) -> list[Delta]:
        """Take a chunk of a stream. The first one says how to read it."""
        return self._started(chunk).feed(chunk["text"])

    def finish(self, raw: Reply) -> list[Delta]:
        """Take the reply that ends a stream; `reply` is there afterwards."""
        parser = self._started(raw._asdict())
        deltas = parser.finish()
        message = parser.message
        is_call = bool(message.tool_calls) and raw.finish_reason == "stop"
        self.reply = ChatReply(
            message.content,
            message.reasoning,
            message.tool_calls,
            "tool_calls" if is_call else raw.finish_reason,
            raw.usage,
            tuple(parser.faults),
            raw,
        )
        return deltas

    def read(self, raw: Reply) -> ChatReply:
        """Take a reply that came without a stream."""
        self.feed(raw._asdict())
        self.finish(raw)
        assert self.reply is not None
        return self.reply

    def _started(self, said: Mapping[str, Any]) -> Parser:
        if self._parser is None:
            chat_format = said.get("chat_format", "content")
            if self._tools and chat_format in FORMATS and not FORMATS[chat_format].takes_tools:
                raise InvalidValue(f"tools: in chat format {chat_format!r} no tool calls can be read")
            self._parser = Parser(
                chat_format,
                opens_reasoning=said.get("opens_reasoning", False),
                tools=self._tools,
                first_call=self._first_call(),
            )
        return self._parser

    def _first_call(self) -> int:
        """One more than the highest number in the ids of earlier calls."""
        ids = (call["id"] for message in self._messages for call in message.get("tool_calls", ()))
        return max((int(own[1]) + 1 for own in map(OWN_ID.fullmatch, ids) if own), default=0)
