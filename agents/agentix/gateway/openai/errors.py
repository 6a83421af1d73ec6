"""Errors as OpenAI's API has them."""

from __future__ import annotations

import json

from starlette.responses import Response

from agentix.gateway.answers import headers_of
from agentix.gateway.problems import Problem

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def body_of(problem: Problem) -> bytes:
    kind = TYPES.get(
        problem.status, "server_error" if problem.status >= 500 else "invalid_request_error"
    )
    if problem.code == "insufficient_quota":
        kind = problem.code  # as OpenAI has it, for its clients tell by the type that waiting is no use
    error = {
        "message": problem.text,
        "type": kind,
        "param": problem.param,
        "code": problem.code,
    } | problem.facts
    return json.dumps({"error": error}).encode()


def response_of(problem: Problem) -> Response:
    """The whole answer of a request that was refused before it began."""
    headers = {name.decode(): value.decode() for name, value in headers_of(problem)}
    return Response(body_of(problem), problem.status, headers, "application/json")
