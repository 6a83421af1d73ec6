"""The openai package, unmodified, against the gateway: each of its calls, sync and async, and its errors."""

from __future__ import annotations

import asyncio
import json

import jsonschema
import pytest
from gateways import gateway

openai = pytest.importorskip("openai")

SYSTEM = {"role": "system", "content": "be kind " * 40}
HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "set_age", "description": "Sets it", "parameters": SCHEMA, "strict": True},
}


@pytest.fixture(scope="module")
def served():
    with gateway(slots=4, window_tokens=2048, slot_tokens=1024) as made:
        yield made


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(
        base_url=f"{served.url}/v1", api_key="sk-tests-12345", max_retries=0, timeout=60
    ) as made:
        yield made


@pytest.fixture(scope="module")
def model(client):
    return client.models.list().data[0].id


def test_models_have_their_true_window(client, model):
    assert client.models.retrieve(model).max_model_len == 2048
    with pytest.raises(openai.NotFoundError, match="'other'"):
        client.models.retrieve("other")


def test_a_chat_is_answered_with_its_usage(client, model):
    answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=7, seed=1)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert answer.usage.completion_tokens <= 7
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_same_seed_gives_the_same_text_streamed_or_whole(client, model):
    asked = {"model": model, "messages": HELLO, "max_tokens": 12, "seed": 5}
    whole = client.chat.completions.create(**asked)
    pieces = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    texts, usage, reasons = [], None, []
    for piece in pieces:
        usage = piece.usage or usage
        texts += [choice.delta.content or "" for choice in piece.choices]
        reasons += [choice.finish_reason for choice in piece.choices if choice.finish_reason]
    assert "".join(texts) == whole.choices[0].message.content
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert reasons == [whole.choices[0].finish_reason]


def test_without_a_seed_two_answers_differ(client, model):
    asked = {"model": model, "messages": HELLO, "max_tokens": 12, "temperature": 1}
    texts = {client.chat.completions.create(**asked).choices[0].message.content for _ in range(4)}
    assert len(texts) > 1


def test_several_answers_have_seeds_of_their_own(client, model):
    answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=9, n=3, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.usage.completion_tokens <= 27


def test_the_next_turn_finds_what_was_computed(client, model):
    messages = [SYSTEM, *HELLO]
    first = client.chat.completions.create(model=model, messages=messages, max_tokens=6)
    messages += [{"role": "assistant", "content": first.choices[0].message.content}, *HELLO]
    second = client.chat.completions.create(model=model, messages=messages, max_tokens=6)
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage.prompt_tokens_details.cached_tokens >= 64


def test_a_schema_is_kept_to(client, model):
    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "person", "schema": SCHEMA, "strict": True},
    }
    answer = client.chat.completions.create(
        model=model, messages=HELLO, response_format=wanted, max_tokens=80
    )
    jsonschema.validate(json.loads(answer.choices[0].message.content), SCHEMA)
    wanted = {"type": "json_object"}
    answer = client.chat.completions.create(
        model=model, messages=HELLO, response_format=wanted, max_tokens=80
    )
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "set_age"}}]
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_tool_that_must_be_called_is_called_with_valid_arguments(
    client, model, choice, is_stream
):
    asked = {
        "model": model,
        "messages": HELLO,
        "tools": [TOOL],
        "tool_choice": choice,
        "max_tokens": 90,
    }
    if is_stream:
        calls: dict[int, list[str]] = {}
        for piece in client.chat.completions.create(**asked, stream=True):
            for call in piece.choices[0].delta.tool_calls or ():
                calls.setdefault(call.index, []).append(call.function.arguments)
            reason = piece.choices[0].finish_reason
        (arguments,) = ("".join(parts) for parts in calls.values())
    else:
        answer = client.chat.completions.create(**asked)
        (call,) = answer.choices[0].message.tool_calls
        assert (call.type, call.function.name) == ("function", "set_age")
        arguments, reason = call.function.arguments, answer.choices[0].finish_reason
    jsonschema.validate(json.loads(arguments), SCHEMA)
    assert reason == "tool_calls"


def test_a_tools_result_goes_back_to_the_model(client, model):
    asked = {"model": model, "tools": [TOOL], "max_tokens": 90}
    first = client.chat.completions.create(**asked, messages=HELLO, tool_choice="required")
    message = first.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "done"}
    second = client.chat.completions.create(
        **asked, messages=[*HELLO, message.model_dump(), result], tool_choice="none"
    )
    assert second.choices[0].message.tool_calls is None


def test_logprobs_name_each_token(client, model):
    asked = {
        "model": model,
        "messages": HELLO,
        "max_tokens": 4,
        "logprobs": True,
        "top_logprobs": 3,
        "temperature": 0,
    }
    rows = client.chat.completions.create(**asked).choices[0].logprobs.content
    streamed = [
        row
        for piece in client.chat.completions.create(**asked, stream=True)
        if piece.choices[0].logprobs
        for row in piece.choices[0].logprobs.content
    ]
    assert rows == streamed
    assert all(len(row.top_logprobs) == 3 and row.logprob <= 0 for row in rows)
    assert all(
        row.top_logprobs[0].logprob == max(one.logprob for one in row.top_logprobs) for row in rows
    )


def test_a_forbidden_token_never_comes(client, model):
    asked = {"model": model, "prompt": "once", "max_tokens": 6, "temperature": 0}
    extra = {"return_token_ids": True}
    first = client.completions.create(**asked, extra_body=extra).choices[0].token_ids[0]
    other = (
        client.completions.create(**asked, logit_bias={str(first): -100}, extra_body=extra)
        .choices[0]
        .token_ids
    )
    assert first not in other


def test_completions_take_text_and_token_ids(client, model):
    asked = {
        "model": model,
        "max_tokens": 5,
        "seed": 3,
        "extra_body": {"return_token_ids": True, "ignore_eos": True},
    }
    several = client.completions.create(**asked, prompt=["one", "two"], n=2, echo=True)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert [choice.text[:3] for choice in several.choices] == ["one", "one", "two", "two"]
    ids = client.completions.create(**asked, prompt=[300, 301, 302])
    assert len(ids.choices[0].token_ids) == 5
    assert ids.usage.prompt_tokens == 3
    rows = client.completions.create(**asked, prompt="one", logprobs=2).choices[0].logprobs
    assert len(rows.tokens) == len(rows.token_logprobs) == len(rows.text_offset) == 5


def test_a_stop_text_ends_the_answer_before_it(client, model):
    asked = {"model": model, "prompt": "once", "max_tokens": 20, "temperature": 0}
    text = client.completions.create(**asked).choices[0].text
    stop = text[len(text) // 2 :][:3]
    answer = client.completions.create(**asked, stop=[stop])
    assert answer.choices[0].text == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_leaving_a_stream_cancels_its_work(served, client, model):
    asked = {
        "model": model,
        "prompt": "once",
        "max_tokens": 1500,
        "extra_body": {"ignore_eos": True},
    }
    with client.completions.create(**asked, stream=True) as pieces:
        next(iter(pieces))
        assert served.in_flight() == 1
    served.until(lambda: served.in_flight() == 0, "the work is cancelled")


@pytest.mark.parametrize(
    ("asked", "kind", "text"),
    [
        ({"model": "other"}, "NotFoundError", "model 'other' is not one of those that make text"),
        ({"temperature": -1}, "BadRequestError", "temperature is -1, wanted a number from 0 to 100"),
        ({"max_tokens": "x"}, "BadRequestError", "max_tokens is 'x'"),
        ({"messages": []}, "BadRequestError", "messages is \\[\\], wanted a list of messages, one at least"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "BadRequestError", r"messages\[0\].role is 'robot'"),
        ({"messages": [{"role": "user", "content": "x " * 4000}]}, "BadRequestError", "maximum context length is 2048"),
        ({"tools": [TOOL], "tool_choice": "must"}, "BadRequestError", "tool_choice is 'must'"),
        ({"n": 99}, "BadRequestError", "n is 99, wanted a whole number from 1 to 16"),
        ({"response_format": {"type": "xml"}}, "BadRequestError", "response_format.type is 'xml'"),
        ({"extra_headers": {"X-Agentix-Priority": "-5"}}, "PermissionDeniedError", "this caller may ask for 0 to 19"),
        ({"extra_headers": {"X-Agentix-Policy": "edf"}}, "BadRequestError", "policy 'edf' was asked for"),
        ({"extra_headers": {"X-Agentix-Deadline-Ms": "soon"}}, "BadRequestError", "X-Agentix-Deadline-Ms is 'soon'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(client, model, asked, kind, text):
    with pytest.raises(getattr(openai, kind), match=text):
        client.chat.completions.create(
            **({"model": model, "messages": HELLO, "max_tokens": 3} | asked)
        )


def test_a_long_prompt_tells_both_numbers(client, model):
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model=model, prompt=[300] * 3000)
    assert raised.value.code == "context_length_exceeded"
    assert raised.value.body["prompt_tokens"] == 3000
    assert raised.value.body["window_tokens"] == 2048


def test_a_long_prompt_is_cut_only_when_asked_for_and_that_is_told(client, model):
    turn = [{"role": "user", "content": "x " * 200}, {"role": "assistant", "content": "y"}]
    messages = [SYSTEM, *turn * 9, *HELLO]
    asked = {"model": model, "messages": messages, "max_tokens": 4}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**asked)
    answer = client.chat.completions.create(**asked, extra_body={"truncation": "auto"})
    assert answer.agentix["dropped_messages"] % 2 == 0
    streamed = client.chat.completions.create(
        **asked, stream=True, extra_headers={"X-Agentix-Truncate": "1"}
    )
    notes = [piece.agentix for piece in streamed if getattr(piece, "agentix", None)]
    assert notes == [answer.agentix]
    text = client.completions.create(
        model=model, prompt=[300] * 3000, max_tokens=4, extra_body={"truncation": "auto"}
    )
    assert text.agentix["is_truncated"]


def test_a_deadline_ends_a_request(client, model):
    asked = {
        "model": model,
        "prompt": "once",
        "max_tokens": 1500,
        "extra_body": {"ignore_eos": True},
    }
    with pytest.raises(openai.APIStatusError) as raised:
        client.completions.create(**asked, extra_headers={"X-Agentix-Deadline-Ms": "30"})
    assert raised.value.status_code == 504
    assert raised.value.response.headers["x-should-retry"] == "false"


def test_the_async_client_does_all_at_once(served, model):
    async def go() -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{served.url}/v1", api_key="x", max_retries=0, timeout=60
        ) as client:
            whole = [
                client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": str(n)}], max_tokens=5
                )
                for n in range(12)
            ]
            stream = await client.chat.completions.create(
                model=model, messages=HELLO, max_tokens=5, stream=True
            )
            pieces = [piece async for piece in stream]
            assert pieces[-1].choices[0].finish_reason
            assert all(
                answer.usage.completion_tokens <= 5 for answer in await asyncio.gather(*whole)
            )
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(model="other", messages=HELLO)

    asyncio.run(go())


def test_embeddings_have_the_models_width(embedding):
    client, model = embedding
    answer = client.embeddings.create(model=model, input=["one", "two"])
    assert [row.index for row in answer.data] == [0, 1]
    plain = client.embeddings.create(model=model, input=["one", "two"], encoding_format="float")
    assert [round(x, 5) for x in plain.data[1].embedding] == [
        round(x, 5) for x in answer.data[1].embedding
    ]
    assert answer.usage.prompt_tokens > 0
    with pytest.raises(openai.BadRequestError, match="dimensions is 3"):
        client.embeddings.create(model=model, input="one", dimensions=3)
    with pytest.raises(openai.NotFoundError, match="make text"):
        client.chat.completions.create(model=model, messages=HELLO)


@pytest.fixture
def embedding():
    from benchmarks.models import model_path

    models = [
        {"path": str(model_path())},
        {"name": "vectors", "path": str(model_path("tiny-bert")), "embedding": True},
    ]
    with (
        gateway(models=models) as made,
        openai.OpenAI(base_url=f"{made.url}/v1", api_key="x", max_retries=0) as client,
    ):
        yield client, "vectors"
