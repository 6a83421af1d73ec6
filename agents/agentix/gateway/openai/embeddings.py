"""/v1/embeddings."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from agentix.gateway.conversations import chain_of_prompt
from agentix.gateway.fields import Fields, is_text
from agentix.gateway.gateway import Gateway

MAX_INPUTS = 2048


async def create(gateway: Gateway, headers: Mapping[str, str], body: dict[str, Any]) -> Response:
    """Raises Problem, AgentixError."""
    fields = Fields(body)
    caller = gateway.identify(headers)
    model = await gateway.model(fields.text("model") or "", embedding=True)
    inputs = _inputs(fields)
    encoding = fields.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise fields.wrong("encoding_format", "'float' or 'base64'")
    wanted = fields.integer("dimensions", 1, 1 << 20)
    name = model["name"]
    vectors = await gateway.call(
        caller,
        chain_of_prompt(""),
        lambda task: task.llm.embed(inputs, model=name, timeout=caller.deadline_s),
    )
    if wanted not in (None, vectors.shape[1]):
        raise fields.wrong("dimensions", f"{vectors.shape[1]}, as this model has")
    rows = [
        {
            "object": "embedding",
            "index": index,
            "embedding": vector.tolist()
            if encoding == "float"
            else base64.b64encode(vector.tobytes()).decode(),
        }
        for index, vector in enumerate(vectors.astype("<f4"))
    ]
    tokens = await gateway.count_tokens(inputs, name)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    gateway.metrics.count("embeddings", name, (), 200)
    answer = {"object": "list", "data": rows, "model": name, "usage": usage}
    return Response(json.dumps(answer), media_type="application/json")


def _inputs(fields: Fields) -> list[Any]:
    given = fields.get("input")
    if is_text(given):
        return [given]
    if isinstance(given, list) and 0 < len(given) <= MAX_INPUTS:
        if all(_is_token(one) for one in given):
            return [given]
        if all(is_text(one) for one in given) or all(
            isinstance(one, list) and one and all(map(_is_token, one)) for one in given
        ):
            return given
    raise fields.wrong("input", f"text, token ids, or at most {MAX_INPUTS} of either")


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32
