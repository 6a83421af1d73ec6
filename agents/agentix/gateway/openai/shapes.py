"""How answers of OpenAI's API look: chats and text completions, streamed and whole. No I/O.

Who uses it: chat.py and completions.py. What must hold: the deltas of a stream put together are the whole answer;
the constant part of an event is made once for a request.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from agentix.calls import Reply
from agentix.gateway.openai.errors import body_of
from agentix.gateway.pieces import Pieces
from agentix.gateway.problems import Problem

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


class Frame:
    """What all events of one answer share; shapes derive from it."""

    media_type = "text/event-stream"

    def __init__(
        self,
        prefix: str,
        kind: str,
        stream_kind: str,
        model: str,
        *,
        has_usage: bool,
        has_ids: bool,
        prompts: int = 1,
        notes: Mapping[str, Any],
    ) -> None:
        """has_usage: of a stream, for a whole answer has it always; notes: what the gateway did to the request."""
        self._ids = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }
        self._kind = kind
        self._start = json.dumps({**self._ids, "object": stream_kind})[:-1]
        self._has_usage = has_usage
        self._has_ids = has_ids
        self._prompts = prompts
        self._told = notes  # may grow until the answer begins
        self._usages: list[dict[str, Any]] = []

    @property
    def _notes(self) -> dict[str, Any]:
        return {"agentix": dict(self._told)} if self._told else {}

    def begin(self) -> bytes:
        return self.event([], self._notes) if self._notes else b""

    def pause(self, status: dict[str, Any] | None) -> bytes:
        return KEEP_ALIVE if status is None else f": agentix {json.dumps(status)}\n\n".encode()

    def event(
        self, choices: Sequence[Mapping[str, Any]], more: Mapping[str, Any] | None = None
    ) -> bytes:
        tail = f", {json.dumps(more)[1:-1]}" if more else ""
        return f'data: {self._start}, "choices": {json.dumps(choices)}{tail}}}\n\n'.encode()

    def end(self) -> bytes:
        if not self._has_usage:
            return DONE
        return self.event([], {"usage": usage_of(self._usages, self._prompts)}) + DONE

    def failure(self, problem: Problem) -> bytes:
        return b"data: " + body_of(problem) + b"\n\n"

    def refusal(self, problem: Problem) -> bytes:
        return body_of(problem)

    def body(self, choices: Sequence[Mapping[str, Any]], replies: Sequence[Reply]) -> bytes:
        usage = usage_of([reply.usage for reply in replies], self._prompts)
        whole = {
            **self._ids,
            "object": self._kind,
            "choices": choices,
            "usage": usage,
            **self._notes,
        }
        return json.dumps(whole).encode()


def usage_of(usages: Sequence[Mapping[str, int]], prompts: int = 1) -> dict[str, Any]:
    """The usage of one request: each prompt counts once for all its answers."""
    answers = max(1, len(usages) // prompts)
    prompt = sum(usage["prompt_tokens"] for usage in usages) // answers
    cached = sum(usage["cached_tokens"] for usage in usages) // answers
    generated = sum(usage["generated_tokens"] for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


class TextShape(Frame):
    """/v1/completions. `heads` are the texts to be echoed before each answer."""

    def __init__(
        self,
        model: str,
        *,
        logprobs: int | None,
        pieces: Pieces,
        heads: Sequence[str],
        **options: Any,
    ) -> None:
        super().__init__("cmpl", "text_completion", "text_completion", model, **options)
        self._logprobs = logprobs
        self._pieces = pieces
        self._heads = list(heads)
        self._offsets = [0] * len(heads)

    def chunk(self, index: int, chunk: dict[str, Any]) -> bytes:
        return self.event(
            [self._choice(index, chunk["text"], chunk.get("logprobs"), chunk["tokens"], None)]
        )

    def reply(self, index: int, reply: Reply) -> bytes:
        self._usages.append(reply.usage)
        return self.event([self._choice(index, "", (), (), reply.finish_reason)])

    def whole(self, replies: Sequence[Reply]) -> bytes:
        choices = [
            self._choice(index, reply.text, reply.logprobs, reply.tokens, reply.finish_reason)
            for index, reply in enumerate(replies)
        ]
        return self.body(choices, replies)

    def _choice(
        self,
        index: int,
        text: str,
        logprobs: Sequence[Mapping[str, Any]] | None,
        tokens: Sequence[int],
        reason: str | None,
    ) -> dict[str, Any]:
        head, self._heads[index] = self._heads[index], ""
        choice: dict[str, Any] = {
            "index": index,
            "text": head + text,
            "logprobs": None,
            "finish_reason": reason,
        }
        if self._logprobs is not None and logprobs:
            choice["logprobs"] = self._old_logprobs(index, logprobs)
        if self._has_ids:
            choice["token_ids"] = list(tokens)
        return choice

    def _old_logprobs(self, index: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        texts = [self._pieces.text(row["token"]) for row in rows]
        offsets = []
        for text in texts:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [row["logprob"] for row in rows],
            "top_logprobs": [
                {self._pieces.text(token): logprob for token, logprob in row["top"]}
                if self._logprobs
                else {}
                for row in rows
            ],
            "text_offset": offsets,
        }
