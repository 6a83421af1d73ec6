"""Sessions as agents see them: what is told to the kernel, once, and what a turn that fails leaves."""

import asyncio

import pytest
from test_sdk_fake_kernel import reply_of, running_kernel

from agentix import Agent, AsyncAgent, errors
from kernel.abi.errors import Errno

CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def kernel():
    with running_kernel() as fake:
        fake.on |= {
            "ctx.open": lambda call: call.reply({"session": 7}),
            "ctx.close": lambda call: call.reply({}),
            "ctx.fork": lambda call: call.reply({"sessions": list(range(8, 8 + call.body["count"]))}),
            "ctx.commit": lambda call: call.reply({"session": 7}),
            "llm.generate": lambda call: call.reply(reply_of("fine") | {"chat_format": "hermes"}),
        }
        yield fake


@pytest.fixture
def me(kernel):
    with Agent("writer", kernel=kernel.name) as agent:
        yield agent


def told(kernel) -> list[dict]:
    """What each turn sent."""
    return [call.body for call in kernel.seen if call.method == "llm.generate"]


def methods(kernel) -> list[str]:
    return [call.method for call in kernel.seen if call.method.startswith("ctx.")]


def roles(body: dict) -> list[str]:
    return [message["role"] for message in body["messages"]]


def test_each_message_is_told_once_with_the_options_of_the_session_and_of_the_turn(kernel, me):
    with me.session(system="be brief", max_tokens=9, seed=1) as talk:
        assert talk.say("one").content == "fine"
        talk.say("two", seed=2)
        assert [message["content"] for message in talk.messages] == ["be brief", "one", "fine", "two", "fine"]
    first, second = told(kernel)
    assert roles(first) == ["system", "user"]
    assert roles(second) == ["assistant", "user"]
    assert [(body["session"], body["max_tokens"], body["seed"]) for body in (first, second)] == [(7, 9, 1), (7, 9, 2)]
    assert methods(kernel) == ["ctx.open", "ctx.close"]


def test_nothing_is_opened_or_closed_for_a_session_without_a_turn(kernel, me):
    with me.session():
        pass
    assert methods(kernel) == []


def test_a_turn_that_fails_is_told_again_with_the_next(kernel, me):
    with me.session(system="be brief") as talk:
        good = kernel.on["llm.generate"]
        kernel.on["llm.generate"] = lambda call: call.fail(Errno.EBUSY, "a turn is under way")
        with pytest.raises(errors.Busy):
            talk.say("one")
        kernel.on["llm.generate"] = good
        talk.say("two")
    assert [roles(body) for body in told(kernel)] == [["system", "user"], ["system", "user"]]
    assert told(kernel)[1]["messages"][1]["content"] == "two"


def test_results_of_tools_are_said_like_anything_else(kernel, me):
    kernel.on["llm.generate"] = lambda call: call.reply(reply_of(CALL) | {"chat_format": "hermes"})
    with me.session(tools=[TOOL]) as talk:
        (call,) = talk.say("1 + 1?").tool_calls
        talk.say({"role": "tool", "tool_call_id": call.id, "content": "2"})
    assert roles(told(kernel)[1]) == ["assistant", "tool"]
    assert told(kernel)[1]["messages"][0]["tool_calls"][0]["id"] == call.id


def test_a_stream_that_ends_joins_the_conversation_and_one_that_is_left_does_not(kernel, me):
    def streamed(call):
        call.chunk(0, "fi", chat_format="hermes", opens_reasoning=False)
        call.chunk(1, "ne")
        call.reply(reply_of("fine") | {"chat_format": "hermes"})

    kernel.on["llm.generate"] = streamed
    with me.session() as talk:
        assert "".join(delta.text for delta in talk.stream("one")) == "fine"
        assert len(talk.messages) == 2
        kernel.on["llm.generate"] = lambda call: call.chunk(0, "x", chat_format="hermes", opens_reasoning=False)
        kernel.on["llm.cancel"] = lambda call: call.reply({"cancelled": True})
        stream = talk.stream("two")
        next(stream)
        stream.close()
        assert len(talk.messages) == 2


def test_texts_and_tokens_go_on_without_messages(kernel, me):
    with me.session(max_tokens=3) as talk:
        assert talk.generate("Once").text == "fine"
        talk.generate([1, 2], seed=4)
        with pytest.raises(errors.InvalidValue, match="say"):
            talk.generate([{"role": "user", "content": "x"}])
    assert [body.get("prompt", body.get("tokens")) for body in told(kernel)] == ["Once", b"\1\0\0\0\2\0\0\0"]
    assert [body["session"] for body in told(kernel)] == [7, 7]


def test_forks_go_on_from_where_the_session_is_and_one_takes_its_place(kernel, me):
    with me.session(system="be brief") as talk:
        talk.say("one")
        first, second = talk.fork(2)
        second.say("two")
        talk.say("three")
        assert [body["session"] for body in told(kernel)] == [7, 9, 7]
        assert roles(told(kernel)[1]) == ["assistant", "user"]
        assert second.commit() is talk
        assert talk.messages[-2]["content"] == "two"
        talk.say("four")
        assert roles(told(kernel)[-1]) == ["assistant", "user"]
        with pytest.raises(errors.InvalidValue, match="closed"):
            second.say("five")
        with pytest.raises(errors.InvalidValue, match="no fork"):
            talk.commit()
        first.close()
    assert methods(kernel) == ["ctx.open", "ctx.fork", "ctx.commit", "ctx.close", "ctx.close"]


def test_the_window_is_told_once_and_what_went_is_in_the_answers(kernel, me):
    went = {"dropped_turns": 2, "dropped_tokens": 90}
    kernel.on["llm.generate"] = lambda call: call.reply(reply_of("fine") | {"chat_format": "hermes"} | went)
    with me.session(window="drop", model="chat") as talk:
        first = talk.say("one")
        (child,) = talk.fork(1)
        child.say("two")
    with me.session(window="shift", keep_tokens=5) as tale:
        second = tale.generate("Once")
    for answer in (first, first.raw, second):
        assert (answer.dropped_turns, answer.dropped_tokens) == (2, 90)
    opened = [call.body for call in kernel.seen if call.method == "ctx.open"]
    assert opened == [{"model": "chat", "window": "drop"}, {"window": "shift", "keep_tokens": 5}]


def test_a_closed_session_says_so_and_closes_twice(kernel, me):
    talk = me.session()
    talk.say("one")
    talk.close()
    talk.close()
    assert methods(kernel) == ["ctx.open", "ctx.close"]
    with pytest.raises(errors.InvalidValue, match="closed"):
        talk.say("two")


def test_saying_nothing_is_refused_before_it_is_sent(kernel, me):
    with me.session() as talk, pytest.raises(errors.InvalidValue, match="nothing to say"):
        talk.say([])
    assert told(kernel) == []


def kept(kernel, answer: dict | None = None, turns: int = 2) -> None:
    """Have the kernel know a durable session, two messages in an answer."""
    speakers = ["system", "user", "assistant"] * turns
    said = [{"role": role, "content": f"{number}"} for number, role in enumerate(speakers)]

    def page(call):
        after = call.body["after"]
        call.reply({"messages": said[after : after + 2], "more": after + 2 < len(said), "answer": answer})

    kernel.on["ctx.open"] = lambda call: call.reply({"session": 7, "turns": turns, "messages": 6, "tokens": 90})
    kernel.on["ctx.messages"] = page


def test_a_durable_session_is_opened_by_its_block_and_goes_on_with_what_was_said(kernel, me):
    kept(kernel, {"text": CALL, "chat_format": "hermes", "opens_reasoning": False})
    with me.session(system="be brief", name="plan", durable=True, tools=[TOOL]) as talk:
        assert talk.turns == 2
        assert [message["content"] for message in talk.messages[:6]] == list("012345")
        (call,) = talk.messages[6]["tool_calls"]
        assert call["function"]["name"] == "add"
        talk.say({"role": "tool", "tool_call_id": call["id"], "content": "2"})
        assert talk.turns == 3
    (opening,) = [call.body for call in kernel.seen if call.method == "ctx.open"]
    assert opening == {"name": "plan", "durable": True}
    assert roles(told(kernel)[0]) == ["assistant", "tool"]  # the rest is known, the system message as well
    assert methods(kernel) == ["ctx.open", "ctx.messages", "ctx.messages", "ctx.messages", "ctx.close"]


def test_a_durable_session_that_is_new_begins_like_any_other(kernel, me):
    kernel.on["ctx.open"] = lambda call: call.reply({"session": 7, "turns": 0, "messages": 0, "tokens": 0})
    good = kernel.on["llm.generate"]
    kernel.on["llm.generate"] = lambda call: call.reply(reply_of("fine") | {"chat_format": "hermes", "durable": False})
    with me.session(system="be brief", name="plan", durable=True) as talk:
        assert talk.say("one").raw.durable is False
        talk.close(forget=True)
        with pytest.raises(errors.InvalidValue, match="closed"):
            talk.close(forget=True)
    assert roles(told(kernel)[0]) == ["system", "user"]
    assert [call.body for call in kernel.seen if call.method == "ctx.close"] == [{"session": 7, "forget": True}]
    kernel.on["llm.generate"] = good
    assert me.llm.generate("a").durable is None


def test_a_durable_session_of_texts_goes_on_without_messages(kernel, me):
    kept(kernel, turns=0)
    kernel.on["ctx.open"] = lambda call: call.reply({"session": 7, "turns": 3, "messages": 0, "tokens": 90})
    with me.session(name="plan", durable=True) as talk:
        talk.generate("Once")
        assert (talk.turns, talk.messages) == (4, [])


def test_what_is_wrong_with_a_durable_session_is_raised_by_its_block(kernel, me):
    for number, kind in ((Errno.EIO, errors.SessionUnavailable), (Errno.EBUSY, errors.Busy)):
        kernel.on["ctx.open"] = lambda call, number=number: call.fail(number, "it is damaged")
        with pytest.raises(kind, match="damaged"), me.session(name="plan", durable=True):
            pass


def test_the_awaited_twin_of_a_durable_session_sends_the_same(kernel, me):
    kept(kernel, {"text": "fine", "chat_format": "hermes", "opens_reasoning": False})
    with me.session(name="plan", durable=True) as talk:
        talk.say("one")
        talk.generate([5])
        wanted = talk.turns, talk.messages
        talk.close(forget=True)
    sent = [(call.method, call.body) for call in kernel.seen if call.method != "sys.hello"]

    async def body():
        async with AsyncAgent("writer", kernel=kernel.name) as other, other.session(name="plan", durable=True) as talk:
            await talk.say("one")
            await talk.generate([5])
            assert (talk.turns, talk.messages) == wanted
            await talk.close(forget=True)

    asyncio.run(body())
    found = [(call.method, call.body) for call in kernel.seen if call.method not in ("sys.hello", "proc.exit")]
    assert found[len(sent) :] == sent


def test_the_awaited_twin_sends_the_same(kernel, me):
    with me.session(system="be brief", model="chat", window="drop") as talk:
        talk.say("one")
        (child,) = talk.fork(1)
        child.say("two")
        child.commit()
    wanted = [(call.method, call.body) for call in kernel.seen if call.method != "sys.hello"]

    async def body():
        agent = AsyncAgent("writer", kernel=kernel.name)
        async with agent as other, other.session(system="be brief", model="chat", window="drop") as talk:
            await talk.say("one")
            (child,) = await talk.fork(1)
            async for _ in await child.stream("two"):
                pass
            await child.commit()

    asyncio.run(body())
    found = [(call.method, call.body) for call in kernel.seen if call.method != "sys.hello"][len(wanted) :]
    assert [(m, {k: v for k, v in b.items() if k != "stream"}) for m, b in found if m != "proc.exit"] == wanted
