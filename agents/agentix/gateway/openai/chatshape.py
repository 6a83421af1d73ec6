"""How a chat's answer looks in OpenAI's API, streamed and whole. No I/O.

Who uses it: chat.py. What must hold: a tool call is sent when it is whole, for one that turns out malformed cannot
be taken back over this API; the deltas of a stream put together are the whole message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentix.calls import Reply
from agentix.chat.parts import (
    CallArguments,
    CallDropped,
    CallStart,
    Content,
    Delta,
    Reasoning,
    ToolCall,
)
from agentix.chat.turn import ChatReply, Turn
from agentix.gateway.openai.shapes import Frame
from agentix.gateway.pieces import Pieces


class ChatShape(Frame):
    """One answer for each of `turns`."""

    def __init__(
        self,
        model: str,
        turns: Sequence[Turn],
        *,
        has_logprobs: bool,
        pieces: Pieces,
        one_call: bool,
        **options: Any,
    ) -> None:
        """one_call: of several tool calls only the first is told."""
        super().__init__("chatcmpl", "chat.completion", "chat.completion.chunk", model, **options)
        self._turns = turns
        self._open: list[list[Any] | None] = [None] * len(
            turns
        )  # the call that is being read: [index, id, name, texts]
        self._has_begun = [False] * len(turns)
        self._has_logprobs = has_logprobs
        self._pieces = pieces
        self._one_call = one_call

    def chunk(self, index: int, chunk: dict[str, Any]) -> bytes:
        delta = self._delta(index, self._turns[index].feed(chunk))
        logprobs = self._pieces.rows(chunk["logprobs"]) if self._has_logprobs else None
        if not delta and logprobs is None and not self._has_ids:
            return b""
        return self._choice(index, delta, logprobs, chunk["tokens"], None)

    def reply(self, index: int, reply: Reply) -> bytes:
        self._usages.append(reply.usage)
        turn = self._turns[index]
        delta = self._delta(index, turn.finish(reply))
        self._close_call(index, delta)
        assert turn.reply is not None
        body = self._choice(index, delta, None, (), None) if delta else b""
        return body + self._choice(index, {}, None, (), turn.reply.finish_reason)

    def whole(self, replies: Sequence[Reply]) -> bytes:
        choices = []
        for index, (turn, reply) in enumerate(zip(self._turns, replies, strict=True)):
            said = turn.read(reply)
            choice: dict[str, Any] = {
                "index": index,
                "message": self._message(said),
                "logprobs": self._pieces.rows(reply.logprobs or ()) if self._has_logprobs else None,
                "finish_reason": said.finish_reason,
            }
            if self._has_ids:
                choice["token_ids"] = list(reply.tokens)
            choices.append(choice)
        return self.body(choices, replies)

    def _message(self, said: ChatReply) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": said.content, "refusal": None}
        if said.reasoning:
            message["reasoning_content"] = said.reasoning
        if said.tool_calls:
            told = said.tool_calls[:1] if self._one_call else said.tool_calls
            message["content"] = said.content or None
            message["tool_calls"] = [_call(call) for call in told]
        return message

    def _choice(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: Any,
        tokens: Sequence[int],
        reason: str | None,
    ) -> bytes:
        if not self._has_begun[index]:
            self._has_begun[index] = True
            delta = {"role": "assistant", "content": ""} | delta
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        if self._has_ids:
            choice["token_ids"] = list(tokens)
        return self.event([choice])

    def _delta(self, index: int, parts: Sequence[Delta]) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        for part in parts:
            match part:
                case Content(text):
                    self._close_call(index, delta)
                    delta["content"] = delta.get("content", "") + text
                case Reasoning(text):
                    delta["reasoning_content"] = delta.get("reasoning_content", "") + text
                case CallStart(at, call_id, name):
                    self._close_call(index, delta)
                    self._open[index] = [at, call_id, name, []]
                case CallArguments(_, text):
                    opened = self._open[index]
                    if opened is not None:
                        opened[3].append(text)
                case CallDropped():
                    self._open[index] = None
        return delta

    def _close_call(self, index: int, delta: dict[str, Any]) -> None:
        """The call that was being read is whole: tell it."""
        opened, self._open[index] = self._open[index], None
        if opened is None or (self._one_call and opened[0] > 0):
            return
        at, call_id, name, texts = opened
        delta.setdefault("tool_calls", []).append(
            {"index": at} | _call(ToolCall(call_id, name, "".join(texts)))
        )


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
