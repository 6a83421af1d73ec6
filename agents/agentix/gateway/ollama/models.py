"""What Ollama's API tells of models, and its embeddings.

Who uses it: app.py. What must hold: a model has the name that it has elsewhere; nothing is made up: what is not known
is left out or empty.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from agentix.gateway.fields import Fields, is_text
from agentix.gateway.gateway import Gateway
from agentix.gateway.problems import Problem

VERSION = "0.12.0"  # of the API that is spoken; clients compare it


async def tags(gateway: Gateway, headers: Mapping[str, str]) -> dict[str, Any]:
    gateway.identify(headers)
    return {"models": [_row(model) for model in await gateway.models()]}


async def running(gateway: Gateway, headers: Mapping[str, str]) -> dict[str, Any]:
    gateway.identify(headers)
    rows = []
    for model in await gateway.models():
        if model["state"] == "ready":
            row = _row(model)
            rows.append(
                row
                | {
                    "expires_at": _date(time.time() + 3600),
                    "size_vram": 0,
                    "context_length": model["window_tokens"],
                }
            )
    return {"models": rows}


async def version(gateway: Gateway, headers: Mapping[str, str]) -> dict[str, Any]:
    return {"version": VERSION}


async def show(gateway: Gateway, headers: Mapping[str, str], body: dict[str, Any]) -> Response:
    """Raises Problem."""
    gateway.identify(headers)
    fields = Fields(body)
    name = (fields.text("model") or fields.text("name") or "").removesuffix(":latest")
    for model in await gateway.models():
        if name == model["name"]:
            break
    else:
        raise Problem(404, "model_not_found", f"model {name[:80]!r} not found", may_retry=False)
    able = (
        ["embedding"]
        if model["is_embedding"]
        else ["completion"] + ["tools"] * model["takes_tools"]
    )
    answer = {
        "modelfile": f"FROM {model['path']}",
        "parameters": "",
        "template": "",
        "details": _details(model),
        "model_info": {
            "general.architecture": model["family"],
            f"{model['family']}.context_length": model["window_tokens"],
        },
        "capabilities": able,
        "modified_at": _row(model)["modified_at"],
    }
    return Response(json.dumps(answer), media_type="application/json")


async def embed(gateway: Gateway, headers: Mapping[str, str], body: dict[str, Any]) -> Response:
    """/api/embed. Raises Problem, AgentixError."""
    began_ns = time.monotonic_ns()
    fields = Fields(body)
    given = fields.get("input")
    texts = [given] if is_text(given) else given
    if not isinstance(texts, list) or not all(is_text(text) for text in texts):
        raise fields.wrong("input", "text or a list of texts")
    name, vectors = await _embed(gateway, headers, fields, texts)
    answer = {
        "model": name,
        "embeddings": vectors,
        "total_duration": time.monotonic_ns() - began_ns,
        "load_duration": 0,
        "prompt_eval_count": await gateway.count_tokens(texts, name),
    }
    return Response(json.dumps(answer), media_type="application/json")


async def embed_one(gateway: Gateway, headers: Mapping[str, str], body: dict[str, Any]) -> Response:
    """/api/embeddings, the older one. Raises Problem, AgentixError."""
    fields = Fields(body)
    text = fields.text("prompt")
    if text is None:
        raise fields.wrong("prompt", "text")
    _, vectors = await _embed(gateway, headers, fields, [text])
    return Response(json.dumps({"embedding": vectors[0]}), media_type="application/json")


async def _embed(
    gateway: Gateway, headers: Mapping[str, str], fields: Fields, texts: list[str]
) -> tuple[str, list[list[float]]]:
    caller = gateway.identify(headers)
    name = (fields.text("model") or "").removesuffix(":latest")
    model = await gateway.model(name, embedding=True)
    if not texts:
        return model["name"], []
    make = lambda task: task.llm.embed(texts, model=model["name"], timeout=caller.deadline_s)  # noqa: E731
    vectors = await gateway.call(caller, (), make)
    wanted = fields.integer("dimensions", 1, 1 << 20)
    if wanted not in (None, vectors.shape[1]):
        raise fields.wrong("dimensions", f"{vectors.shape[1]}, as this model has")
    gateway.metrics.count("ollama", model["name"], (), 200)
    return model["name"], vectors.tolist()


def _row(model: Mapping[str, Any]) -> dict[str, Any]:
    try:
        stat = os.stat(model["path"])
        size_bytes, modified_s = stat.st_size, stat.st_mtime
    except OSError:
        size_bytes, modified_s = 0, 0.0
    digest = hashlib.sha256(
        f"{model['path']}:{size_bytes}:{modified_s}".encode()
    ).hexdigest()  # of what tells files apart
    name = model["name"]
    return {
        "name": name,
        "model": name,
        "modified_at": _date(modified_s),
        "size": size_bytes,
        "digest": digest,
        "details": _details(model),
    }


def _details(model: Mapping[str, Any]) -> dict[str, Any]:
    words = model["description"].split()
    return {
        "parent_model": "",
        "format": "gguf",
        "family": words[0] if words else "",
        "families": words[:1],
        "parameter_size": words[1] if len(words) > 1 else "",
        "quantization_level": words[2] if len(words) > 2 else "",
    }


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
