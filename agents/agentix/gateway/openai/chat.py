"""/v1/chat/completions.

Who uses it: app.py. What must hold: what the model cannot be held to is an error and never ignored; n answers are
n generations of one task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentix.chat.turn import Turn
from agentix.errors import PromptTooLong
from agentix.gateway.answers import Answer
from agentix.gateway.callers import Caller
from agentix.gateway.conversations import chain_of_messages
from agentix.gateway.fields import Fields
from agentix.gateway.gateway import Gateway
from agentix.gateway.openai import options as read
from agentix.gateway.openai.chatshape import ChatShape
from agentix.gateway.openai.prompts import wants_truncation, without_oldest
from agentix.gateway.pieces import Pieces
from agentix.gateway.problems import invalid
from agentix.gateway.work import Work

REASONING = ("none", "minimal", "low", "medium", "high", "xhigh")


async def create(gateway: Gateway, headers: Mapping[str, str], body: dict[str, Any]) -> Answer:
    """Raises Problem, AgentixError."""
    fields = Fields(body)
    caller = gateway.identify(headers)
    model = await gateway.model(fields.text("model") or "")
    messages = body.get("messages")
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(one, dict) for one in messages)
    ):
        raise fields.wrong("messages", "a list of messages, one at least")
    options = _options(fields, model)
    count = read.choices(fields)
    is_stream = fields.flag("stream")
    pieces = Pieces()
    notes: dict[str, Any] = {}

    async def begin(messages: list[dict[str, Any]], turns: list[Turn]) -> Work:
        turns[:] = [Turn(messages, one) for one in read.seeds(options, count)]
        if turns[0].wants_format:
            for turn in turns:
                turn.force(await gateway.models())
        made = [turn.call(is_stream) for turn in turns]
        return await gateway.begin(caller, chain_of_messages(messages), made)

    kept, turns = list(messages), []

    async def shorten(error: PromptTooLong) -> Work | None:
        fewer = without_oldest(kept)
        if fewer is None:
            return None
        notes["dropped_messages"] = notes.get("dropped_messages", 0) + len(kept) - len(fewer)
        kept[:] = fewer
        return await begin(kept, turns)

    work = await begin(kept, turns)
    shape = ChatShape(
        model["name"],
        turns,
        has_logprobs="logprobs" in options,
        pieces=pieces,
        one_call=fields.get("parallel_tool_calls") is False,
        has_usage=_wants_usage(fields),
        has_ids=fields.flag("return_token_ids"),
        notes=notes,
    )
    return _answer(gateway, caller, model["name"], work, shape, is_stream, pieces, fields, shorten)


def _answer(
    gateway: Gateway, caller: Caller, model: str, work: Work, shape: ChatShape, is_stream: bool, pieces: Pieces,
    fields: Fields, shorten: Any,
) -> Answer:  # fmt: skip
    return Answer(
        work,
        shape,
        is_stream=is_stream,
        keep_alive_s=gateway.keep_alive_s,
        wants_progress=caller.wants_progress,
        prepare=(lambda items: gateway.learn_pieces(pieces, model, items))
        if fields.flag("logprobs")
        else None,
        shorten=shorten if wants_truncation(fields, caller.wants_truncation) else None,
        headers=(("x-agentix-task", str(work.seat.pid)),),
        done=lambda replies, status: gateway.metrics.count("chat", model, replies, status),
    )


def _options(fields: Fields, model: Mapping[str, Any]) -> dict[str, Any]:
    options = read.sampling(fields)
    options["model"] = model["name"]
    wanted = fields.integer("max_completion_tokens", 1, read.MAX_TOKENS)
    wanted = wanted or fields.integer("max_tokens", 1, read.MAX_TOKENS)
    options["max_tokens"] = wanted or model["window_tokens"] or read.MAX_TOKENS
    top = fields.integer("top_logprobs", 0, 20)
    if fields.flag("logprobs"):
        options["logprobs"] = top or 0
    elif top is not None:
        raise fields.wrong("top_logprobs", "nothing, as logprobs is not true")
    tools = fields.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise fields.wrong("tools", "a list of tools")
    if tools:
        options["tools"] = [_lenient(tool) for tool in tools]
        options["tool_choice"] = fields.get("tool_choice")
    elif fields.get("tool_choice") not in (None, "none", "auto"):
        raise fields.wrong("tool_choice", "none, as there are no tools")
    if fields.get("functions"):
        raise invalid("functions is not served, wanted tools", "functions")
    thinking = _thinking(fields)
    if thinking is not None:
        options["thinking"] = thinking
    return options


def _lenient(tool: Any) -> Any:
    """A tool without `strict`: calls are constrained where they are forced, and cannot be promised to be elsewhere."""
    if isinstance(tool, dict) and isinstance(function := tool.get("function"), dict):
        return tool | {
            "function": {name: value for name, value in function.items() if name != "strict"}
        }
    return tool


def _thinking(fields: Fields) -> bool | None:
    arguments = fields.table("chat_template_kwargs")
    if arguments is not None and arguments.get("enable_thinking") is not None:
        return arguments.flag("enable_thinking")
    effort = fields.get("reasoning_effort")
    if effort is None:
        return None
    if effort not in REASONING:
        raise fields.wrong("reasoning_effort", ", ".join(REASONING))
    return effort != "none"


def _wants_usage(fields: Fields) -> bool:
    options = fields.table("stream_options")
    return options is not None and options.flag("include_usage")
