"""Each call succeeds once, and fails with each errno that its docstring in abi/calls.py names."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

import pytest
from machine import MODELS, Machine, Peer, at_most

from kernel.abi.calls import (
    CALLS,
    MAX_CONSTRAINT_CHARS,
    MAX_MAIL_BYTES,
    MAX_TOOLS_CHARS,
    SCHEMAS,
)
from kernel.abi.codec import PROTOCOL_VERSION
from kernel.abi.errors import Errno
from kernel.context import sessions
from kernel.events import ProcessSample, ShutdownAsked
from kernel.limits import (
    MAX_MAILS,
    MAX_REQUESTS,
    MAX_TASK_MEMORY_BYTES,
    MAX_TASK_SEGMENTS,
)
from kernel.proc import table
from kernel.sched import groups, requests
from kernel.sched.policy import POLICIES

Scenario = Callable[[Machine], tuple[Peer, int]]
CASES: dict[tuple[str, str], list[Scenario]] = {}
LONG = {"max_tokens": 100, "ignore_end": True}


def case(method: str, end: str = "reply") -> Callable[[Scenario], Scenario]:
    """Declare a scenario: it makes a call of `method` that must have ended so when it returns."""

    def keep(scenario: Scenario) -> Scenario:
        CASES.setdefault((method, end), []).append(scenario)
        return scenario

    return keep


def fill(machine: Machine, to: Peer) -> Peer:
    """Fill a mailbox; return who did."""
    sender = machine.agent()
    for _ in range(MAX_MAILS):
        sender.ask("ipc.send", to=to.pid, data=b"x")
    return sender


def one_failed() -> Machine:
    """A machine whose second model cannot be served."""
    machine = Machine(models=MODELS[:2])
    machine.core_dies(1, was_ready=False, is_fatal=True, reason="model /m/other.gguf: no GGUF")
    return machine


# -- sys --------------------------------------------------------------------------------------


@case("sys.hello")
def hello_of_our_version_is_welcome(machine):
    peer = Peer(machine, 4000)
    return peer, peer.call("sys.hello", version=PROTOCOL_VERSION, name="new")


@case("sys.hello", "EPROTO")
def hello_of_another_version_is_refused(machine):
    peer = Peer(machine, 4000)
    return peer, peer.call("sys.hello", version=PROTOCOL_VERSION + 1)


@case("sys.hello", "EAGAIN")
def hello_beyond_the_limit_of_tasks_is_refused(machine):
    machine.agent()
    peer = Peer(machine, 4000)
    with at_most(table, "MAX_TASKS", 1):
        return peer, peer.call("sys.hello", version=PROTOCOL_VERSION)


@case("sys.hello", "EAGAIN")
def hello_of_a_process_whose_pid_is_still_anothers_is_refused(machine):
    peer = machine.agent().another(birth=2)
    return peer, peer.call("sys.hello", version=PROTOCOL_VERSION)


@case("sys.hello", "EPROTO")
def hello_of_a_process_that_has_ended_is_refused(machine):
    peer = machine.agent()
    machine.ends(peer.pid)
    return peer, peer.call("sys.hello", version=PROTOCOL_VERSION)


@case("sys.hello", "EINVAL")
def hello_in_a_held_tasks_name_is_refused(machine):
    held = machine.operator().hold()
    return held, held.call("sys.hello", version=PROTOCOL_VERSION)


@case("sys.hello", "ESHUTDOWN")
def hello_to_a_kernel_that_goes_down_is_refused(machine):
    machine.agent()
    machine.event(ShutdownAsked(machine.now_ns))
    peer = Peer(machine, 4000)
    return peer, peer.call("sys.hello", version=PROTOCOL_VERSION)


@case("sys.info", "EPROTO")
def a_call_before_hello_is_refused(machine):
    peer = Peer(machine, 4000)
    return peer, peer.call("sys.info")


@case("sys.info")
def anyone_may_ask_for_the_settings(machine):
    peer = machine.agent()
    return peer, peer.call("sys.info")


@case("sys.stat")
def anyone_may_ask_for_the_counters(machine):
    peer = machine.agent()
    return peer, peer.call("sys.stat")


@case("sys.stat", "ESHUTDOWN")
def calls_to_a_kernel_that_goes_down_are_refused(machine):
    peer = machine.agent()
    machine.event(ShutdownAsked(machine.now_ns))
    return peer, peer.call("sys.stat")


@case("sys.shutdown")
def an_operator_ends_the_kernel(machine):
    peer = machine.operator()
    return peer, peer.call("sys.shutdown")


@case("sys.shutdown", "EPERM")
def an_agent_cannot_end_the_kernel(machine):
    peer = machine.agent()
    return peer, peer.call("sys.shutdown")


# -- llm --------------------------------------------------------------------------------------


@case("llm.generate")
def a_prompt_is_continued(machine):
    peer = machine.agent()
    call = peer.call("llm.generate", prompt="hello", max_tokens=5)
    machine.run()
    return peer, call


@case("llm.generate")
def messages_are_answered(machine):
    peer = machine.agent()
    call = peer.call("llm.generate", messages=[{"role": "user", "content": "hello"}], max_tokens=5)
    machine.run()
    return peer, call


@case("llm.generate")
def tokens_are_continued(machine):
    peer = machine.agent()
    call = peer.call("llm.generate", tokens=[1, 2, 3], max_tokens=5)
    machine.run()
    return peer, call


@case("llm.generate")
def tokens_as_bytes_are_those_of_the_list(machine):
    peer = machine.agent()
    calls = [
        peer.call("llm.generate", tokens=tokens, max_tokens=5, ignore_end=True)
        for tokens in ([1, 258, 3], b"\1\0\0\0\2\1\0\0\3\0\0\0")
    ]
    machine.run()
    one, two = (peer.reply(call) for call in calls)
    assert (one["tokens"], one["usage"]) == (two["tokens"], two["usage"])
    return peer, calls[1]


HELLO = [{"role": "user", "content": "hello"}]


def tool_call(function: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "assistant", "tool_calls": [{"function": function}]}]}


BAD_GENERATES = {
    "neither of prompt, messages and tokens": {},
    "two of them": {"prompt": "a", "tokens": [1]},
    "no tokens": {"tokens": []},
    "no messages": {"messages": []},
    "a token that is a string": {"tokens": ["a"]},
    "a token that is a bool": {"tokens": [True]},
    "a token outside the vocabulary": {"tokens": [320]},
    "a negative token": {"tokens": [-1]},
    "bytes that are no whole tokens": {"tokens": b"\1\0\0\0\2"},
    "bytes with a token outside the vocabulary": {"tokens": (320).to_bytes(4, "little")},
    "a message without a role": {"messages": [{"content": "a"}]},
    "a message that says nothing": {"messages": [{"role": "user", "content": None}]},
    "a message with another field": {"messages": [{"role": "user", "content": "a", "mood": "b"}]},
    "a message with a field that is no text": {"messages": [{"role": "user", b"content": "a"}]},
    "a message whose content is bytes": {"messages": [{"role": "user", "content": b"a"}]},
    "a message that is no map": {"messages": ["hello"]},
    "tool calls that are a map": {"messages": [{"role": "assistant", "tool_calls": {}}]},
    "a tool call without a function": {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
    "a function without a name": tool_call({"arguments": "{}"}),
    "a function whose arguments are a list": tool_call({"name": "f", "arguments": []}),
    "a function with another field": tool_call({"name": "f", "arguments": "{}", "x": 1}),
    "tools without messages": {"prompt": "a", "tools": [{}]},
    "thinking without messages": {"prompt": "a", "thinking": True},
    "tools that are no maps": {"messages": HELLO, "tools": ["f"]},
    "tools that are no JSON": {"messages": HELLO, "tools": "[{]"},
    "tools that are no JSON but Python's": {"messages": HELLO, "tools": '[{"a": NaN}]'},
    "tools nested too deep": {"messages": HELLO, "tools": "[" * 60_000},
    "tools of too many values": {"messages": HELLO, "tools": f"[{'{},' * 20_000}{{}}]"},
    "tools whose JSON is a map": {"messages": HELLO, "tools": "{}"},
    "tools longer than their limit": {"messages": HELLO, "tools": f'[{{"a": "{"x" * MAX_TOOLS_CHARS}"}}]'},
    "a role that the template does not know": {"messages": [{"role": "robot", "content": "a"}]},
    "an empty stop string": {"prompt": "a", "stop": [""]},
    "a stop string of 257 characters": {"prompt": "a", "stop": ["s" * 257]},
    "17 stop strings": {"prompt": "a", "stop": ["s"] * 17},
    "no token wanted": {"prompt": "a", "max_tokens": 0},
    "temperature below zero": {"prompt": "a", "temperature": -0.1},
    "top_p above one": {"prompt": "a", "top_p": 1.1},
    "min_p above one": {"prompt": "a", "min_p": 1.1},
    "a penalty that is a text": {"prompt": "a", "presence_penalty": "0"},
    "a penalty of 4097 tokens": {"prompt": "a", "penalty_tokens": 4097},
    "a bias that is a text": {"prompt": "a", "logit_bias": {"1": "1"}},
    "a bias that is a bool": {"prompt": "a", "logit_bias": {"1": True}},
    "a bias beyond 100": {"prompt": "a", "logit_bias": {"1": 100.5}},
    "a bias of no token": {"prompt": "a", "logit_bias": {"one": 1}},
    "a bias of a token in other digits": {"prompt": "a", "logit_bias": {"\u0661": 1}},
    "a bias of a negative token": {"prompt": "a", "logit_bias": {"-1": 1}},
    "a bias outside the vocabulary": {"prompt": "a", "logit_bias": {"320": 1}},
    "a bias far outside of it": {"prompt": "a", "logit_bias": {"9" * 30: 1}},
    "1025 biases": {"prompt": "a", "logit_bias": {str(token): 1 for token in range(1025)}},
    "21 logprobs": {"prompt": "a", "logprobs": 21},
    "more logprobs than an answer may have": {"prompt": "a", "logprobs": 20, "max_tokens": 4000},
    "a grammar and a schema": {"prompt": "a", "grammar": "root ::= [a]", "json_schema": "{}"},
    "a grammar that the end does not end": {"prompt": "a", "grammar": "root ::= [a]", "ignore_end": True},
    "a schema that the end does not end": {"prompt": "a", "json_schema": "{}", "ignore_end": True},
    "a grammar of more than 64 KiB": {"prompt": "a", "grammar": "x" * (MAX_CONSTRAINT_CHARS + 1)},
    "a schema that is a map": {"prompt": "a", "json_schema": {}},
    "a grammar that admits nothing": {"prompt": "a", "grammar": "none"},
    "a model's name that is too long": {"prompt": "a", "model": "m" * 65},
    "stream that is an int": {"prompt": "a", "stream": 1},
    "a field that is not there": {"prompt": "a", "beam": 4},
}


@pytest.mark.parametrize("what", BAD_GENERATES)
def test_generate_refuses(what):
    machine = Machine()
    peer = machine.agent()
    call = peer.call("llm.generate", **BAD_GENERATES[what])
    machine.run()
    assert peer.error(call) == "EINVAL"
    assert not machine.task(peer.pid).requests


NUMBERS = [
    name for name, (kinds, *_) in SCHEMAS["llm.generate"].items() if float in kinds
]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [*NUMBERS, "logit_bias"])
def test_generate_refuses_what_is_no_number_by_the_name_of_its_field(name, wrong):
    machine = Machine()
    peer = machine.agent()
    call = peer.call("llm.generate", prompt="a", **{name: {"1": wrong} if name == "logit_bias" else wrong})
    assert peer.error(call) == "EINVAL"
    assert f"llm.generate: {name} " in peer.end(call)[1]["text"]


@case("llm.generate", "ENOENT")
def an_unknown_model_is_refused_with_the_names_of_the_known(machine):
    peer = Machine.of_three().agent()
    call = peer.call("llm.generate", prompt="a", model="Other")
    assert "'Other' is not one of chat, other, embed" in peer.end(call)[1]["text"]
    return peer, call


@case("llm.generate", "EINVAL")
def a_model_for_embeddings_does_not_generate(machine):
    peer = Machine.of_three().agent()
    return peer, peer.call("llm.generate", prompt="a", model="embed")


@case("llm.generate", "EIO")
def a_model_that_cannot_be_served_does_not_generate(machine):
    peer = one_failed().agent()
    return peer, peer.call("llm.generate", prompt="a", model="other")


@case("llm.generate", "EINVAL")
def generate_without_a_prompt_is_refused(machine):
    peer = machine.agent()
    return peer, peer.call("llm.generate")


@case("llm.generate", "EPERM")
def an_operator_cannot_generate(machine):
    peer = machine.operator()
    return peer, peer.call("llm.generate", prompt="hello")


@case("llm.generate", "EFBIG")
def tokens_that_fill_the_window_are_refused_at_once(machine):
    peer = machine.agent()
    return peer, peer.call("llm.generate", tokens=[1] * machine.config.window_tokens)


@case("llm.generate", "EFBIG")
def a_prompt_that_fills_the_window_is_refused_once_it_is_tokenized(machine):
    peer = machine.agent()
    call = peer.call("llm.generate", prompt="x" * machine.config.window_tokens)
    machine.run()
    return peer, call


@case("llm.generate", "EAGAIN")
def one_request_too_many_of_a_task_is_refused(machine):
    peer = machine.agent()
    for _ in range(MAX_REQUESTS):
        peer.call("llm.generate", prompt="hello")
    return peer, peer.call("llm.generate", prompt="hello")


@case("llm.generate", "EAGAIN")
def one_request_too_many_in_all_is_refused(machine):
    peer = machine.agent()
    for _ in range(3):
        peer.call("llm.generate", prompt="hello")
    with at_most(requests, "MAX_PENDING_REQUESTS", 3):
        return peer, peer.call("llm.generate", prompt="hello")


@case("llm.generate", "ETIMEDOUT")
def a_generation_ends_at_its_deadline(machine):
    peer = machine.agent()
    call = peer.call("llm.generate", deadline_ms=100, prompt="hello", **LONG)
    machine.step()
    machine.pass_time(0.1)
    return peer, call


@case("llm.generate", "EINTR")
def a_generation_ends_when_it_is_cancelled(machine):
    peer = machine.agent()
    call = peer.call("llm.generate", prompt="hello", **LONG)
    machine.step()
    assert peer.ask("llm.cancel", call=call) == {"cancelled": True}
    return peer, call


@case("llm.generate", "EIO")
def three_cores_die_of_a_request(machine):
    peer = machine.agent()
    call = peer.call("llm.generate", prompt="hello", **LONG)
    for _ in range(3):
        machine.step()
        machine.core_dies()
        machine.core_up()
    return peer, call


@case("llm.generate", "EPIPE")
def a_killed_task_has_its_calls_ended(machine):
    peer = machine.agent()
    call = peer.call("llm.generate", prompt="hello", **LONG)
    machine.operator().ask("proc.kill", pid=peer.pid, signal="KILL")
    return peer, call


@case("llm.cancel")
def cancelling_what_has_ended_is_no_error(machine):
    peer = machine.agent()
    call = peer.call("llm.cancel", call=77)
    assert peer.reply(call) == {"cancelled": False}
    return peer, call


@case("sys.slots")
def anyone_may_see_who_holds_a_slot(machine):
    peer = machine.agent()
    peer.call("llm.generate", prompt="hello", **LONG)
    machine.answer_asks()
    call = peer.call("sys.slots")
    ((bank,),) = (model["banks"] for model in peer.reply(call)["models"])
    assert (bank["slots"], bank["held"]) == (2, [[0, peer.pid, 0, "read"]])
    machine.step()
    machine.step()
    (model,) = peer.ask("sys.slots")["models"]
    assert model["banks"][0]["held"][0][3] == "write"
    return peer, call


@case("llm.status")
def a_request_says_where_it_stands(machine):
    peer = machine.agent()
    holders = [peer.call("llm.generate", prompt="hello", **LONG) for _ in range(2)]
    waits = peer.call("llm.generate", prompt="hello", **LONG)
    machine.answer_asks()
    machine.step()
    assert [peer.ask("llm.status", call=call)["position"] for call in (*holders, waits)] == [0, 0, 1]
    call = peer.call("llm.status", call=waits)
    assert peer.reply(call)["state"] == "queued"
    assert peer.reply(call)["expected_wait_s"] is None
    return peer, call


@case("llm.status")
def the_wait_is_expected_to_be_as_it_was(machine):
    peer = machine.agent()
    for _ in range(6):
        peer.call("llm.generate", prompt="hello", max_tokens=2)
        machine.run()
    holders = [peer.call("llm.generate", prompt="hello", **LONG) for _ in range(2)]
    waits = peer.call("llm.generate", prompt="hello", **LONG)
    machine.answer_asks()
    machine.step()
    assert peer.ask("llm.status", call=holders[0])["expected_wait_s"] == 0
    call = peer.call("llm.status", call=waits)
    assert peer.reply(call)["expected_wait_s"] > 0
    return peer, call


@case("llm.status")
def a_request_that_has_ended_or_is_anothers_is_gone(machine):
    peer, other = machine.agent(), machine.agent()
    own = other.call("llm.generate", prompt="hello", **LONG)
    machine.step()
    call = peer.call("llm.status", call=own)
    assert peer.reply(call) == {"state": "gone"}
    return peer, call


@case("llm.tokenize")
def text_becomes_tokens(machine):
    peer = machine.agent()
    call = peer.call("llm.tokenize", text="ab", with_special=False)
    machine.answer_asks()
    assert peer.reply(call) == {"tokens": [97, 98]}
    return peer, call


@case("llm.tokenize", "ETIMEDOUT")
def a_question_ends_at_its_deadline(machine):
    peer = machine.agent()
    call = peer.call("llm.tokenize", deadline_ms=5, text="ab")
    machine.pass_time(0.01)
    machine.answer_asks()  # too late: it must not answer a second time
    return peer, call


@case("llm.detokenize")
def tokens_become_text(machine):
    peer = machine.agent()
    call = peer.call("llm.detokenize", tokens=[1, 2])
    machine.answer_asks()
    assert peer.reply(call) == {"text": '!"'}
    return peer, call


@case("llm.detokenize")
def half_a_character_becomes_a_replacement(machine):
    peer = machine.agent()
    call = peer.call("llm.detokenize", tokens=[201])
    machine.answer_asks()
    assert peer.reply(call) == {"text": "\ufffd"}
    return peer, call


@case("llm.detokenize", "EINVAL")
def a_token_outside_the_vocabulary_has_no_text(machine):
    peer = machine.agent()
    return peer, peer.call("llm.detokenize", tokens=[320])


@case("llm.detokenize")
def tokens_as_bytes_become_text(machine):
    peer = machine.agent()
    call = peer.call("llm.detokenize", tokens=b"\1\0\0\0\2\0\0\0")
    machine.answer_asks()
    assert peer.reply(call) == {"text": '!"'}
    return peer, call


@case("llm.detokenize")
def no_tokens_are_no_text(machine):
    peer = machine.agent()
    call = peer.call("llm.detokenize", tokens=b"")
    machine.answer_asks()
    assert peer.reply(call) == {"text": ""}
    return peer, call


@case("llm.detokenize", "EINVAL")
def bytes_that_are_no_whole_tokens_have_no_text(machine):
    peer = machine.agent()
    return peer, peer.call("llm.detokenize", tokens=b"\1\0\0")


@case("llm.detokenize", "EINVAL")
def bytes_with_a_token_outside_the_vocabulary_have_no_text(machine):
    peer = machine.agent()
    return peer, peer.call("llm.detokenize", tokens=b"\1\0\0\0\xff\xff\xff\xff")


@case("llm.detokenize")
def tokens_become_pieces(machine):
    peer = machine.agent()
    call = peer.call("llm.detokenize", tokens=[1, 2], pieces=True)
    machine.answer_asks()
    assert peer.reply(call) == {"text": '!"', "pieces": [b"!", b'"']}
    return peer, call


@case("llm.detokenize", "EINVAL")
def the_pieces_of_too_many_tokens_are_not_told(machine):
    peer = machine.agent()
    return peer, peer.call("llm.detokenize", tokens=b"\1\0\0\0" * 2049, pieces=True)


@case("llm.tokenize", "ENOENT")
def an_unknown_model_has_no_tokens(machine):
    peer = machine.agent()
    return peer, peer.call("llm.tokenize", text="a", model="other")


@case("llm.tokenize", "EIO")
def a_model_that_cannot_be_served_has_no_tokens(machine):
    peer = one_failed().agent()
    return peer, peer.call("llm.tokenize", text="a", model="other")


@case("llm.detokenize", "ENOENT")
def an_unknown_model_has_no_text(machine):
    peer = machine.agent()
    return peer, peer.call("llm.detokenize", tokens=[1], model="other")


@case("llm.detokenize", "EIO")
def a_model_that_cannot_be_served_has_no_text(machine):
    peer = one_failed().agent()
    return peer, peer.call("llm.detokenize", tokens=[1], model="other")


@case("llm.embed")
def texts_become_vectors(machine):
    machine = Machine.of_three()
    peer = machine.agent()
    call = peer.call("llm.embed", texts=["a", "b", "a"])
    machine.answer_asks()
    one, two, three = peer.reply(call)["vectors"]
    assert one == three != two
    assert len(one) == 4 * peer.reply(call)["width"]
    return peer, call


@case("llm.embed")
def tokens_become_the_vectors_of_their_texts(machine):
    machine = Machine.of_three()
    peer = machine.agent()
    text = peer.call("llm.embed", texts=["ab"], model="embed")
    call = peer.call("llm.embed", tokens=[[256, 97, 98], struct.pack("<3I", 256, 97, 98)])
    machine.answer_asks()
    assert peer.reply(call)["vectors"] == 2 * peer.reply(text)["vectors"]
    return peer, call


BAD_EMBEDS = {
    "neither texts nor tokens": {},
    "both": {"texts": ["a"], "tokens": [[1]]},
    "no texts": {"texts": []},
    "65 texts": {"texts": ["a"] * 65},
    "a text that is bytes": {"texts": ["a", b"b"]},
    "a text without tokens": {"tokens": [[1], []]},
    "tokens that are a text": {"tokens": ["1"]},
    "a token outside the vocabulary": {"tokens": [[1], [320]]},
    "bytes that are no whole tokens": {"tokens": [b"123"]},
    "a model that generates": {"texts": ["a"], "model": "other"},
}


@pytest.mark.parametrize("what", BAD_EMBEDS)
def test_embed_refuses(what):
    machine = Machine.of_three()
    peer = machine.agent()
    call = peer.call("llm.embed", **BAD_EMBEDS[what])
    machine.answer_asks()
    assert peer.error(call) == "EINVAL"


@case("llm.embed", "EINVAL")
def a_kernel_without_a_model_for_embeddings_makes_none(machine):
    peer = machine.agent()
    return peer, peer.call("llm.embed", texts=["a"])


@case("llm.embed", "ENOENT")
def an_unknown_model_makes_no_vectors(machine):
    peer = machine.agent()
    return peer, peer.call("llm.embed", texts=["a"], model="embed")


@case("llm.embed", "EFBIG")
def a_text_longer_than_the_window_has_no_vector(machine):
    machine = Machine.of_three()
    peer = machine.agent()
    call = peer.call("llm.embed", texts=["a", "x" * machine.config.window_tokens])
    machine.answer_asks()
    assert "texts[1]" in peer.end(call)[1]["text"]
    return peer, call


@case("llm.embed", "EIO")
def three_cores_die_of_an_embedding(machine):
    machine = Machine.of_three()
    peer = machine.agent()
    call = peer.call("llm.embed", tokens=[[1]])
    for _ in range(3):
        machine.core_dies(2)
        machine.core_up(2)
    return peer, call


@case("llm.models")
def anyone_may_ask_for_the_models(machine):
    peer = Machine.of_three().agent()
    call = peer.call("llm.models")
    rows = [(row["name"], row["state"], row["embedding_width"] > 0) for row in peer.reply(call)["models"]]
    assert rows == [("chat", "ready", False), ("other", "ready", False), ("embed", "ready", True)]
    return peer, call


# -- proc -------------------------------------------------------------------------------------


@case("proc.spawn")
def a_script_becomes_a_child(machine):
    peer = machine.agent()
    call = peer.call("proc.spawn", script="a.py", args=["1"], env={"A": "b"})
    machine.launched()
    return peer, call


@case("proc.spawn", "EINVAL")
def a_script_that_cannot_be_started_is_an_error(machine):
    peer = machine.agent()
    call = peer.call("proc.spawn", script="a.py")
    machine.launch_fails("No such file or directory")
    return peer, call


@case("proc.spawn", "EINVAL")
def an_argument_that_is_no_string_is_an_error(machine):
    peer = machine.agent()
    return peer, peer.call("proc.spawn", script="a.py", args=[1])


@case("proc.spawn", "EINVAL")
def an_environment_with_nul_is_an_error(machine):
    peer = machine.agent()
    return peer, peer.call("proc.spawn", script="a.py", env={"A": "b\0c"})


@case("proc.spawn", "EPERM")
def a_child_cannot_outrank_its_parent(machine):
    peer = machine.agent()
    return peer, peer.call("proc.spawn", script="a.py", priority=-1)


@case("proc.spawn", "EAGAIN")
def one_task_too_many_is_refused(machine):
    peer = machine.agent()
    with at_most(table, "MAX_TASKS", 1):
        return peer, peer.call("proc.spawn", script="a.py")


@case("proc.spawn", "EAGAIN")
def launches_under_way_count_as_tasks(machine):
    peer = machine.agent()
    with at_most(table, "MAX_TASKS", 2):
        peer.call("proc.spawn", script="a.py")
        return peer, peer.call("proc.spawn", script="a.py")


@case("proc.spawn", "EINVAL")
def an_unknown_capability_is_an_error(machine):
    peer = machine.operator()
    return peer, peer.call("proc.spawn", script="a.py", capabilities=["task.create", "sys.shutdown"])


@case("proc.spawn", "EINVAL")
def a_capability_that_is_no_string_is_an_error(machine):
    peer = machine.operator()
    return peer, peer.call("proc.spawn", script="a.py", capabilities=[["task.create"]])


@case("proc.spawn", "EPERM")
def nobody_gives_a_capability_that_it_lacks(machine):
    peer = machine.agent()
    return peer, peer.call("proc.spawn", script="a.py", capabilities=["task.create"])


@case("proc.spawn")
def who_has_a_capability_may_give_it(machine):
    peer = machine.child(machine.operator(), capabilities=["task.create"])
    call = peer.call("proc.spawn", script="a.py", capabilities=["task.create"])
    assert machine.task(machine.launched()).capabilities == {"task.create"}
    return peer, call


@case("proc.spawn")
def a_child_has_no_capability_that_it_was_not_given(machine):
    peer = machine.child(machine.operator(), capabilities=["task.create"])
    call = peer.call("proc.spawn", script="a.py")
    assert machine.task(machine.launched()).capabilities == frozenset()
    return peer, call


@case("proc.exit")
def a_task_may_say_how_it_ends(machine):
    peer = machine.agent()
    return peer, peer.call("proc.exit", status=3)


@case("proc.exit")
def a_task_without_a_process_has_ended_when_this_is_answered(machine):
    peer = machine.operator().hold()
    call = peer.call("proc.exit", status=3)
    assert (machine.task(peer.task).state.name, machine.task(peer.task).status) == ("ZOMBIE", 3)
    return peer, call


@case("proc.exit", "EPERM")
def an_operator_cannot_exit(machine):
    peer = machine.operator()
    return peer, peer.call("proc.exit")


@case("proc.wait")
def a_dead_child_is_waited_for(machine):
    peer = machine.agent()
    child = machine.child(peer)
    call = peer.call("proc.wait", pid=child.pid)
    assert peer.end(call) is None
    machine.ends(child.pid)
    return peer, call


@case("proc.wait", "ECHILD")
def the_childless_cannot_wait(machine):
    peer = machine.agent()
    return peer, peer.call("proc.wait")


@case("proc.wait", "ECHILD")
def nobody_waits_for_a_stranger(machine):
    peer = machine.agent()
    return peer, peer.call("proc.wait", pid=machine.agent().pid)


@case("proc.wait", "ETIMEDOUT")
def a_wait_that_may_not_wait_fails_at_once(machine):
    peer = machine.agent()
    machine.child(peer)
    return peer, peer.call("proc.wait", timeout_ms=0)


@case("proc.wait", "ETIMEDOUT")
def a_wait_ends_at_its_timeout(machine):
    peer = machine.agent()
    machine.child(peer)
    call = peer.call("proc.wait", timeout_ms=50)
    machine.pass_time(0.049)
    assert peer.end(call) is None
    machine.pass_time(0.001)
    return peer, call


@case("proc.kill")
def a_parent_signals_its_child(machine):
    peer = machine.agent()
    return peer, peer.call("proc.kill", pid=machine.child(peer).pid)


@case("proc.kill", "ESRCH")
def nobody_is_there_to_be_signalled(machine):
    peer = machine.agent()
    return peer, peer.call("proc.kill", pid=9999)


@case("proc.kill", "EPERM")
def a_stranger_cannot_be_signalled(machine):
    peer = machine.agent()
    return peer, peer.call("proc.kill", pid=machine.agent().pid)


@case("proc.kill", "EINVAL")
def an_unknown_signal_is_refused(machine):
    peer = machine.agent()
    return peer, peer.call("proc.kill", pid=peer.pid, signal="SIGKILL")


@case("proc.kill", "EINVAL")
def a_task_without_a_process_takes_no_usr1(machine):
    peer = machine.operator()
    return peer, peer.call("proc.kill", pid=peer.hold().task, signal="USR1")


@case("proc.kill", "EINVAL")
def a_task_without_a_process_takes_no_usr2(machine):
    peer = machine.operator()
    return peer, peer.call("proc.kill", pid=peer.hold().task, signal="USR2")


@case("proc.ps")
def tasks_are_listed_after_a_fresh_sample(machine):
    peer = machine.agent("me")
    call = peer.call("proc.ps")
    assert peer.end(call) is None
    assert machine.sampled_pids == [(peer.pid,)]
    machine.event(ProcessSample(machine.now_ns, ((peer.pid, 1.5, 4096),)))
    (row,) = peer.reply(call)["tasks"]
    assert (row["name"], row["cpu_s"], row["rss_bytes"]) == ("me", 1.5, 4096)
    return peer, call


@case("proc.logs")
def a_task_reads_its_own_log(machine):
    peer = machine.agent()
    peer.ask("log.write", text="a line")
    call = peer.call("proc.logs", pid=peer.pid)
    assert peer.reply(call)["text"] == "a line\n"
    return peer, call


@case("proc.logs", "ESRCH")
def nobody_has_no_log(machine):
    peer = machine.agent()
    return peer, peer.call("proc.logs", pid=9999)


@case("proc.logs", "EPERM")
def a_strangers_log_is_private(machine):
    peer = machine.agent()
    return peer, peer.call("proc.logs", pid=machine.agent().pid)


# -- task -------------------------------------------------------------------------------------


@case("task.create")
def an_operator_creates_a_task(machine):
    peer = machine.operator()
    call = peer.call("task.create", name="held", priority=-20)
    task = machine.task(peer.reply(call)["pid"])
    assert (task.name, task.priority, task.ppid, task.has_process) == ("held", -20, 0, False)
    return peer, call


@case("task.create")
def an_agent_with_the_capability_creates_a_task(machine):
    peer = machine.child(machine.operator(), capabilities=["task.create"], priority=3)
    call = peer.call("task.create")
    task = machine.task(peer.reply(call)["pid"])
    assert (task.priority, task.ppid, task.state.name) == (3, peer.pid, "READY")
    return peer, call


@case("task.create", "EPERM")
def an_agent_without_the_capability_creates_none(machine):
    peer = machine.child(machine.operator())
    return peer, peer.call("task.create")


@case("task.create", "EPERM")
def a_created_task_cannot_outrank_its_holder(machine):
    peer = machine.child(machine.operator(), capabilities=["task.create"], priority=3)
    return peer, peer.call("task.create", priority=2)


@case("task.create", "EAGAIN")
def one_held_task_too_many_is_refused(machine):
    peer = machine.operator()
    with at_most(table, "MAX_HELD_TASKS", 2):
        for _ in range(2):
            peer.hold()
        other = machine.operator()
        other.hold()
        return peer, peer.call("task.create")


@case("task.create", "EAGAIN")
def one_task_too_many_in_all_is_refused(machine):
    machine.agent()
    peer = machine.operator()
    with at_most(table, "MAX_TASKS", 1):
        return peer, peer.call("task.create")


@case("task.create", "EINVAL")
def a_priority_that_there_is_not_is_refused(machine):
    peer = machine.operator()
    return peer, peer.call("task.create", priority=20)


# -- ipc --------------------------------------------------------------------------------------


@case("ipc.send")
def a_message_is_put_into_a_mailbox(machine):
    peer = machine.agent()
    return peer, peer.call("ipc.send", to=machine.agent().pid, data=b"x" * MAX_MAIL_BYTES)


@case("ipc.send", "ESRCH")
def nobody_has_no_mailbox(machine):
    peer = machine.agent()
    return peer, peer.call("ipc.send", to=9999, data=b"")


@case("ipc.send", "EMSGSIZE")
def a_message_over_64_kib_is_refused(machine):
    peer = machine.agent()
    return peer, peer.call("ipc.send", to=peer.pid, data=b"x" * (MAX_MAIL_BYTES + 1))


@case("ipc.send", "ETIMEDOUT")
def a_full_mailbox_refuses_who_may_not_wait(machine):
    box = machine.agent()
    sender = fill(machine, box)
    return sender, sender.call("ipc.send", to=box.pid, data=b"", timeout_ms=0)


@case("ipc.send", "ETIMEDOUT")
def waiting_for_room_ends_at_the_timeout(machine):
    box = machine.agent()
    sender = fill(machine, box)
    call = sender.call("ipc.send", to=box.pid, data=b"", timeout_ms=20)
    machine.pass_time(0.02)
    return sender, call


@case("ipc.send", "EPIPE")
def who_waits_for_room_is_told_of_the_death(machine):
    box = machine.agent()
    sender = fill(machine, box)
    call = sender.call("ipc.send", to=box.pid, data=b"")
    machine.ends(box.pid)
    return sender, call


@case("ipc.recv")
def a_message_is_taken_from_the_mailbox(machine):
    peer, other = machine.agent(), machine.agent()
    other.ask("ipc.send", to=peer.pid, data=b"hi")
    call = peer.call("ipc.recv")
    assert peer.reply(call) == {"sender": other.pid, "data": b"hi"}
    return peer, call


@case("ipc.recv", "EPERM")
def an_operator_has_no_mailbox(machine):
    peer = machine.operator()
    return peer, peer.call("ipc.recv")


@case("ipc.recv", "ETIMEDOUT")
def an_empty_mailbox_refuses_who_may_not_wait(machine):
    peer = machine.agent()
    return peer, peer.call("ipc.recv", timeout_ms=0)


@case("ipc.recv", "ETIMEDOUT")
def waiting_for_mail_ends_at_the_timeout(machine):
    peer = machine.agent()
    call = peer.call("ipc.recv", timeout_ms=20)
    machine.pass_time(0.02)
    return peer, call


# -- mem --------------------------------------------------------------------------------------


@case("mem.create")
def a_segment_is_made(machine):
    peer = machine.agent()
    call = peer.call("mem.create", name="a", size_bytes=100)
    assert peer.reply(call) == {"name": "a", "size_bytes": 100, "segment": 1}
    assert [len(array) for array in machine.segments.values()] == [100]
    return peer, call


@case("mem.create", "EEXIST")
def a_name_is_taken_once(machine):
    peer = machine.agent()
    peer.ask("mem.create", name="a", size_bytes=100)
    return peer, peer.call("mem.create", name="a", size_bytes=100)


@case("mem.create", "ENOMEM")
def a_task_cannot_hold_more_than_its_limit(machine):
    peer = machine.agent()
    peer.ask("mem.create", name="a", size_bytes=4096)
    return peer, peer.call("mem.create", name="b", size_bytes=MAX_TASK_MEMORY_BYTES - 4095)


@case("mem.create", "ENOMEM")
def a_task_cannot_hold_more_segments_than_its_limit(machine):
    peer = machine.agent()
    for number in range(MAX_TASK_SEGMENTS):
        peer.ask("mem.create", name=str(number), size_bytes=1)
    return peer, peer.call("mem.create", name="b", size_bytes=1)


@case("mem.create", "EPERM")
def an_operator_holds_no_segments(machine):
    peer = machine.operator()
    return peer, peer.call("mem.create", name="a", size_bytes=100)


@case("mem.stat")
def a_task_sees_what_it_holds(machine):
    peer = machine.agent()
    peer.ask("mem.create", name="b", size_bytes=2)
    peer.ask("mem.create", name="a", size_bytes=1)
    machine.agent().ask("mem.create", name="c", size_bytes=4)
    call = peer.call("mem.stat")
    assert [row["name"] for row in peer.reply(call)["segments"]] == ["a", "b"]
    assert peer.reply(call)["used_bytes"] == 3
    return peer, call


@case("mem.unlink")
def a_segment_is_removed(machine):
    peer = machine.agent()
    peer.ask("mem.create", name="a", size_bytes=100)
    call = peer.call("mem.unlink", name="a")
    assert not machine.segments
    return peer, call


@case("mem.unlink", "ENOENT")
def another_tasks_segment_cannot_be_removed(machine):
    machine.agent().ask("mem.create", name="a", size_bytes=100)
    peer = machine.agent()
    return peer, peer.call("mem.unlink", name="a")


# -- sched and log ----------------------------------------------------------------------------


@case("sched.setattr")
def a_task_may_lower_itself(machine):
    peer = machine.agent()
    call = peer.call("sched.setattr", nice=5)
    assert peer.reply(call)["nice"] == 5
    return peer, call


@case("sched.setattr")
def a_task_may_lower_its_child(machine):
    peer = machine.agent()
    child = machine.child(peer)
    call = peer.call("sched.setattr", pid=child.pid, nice=5)
    assert machine.task(child.pid).priority == 5
    return peer, call


@case("sched.setattr")
def an_operator_may_raise_anyone(machine):
    peer, pid = machine.operator(), machine.agent().pid
    call = peer.call("sched.setattr", pid=pid, nice=-20, sched_class="realtime", policy="rr", rt_priority=7)
    body = peer.reply(call)
    assert (body["nice"], body["sched_class"], body["policy"], body["rt_priority"]) == (-20, "realtime", "rr", 7)
    return peer, call


@case("sched.setattr")
def a_task_may_choose_a_policy_and_a_slice(machine):
    peer = machine.agent()
    call = peer.call("sched.setattr", policy="plas", slice_ms=9)
    assert (peer.reply(call)["policy"], peer.reply(call)["slice_ms"]) == ("plas", 9)
    return peer, call


@case("sched.setattr")
def a_task_may_limit_itself(machine):
    peer = machine.agent()
    call = peer.call("sched.setattr", quota={"tokens": 9})
    assert peer.reply(call)["quota"] == {"tokens": 9}
    return peer, call


@case("sched.setattr")
def a_task_with_the_capability_may_be_realtime(machine):
    peer = machine.agent_with("sched.realtime")
    call = peer.call("sched.setattr", sched_class="realtime")
    assert peer.reply(call)["policy"] == "fcfs"
    return peer, call


@case("sched.setattr")
def a_task_with_the_capability_may_raise_itself(machine):
    peer = machine.agent_with("sched.raise")
    call = peer.call("sched.setattr", weight=1000)
    assert peer.reply(call)["weight"] == 1000
    return peer, call


@case("sched.setattr", "EPERM")
def a_task_may_not_lift_its_quota(machine):
    peer = machine.agent()
    peer.ask("sched.setattr", quota={"tokens": 9})
    return peer, peer.call("sched.setattr", quota={"tokens": None})


@case("sched.setattr", "EPERM")
def a_task_may_not_raise_itself(machine):
    peer = machine.agent()
    return peer, peer.call("sched.setattr", nice=-1)


@case("sched.setattr", "EPERM")
def a_task_may_not_raise_its_weight(machine):
    peer = machine.agent()
    return peer, peer.call("sched.setattr", weight=101)


@case("sched.setattr", "EPERM")
def a_low_weight_is_not_left_by_way_of_nice(machine):
    peer = machine.agent()
    peer.ask("sched.setattr", weight=1)
    return peer, peer.call("sched.setattr", nice=0)


@case("sched.setattr", "EPERM")
def a_task_may_not_leave_a_lower_class(machine):
    peer = machine.agent()
    peer.ask("sched.setattr", sched_class="idle")
    return peer, peer.call("sched.setattr", sched_class="batch")


@case("sched.setattr", "EPERM")
def a_task_may_not_be_realtime(machine):
    peer = machine.agent()
    return peer, peer.call("sched.setattr", sched_class="realtime")


@case("sched.setattr", "EPERM")
def a_policy_that_the_group_does_not_allow_is_refused(machine):
    machine.operator().ask("group.setattr", path="/", attr={"policies": ["eevdf", "plas"]})
    peer = machine.agent()
    return peer, peer.call("sched.setattr", policy="fcfs")


@case("sched.setattr", "EPERM")
def a_task_may_not_lower_a_stranger(machine):
    peer = machine.agent()
    return peer, peer.call("sched.setattr", pid=machine.agent().pid, nice=5)


@case("sched.setattr", "EPERM")
def a_task_may_not_lower_its_parent(machine):
    parent = machine.agent()
    peer = machine.child(parent)
    return peer, peer.call("sched.setattr", pid=parent.pid, nice=5)


@case("sched.setattr", "ESRCH")
def nobody_has_no_priority_to_set(machine):
    peer = machine.agent()
    return peer, peer.call("sched.setattr", pid=9999, nice=5)


@case("sched.setattr", "EINVAL")
def an_unknown_policy_is_refused(machine):
    peer = machine.operator()
    return peer, peer.call("sched.setattr", pid=machine.agent().pid, policy="lottery")


@case("sched.setattr", "EINVAL")
def an_unknown_class_is_refused(machine):
    peer = machine.agent()
    return peer, peer.call("sched.setattr", sched_class="deadline")


@case("sched.setattr", "EINVAL")
def a_realtime_task_has_a_realtime_policy(machine):
    peer = machine.operator()
    return peer, peer.call("sched.setattr", pid=machine.agent().pid, sched_class="realtime", policy="plas")


@case("sched.setattr", "EINVAL")
def an_unknown_quota_is_refused(machine):
    peer = machine.agent()
    return peer, peer.call("sched.setattr", quota={"patience": 1})


@case("sched.getattr")
def anyone_may_ask_for_a_priority(machine):
    peer = machine.agent()
    call = peer.call("sched.getattr")
    assert peer.reply(call)["pid"] == peer.pid
    return peer, call


@case("sched.getattr", "ESRCH")
def nobody_has_no_priority(machine):
    peer = machine.agent()
    return peer, peer.call("sched.getattr", pid=9999)


@case("sched.getpolicies")
def the_policies_are_listed(machine):
    peer = machine.agent()
    call = peer.call("sched.getpolicies")
    assert [row["name"] for row in peer.reply(call)["policies"]] == list(POLICIES)
    assert all(row["doc"] for row in peer.reply(call)["policies"])
    return peer, call


@case("sched.hint")
def a_task_says_what_is_left(machine):
    peer = machine.agent()
    return peer, peer.call("sched.hint", remaining_tokens=4)


@case("sched.hint", "EPERM")
def an_operator_has_nothing_left(machine):
    peer = machine.operator()
    return peer, peer.call("sched.hint", remaining_tokens=4)


@case("sched.stat")
def a_task_knows_its_bound(machine):
    peer = machine.agent()
    call = peer.call("sched.stat")
    bound = peer.reply(call)["bound"]
    assert peer.reply(call)["bound_s"] > bound["starve_s"] > 0
    return peer, call


@case("sched.stat", "ESRCH")
def nobody_has_no_bound(machine):
    peer = machine.agent()
    return peer, peer.call("sched.stat", pid=9999)


@case("sys.pressure")
def pressure_can_be_asked_for(machine):
    peer = machine.agent()
    call = peer.call("sys.pressure")
    assert peer.reply(call)["models"][0]["slots"]["some"]["avg10"] == 0.0
    return peer, call


# -- ctx --------------------------------------------------------------------------------------

TURN = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 100, "ignore_end": True}


def with_session(machine, **body):
    peer = machine.agent()
    return peer, peer.ask("ctx.open", **body)["session"]


@case("ctx.open")
def an_agent_opens_a_session(machine):
    peer = machine.agent()
    return peer, peer.call("ctx.open")


@case("ctx.open", "ENOENT")
def a_session_with_no_such_model_is_refused(machine):
    peer = machine.agent()
    return peer, peer.call("ctx.open", model="nobody")


@case("ctx.open", "EINVAL")
def a_session_with_a_model_for_embeddings_is_refused(machine):
    peer = Machine.of_three().agent()
    return peer, peer.call("ctx.open", model="embed")


@case("ctx.open", "EIO")
def a_session_with_a_model_that_cannot_be_loaded_is_refused(machine):
    peer = one_failed().agent()
    return peer, peer.call("ctx.open", model="other")


@case("ctx.open", "EPERM")
def an_operator_has_no_sessions(machine):
    peer = machine.operator()
    return peer, peer.call("ctx.open")


@case("ctx.open", "EAGAIN")
def one_session_too_many_is_refused(machine):
    peer, _ = with_session(machine)
    with at_most(sessions, "MAX_SESSIONS", 1):
        return peer, peer.call("ctx.open")


@case("ctx.open")
def a_durable_session_is_opened_when_the_disk_has_been_asked(machine):
    peer = machine.agent()
    call = peer.call("ctx.open", name="plan", durable=True)
    assert peer.waits(call)
    machine.run()
    return peer, call


@case("ctx.open", "EBUSY")
def a_durable_session_that_is_open_is_not_opened_again(machine):
    peer = machine.agent()
    peer.call("ctx.open", name="plan", durable=True)
    return peer, peer.call("ctx.open", name="plan", durable=True)


@case("ctx.open", "ENOMEM")
def a_durable_session_with_too_many_messages_is_refused(machine):
    peer = machine.agent()
    first = peer.call("ctx.open", name="plan", durable=True)
    machine.run()
    peer.call("llm.generate", session=peer.reply(first)["session"], **TURN)
    machine.run()
    peer.ask("ctx.close", session=peer.reply(first)["session"])
    call = peer.call("ctx.open", name="plan", durable=True)
    with at_most(sessions, "MAX_SESSION_BYTES", 10):
        machine.run()
    return peer, call


@case("ctx.close", "EINVAL")
def a_session_that_is_not_durable_cannot_be_forgotten(machine):
    peer, session = with_session(machine)
    return peer, peer.call("ctx.close", session=session, forget=True)


@case("ctx.messages")
def what_was_said_is_read(machine):
    peer, session = with_session(machine)
    peer.call("llm.generate", session=session, **TURN)
    machine.run()
    call = peer.call("ctx.messages", session=session)
    assert len(peer.reply(call)["messages"]) == 1
    return peer, call


@case("ctx.messages", "ENOENT")
def there_is_no_session_to_read(machine):
    peer = machine.agent()
    return peer, peer.call("ctx.messages", session=7)


@case("ctx.messages", "EPERM")
def an_operator_reads_no_session(machine):
    peer = machine.operator()
    return peer, peer.call("ctx.messages", session=7)


@case("ctx.close")
def a_session_is_closed(machine):
    peer, session = with_session(machine)
    return peer, peer.call("ctx.close", session=session)


@case("ctx.close", "ENOENT")
def a_closed_session_cannot_be_closed(machine):
    peer, session = with_session(machine)
    peer.ask("ctx.close", session=session)
    return peer, peer.call("ctx.close", session=session)


@case("ctx.close", "EPERM")
def an_operator_closes_no_session(machine):
    _, session = with_session(machine)
    peer = machine.operator()
    return peer, peer.call("ctx.close", session=session)


@case("ctx.fork")
def a_session_is_forked_before_its_first_turn(machine):
    peer, session = with_session(machine)
    return peer, peer.call("ctx.fork", session=session, count=3)


@case("ctx.fork", "ENOENT")
def there_is_no_session_to_fork(machine):
    peer = machine.agent()
    return peer, peer.call("ctx.fork", session=7)


@case("ctx.fork", "EPERM")
def an_operator_forks_no_session(machine):
    peer = machine.operator()
    return peer, peer.call("ctx.fork", session=7)


@case("ctx.fork", "EBUSY")
def a_session_with_a_turn_under_way_is_not_forked(machine):
    peer, session = with_session(machine)
    peer.call("llm.generate", session=session, **TURN)
    return peer, peer.call("ctx.fork", session=session)


@case("ctx.fork", "EAGAIN")
def forks_beyond_the_limit_of_sessions_are_refused(machine):
    peer, session = with_session(machine)
    with at_most(sessions, "MAX_SESSIONS", 3):
        return peer, peer.call("ctx.fork", session=session, count=3)


@case("ctx.fork", "ENOMEM")
def forks_whose_messages_come_to_too_much_are_refused(machine):
    peer, session = with_session(machine)
    peer.call("llm.generate", session=session, **TURN)
    machine.run()
    with at_most(sessions, "MAX_SESSION_BYTES", 500):
        return peer, peer.call("ctx.fork", session=session, count=8)


@case("ctx.commit")
def a_fork_takes_its_parents_place(machine):
    peer, session = with_session(machine)
    (child,) = peer.ask("ctx.fork", session=session)["sessions"]
    return peer, peer.call("ctx.commit", session=child)


@case("ctx.commit", "EINVAL")
def what_is_no_fork_cannot_be_committed(machine):
    peer, session = with_session(machine)
    return peer, peer.call("ctx.commit", session=session)


@case("ctx.commit", "EINVAL")
def a_fork_whose_parent_is_closed_cannot_be_committed(machine):
    peer, session = with_session(machine)
    (child,) = peer.ask("ctx.fork", session=session)["sessions"]
    peer.ask("ctx.close", session=session)
    return peer, peer.call("ctx.commit", session=child)


@case("ctx.commit", "EBUSY")
def a_fork_whose_parent_has_a_turn_under_way_cannot_be_committed(machine):
    peer, session = with_session(machine)
    (child,) = peer.ask("ctx.fork", session=session)["sessions"]
    peer.call("llm.generate", session=session, **TURN)
    return peer, peer.call("ctx.commit", session=child)


@case("ctx.commit", "ENOENT")
def there_is_no_session_to_commit(machine):
    peer = machine.agent()
    return peer, peer.call("ctx.commit", session=7)


@case("ctx.commit", "EPERM")
def an_operator_commits_no_session(machine):
    peer = machine.operator()
    return peer, peer.call("ctx.commit", session=7)


@case("ctx.list")
def an_agent_lists_its_sessions(machine):
    peer, session = with_session(machine)
    call = peer.call("ctx.list")
    assert [one["session"] for one in peer.reply(call)["sessions"]] == [session]
    return peer, call


@case("ctx.stat")
def anybody_sees_where_contexts_are(machine):
    peer = machine.agent()
    call = peer.call("ctx.stat")
    (model,) = peer.reply(call)["models"]
    assert [tier["tier"] for tier in model["tiers"]] == ["slot", "memory", "disk"]
    return peer, call


@case("ctx.list", "ESRCH")
def sessions_of_no_such_task_cannot_be_listed(machine):
    peer = machine.operator()
    return peer, peer.call("ctx.list", pid=99_999)


@case("ctx.list", "EPERM")
def anothers_sessions_are_not_shown(machine):
    other, _ = with_session(machine)
    peer = machine.agent()
    return peer, peer.call("ctx.list", pid=other.pid)


@case("llm.generate", "ENOENT")
def a_turn_of_no_such_session_is_refused(machine):
    peer = machine.agent()
    return peer, peer.call("llm.generate", session=7, **TURN)


@case("llm.generate", "EBUSY")
def two_turns_of_a_session_at_once_are_refused(machine):
    peer, session = with_session(machine)
    peer.call("llm.generate", session=session, **TURN)
    return peer, peer.call("llm.generate", session=session, **TURN)


@case("llm.generate", "ENOMEM")
def too_many_bytes_of_messages_are_refused(machine):
    peer, session = with_session(machine)
    with at_most(sessions, "MAX_SESSION_BYTES", 20):
        return peer, peer.call("llm.generate", session=session, **TURN)


# -- groups -----------------------------------------------------------------------------------


@case("group.create")
def an_operator_makes_a_group(machine):
    peer = machine.operator()
    call = peer.call("group.create", path="/a", attr={"weight": 7, "policy": "rr", "params": {"quantum_tokens": 3}})
    assert peer.reply(call)["attr"]["weight"] == 7
    return peer, call


@case("group.create")
def a_task_with_the_capability_makes_one_below_its_own(machine):
    peer = machine.agent_with("sched.group")
    return peer, peer.call("group.create", path="/a")


@case("group.create", "EPERM")
def a_task_makes_no_group(machine):
    peer = machine.agent()
    return peer, peer.call("group.create", path="/a")


@case("group.create", "ENOENT")
def a_group_has_a_parent(machine):
    peer = machine.operator()
    return peer, peer.call("group.create", path="/a/b")


@case("group.create", "EEXIST")
def a_group_is_made_once(machine):
    peer = machine.operator()
    peer.ask("group.create", path="/a")
    return peer, peer.call("group.create", path="/a")


@case("group.create", "EINVAL")
def a_path_is_of_names(machine):
    peer = machine.operator()
    for path in ("//", "/a/", "/..", "/a b", "ab", "/1/2/3/4/5/6/7/8/9"):
        assert peer.error(peer.call("group.create", path=path)) == "EINVAL"
    return peer, peer.call("group.create", path="/a", attr={"colour": 1})


@case("group.create", "EAGAIN")
def groups_are_limited(machine):
    peer = machine.operator()
    with at_most(groups, "MAX_GROUPS", 1):
        return peer, peer.call("group.create", path="/a")


@case("group.setattr")
def a_group_is_changed(machine):
    peer = machine.operator()
    call = peer.call("group.setattr", path="/", attr={"policy": "hrrn"})
    assert peer.ask("sched.getpolicies")["current"] == "hrrn"
    return peer, call


@case("group.setattr", "EPERM")
def a_task_does_not_change_its_own_group(machine):
    peer = machine.agent_with("sched.group")
    return peer, peer.call("group.setattr", path="/", attr={"tokens": None})


@case("group.setattr", "ENOENT")
def no_group_is_changed(machine):
    peer = machine.operator()
    return peer, peer.call("group.setattr", path="/a", attr={})


@case("group.setattr", "EINVAL")
def a_group_is_not_changed_to_nonsense(machine):
    peer = machine.operator()
    for attr in (
        {"policy": "lottery"}, {"policy": "rr", "params": {"quantum_tokens": 0}}, {"params": {"x": 1}},
        {"min_share": 2.0}, {"min_share": 0.5, "max_share": 0.4}, {"tokens": -1}, {"tokens": 1.5},
        {"policies": "rr"}, {"gap": "wide"}, {"weight": True}, {"policy": None},
    ):  # fmt: skip
        assert peer.error(peer.call("group.setattr", path="/", attr=attr)) == "EINVAL", attr
    assert peer.ask("sched.getpolicies")["current"] == "eevdf"
    return peer, peer.call("group.setattr", path="/", attr={"starve_ms": 1})


@case("group.attach")
def an_operator_moves_a_task(machine):
    peer, agent = machine.operator(), machine.agent()
    peer.ask("group.create", path="/a")
    call = peer.call("group.attach", path="/a", pid=agent.pid)
    assert agent.ask("sched.getattr")["group"] == "/a"
    assert [row["tasks"] for row in peer.ask("group.stat")["groups"]] == [1, 1]
    return peer, call


@case("group.attach", "EPERM")
def a_task_does_not_leave_its_group(machine):
    machine.operator().ask("group.create", path="/a")
    peer = machine.agent()
    return peer, peer.call("group.attach", path="/a")


@case("group.attach", "ENOENT")
def no_group_takes_nobody(machine):
    peer = machine.operator()
    return peer, peer.call("group.attach", path="/a", pid=machine.agent().pid)


@case("group.attach", "ESRCH")
def nobody_is_moved(machine):
    peer = machine.operator()
    return peer, peer.call("group.attach", path="/", pid=9999)


@case("group.attach", "EAGAIN")
def a_full_group_takes_nobody(machine):
    peer = machine.operator()
    peer.ask("group.create", path="/a", attr={"tasks": 0})
    return peer, peer.call("group.attach", path="/a", pid=machine.agent().pid)


@case("group.remove")
def an_empty_group_is_removed(machine):
    peer = machine.operator()
    peer.ask("group.create", path="/a")
    return peer, peer.call("group.remove", path="/a")


@case("group.remove", "EPERM")
def a_task_removes_no_group(machine):
    machine.operator().ask("group.create", path="/a")
    peer = machine.agent()
    return peer, peer.call("group.remove", path="/a")


@case("group.remove", "ENOENT")
def no_group_is_removed(machine):
    peer = machine.operator()
    return peer, peer.call("group.remove", path="/a")


@case("group.remove", "EBUSY")
def a_group_in_use_is_not_removed(machine):
    peer = machine.operator()
    peer.ask("group.create", path="/a")
    peer.ask("group.attach", path="/a", pid=machine.agent().pid)
    return peer, peer.call("group.remove", path="/a")


@case("group.stat")
def groups_are_told(machine):
    peer = machine.agent()
    call = peer.call("group.stat")
    assert [row["path"] for row in peer.reply(call)["groups"]] == ["/"]
    return peer, call


@case("group.stat", "ENOENT")
def no_group_is_not_told(machine):
    peer = machine.agent()
    return peer, peer.call("group.stat", path="/a")


@case("llm.generate", "EDQUOT")
def a_used_up_quota_lets_nothing_in(machine):
    peer = machine.agent()
    peer.ask("sched.setattr", quota={"turns": 0})
    return peer, peer.call("llm.generate", prompt="a")


@case("proc.spawn", "ENOENT")
def nothing_is_spawned_into_no_group(machine):
    peer = machine.operator()
    return peer, peer.call("proc.spawn", script="a.py", group="/a")


@case("task.create", "ENOENT")
def nothing_is_created_in_no_group(machine):
    peer = machine.operator()
    return peer, peer.call("task.create", group="/a")


@case("log.write")
def a_line_is_appended_to_the_log(machine):
    peer = machine.agent()
    return peer, peer.call("log.write", text="a line")


@case("log.write", "EPERM")
def an_operator_has_no_log(machine):
    peer = machine.operator()
    return peer, peer.call("log.write", text="a line")


# -- the tests --------------------------------------------------------------------------------


ALL = [(method, end, one) for (method, end), several in CASES.items() for one in several]


@pytest.mark.parametrize(
    ("method", "end", "scenario"), ALL, ids=[f"{m}-{e}-{s.__name__}" for m, e, s in ALL]
)
def test_the_call_ends_as_documented(method, end, scenario):
    machine = Machine()
    peer, call = scenario(machine)
    kind, body = peer.end(call)
    assert (kind if kind == "reply" else body["name"]) == end, body
    if kind == "error":
        assert body["errno"] == Errno[end]
        assert body["text"], "an error says what is wrong"
    assert not peer.waits(call)


def test_every_call_has_a_success_and_every_documented_errno_a_case():
    wanted = {(method, "reply") for method in CALLS}
    for method, call in CALLS.items():
        wanted |= {(method, name) for name in re.findall(r"\bE[A-Z]{3,}\b", call.__doc__ or "")}
    wanted.discard(("llm.cancel", "EINTR"))  # how the cancelled call ends, not llm.cancel itself
    assert wanted - set(CASES) == set()
