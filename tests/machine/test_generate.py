"""What llm.generate's fields make of a request, and what its caller is told beside the text."""

from __future__ import annotations

import json

import pytest
from machine import Machine, Peer

from kernel.abi.calls import MAX_LOGPROB_ENTRIES
from kernel.engine.base import Constraint, Opening, Sampling

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def openings(machine: Machine) -> list[Opening]:
    return [opening for plan in machine.plans for opening in plan.openings]


def test_every_field_reaches_the_sampler():
    machine = Machine()
    peer = machine.agent()
    fields = {
        "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.05, "typical_p": 0.8, "repeat_penalty": 1.1,
        "presence_penalty": 0.2, "frequency_penalty": -0.3, "penalty_tokens": 7, "logprobs": 2, "seed": 9,
    }  # fmt: skip
    peer.call("llm.generate", prompt="hello", logit_bias={"9": -100, "5": 1}, max_tokens=3, **fields)
    machine.run()
    (opening,) = openings(machine)
    assert opening.sampling == Sampling(**fields, logit_bias=((5, 1.0), (9, -100.0)))
    assert (opening.constraint, opening.with_special, opening.max_tokens) == (None, False, 3)


def test_what_is_not_given_is_off():
    machine = Machine()
    machine.agent().call("llm.generate", prompt="hello", max_tokens=1)
    machine.run()
    assert openings(machine)[0].sampling == Sampling()


@pytest.mark.parametrize(("field", "kind"), [("grammar", "gbnf"), ("json_schema", "json_schema")])
def test_a_grammar_or_schema_becomes_the_constraint(field, kind):
    machine = Machine()
    peer = machine.agent()
    call = peer.call("llm.generate", prompt="hello", max_tokens=5, **{field: "{}"})
    machine.run()
    assert openings(machine)[0].constraint == Constraint(kind, "{}")
    assert peer.reply(call)["finish_reason"] == "stop", "its text is whole when its tokens are spent"
    assert machine.plans[-1].closes == (1,), "what the core kept for it may go"


def test_a_request_that_no_token_can_be_drawn_for_fails_alone_with_the_reason():
    machine = Machine()
    peer, other = machine.agent(), machine.agent()
    kept = other.call("llm.generate", prompt="hello", max_tokens=9, ignore_end=True)
    call = peer.call("llm.generate", prompt="hello", grammar="none", stream=True)
    machine.run()
    assert peer.error(call) == "EINVAL"
    assert peer.end(call)[1]["text"] == "llm.generate: the grammar admits no token here"
    assert peer.chunks(call) == []
    assert other.reply(kept)["usage"]["generated_tokens"] == 9


def test_logprobs_come_with_the_tokens_that_they_are_of():
    machine = Machine()
    peer = machine.agent()
    call = peer.call("llm.generate", prompt="hello", logprobs=1, max_tokens=20, ignore_end=True, stream=True)
    machine.run()
    reply, chunks = peer.reply(call), peer.chunks(call)
    assert [entry["token"] for entry in reply["logprobs"]] == reply["tokens"]
    assert all(entry["top"] == [[entry["token"], -0.5]] for entry in reply["logprobs"])
    assert all(entry["logprob"] == -0.5 for entry in reply["logprobs"])
    assert [entry for chunk in chunks for entry in chunk["logprobs"]] == reply["logprobs"]
    assert all([one["token"] for one in chunk["logprobs"]] == chunk["tokens"] for chunk in chunks)


def test_nobody_gets_logprobs_that_were_not_asked_for():
    machine = Machine()
    peer = machine.agent()
    call = peer.call("llm.generate", prompt="hello", max_tokens=4, stream=True)
    machine.run()
    assert not any("logprobs" in body for body in (peer.reply(call), *peer.chunks(call)))


def test_as_many_logprobs_are_answered_as_the_limit_says():
    machine = Machine()
    peer = machine.agent()
    few = {"prompt": "a", "logprobs": 0, "max_tokens": MAX_LOGPROB_ENTRIES}
    assert peer.waits(peer.call("llm.generate", **few))
    assert peer.error(peer.call("llm.generate", **(few | {"logprobs": 1}))) == "EINVAL"


# -- chats ------------------------------------------------------------------------------------


def asked(machine: Machine, peer: Peer, **fields: object) -> dict[str, object]:
    """Ask for an answer to messages; return what the core's text side was asked."""
    peer.call("llm.generate", **({"messages": HELLO, "max_tokens": 3} | fields))
    (ask,) = machine.asks
    assert ask.what == "chat"
    return ask.value


def test_the_text_side_is_asked_with_all_that_a_chat_holds():
    machine = Machine()
    peer = machine.agent()
    messages = [
        {"role": "user", "content": "hello", "name": "ann"},
        {
            "role": "assistant", "content": None, "reasoning_content": "hm",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "5", "tool_call_id": "1"},
    ]  # fmt: skip
    value = asked(machine, peer, messages=messages, tools=[TOOL], thinking=False)
    assert value == {"messages": messages, "tools": [TOOL], "thinking": False, "sender": peer.pid}


@pytest.mark.parametrize(("given", "told"), [([TOOL], [TOOL]), (json.dumps([TOOL]), [TOOL]), ([], None), (None, None)])
def test_tools_are_maps_or_their_json(given, told):
    machine = Machine()
    assert asked(machine, machine.agent(), tools=given)["tools"] == told


def test_the_answer_and_the_first_chunk_say_how_to_read_a_chat():
    machine = Machine()
    peer = machine.agent()
    call = peer.call("llm.generate", messages=HELLO, thinking=True, max_tokens=9, ignore_end=True, stream=True)
    machine.run()
    told = {"chat_format": "hermes", "opens_reasoning": True}
    first, *others = peer.chunks(call)
    assert told.items() <= peer.reply(call).items()
    assert told.items() <= first.items()
    assert others
    assert not any(told.keys() & chunk.keys() for chunk in others)


def test_a_text_is_no_chat():
    machine = Machine()
    peer = machine.agent()
    call = peer.call("llm.generate", prompt="hello", max_tokens=3)
    machine.run()
    assert "chat_format" not in peer.reply(call)


@pytest.mark.parametrize(
    ("fields", "is_shown"),
    [
        ({"prompt": "a"}, False),
        ({"prompt": "a", "special": True}, True),
        ({"messages": HELLO}, True),
        ({"messages": HELLO, "special": True}, True),
        ({"messages": HELLO, "tools": [TOOL]}, True),
    ],
)
def test_control_tokens_have_names_when_asked_for_or_needed_to_read_a_chat(fields, is_shown):
    machine = Machine()
    machine.agent().call("llm.generate", max_tokens=2, **fields)
    machine.run()
    assert openings(machine)[0].with_special is is_shown


def test_who_asks_pays_for_the_work_of_the_text_side():
    machine = Machine()
    peer, operator = machine.agent(), machine.operator()
    held = operator.hold()
    peer.call("llm.generate", prompt="a")
    peer.call("llm.tokenize", text="a")
    held.call("llm.detokenize", tokens=[1])
    operator.call("llm.tokenize", text="a")
    senders = [ask.value["sender"] for ask in machine.asks]
    assert senders == [peer.pid, peer.pid, held.task, operator.pid]


def test_a_request_forgets_the_messages_that_were_laid_out():
    machine = Machine()
    peer = machine.agent()
    peer.call("llm.generate", messages=HELLO, tools=[TOOL])
    (request,) = machine.task(peer.pid).requests
    assert (request.options.messages, request.options.tools) == (None, None)


# -- what is not known before the model is loaded ---------------------------------------------


def test_what_only_the_model_knows_is_checked_when_it_is_loaded():
    machine = Machine(is_core_up=False)
    peer = machine.agent()
    wrong = {
        "a bias": peer.call("llm.generate", tokens=[1], logit_bias={"320": 1}),
        "a bias beside a text": peer.call("llm.generate", prompt="a", logit_bias={"320": 1}),
        "a token": peer.call("llm.generate", tokens=[320]),
        "no token": peer.call("llm.generate", tokens=b""),
    }
    right = peer.call("llm.generate", tokens=[1], logit_bias={"319": 1}, max_tokens=2)
    machine.core_up()
    machine.run()
    assert {what: peer.error(call) for what, call in wrong.items()} == dict.fromkeys(wrong, "EINVAL")
    assert peer.reply(right)


def test_a_task_shows_its_largest_context_and_what_it_may_become():
    machine = Machine()
    peer = machine.agent()
    assert context(machine, peer) == (0, 512)
    peer.call("llm.generate", tokens=[1] * 30, max_tokens=50, ignore_end=True)
    peer.call("llm.generate", tokens=[1] * 20, max_tokens=50, ignore_end=True)
    machine.step()
    assert context(machine, peer) == (31, 512)


def context(machine: Machine, peer: Peer) -> tuple[int, int]:
    row = machine.ps(peer)[peer.pid]
    return row["context_tokens"], row["context_limit"]


def test_a_grammar_that_cannot_be_followed_is_refused_before_the_model_works():
    machine = Machine()
    peer = machine.agent()
    call = peer.call("llm.generate", prompt="hello", grammar="wrong")
    machine.run()
    assert peer.error(call) == "EINVAL"
    assert peer.end(call)[1]["text"] == "llm.generate: the grammar is wrong"
    assert not machine.plans


def test_a_task_that_is_stopped_while_its_grammar_is_read_goes_on_later():
    machine = Machine()
    peer, operator = machine.agent(), machine.operator()
    call = peer.call("llm.generate", tokens=[1, 2, 3], grammar="{}", max_tokens=4)
    operator.ask("proc.kill", pid=peer.pid, signal="STOP")
    machine.run()
    assert peer.waits(call)
    operator.ask("proc.kill", pid=peer.pid, signal="CONT")
    machine.run()
    assert len(peer.reply(call)["tokens"]) == 4
