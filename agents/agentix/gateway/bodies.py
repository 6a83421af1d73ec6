"""Reading a request's body, with limits of size and time.

Who uses it: app.py. What must hold: a client that sends slowly, much or nonsense costs no more than its own request.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request

from agentix.gateway.problems import Problem, invalid

MAX_BODY_BYTES = 8 << 20  # twice the kernel's longest message
MAX_READ_BYTES = 64 << 20  # of a longer one, so that its sender gets to read why it is refused
BODY_S = 30.0  # for all of it


async def read_json(request: Request) -> dict[str, Any]:
    """Return a request's body, a JSON object. Raises Problem."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                size += len(part)
                if size <= MAX_BODY_BYTES:
                    parts.append(part)
                elif size > MAX_READ_BYTES:
                    break
    except TimeoutError:
        raise Problem(
            408, "request_timeout", f"the body did not come within {BODY_S:g} s", may_retry=False
        ) from None
    if size > MAX_BODY_BYTES:
        text = f"the body is longer than {MAX_BODY_BYTES} bytes"
        raise Problem(413, "request_too_large", text, may_retry=False)
    try:
        body = json.loads(b"".join(parts), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise invalid(f"the body is no JSON: {str(error)[:200]}") from None
    if not isinstance(body, dict):
        raise invalid(f"the body is a {type(body).__name__}, wanted a JSON object")
    return body


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
