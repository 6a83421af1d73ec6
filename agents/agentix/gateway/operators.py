"""Keys that programs get while the gateway runs: `agentix run -- PROGRAM` asks for one, and gives it back.

Who uses it: app.py. What must hold: only who can read the gateway's file of its own (rundir.py) may make keys; a key
made for a process ends with that process.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentix.gateway.bodies import read_json
from agentix.gateway.fields import Fields
from agentix.gateway.gateway import Gateway
from agentix.gateway.keys import Key
from agentix.gateway.openai.errors import response_of
from agentix.gateway.problems import Problem

MAX_NAME_CHARS = 48


def keys_routes(gateway: Gateway) -> list[Route]:
    async def make(request: Request) -> Response:
        try:
            _check(gateway, request)
            return JSONResponse(_make(gateway, Fields(await read_json(request))))
        except Problem as problem:
            return response_of(problem)

    async def drop(request: Request) -> Response:
        try:
            _check(gateway, request)
            end(gateway, request.path_params["name"])
            return Response(status_code=204)
        except Problem as problem:
            return response_of(problem)

    return [
        Route("/agentix/keys", make, methods=["POST"]),
        Route("/agentix/keys/{name}", drop, methods=["DELETE"]),
    ]


def end(gateway: Gateway, name: str) -> None:
    """A key is no more, and its tasks end. Raises Problem."""
    if not gateway.ring.remove(name):
        raise Problem(404, "not_found", f"there is no key {name[:60]!r}", may_retry=False)
    gateway.tasks.end(name)


def _check(gateway: Gateway, request: Request) -> None:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode("utf-8", "replace"), gateway.secret.encode()):
        raise Problem(
            401, "invalid_api_key", "keys are made with the gateway's own secret", may_retry=False
        )


def _make(gateway: Gateway, fields: Fields) -> dict[str, str]:
    wanted = (fields.text("name") or "program")[:MAX_NAME_CHARS]
    priority = fields.integer("priority", -20, 19) or 0
    pid = fields.integer("pid", 1, 1 << 22) or 0
    taken = {key.name for key in gateway.ring}
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    secret = f"sk-agentix-{secrets.token_urlsafe(24)}"
    gateway.ring.add(secret, Key(name=name, priority=priority, pid=pid))
    if pid:
        _watch(gateway, name, pid)
    return {"id": name, "key": secret}


def _watch(gateway: Gateway, name: str, pid: int) -> None:
    """End a key with its process. Raises Problem if that is gone already."""
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        gateway.ring.remove(name)
        raise Problem(
            400, "invalid_value", f"process {pid}: {error.strerror}", may_retry=False
        ) from None
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        if gateway.ring.remove(name):
            gateway.tasks.end(name)

    loop.add_reader(fd, gone)
