"""How answers of Ollama's API look: a line of JSON for each piece, or one JSON object. No I/O.

Who uses it: chat.py and generate.py. What must hold: durations are in nanoseconds; the pieces of a stream put together
are the whole answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from agentix.calls import Reply
from agentix.chat.parts import CallArguments, CallDropped, CallStart, Content, Reasoning, ToolCall
from agentix.chat.turn import Turn
from agentix.gateway.ollama.errors import body_of
from agentix.gateway.pieces import Pieces
from agentix.gateway.problems import Problem


class Lines:
    """What both shapes share. A subclass says what a piece and the end hold."""

    media_type = "application/x-ndjson"

    def __init__(self, model: str, pieces: Pieces | None) -> None:
        self._model = model
        self._pieces = pieces

    def begin(self) -> bytes:
        return b""

    def pause(self, status: dict[str, Any] | None) -> bytes:
        """An empty line would end the parsers of some clients: nothing keeps this stream alive but its pieces."""
        return b""

    def end(self) -> bytes:
        return b""

    def failure(self, problem: Problem) -> bytes:
        return body_of(problem) + b"\n"

    def refusal(self, problem: Problem) -> bytes:
        return body_of(problem)

    def line(self, held: dict[str, Any], is_done: bool = False) -> bytes:
        return json.dumps(self._head() | held | {"done": is_done}).encode() + b"\n"

    def notes(self) -> dict[str, Any]:
        """What the gateway did to the request."""
        return {}

    def ending(self, reply: Reply) -> dict[str, Any]:
        """The figures of a finished answer."""
        timings, usage = reply.timings, reply.usage
        first_ns, total_ns = int(timings["first_token_s"] * 1e9), int(timings["total_s"] * 1e9)
        return {
            "done_reason": reply.finish_reason,
            "total_duration": total_ns,
            "load_duration": int(timings["queued_s"] * 1e9),
            "prompt_eval_count": usage["prompt_tokens"],
            "prompt_eval_duration": max(0, first_ns - int(timings["queued_s"] * 1e9)),
            "eval_count": usage["generated_tokens"],
            "eval_duration": max(0, total_ns - first_ns),
        } | self.notes()

    def logprobs(self, rows: Any) -> dict[str, Any]:
        if self._pieces is None or not rows:
            return {}
        return {"logprobs": self._pieces.rows(rows)["content"]}

    def _head(self) -> dict[str, Any]:
        return {
            "model": self._model,
            "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        }


class ChatLines(Lines):
    """/api/chat."""

    def __init__(self, model: str, turns: list[Turn], pieces: Pieces | None) -> None:
        super().__init__(model, pieces)
        self._turns = turns
        self.dropped: list[int] = []  # messages that were left out, each time
        self._open: tuple[str, str, list[str]] | None = None

    def notes(self) -> dict[str, Any]:
        return {"agentix": {"dropped_messages": sum(self.dropped)}} if self.dropped else {}

    def chunk(self, index: int, chunk: dict[str, Any]) -> bytes:
        message, _ = self._read(self._turns[0].feed(chunk))
        rows = self.logprobs(chunk.get("logprobs"))
        if not message and not rows:
            return b""
        return self.line({"message": {"role": "assistant", "content": ""} | message} | rows)

    def reply(self, index: int, reply: Reply) -> bytes:
        message, calls = self._read(self._turns[0].finish(reply), is_end=True)
        body = (
            self.line({"message": {"role": "assistant", "content": ""} | message})
            if message or calls
            else b""
        )
        return body + self.line(
            {"message": {"role": "assistant", "content": ""}} | self.ending(reply), is_done=True
        )

    def whole(self, replies: Sequence[Reply]) -> bytes:
        said = self._turns[0].read(replies[0])
        message: dict[str, Any] = {"role": "assistant", "content": said.content}
        if said.reasoning:
            message["thinking"] = said.reasoning
        if said.tool_calls:
            message["tool_calls"] = [_call(call) for call in said.tool_calls]
        rows = self.logprobs(replies[0].logprobs)
        return self.line({"message": message} | rows | self.ending(replies[0]), is_done=True)

    def _read(
        self, deltas: Sequence[Any], is_end: bool = False
    ) -> tuple[dict[str, Any], list[Any]]:
        """The message that deltas make; a call is told when it is whole."""
        message: dict[str, Any] = {}
        calls: list[dict[str, Any]] = []
        for delta in deltas:
            match delta:
                case Content(text):
                    self._close(calls)
                    message["content"] = message.get("content", "") + text
                case Reasoning(text):
                    message["thinking"] = message.get("thinking", "") + text
                case CallStart(_, call_id, name):
                    self._close(calls)
                    self._open = (call_id, name, [])
                case CallArguments(_, text):
                    if self._open is not None:
                        self._open[2].append(text)
                case CallDropped():
                    self._open = None
        if is_end:
            self._close(calls)
        if calls:
            message["tool_calls"] = calls
        return message, calls

    def _close(self, calls: list[dict[str, Any]]) -> None:
        if self._open is not None:
            call_id, name, texts = self._open
            calls.append(_call(ToolCall(call_id, name, "".join(texts))))
            self._open = None


class TextLines(Lines):
    """/api/generate. turns: one where the prompt was laid out as a chat, none for a raw prompt."""

    def __init__(
        self, model: str, turns: list[Turn], pieces: Pieces | None, context: Sequence[int]
    ) -> None:
        super().__init__(model, pieces)
        self._turns = turns
        self._context = list(context)

    def chunk(self, index: int, chunk: dict[str, Any]) -> bytes:
        held = (
            self._read(self._turns[0].feed(chunk)) if self._turns else {"response": chunk["text"]}
        )
        rows = self.logprobs(chunk.get("logprobs"))
        return self.line({"response": ""} | held | rows) if held or rows else b""

    def reply(self, index: int, reply: Reply) -> bytes:
        held = self._read(self._turns[0].finish(reply)) if self._turns else {}
        body = self.line({"response": ""} | held) if held else b""
        return body + self.line(
            {"response": "", "context": [*self._context, *reply.tokens]} | self.ending(reply), True
        )

    def whole(self, replies: Sequence[Reply]) -> bytes:
        reply = replies[0]
        held: dict[str, Any] = {"response": reply.text}
        if self._turns:
            said = self._turns[0].read(reply)
            held = {"response": said.content} | (
                {"thinking": said.reasoning} if said.reasoning else {}
            )
        held["context"] = [*self._context, *reply.tokens]
        return self.line(held | self.logprobs(reply.logprobs) | self.ending(reply), is_done=True)

    @staticmethod
    def _read(deltas: Sequence[Any]) -> dict[str, Any]:
        held: dict[str, Any] = {}
        for delta in deltas:
            match delta:
                case Content(text):
                    held["response"] = held.get("response", "") + text
                case Reasoning(text):
                    held["thinking"] = held.get("thinking", "") + text
        return held


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "function": {"name": call.name, "arguments": json.loads(call.arguments)}}
