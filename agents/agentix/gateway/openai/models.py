"""/v1/models: what can be asked, with the true window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentix.gateway.gateway import Gateway
from agentix.gateway.problems import Problem


async def list_models(gateway: Gateway, headers: Mapping[str, str]) -> dict[str, Any]:
    gateway.identify(headers)
    rows = [_row(gateway, model, model["name"]) for model in await gateway.models()]
    by_name = {model["name"]: model for model in await gateway.models()}
    rows += [
        _row(gateway, by_name[model], name)
        for name, model in gateway.ring.models.items()
        if model in by_name
    ]
    return {"object": "list", "data": rows}


async def show_model(gateway: Gateway, headers: Mapping[str, str], name: str) -> dict[str, Any]:
    for row in (await list_models(gateway, headers))["data"]:
        if row["id"] == name:
            return row
    raise Problem(
        404,
        "model_not_found",
        f"model {name[:80]!r} is not one of this gateway's",
        param="model",
        may_retry=False,
    )


def _row(gateway: Gateway, model: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(gateway.began_s),
        "owned_by": "agentix",
        "max_model_len": model["window_tokens"],
        "context_window": model["window_tokens"],
        "agentix": {
            key: model[key]
            for key in ("state", "description", "family", "exactness", "chat_format", "takes_tools", "is_embedding",
                        "embedding_width", "slots", "devices")
        },
    }  # fmt: skip
