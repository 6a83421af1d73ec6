"""The pure parts of the gateway: keys, callers, conversations, fields, prompts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentix.calls import generate
from agentix.errors import (
    AlreadyExists,
    BrokenPipe,
    NoSuchModel,
    PromptTooLong,
    QuotaUsed,
    TryAgain,
)
from agentix.gateway.answers import headers_of
from agentix.gateway.callers import identify
from agentix.gateway.conversations import Conversations, chain_of_messages, chain_of_prompt
from agentix.gateway.fields import Fields
from agentix.gateway.keys import Key, KeyRing, KeysError
from agentix.gateway.ollama.chat import openai_messages
from agentix.gateway.openai.errors import body_of
from agentix.gateway.openai.prompts import end_of, without_oldest
from agentix.gateway.problems import Problem, problem_of
from agentix.gateway.tasks import GROUP, GROUP_ATTR, Seat, TaskTable, make_group
from agentix.gateway.work import Work
from agentix.mux import Mux
from agentix.schedcalls import Group
from kernel.abi import codec


def says(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


# -- keys and callers -----------------------------------------------------------------------------


def ring(tmp_path, text: str) -> KeyRing:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    return KeyRing(str(path))


def test_a_key_has_the_defaults_that_it_leaves_out(tmp_path):
    found = ring(tmp_path, '[default]\npriority = 3\nis_allowed = false\n[keys.a]\nsecret = "12345678"\n')
    key = found.find("12345678")
    assert (key.name, key.priority, key.is_allowed) == ("a", 3, True)
    assert found.find("other") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[other]\n", r"unknown table \[other\]"),
        ("[keys.a]\n", "keys.a.secret is missing"),
        ('[keys.a]\nsecret = "short"\n', "shorter than 8"),
        ('[keys.a]\nsecret = "12345678"\n[keys.b]\nsecret = "12345678"\n', "is another key's too"),
        ('[keys.a]\nsecret = "12345678"\nnice = 1\n', "unknown field keys.a.nice"),
        ('[keys.a]\nsecret = "12345678"\npriority = 99\n', "keys.a.priority is 99, wanted -20 to 19"),
        ("[default]\npriority = true\n", "default.priority is True, wanted int"),
        ("[models]\na = 1\n", "models.a is 1"),
        ("[keys", "keys.toml"),
    ],
)
def test_a_wrong_file_of_keys_is_refused_with_the_place(tmp_path, text, reason):
    with pytest.raises(KeysError, match=reason):
        ring(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(KeysError, match="nowhere"):
        KeyRing(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("secret", ["EMPTY", "none", "sk-no-key-required", ""])
def test_what_clients_must_send_is_no_key(secret):
    assert identify({"authorization": f"Bearer {secret}"}, KeyRing(), "mlfq").name == ""


def test_each_key_is_a_task_of_its_own_without_a_file_too():
    one, two = (identify({"authorization": f"Bearer {secret}"}, KeyRing(), "mlfq") for secret in ("one-key", "two-key"))
    assert one.name != two.name


def test_a_policy_is_the_one_that_callers_share_by_or_an_error():
    assert identify({"x-agentix-policy": "mlfq"}, KeyRing(), "mlfq").name == ""
    with pytest.raises(Problem, match="callers share by 'mlfq'"):
        identify({"x-agentix-policy": "fcfs"}, KeyRing(), "mlfq")


def test_a_caller_asks_for_less_and_never_for_more():
    keys = KeyRing()
    keys.add("12345678", Key(name="a", priority=2))
    headers = {"x-api-key": "12345678"}
    assert identify(headers | {"x-agentix-priority": "9"}, keys, "mlfq").priority == 9
    with pytest.raises(Problem, match="2 to 19"):
        identify(headers | {"x-agentix-priority": "1"}, keys, "mlfq")


# -- conversations --------------------------------------------------------------------------------

talks = st.lists(st.text(max_size=4), min_size=1, max_size=6)


def chain(texts: list[str]) -> tuple[bytes, ...]:
    return chain_of_messages([says("user" if at % 2 == 0 else "assistant", text) for at, text in enumerate(texts)])


def test_a_conversation_is_found_by_its_beginning_also_when_its_last_turn_was_edited():
    known = Conversations()
    known.put("a", chain(["hello", "hi", "how"]))
    assert known.find(chain(["hello", "hi", "how", "well", "good"])) == "a"
    assert known.find(chain(["hello", "hi", "what"])) == "a"
    assert known.find(chain(["bye"])) is None


def test_the_same_system_prompt_makes_no_conversation():
    known = Conversations()
    system = says("system", "be kind")
    known.put("a", chain_of_messages([system, says("user", "one")]))
    assert known.find(chain_of_messages([system, says("user", "two")])) is None


def test_one_that_is_under_way_is_not_taken_for_another():
    known = Conversations()
    known.put("a", chain(["hello"]))
    assert known.find(chain(["hello"]), busy={"a"}) is None


def test_a_plain_prompt_is_known_by_whole_blocks():
    assert chain_of_prompt("short") == ()
    one, two = chain_of_prompt([1] * 130), chain_of_prompt([1] * 128 + [2, 3])
    assert len(one) == 2
    assert one == two


@given(st.lists(st.tuples(st.integers(0, 5), talks), max_size=20), talks)
def test_the_one_with_most_in_common_is_found(puts, asked):
    known = Conversations()
    last: dict[int, list[str]] = {}
    for owner, texts in puts:
        known.put(owner, chain(texts))
        last[owner] = texts
    found = known.find(chain(asked))
    common = {owner: shared(texts, asked) for owner, texts in last.items()}
    best = max(common.values(), default=0)
    assert common.get(found, 0) == best
    assert (found is None) == (best == 0)
    for owner in list(last):
        known.forget(owner)
    assert not known._owners


def shared(one: list[str], other: list[str]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


# -- prompts, fields, problems --------------------------------------------------------------------


def test_the_oldest_turn_goes_whole_and_the_system_prompt_stays():
    system, tool = says("system", "s"), {"role": "tool", "tool_call_id": "1", "content": "r"}
    messages = [system, says("user", "1"), says("assistant", "a"), tool, says("user", "2"), says("assistant", "b")]
    fewer = without_oldest(messages)
    assert fewer == [system, says("user", "2"), says("assistant", "b")]
    assert without_oldest(fewer) is None


@given(st.integers(1, 5000), st.integers(2, 400), st.integers(1, 500))
def test_the_end_of_a_prompt_gets_shorter_until_it_fits(tokens, window, answer):
    prompt = list(range(tokens))
    rounds = 0
    while len(prompt) + 1 > window:
        shorter = end_of(prompt, len(prompt), window, answer)
        assert shorter == prompt[len(prompt) - len(shorter) :]
        assert 0 < len(shorter) < len(prompt)
        prompt, rounds = shorter, rounds + 1
    assert rounds <= 3


def test_results_get_the_ids_of_their_calls():
    call = {"function": {"name": "add", "arguments": {}}}
    messages = [says("user", "x"), {"role": "assistant", "tool_calls": [call, call]},
                {"role": "tool", "content": "1", "tool_name": "add"}, {"role": "tool", "content": "2"}]  # fmt: skip
    made = openai_messages(Fields({"messages": messages}))
    ids = [one["id"] for one in made[1]["tool_calls"]]
    assert [made[2]["tool_call_id"], made[3]["tool_call_id"]] == ids


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NoSuchModel("llm.generate: no model 'x'"), 404, "model_not_found"),
        (TryAgain("llm.generate: 64 requests"), 429, "rate_limit_exceeded"),
        (QuotaUsed("llm.generate: group /http has used its 900 tokens"), 429, "insufficient_quota"),
        (BrokenPipe("task 7 ended"), 409, "task_ended"),
    ],
)
def test_an_error_of_the_kernel_is_one_of_http(error, status, code):
    problem = problem_of(error)
    assert (problem.status, problem.code) == (status, code)
    assert not problem.text.startswith("llm.")


def test_a_prompt_that_is_too_long_tells_both_numbers():
    text = "llm.generate: the prompt is 30 tokens, the window is 20 and one must be left to generate"
    problem = problem_of(PromptTooLong(text))
    assert problem.facts == {"prompt_tokens": 30, "window_tokens": 20}
    assert not problem.may_retry


@pytest.mark.parametrize(("retry_after", "header"), [(None, b"1"), (0.2, b"1"), (2.1, b"3"), (8.0, b"8")])
def test_a_client_is_told_to_come_back_no_sooner_than_the_kernel_says(retry_after, header):
    problem = problem_of(TryAgain("llm.generate: too long a wait", retry_after))
    assert headers_of(problem) == [(b"retry-after", header)]


def test_a_used_up_quota_is_openais_and_is_not_tried_again():
    problem = problem_of(QuotaUsed("llm.generate: its 900 tokens are used"))
    assert headers_of(problem) == [(b"x-should-retry", b"false")]
    error = json.loads(body_of(problem))["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")


# -- work and tasks -------------------------------------------------------------------------------


class Line(Mux):
    """A connection whose answers the test feeds."""

    def submit(self, call: Any, timeout_s: float | None) -> Any:
        return self.start(call)[0]


@pytest.mark.parametrize(("told", "shown"), [("quota", "length"), ("length", "length"), ("stop", "stop")])
def test_a_text_that_a_quota_cut_short_ends_as_at_any_limit(told, shown):
    async def body() -> None:
        line, table = Line(), TaskTable(None)
        whole, streamed = (
            Work(line, table, Seat(key, key, 1, is_passing=False), [generate("a", {})], None) for key in "ab"
        )
        for work in (whole, streamed):
            answer = {"text": "x", "tokens": [1], "finish_reason": told, "usage": {}, "timings": {}}
            line.feed(codec.encode_answer(work.inflights[0].id, "reply", answer))
        assert [reply.finish_reason for reply in await whole.replies()] == [shown]
        assert [reply.finish_reason for _, reply in streamed.take()] == [shown]

    asyncio.run(body())


class Groups:
    """The group calls of an agent; `there`: a group that exists."""

    def __init__(self, there: Group | None) -> None:
        self.there = there
        self.made: dict[str, Any] = {}

    async def create(self, path: str, *, timeout: float, **attr: Any) -> Group:
        if self.there is not None:
            raise AlreadyExists(f"group.create: group {path} exists")
        self.made[path] = attr
        return Group(path, attr, 0, 0, 0, 0.0, {})

    async def stat(self, path: str, *, timeout: float) -> list[Group]:
        return [self.there] if self.there is not None else []


class Holder:
    """An agent as far as tasks.py knows it."""

    def __init__(self, there: Group | None = None) -> None:
        self.groups = Groups(there)
        self.created: list[tuple[str, int, str]] = []

    def task(self, name: str, priority: int, *, group: str, timeout: float) -> Holder:
        self.created.append((name, priority, group))
        return self

    async def __aenter__(self) -> Holder:
        return self


def test_callers_share_by_feedback_queues_in_a_group_of_the_gateways_own():
    agent = Holder()
    assert asyncio.run(make_group(agent)) == "mlfq"
    assert agent.groups.made == {GROUP: GROUP_ATTR}


def test_a_group_that_an_operator_has_set_up_stays_as_it_is():
    agent = Holder(there=Group(GROUP, {"policy": "plas"}, 0, 0, 0, 0.0, {}))
    assert asyncio.run(make_group(agent)) == "plas"
    assert agent.groups.made == {}


def test_a_callers_task_begins_in_the_gateways_group():
    agent = Holder()
    caller = identify({"authorization": "Bearer one-key", "x-agentix-group": "night"}, KeyRing(), "mlfq")
    seat = asyncio.run(TaskTable(agent).take(caller, ()))
    assert agent.created == [(seat.name, 0, GROUP)]
