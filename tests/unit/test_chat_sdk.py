"""chat() and chat_stream() over the real sockets, with answers from a script; the same for asyncio."""

from __future__ import annotations

import asyncio
import json

import pytest
from test_chat_harness import hermes, tool
from test_sdk_fake_kernel import reply_of, running_kernel

from agentix import Agent, AsyncAgent
from agentix.chat import CallArguments, CallStart, Content, Reasoning, ToolCall
from agentix.errors import InvalidValue, NoSuchModel

USER = [{"role": "user", "content": "time?"}]
TOOLS = [tool("get_time", city={"type": "string"})]
CALL = hermes("get_time", '{"city": "Rome"}')
SAID = f"hm</think>So:\n{CALL}"
HERMES = {"chat_format": "hermes", "opens_reasoning": True}
MODELS = [
    {"name": "bert", "chat_format": "", "embedding_width": 384},
    {"name": "llama", "chat_format": "llama3", "embedding_width": 0},
    {"name": "qwen", "chat_format": "qwen-xml", "embedding_width": 0},
    {"name": "cold", "chat_format": "", "embedding_width": 0},
]
ROME = ToolCall("call00000", "get_time", '{"city": "Rome"}')


@pytest.fixture
def kernel():
    with running_kernel() as fake:
        fake.on["llm.models"] = lambda call: call.reply({"models": MODELS})
        yield fake


@pytest.fixture
def me(kernel):
    with Agent("writer", kernel=kernel.name) as agent:
        yield agent


def answer(kernel, text, **fields):
    kernel.on["llm.generate"] = lambda call: call.reply(reply_of(text) | fields)


def sent(kernel):
    return [call.body for call in kernel.seen if call.method == "llm.generate"]


def stream(call, *texts, **fields):
    for number, text in enumerate(texts):
        call.chunk(number, text, **(fields if number == 0 else {}))
    call.reply(reply_of("".join(texts)) | fields)


def test_an_answer_is_read_as_its_model_writes(kernel, me):
    answer(kernel, SAID, **HERMES)
    reply = me.llm.chat(USER, tools=TOOLS, max_tokens=9)
    assert (reply.content, reply.reasoning, reply.tool_calls) == ("So:", "hm", (ROME,))
    assert (reply.finish_reason, reply.raw.text, reply.faults) == ("tool_calls", SAID, ())
    assert reply.usage == reply.raw.usage
    (body,) = sent(kernel)
    assert body["messages"] == USER
    assert [one["function"]["name"] for one in json.loads(body["tools"])] == ["get_time"]
    assert body["max_tokens"] == 9


def test_an_answer_of_a_kernel_that_says_no_format_is_content(kernel, me):
    answer(kernel, SAID)
    reply = me.llm.chat(USER)
    assert (reply.content, reply.finish_reason) == (SAID, "stop")


def test_a_turn_goes_back_into_the_conversation_with_new_ids(kernel, me):
    answer(kernel, SAID, **HERMES)
    first = me.llm.chat(USER, tools=TOOLS)
    told = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "noon"}
    second = me.llm.chat([*USER, first.as_message(), told], tools=TOOLS)
    assert second.tool_calls[0].id == "call00001"
    call = sent(kernel)[1]["messages"][1]
    assert call["reasoning_content"] == "hm"
    assert call["tool_calls"][0]["function"] == {"name": "get_time", "arguments": {"city": "Rome"}}


def test_a_cut_off_answer_ends_by_its_length_and_holds_no_half_call(kernel, me):
    answer(kernel, CALL[:40], chat_format="hermes", finish_reason="length")
    reply = me.llm.chat(USER, tools=TOOLS)
    assert (reply.finish_reason, reply.tool_calls, reply.content) == ("length", (), CALL[:40])
    assert reply.faults == ("tool call 0: it is cut off",)


def test_tools_are_shown_to_nobody_when_none_may_be_called(kernel, me):
    answer(kernel, CALL, chat_format="hermes")
    reply = me.llm.chat(USER, tools=TOOLS, tool_choice="none")
    assert (reply.content, reply.tool_calls) == (CALL, ())
    assert "tools" not in sent(kernel)[0]


def test_a_forced_call_is_a_schema_where_the_format_allows_it(kernel, me):
    answer(kernel, '{"name": "get_time", "parameters": {"city": "Rome"}}', chat_format="llama3")
    reply = me.llm.chat(USER, tools=TOOLS, tool_choice="required")
    assert reply.tool_calls == (ROME,)
    schema = json.loads(sent(kernel)[0]["json_schema"])
    assert schema["properties"]["name"] == {"const": "get_time"}


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            "qwen",
            "tool_choice: this model's chat format is 'qwen-xml'; models of the formats json, hermes, llama3, mistral"
            " can be made to call a tool",
        ),
        ("cold", "tool_choice: model 'cold' has no chat template, or is not loaded"),
    ],
)
def test_a_call_that_cannot_be_forced_is_an_error_before_anything_is_generated(kernel, me, model, text):
    with pytest.raises(InvalidValue) as raised:
        me.llm.chat(USER, tools=TOOLS, tool_choice="required", model=model)
    assert raised.value.text == text
    assert not sent(kernel)


def test_a_model_that_is_not_there_is_named(me):
    with pytest.raises(NoSuchModel, match="there is no model 'none'"):
        me.llm.chat(USER, tools=TOOLS, tool_choice="required", model="none")


def test_tools_for_a_model_whose_calls_cannot_be_read_are_an_error(kernel, me):
    answer(kernel, "x", chat_format="think")
    with pytest.raises(InvalidValue, match=r"^tools: in chat format 'think' no tool calls can be read$"):
        me.llm.chat(USER, tools=TOOLS)


def test_generate_with_messages_returns_the_plain_reply(kernel, me):
    answer(kernel, SAID, **HERMES)
    reply = me.llm.generate(USER)
    assert (reply.text, reply.chat_format, reply.opens_reasoning) == (SAID, "hermes", True)


def test_a_stream_gives_deltas_and_then_the_whole(kernel, me):
    kernel.on["llm.generate"] = lambda call: stream(call, "h", "m</think>So", ":\n", *CALL, **HERMES)
    deltas = me.llm.chat_stream(USER, tools=TOOLS)
    assert deltas.reply is None
    found = list(deltas)
    assert found[:4] == [Reasoning("h"), Reasoning("m"), Content("So"), Content(":")]
    assert CallStart(0, "call00000", "get_time") in found
    assert "".join(one.text for one in found if isinstance(one, CallArguments)) == ROME.arguments
    assert (deltas.reply.content, deltas.reply.tool_calls) == ("So:", (ROME,))
    assert list(deltas) == []


def test_leaving_a_stream_cancels_the_rest(kernel, me):
    with_call = me.llm.chat_stream(USER)
    call = kernel.take("llm.generate")
    call.chunk(0, "one ")
    call.chunk(1, "two")
    assert next(with_call) == Content("one")
    with_call.close()
    assert kernel.wait_seen("llm.cancel").body == {"call": call.id}


def test_an_async_agent_chats_and_streams_the_same(kernel):
    async def body():
        async with AsyncAgent("a", kernel=kernel.name) as me:
            answer(kernel, SAID, **HERMES)
            reply = await me.llm.chat(USER, tools=TOOLS)
            assert (reply.content, reply.tool_calls) == ("So:", (ROME,))
            kernel.on["llm.generate"] = lambda call: stream(call, "hm</think>", "So:", CALL, **HERMES)
            deltas = await me.llm.chat_stream(USER, tools=TOOLS)
            found = [delta async for delta in deltas]
            assert found[:2] == [Reasoning("hm"), Content("So:")]
            assert deltas.reply.tool_calls == (ROME,)
            with pytest.raises(InvalidValue, match="of the formats json, "):
                await me.llm.chat_stream(USER, tools=TOOLS, tool_choice="required", model="qwen")
            kernel.on.pop("llm.generate")
            (await me.llm.chat_stream(USER)).close()

    asyncio.run(body())
    assert kernel.wait_seen("llm.cancel")
