"""How each server is asked to write on, and how the tokens that it sends are counted. No I/O.

Who uses it: peers_load.py. What must hold: a token is counted when it was received, never because it was asked for;
every server is asked in the way of its own that costs it least.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

Prompt = list[int] | str


@dataclass(frozen=True, slots=True)
class News:
    """What one line of a stream brought."""

    tokens: int = 0
    ids: tuple[int, ...] = ()  # those that the server told; fewer than `tokens` where it does not tell all
    cached_tokens: int | None = None  # of the prompt, where this line tells it
    is_end: bool = False
    error: str = ""


NOTHING = News()


class Reading(Protocol):
    """Reads the lines of one answer."""

    def line(self, line: bytes) -> News: ...


class Dialect(Protocol):
    """One server's way to be asked."""

    path: str
    takes_ids: bool  # prompts are token ids; otherwise text

    def body(self, prompt: Prompt, max_tokens: int) -> dict[str, Any]: ...

    def reading(self) -> Reading: ...


class LlamaServer:
    """llama-server's own /completion: its streams carry less than those of its OpenAI endpoints.

    Every line tells how many tokens have been generated, so those of a character that is not whole yet count with the
    line that they hold back; their ids are not told.
    """

    path = "/completion"
    takes_ids = True

    def body(self, prompt: Prompt, max_tokens: int) -> dict[str, Any]:
        return {
            "prompt": prompt, "n_predict": max_tokens, "stream": True, "ignore_eos": True, "temperature": 0,
            "cache_prompt": True, "return_tokens": True, "response_fields": ["stop", "tokens_predicted", "timings"],
        }  # fmt: skip

    def reading(self) -> Reading:
        return _LlamaServerReading()


class _LlamaServerReading:
    def __init__(self) -> None:
        self._count = 0

    def line(self, line: bytes) -> News:
        if not line.startswith(b"data: "):
            return News(error=line.decode(errors="replace")[:200]) if line.startswith(b"error:") else NOTHING
        event = json.loads(line[6:])
        if "error" in event:
            return News(error=str(event["error"])[:200])
        count = event.get("tokens_predicted", self._count)
        come, self._count = count - self._count, count
        cached = event["timings"].get("cache_n") if "timings" in event else None
        return News(max(0, come), tuple(event.get("tokens", ())), cached, bool(event.get("stop")))


class OpenAi:
    """/v1/completions with token ids both ways, as agentix and some other servers have it."""

    path = "/v1/completions"
    takes_ids = True

    def body(self, prompt: Prompt, max_tokens: int) -> dict[str, Any]:
        return {
            "prompt": prompt, "max_tokens": max_tokens, "stream": True, "ignore_eos": True, "temperature": 0,
            "return_token_ids": True, "stream_options": {"include_usage": True},
        }  # fmt: skip

    def reading(self) -> Reading:
        return _OpenAiReading(has_ids=True)


class LlamaCppPython:
    """llama-cpp-python's server: it takes text only, and has no ignore_eos (a bias against it is slow there)."""

    path = "/v1/completions"
    takes_ids = False

    def body(self, prompt: Prompt, max_tokens: int) -> dict[str, Any]:
        return {"prompt": prompt, "max_tokens": max_tokens, "stream": True, "temperature": 0}

    def reading(self) -> Reading:
        return _OpenAiReading(has_ids=False)


class _OpenAiReading:
    """has_ids: tokens are counted by their ids; otherwise each event but the last is one token's, even without text."""

    def __init__(self, has_ids: bool) -> None:
        self._has_ids = has_ids

    def line(self, line: bytes) -> News:
        if not line.startswith(b"data: "):
            return NOTHING
        if line == b"data: [DONE]":
            return News(is_end=True)
        event = json.loads(line[6:])
        if "error" in event:
            return News(error=str(event["error"])[:200])
        usage = event.get("usage")
        cached = usage["prompt_tokens_details"]["cached_tokens"] if usage and self._has_ids else None
        tokens, ids = 0, ()
        for choice in event["choices"]:
            ids = tuple(choice.get("token_ids", ()))
            tokens = len(ids) if self._has_ids else int(choice["finish_reason"] is None)
        return News(tokens, ids, cached)


class Ollama:
    """/api/generate with raw text; it has no ignore_eos. Its last line tells how many tokens there were."""

    path = "/api/generate"
    takes_ids = False

    def __init__(self, model: str) -> None:
        self._model = model

    def body(self, prompt: Prompt, max_tokens: int) -> dict[str, Any]:
        options = {"num_predict": max_tokens, "temperature": 0}
        return {"model": self._model, "prompt": prompt, "raw": True, "stream": True, "options": options}

    def reading(self) -> Reading:
        return _OllamaReading()


class _OllamaReading:
    def __init__(self) -> None:
        self._count = 0

    def line(self, line: bytes) -> News:
        if not line.startswith(b"{"):
            return NOTHING
        event = json.loads(line)
        if "error" in event:
            return News(error=str(event["error"])[:200])
        come = int(bool(event.get("response")))
        if event.get("done"):  # pieces that were held back count here
            come = max(0, event.get("eval_count", self._count + come) - self._count)
        self._count += come
        return News(come, is_end=bool(event.get("done")))
