"""Errors as Ollama's API has them."""

from __future__ import annotations

import json

from starlette.responses import Response

from agentix.gateway.answers import headers_of
from agentix.gateway.problems import Problem


def body_of(problem: Problem) -> bytes:
    return json.dumps({"error": problem.text} | problem.facts).encode()


def response_of(problem: Problem) -> Response:
    headers = {name.decode(): value.decode() for name, value in headers_of(problem)}
    return Response(body_of(problem), problem.status, headers, "application/json")
