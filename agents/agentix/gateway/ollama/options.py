"""Ollama's options as the kernel's. No I/O.

Who uses it: chat.py and generate.py. What must hold: Ollama's defaults hold where a client says nothing; what
configures a model's loading is ignored, as the kernel loads models; what changes texts and is not served is an error.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from agentix.gateway.fields import Fields
from agentix.gateway.openai.options import MAX_SEED, MAX_STOPS, MAX_TOKENS
from agentix.gateway.problems import invalid

_NUMBERS = (
    ("temperature", 0, 100),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("typical_p", 0, 1),
    ("repeat_penalty", 0.01, 100),
    ("presence_penalty", -100, 100),
    ("frequency_penalty", -100, 100),
)
_DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "repeat_penalty": 1.1}


def read(body: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Raises Problem."""
    fields = Fields(body)
    given = fields.table("options") or Fields({})
    options: dict[str, Any] = {**_DEFAULTS, "keep": True, "model": model["name"]}
    for name, low, high in _NUMBERS:
        value = given.number(name, low, high)
        if value is not None:
            options[name] = value
    if given.integer("mirostat", 0, 2):
        raise given.wrong("mirostat", "0: it is not served")
    if (top_k := given.integer("top_k", -1, 1 << 20)) is not None:
        options["top_k"] = max(0, top_k)
    if (last := given.integer("repeat_last_n", -1, 4096)) is not None:
        options["penalty_tokens"] = 4096 if last < 0 else last
    most = given.integer("num_predict", -2, MAX_TOKENS)
    options["max_tokens"] = (
        most if most is not None and most > 0 else model["window_tokens"] or MAX_TOKENS
    )
    wanted = given.integer("num_ctx", 1, 1 << 31)
    if wanted and model["window_tokens"] and wanted > model["window_tokens"]:
        raise given.wrong(
            "num_ctx", f"at most {model['window_tokens']}, the window of {model['name']!r}"
        )
    seed = given.integer("seed", -MAX_SEED, MAX_SEED)
    options["seed"] = secrets.randbits(62) if seed is None else seed % MAX_SEED
    if stop := given.texts("stop"):
        if len(stop) > MAX_STOPS:
            raise given.wrong("stop", f"at most {MAX_STOPS} texts")
        options["stop"] = stop
    if fields.flag("logprobs"):
        options["logprobs"] = fields.integer("top_logprobs", 0, 20) or 0
    return options | _format(fields)


def _format(fields: Fields) -> dict[str, Any]:
    wanted = fields.get("format")
    if wanted in (None, ""):
        return {}
    if wanted == "json":
        return {"json_schema": json.dumps({"type": "object"})}
    if isinstance(wanted, Mapping):
        return {"json_schema": json.dumps(wanted)}
    raise fields.wrong("format", "'json' or a JSON schema")


def thinking(fields: Fields) -> bool | None:
    """Whether the model should reason: `think` is true, false or a level."""
    wanted = fields.get("think")
    if wanted is None or isinstance(wanted, bool):
        return wanted
    if wanted in ("low", "medium", "high"):
        return True
    raise fields.wrong("think", "true, false, 'low', 'medium' or 'high'")


def no_images(fields: Fields) -> None:
    if fields.get("images"):
        raise invalid("images are not served: the models here read text", "images")
