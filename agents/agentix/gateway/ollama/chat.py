"""/api/chat and /api/generate.

Who uses it: app.py. What must hold: a conversation in Ollama's shape reaches the model as the same one in OpenAI's
does; a prompt that is too long is an error, unless `truncate` is true, and then what was dropped is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentix import calls
from agentix.chat.turn import Turn
from agentix.errors import PromptTooLong
from agentix.gateway.answers import Answer
from agentix.gateway.conversations import chain_of_messages, chain_of_prompt
from agentix.gateway.fields import Fields
from agentix.gateway.gateway import Gateway
from agentix.gateway.ollama import options as read
from agentix.gateway.ollama.shapes import ChatLines, TextLines
from agentix.gateway.openai.prompts import without_oldest
from agentix.gateway.pieces import Pieces
from agentix.gateway.work import Work


async def chat(gateway: Gateway, headers: Mapping[str, str], body: dict[str, Any]) -> Answer:
    """Raises Problem, AgentixError."""
    fields = Fields(body)
    caller = gateway.identify(headers)
    model = await gateway.model(_name(fields))
    options = read.read(body, model)
    if (wanted := read.thinking(fields)) is not None:
        options["thinking"] = wanted
    tools = fields.get("tools")
    if tools:
        options["tools"] = tools
    messages = openai_messages(fields)
    is_stream = body.get("stream") is not False
    turns: list[Turn] = []
    dropped: list[int] = []

    async def begin() -> Work:
        turns[:] = [Turn(messages, options)]
        return await gateway.begin(caller, chain_of_messages(messages), [turns[0].call(is_stream)])

    async def shorten(_: PromptTooLong) -> Work | None:
        fewer = without_oldest(messages)
        if fewer is None:
            return None
        dropped.append(len(messages) - len(fewer))
        messages[:] = fewer
        return await begin()

    work = await begin()
    pieces = Pieces() if "logprobs" in options else None
    shape = ChatLines(model["name"], turns, pieces)
    shape.dropped = dropped
    return _answer(
        gateway,
        "ollama",
        model["name"],
        work,
        shape,
        is_stream,
        pieces,
        shorten if fields.flag("truncate") else None,
    )


async def generate(gateway: Gateway, headers: Mapping[str, str], body: dict[str, Any]) -> Answer:
    """Raises Problem, AgentixError."""
    fields = Fields(body)
    caller = gateway.identify(headers)
    model = await gateway.model(_name(fields))
    options = read.read(body, model)
    read.no_images(fields)
    for name in ("suffix", "template"):
        if fields.text(name):
            raise fields.wrong(name, "nothing: it is not served")
    if (wanted := read.thinking(fields)) is not None:
        options["thinking"] = wanted
    prompt, system = fields.text("prompt") or "", fields.text("system")
    is_stream = body.get("stream") is not False
    context = fields.get("context") or []
    is_raw = fields.flag("raw") or not model["chat_format"]
    turns: list[Turn] = []
    options.pop("thinking", None) if is_raw or context else None
    if context:
        tokens = [
            *_tokens(fields),
            *await gateway.agent.tokenize(prompt, with_special=False, model=model["name"]),
        ]
        made, chain = calls.generate(tokens, options, is_stream), chain_of_prompt(tokens)
    elif is_raw:
        made, chain = calls.generate(prompt, options, is_stream), chain_of_prompt(prompt)
    else:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        turns.append(Turn(messages, options))
        made, chain = turns[0].call(is_stream), chain_of_messages(messages)
    known = context or await gateway.agent.tokenize(prompt, model=model["name"])
    work = await gateway.begin(caller, chain, [made])
    pieces = Pieces() if "logprobs" in options else None
    shape = TextLines(model["name"], turns, pieces, known)
    return _answer(gateway, "ollama", model["name"], work, shape, is_stream, pieces, None)


def _answer(
    gateway: Gateway,
    api: str,
    model: str,
    work: Work,
    shape: Any,
    is_stream: bool,
    pieces: Pieces | None,
    shorten: Any,
) -> Answer:
    return Answer(
        work,
        shape,
        is_stream=is_stream,
        keep_alive_s=gateway.keep_alive_s,
        prepare=None
        if pieces is None
        else lambda items: gateway.learn_pieces(pieces, model, items),
        shorten=shorten,
        done=lambda replies, status: gateway.metrics.count(api, model, replies, status),
    )


def _name(fields: Fields) -> str:
    return (fields.text("model") or "").removesuffix(":latest")


def _tokens(fields: Fields) -> list[int]:
    given = fields.get("context")
    if not isinstance(given, list) or not all(
        isinstance(one, int) and 0 <= one < 1 << 32 for one in given
    ):
        raise fields.wrong("context", "the list of an earlier answer")
    return given


def openai_messages(fields: Fields) -> list[dict[str, Any]]:
    """Return a conversation as OpenAI has it: calls get ids, results the ids of their calls. Raises Problem."""
    given = fields.get("messages")
    if (
        not isinstance(given, list)
        or not given
        or not all(isinstance(one, Mapping) for one in given)
    ):
        raise fields.wrong("messages", "a list of messages, one at least")
    made: list[dict[str, Any]] = []
    open_ids: list[tuple[str, str]] = []  # (name, id) of calls without a result
    for index, message in enumerate(given):
        read.no_images(Fields(message, f"messages[{index}]."))
        one = {"role": message.get("role"), "content": message.get("content") or ""}
        if message.get("thinking"):
            one["reasoning_content"] = message["thinking"]
        if message.get("tool_calls"):
            one["tool_calls"] = _calls(message["tool_calls"], index)
            open_ids += [(call["function"].get("name"), call["id"]) for call in one["tool_calls"]]
        if one["role"] == "tool":
            one["tool_call_id"] = _id_of(message, open_ids)
        made.append(one)
    return made


def _calls(given: Any, index: int) -> list[Any]:
    if not isinstance(given, Sequence) or not all(
        isinstance(call, Mapping) and isinstance(call.get("function"), Mapping) for call in given
    ):
        raise Fields({"tool_calls": given}, f"messages[{index}].").wrong(
            "tool_calls", "a list of {'function'}"
        )
    return [{"id": call.get("id") or f"ollama-{index}-{at}", "type": "function", "function": call["function"]}
            for at, call in enumerate(given)]  # fmt: skip


def _id_of(message: Mapping[str, Any], open_ids: list[tuple[str, str]]) -> str:
    """The id of the call that a result answers: by its id, by its tool's name, or in order."""
    wanted = message.get("tool_call_id")
    name = message.get("tool_name") or message.get("name")
    for position, (called, call_id) in enumerate(open_ids):
        if wanted == call_id or (wanted is None and name in (None, called)):
            del open_ids[position]
            return call_id
    return str(wanted or name or "")
