"""The ollama package, unmodified, against the gateway."""

from __future__ import annotations

import asyncio
import json

import jsonschema
import pytest
from gateways import gateway

from benchmarks.models import model_path

ollama = pytest.importorskip("ollama")

HELLO = [{"role": "user", "content": "hello"}]
SHORT = {"num_predict": 6, "seed": 1}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "adds", "parameters": SCHEMA},
}


@pytest.fixture(scope="module")
def served():
    models = [{"name": "chat", "path": str(model_path())}]
    models.append({"name": "vectors", "path": str(model_path("tiny-bert")), "embedding": True})
    with gateway(slots=2, window_tokens=1024, models=models) as made:
        yield made


@pytest.fixture(scope="module")
def client(served):
    return ollama.Client(host=served.url)


def test_models_are_listed_shown_and_running(client):
    assert [model.model for model in client.list().models] == ["chat", "vectors"]
    assert {model.model: model.context_length for model in client.ps().models}["chat"] == 1024
    assert "tools" in client.show("chat").capabilities
    assert client.show("vectors").capabilities == ["embedding"]


def test_a_chat_streamed_is_the_chat_whole(client):
    whole = client.chat("chat:latest", HELLO, options=SHORT)
    pieces = list(client.chat("chat", HELLO, options=SHORT, stream=True))
    assert "".join(piece.message.content for piece in pieces) == whole.message.content
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert whole.eval_count == pieces[-1].eval_count <= 6
    assert whole.total_duration > 0


def test_a_format_is_kept_to(client):
    answer = client.chat("chat", HELLO, format=SCHEMA, options={"num_predict": 60})
    jsonschema.validate(json.loads(answer.message.content), SCHEMA)
    answer = client.generate("chat", "hello", format="json", options={"num_predict": 60})
    assert isinstance(json.loads(answer.response), dict)


def test_a_conversation_with_tools_goes_on(client):
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_name": "add"},
    ]
    assert client.chat("chat", messages, tools=[TOOL], options=SHORT).done


def test_generate_goes_on_with_its_context(client):
    first = client.generate("chat", "once", options=SHORT, raw=True)
    more = client.generate("chat", " more", options=SHORT, context=first.context)
    assert more.context[: len(first.context)] == first.context
    pieces = list(client.generate("chat", "once", options=SHORT, raw=True, stream=True))
    assert "".join(piece.response for piece in pieces) == first.response


def test_texts_become_vectors(client):
    several = client.embed("vectors", ["one", "two"]).embeddings
    assert list(client.embeddings("vectors", "two").embedding) == pytest.approx(list(several[1]))
    assert sum(x * x for x in several[0]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("ask", "status", "text"),
    [
        (lambda it: it.chat("other", HELLO), 404, "'other' is not one of those"),
        (lambda it: it.embed("chat", "x"), 404, "make embeddings"),
        (lambda it: it.generate("chat", "x " * 3000), 400, "maximum context length is 1024"),
        (
            lambda it: it.chat("chat", HELLO, options={"num_ctx": 1 << 20}),
            400,
            "options.num_ctx is 1048576",
        ),
        (lambda it: it.chat("chat", HELLO, options={"mirostat": 1}), 400, "mirostat"),
        (lambda it: it.show("other"), 404, "not found"),
        (lambda it: it.pull("x"), 501, "agentix pull"),
    ],
)
def test_what_is_wrong_is_named(client, ask, status, text):
    with pytest.raises(ollama.ResponseError) as raised:
        ask(client)
    assert raised.value.status_code == status
    assert text in raised.value.error


def test_leaving_a_stream_cancels_its_work(served, client):
    stream = client.generate(
        "chat", "once", raw=True, stream=True, options={"num_predict": 900, "stop": ["\0"]}
    )
    next(stream)
    stream.close()
    served.until(lambda: served.in_flight() == 0, "the work is cancelled")


def test_the_async_client_works_too(served):
    async def go() -> None:
        client = ollama.AsyncClient(host=served.url)
        answers = await asyncio.gather(
            *(client.chat("chat", HELLO, options=SHORT) for _ in range(6))
        )
        assert len({answer.message.content for answer in answers}) == 1
        assert [
            piece async for piece in await client.chat("chat", HELLO, options=SHORT, stream=True)
        ][-1].done

    asyncio.run(go())
