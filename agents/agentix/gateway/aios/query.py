"""/query and what tells of the parts: AIOS's API, as its SDK Cerebrum calls it. Model calls are served, others refused.

Who uses it: app.py. What must hold: each agent_name is a task of its own; what is not served is said with its name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from agentix.calls import Reply
from agentix.chat.turn import Turn
from agentix.gateway.aios.errors import body_of
from agentix.gateway.answers import Answer
from agentix.gateway.conversations import chain_of_messages
from agentix.gateway.fields import Fields
from agentix.gateway.gateway import Gateway
from agentix.gateway.openai.options import sampling
from agentix.gateway.problems import Problem, invalid

PARTS = ("llm", "storage", "memory", "tool", "scheduler", "factory")
MAX_NAME_CHARS = 40
OPTIONS = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed", "stop")


async def query(gateway: Gateway, headers: Mapping[str, str], body: dict[str, Any]) -> Answer:
    """Raises Problem, AgentixError."""
    fields = Fields(body)
    kind = fields.text("query_type") or "llm"
    if kind != "llm":
        raise _not_served(f"query_type {kind[:40]!r}")
    data = fields.table("query_data")
    if data is None:
        raise fields.wrong("query_data", "an object with messages")
    action = data.text("action_type") or "chat"
    if action == "operate_file":
        raise _not_served("action_type 'operate_file'")
    if action not in ("chat", "tool_use", "call_tool"):
        raise data.wrong("action_type", "'chat' or 'tool_use'")
    name = (fields.text("agent_name") or "").strip()[:MAX_NAME_CHARS]
    caller = gateway.identify(headers)
    caller = replace(caller, name=caller.name or (f"aios-{name}" if name else ""))
    chosen = _chosen(data)
    model = await gateway.model(chosen.text("name") or "" if chosen.get("backend") is None else "")
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        raise data.wrong("messages", "a list of messages, one at least")
    options = _options(data, chosen, model)
    turn = Turn(messages, options)
    if turn.wants_format:
        turn.force(await gateway.models())
    work = await gateway.begin(caller, chain_of_messages(messages), [turn.call(stream=False)])
    return Answer(
        work,
        QueryShape(turn),
        is_stream=False,
        done=lambda replies, status: gateway.metrics.count("aios", model["name"], replies, status),
    )


def _chosen(data: Fields) -> Fields:
    """The first model that the query names, with its settings."""
    llms = data.get("llms")
    if not llms:
        return Fields({})
    if not isinstance(llms, list) or not isinstance(llms[0], Mapping):
        raise data.wrong("llms", "a list of {'name'}")
    return Fields(llms[0], "query_data.llms[0].")


def _options(data: Fields, chosen: Fields, model: Mapping[str, Any]) -> dict[str, Any]:
    given = {
        name: data.get(name) if data.get(name) is not None else chosen.get(name) for name in OPTIONS
    }
    given["response_format"] = data.get("response_format")
    if given["response_format"] is None and data.get("message_return_type") == "json":
        given["response_format"] = {"type": "json_object"}
    options = sampling(Fields(given, "query_data."))
    options["model"] = model["name"]
    most = data.integer("max_new_tokens", 1, 1 << 20) or chosen.integer(
        "max_new_tokens", 1, 1 << 20
    )
    most = most or chosen.integer("max_tokens", 1, 1 << 20)
    options["max_tokens"] = most or model["window_tokens"] or 1 << 20
    tools = data.get("tools")
    if tools:
        if not isinstance(tools, list):
            raise data.wrong("tools", "a list of tools")
        options["tools"] = [
            tool if not isinstance(tool, Mapping) or "function" in tool else _tool(tool)
            for tool in tools
        ]
        if (
            data.get("action_type") in ("tool_use", "call_tool")
            or data.get("tool_choice") == "required"
        ):
            options["tool_choice"] = "required"
            options.pop("json_schema", None)
    return options


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool of AIOS's own shape in OpenAI's."""
    return {"type": "function", "function": dict(tool)}


def _not_served(what: str) -> Problem:
    text = f"{what} is not served here: this gateway has model calls only, without memory, storage and tools"
    return Problem(501, "not_served", text, may_retry=False)


class QueryShape:
    """A whole answer; AIOS streams nothing."""

    media_type = "application/json"

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._began_s = time.time()

    def whole(self, replies: Sequence[Reply]) -> bytes:
        said = self._turn.read(replies[0])
        calls = [
            {
                "id": call.id,
                "type": "function",
                "name": call.name,
                "parameters": json.loads(call.arguments),
            }
            for call in said.tool_calls
        ]
        response = {
            "response_class": "llm",
            "response_message": said.content or None,
            "tool_calls": calls or None,
            "finished": True,
            "error": None,
            "status_code": 200,
        }
        timings = replies[0].timings
        started_s = self._began_s + timings["queued_s"]
        times = {
            "start_times": [started_s],
            "end_times": [self._began_s + timings["total_s"]],
            "waiting_times": [timings["wait_s"]],
            "turnaround_times": [timings["total_s"]],
        }
        return json.dumps({"response": response, **times}).encode()

    def refusal(self, problem: Problem) -> bytes:
        return body_of(problem)

    def begin(self) -> bytes:
        return b""

    def pause(self, status: dict[str, Any] | None) -> bytes:
        return b""

    def chunk(self, index: int, chunk: dict[str, Any]) -> bytes:
        return b""

    def reply(self, index: int, reply: Reply) -> bytes:
        return b""

    def end(self) -> bytes:
        return b""

    def failure(self, problem: Problem) -> bytes:
        return body_of(problem)


async def status(gateway: Gateway, headers: Mapping[str, str]) -> dict[str, Any]:
    """GET /core/status: which parts there are."""
    is_ready = any(model["state"] == "ready" for model in await gateway.models())
    return {
        part: "active" if is_ready and part in ("llm", "scheduler") else "inactive"
        for part in PARTS
    }


async def llms(gateway: Gateway, headers: Mapping[str, str]) -> dict[str, Any]:
    """GET /core/llms/list."""
    names = [model["name"] for model in await gateway.models() if not model["is_embedding"]]
    return {"status": "success", "llms": [{"name": name, "backend": "agentix"} for name in names]}


async def set_up(
    gateway: Gateway, headers: Mapping[str, str], body: dict[str, Any], part: str
) -> Response:
    """POST /core/PART/setup: what is there is as it is, what is not cannot be had by asking."""
    if part not in PARTS:
        raise invalid(f"part {part[:40]!r} is not one of {', '.join(PARTS)}")
    if part not in ("llm", "scheduler"):
        raise _not_served(f"part {part!r}")
    answer = {"status": "success", "message": f"{part} is the kernel's, and set up already"}
    return Response(json.dumps(answer), media_type="application/json")
