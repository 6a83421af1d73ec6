"""/v1/completions: text or token ids in, text out.

Who uses it: app.py. What must hold: each prompt has n answers, numbered as OpenAI numbers them; what is not served
is an error that names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentix import calls
from agentix.calls import Call
from agentix.errors import PromptTooLong
from agentix.gateway.answers import Answer
from agentix.gateway.conversations import chain_of_prompt
from agentix.gateway.fields import Fields, is_text
from agentix.gateway.gateway import Gateway
from agentix.gateway.openai import options as read
from agentix.gateway.openai.prompts import end_of, wants_truncation
from agentix.gateway.openai.shapes import TextShape
from agentix.gateway.pieces import Pieces
from agentix.gateway.problems import facts_of, invalid
from agentix.gateway.work import Work

MAX_PROMPTS = 16
DEFAULT_TOKENS = 16  # as OpenAI's API has it

Prompt = str | list[int]


async def create(gateway: Gateway, headers: Mapping[str, str], body: dict[str, Any]) -> Answer:
    """Raises Problem, AgentixError."""
    fields = Fields(body)
    caller = gateway.identify(headers)
    model = await gateway.model(fields.text("model") or "")
    prompts = _prompts(fields)
    options = _options(fields, model)
    count = read.choices(fields)
    if (fields.integer("best_of", 1, read.MAX_CHOICES) or count) != count:
        raise fields.wrong("best_of", f"n, which is {count}")
    is_stream = fields.flag("stream")
    pieces = Pieces()
    notes: dict[str, Any] = {}

    async def begin(prompts: list[Prompt]) -> Work:
        made: list[Call] = [
            calls.generate(prompt, one, is_stream)
            for prompt in prompts
            for one in read.seeds(options, count)
        ]
        return await gateway.begin(caller, chain_of_prompt(prompts[0]), made)

    async def shorten(error: PromptTooLong) -> Work | None:
        facts = facts_of(error)
        if len(prompts) > 1 or not facts or len(prompts[0]) < 2:
            return None
        numbers = facts["prompt_tokens"], facts["window_tokens"], options["max_tokens"]
        notes.setdefault("prompt_tokens", facts["prompt_tokens"])
        notes["is_truncated"] = True
        prompts[0] = end_of(prompts[0], *numbers)
        return await begin(prompts)

    heads = [
        prompt if fields.flag("echo") and isinstance(prompt, str) else ""
        for prompt in prompts
        for _ in range(count)
    ]
    wants_usage = fields.table("stream_options")
    logprobs = fields.integer("logprobs", 0, 20)
    shape = TextShape(
        model["name"],
        logprobs=logprobs,
        pieces=pieces,
        heads=heads,
        has_usage=wants_usage is not None and wants_usage.flag("include_usage"),
        has_ids=fields.flag("return_token_ids"),
        prompts=len(prompts),
        notes=notes,
    )
    work = await begin(prompts)
    return Answer(
        work,
        shape,
        is_stream=is_stream,
        keep_alive_s=gateway.keep_alive_s,
        wants_progress=caller.wants_progress,
        prepare=None
        if logprobs is None
        else lambda items: gateway.learn_pieces(pieces, model["name"], items),
        shorten=shorten if wants_truncation(fields, caller.wants_truncation) else None,
        headers=(("x-agentix-task", str(work.seat.pid)),),
        done=lambda replies, status: gateway.metrics.count(
            "completions", model["name"], replies, status
        ),
    )


def _options(fields: Fields, model: Mapping[str, Any]) -> dict[str, Any]:
    options = read.sampling(fields)
    options["model"] = model["name"]
    options["max_tokens"] = fields.integer("max_tokens", 1, read.MAX_TOKENS) or DEFAULT_TOKENS
    if (logprobs := fields.integer("logprobs", 0, 20)) is not None:
        options["logprobs"] = logprobs
    if fields.text("suffix"):
        raise invalid(
            "suffix is not served: the models here write on, they do not fill in", "suffix"
        )
    return options


def _prompts(fields: Fields) -> list[Prompt]:
    """One text, several, one list of token ids, or several. Raises Problem."""
    given = fields.get("prompt")
    if is_text(given):
        return [given]
    if isinstance(given, list) and given:
        if all(_is_token(one) for one in given):
            return [given]
        is_many = all(
            is_text(one) or (isinstance(one, list) and one and all(map(_is_token, one)))
            for one in given
        )
        if is_many and len(given) <= MAX_PROMPTS:
            return list(given)
    raise fields.wrong("prompt", f"text, token ids, or at most {MAX_PROMPTS} of either")


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32
