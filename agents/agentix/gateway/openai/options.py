"""The fields of OpenAI's API that say how to generate, as the kernel's options. No I/O.

Who uses it: chat.py and completions.py; Ollama's API for what it shares. What must hold: an option that the kernel does
not take is an error and not a guess.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from agentix.gateway.fields import Fields, brief
from agentix.gateway.problems import invalid

MAX_TOKENS = 1 << 20
MAX_CHOICES = 16
MAX_STOPS = 16
MAX_SEED = (1 << 63) - 1

_NUMBERS = (  # name, the kernel's name, low, high
    ("temperature", "temperature", 0, 100),
    ("top_p", "top_p", 0, 1),
    ("min_p", "min_p", 0, 1),
    ("typical_p", "typical_p", 0, 1),
    ("presence_penalty", "presence_penalty", -100, 100),
    ("frequency_penalty", "frequency_penalty", -100, 100),
    ("repetition_penalty", "repeat_penalty", 0.01, 100),
    ("repeat_penalty", "repeat_penalty", 0.01, 100),
)


def sampling(fields: Fields) -> dict[str, Any]:
    """The options that chats and completions share. Raises Problem."""
    options: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "keep": True}
    for name, kernel_name, low, high in _NUMBERS:
        value = fields.number(name, low, high)
        if value is not None:
            options[kernel_name] = value
    if (top_k := fields.integer("top_k", -1, 1 << 20)) is not None:
        options["top_k"] = max(0, top_k)
    stop = fields.texts("stop")
    if len(stop) > MAX_STOPS:
        raise fields.wrong("stop", f"at most {MAX_STOPS} texts")
    if stop:
        options["stop"] = stop
    if fields.table("logit_bias"):
        options["logit_bias"] = _biases(fields)
    seed = fields.integer("seed", -MAX_SEED, MAX_SEED)
    options["seed"] = secrets.randbits(62) if seed is None else seed % MAX_SEED
    if fields.flag("ignore_eos"):
        options["ignore_end"] = True
    if fields.get("grammar") is not None:
        options["grammar"] = fields.text("grammar")
    options |= response_format(fields)
    return options


def choices(fields: Fields) -> int:
    """How many answers are wanted. Raises Problem."""
    return fields.integer("n", 1, MAX_CHOICES) or 1


def seeds(options: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The options of each of several answers: they differ in their seeds."""
    return [options | {"seed": (options["seed"] + index) % MAX_SEED} for index in range(count)]


def response_format(fields: Fields) -> dict[str, Any]:
    """The constraint that a response_format means. Raises Problem."""
    wanted = fields.table("response_format")
    if wanted is None:
        return {}
    kind = wanted.get("type")
    if kind in (None, "text"):
        return {}
    if kind == "json_object":
        schema = wanted.get("schema")  # as llama-server and others have it
        return {
            "json_schema": json.dumps(schema if isinstance(schema, Mapping) else {"type": "object"})
        }
    if kind == "json_schema":
        given = wanted.table("json_schema")
        schema = given.get("schema") if given else None
        if not isinstance(schema, Mapping | bool):
            raise fields.wrong(
                "response_format", "{'type': 'json_schema', 'json_schema': {'name', 'schema'}}"
            )
        return {"json_schema": json.dumps(schema)}
    raise wanted.wrong("type", "'text', 'json_object' or 'json_schema'")


def _biases(fields: Fields) -> dict[str, float]:
    biases: dict[str, float] = {}
    for token, bias in fields.get("logit_bias").items():
        is_number = isinstance(bias, int | float) and not isinstance(bias, bool)
        if not str(token).isdigit() or not is_number or not -100 <= bias <= 100:
            raise invalid(
                f"logit_bias[{brief(token)}] is {brief(bias)}, wanted numbers from -100 to 100 by token id",
                "logit_bias",
            )
        biases[str(token)] = float(bias)
    return biases
