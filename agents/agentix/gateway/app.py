"""The routes: which path is which API's which call.

Who uses it: server.py. What must hold: whatever a client sends, it is answered in the shape of the API whose path
it used, and never with a traceback.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from agentix.errors import AgentixError
from agentix.gateway.aios import errors as aios_errors
from agentix.gateway.aios import query as aios
from agentix.gateway.bodies import read_json
from agentix.gateway.gateway import Gateway
from agentix.gateway.ollama import chat as ollama_chat
from agentix.gateway.ollama import errors as ollama_errors
from agentix.gateway.ollama import models as ollama_models
from agentix.gateway.openai import chat, completions, embeddings, models
from agentix.gateway.openai import errors as openai_errors
from agentix.gateway.openapi import DOCUMENT
from agentix.gateway.operators import keys_routes
from agentix.gateway.problems import Problem, problem_of

Refuse = Callable[[Problem], Response]

_NOT_SERVED = {
    "pull": "agentix pull",
    "push": "nothing of agentix's",
    "create": "agentix up --model",
    "copy": "agentix up --model NAME=PATH",
    "delete": "agentix rm",
}


def make_app(gateway: Gateway) -> Starlette:
    def openai(path: str, create: Any) -> list[Route]:
        """A call of OpenAI's, also where a client's base URL lacks the /v1."""
        paths = (f"/v1{path}", path)
        return [
            Route(one, _posted(gateway, create, openai_errors.response_of), methods=["POST"])
            for one in paths
        ]

    def openai_get(path: str, tell: Any) -> list[Route]:
        return [
            Route(one, _got(gateway, tell, openai_errors.response_of))
            for one in (f"/v1{path}", path)
        ]

    def ollama(path: str, create: Any) -> Route:
        return Route(
            f"/api/{path}", _posted(gateway, create, ollama_errors.response_of), methods=["POST"]
        )

    def refuse_ollama(path: str) -> Route:
        async def refuse(request: Request) -> Response:
            text = f"/api/{path} is not served: {_NOT_SERVED[path]} does it"
            return ollama_errors.response_of(Problem(501, "not_served", text, may_retry=False))

        return Route(f"/api/{path}", refuse, methods=["POST", "DELETE"])

    async def health(request: Request) -> Response:
        state = await gateway.health()
        return JSONResponse(state, 200 if state["status"] == "ok" else 503)

    async def metrics(request: Request) -> Response:
        text = await gateway.tell_metrics()
        return Response(text, media_type="text/plain; version=0.0.4")

    async def root(request: Request) -> Response:
        return PlainTextResponse("Ollama is running")  # what Ollama's clients look for

    async def document(request: Request) -> Response:
        return JSONResponse(DOCUMENT)

    async def lost(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        text = f"{request.method} {request.url.path[:100]} is not one of this gateway's calls"
        problem = Problem(
            status, "not_found" if status == 404 else "method_not_allowed", text, may_retry=False
        )
        refuse = (
            ollama_errors.response_of
            if request.url.path.startswith("/api/")
            else openai_errors.response_of
        )
        return refuse(problem)

    return Starlette(
        routes=[
            *openai("/chat/completions", chat.create),
            *openai("/completions", completions.create),
            *openai("/embeddings", embeddings.create),
            *openai_get("/models", models.list_models),
            *openai_get("/models/{name:path}", models.show_model),
            ollama("chat", ollama_chat.chat),
            ollama("generate", ollama_chat.generate),
            ollama("embed", ollama_models.embed),
            ollama("embeddings", ollama_models.embed_one),
            ollama("show", ollama_models.show),
            *map(refuse_ollama, _NOT_SERVED),
            Route("/api/tags", _got(gateway, ollama_models.tags, ollama_errors.response_of)),
            Route("/api/ps", _got(gateway, ollama_models.running, ollama_errors.response_of)),
            Route("/api/version", _got(gateway, ollama_models.version, ollama_errors.response_of)),
            Route(
                "/query", _posted(gateway, aios.query, aios_errors.response_of), methods=["POST"]
            ),
            Route("/core/status", _got(gateway, aios.status, aios_errors.response_of)),
            Route("/core/llms/list", _got(gateway, aios.llms, aios_errors.response_of)),
            Route(
                "/core/{part}/setup",
                _posted(gateway, aios.set_up, aios_errors.response_of),
                methods=["POST"],
            ),
            *keys_routes(gateway),
            Route("/healthz", health),
            Route("/metrics", metrics),
            Route("/openapi.json", document),
            Route("/", root, methods=["GET", "HEAD"]),
        ],
        exception_handlers={404: lost, 405: lost},
    )


def _posted(
    gateway: Gateway, create: Any, refuse: Refuse
) -> Callable[[Request], Awaitable[ASGIApp]]:
    """An endpoint that takes JSON: create(gateway, headers, body, **parts of the path) makes its answer."""

    async def make(request: Request) -> ASGIApp:
        gateway.check_open()
        return await create(
            gateway, request.headers, await read_json(request), **request.path_params
        )

    return _guarded(make, refuse)


def _got(gateway: Gateway, tell: Any, refuse: Refuse) -> Callable[[Request], Awaitable[ASGIApp]]:
    """An endpoint that answers JSON: what tell(gateway, headers, **parts of the path) returns."""

    async def make(request: Request) -> ASGIApp:
        return JSONResponse(await tell(gateway, request.headers, **request.path_params))

    return _guarded(make, refuse)


def _guarded(
    make: Callable[[Request], Awaitable[ASGIApp]], refuse: Refuse
) -> Callable[[Request], Awaitable[ASGIApp]]:
    """Whatever is raised becomes an answer; a bug also a line for the operator."""

    async def answer(request: Request) -> ASGIApp:
        try:
            return await make(request)
        except Problem as problem:
            return refuse(problem)
        except AgentixError as error:
            return refuse(problem_of(error))
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as bug:
            where = traceback.extract_tb(bug.__traceback__)[-1]
            print(
                f"gateway: bug: {bug!r} at {where.filename}:{where.lineno}",
                file=sys.stderr,
                flush=True,
            )
            return refuse(Problem(500, "internal_error", f"a bug in the gateway: {bug!r}"))

    return answer
