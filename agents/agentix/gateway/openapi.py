"""The OpenAPI document of OpenAI's calls, as far as they are served: what clients and fuzzers go by.

Who uses it: app.py serves it at /openapi.json. What must hold: a request that it allows is answered without an error
of the server's; one that it forbids, with a 4xx.
"""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string"}
_FLAG = {"type": "boolean", "nullable": True}


def _number(low: float, high: float) -> dict[str, Any]:
    return {"type": "number", "minimum": low, "maximum": high, "nullable": True}


def _whole(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high, "nullable": True}


_SAMPLING: dict[str, Any] = {
    "model": {"type": "string", "nullable": True},
    "temperature": _number(0, 100),
    "top_p": _number(0, 1),
    "min_p": _number(0, 1),
    "typical_p": _number(0, 1),
    "top_k": _whole(-1, 1 << 20),
    "presence_penalty": _number(-100, 100),
    "frequency_penalty": _number(-100, 100),
    "repetition_penalty": _number(0.01, 100),
    "max_tokens": _whole(1, 1 << 20),
    "n": _whole(1, 16),
    "seed": _whole(-(1 << 62), 1 << 62),
    "stop": {"oneOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": 16}]},
    "logit_bias": {"type": "object", "additionalProperties": _number(-100, 100)},
    "stream": _FLAG,
    "stream_options": {"type": "object", "properties": {"include_usage": _FLAG}},
    "ignore_eos": _FLAG,
    "grammar": _TEXT,
    "response_format": {
        "type": "object",
        "properties": {"type": {"type": "string", "enum": ["text", "json_object", "json_schema"]}},
        "required": ["type"],
    },
    "truncation": {"type": "string", "enum": ["auto", "disabled"]},
    "return_token_ids": _FLAG,
}
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"type": "string", "enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"oneOf": [_TEXT, {"type": "array", "items": {"type": "object"}}]},
    },
    "required": ["role", "content"],
}
_CHAT = {
    "type": "object",
    "required": ["messages"],
    "properties": {
        **_SAMPLING,
        "messages": {"type": "array", "items": _MESSAGE, "minItems": 1},
        "max_completion_tokens": _whole(1, 1 << 20),
        "tools": {"type": "array", "items": {"type": "object"}},
        "tool_choice": {"oneOf": [_TEXT, {"type": "object"}]},
        "parallel_tool_calls": _FLAG,
        "logprobs": _FLAG,
        "top_logprobs": _whole(0, 20),
        "reasoning_effort": _TEXT,
    },
}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_COMPLETION = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        **_SAMPLING,
        "prompt": {
            "oneOf": [
                _TEXT,
                _TOKENS,
                {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 16},
            ]
        },
        "logprobs": _whole(0, 20),
        "echo": _FLAG,
        "best_of": _whole(1, 16),
    },
}
_EMBEDDING = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "model": _TEXT,
        "input": {"oneOf": [_TEXT, _TOKENS, {"type": "array", "items": _TEXT, "minItems": 1}]},
        "encoding_format": {"type": "string", "enum": ["float", "base64"]},
        "dimensions": _whole(1, 1 << 20),
    },
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {"message": _TEXT, "type": _TEXT, "code": _TEXT},
        }
    },
}
_REFUSALS = (400, 401, 403, 404, 408, 413, 429)


def _answers(good: dict[str, Any]) -> dict[str, Any]:
    refusals = {
        str(status): {"description": "refused", "content": {"application/json": {"schema": _ERROR}}}
        for status in _REFUSALS
    }
    return {"200": {"description": "the answer", "content": good}, **refusals}


def _posted(name: str, schema: dict[str, Any], *, streams: bool) -> dict[str, Any]:
    good: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        good["text/event-stream"] = {"schema": _TEXT}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"post": {"operationId": name, "requestBody": body, "responses": _answers(good)}}


def _got(name: str) -> dict[str, Any]:
    return {
        "get": {
            "operationId": name,
            "responses": _answers({"application/json": {"schema": {"type": "object"}}}),
        }
    }


DOCUMENT: dict[str, Any] = {
    "openapi": "3.0.3",
    "info": {
        "title": "agentix gateway",
        "version": "1",
        "description": "OpenAI's API over agents of a kernel",
    },
    "paths": {
        "/v1/chat/completions": _posted("chat", _CHAT, streams=True),
        "/v1/completions": _posted("completions", _COMPLETION, streams=True),
        "/v1/embeddings": _posted("embeddings", _EMBEDDING, streams=False),
        "/v1/models": _got("models"),
    },
}
