"""AIOS's SDK, Cerebrum, as PyPI has it, against the gateway: chat, JSON and tool calls; what is not served says so."""

from __future__ import annotations

import json

import jsonschema
import pytest
from gateways import gateway

pytest.importorskip("cerebrum")

from cerebrum.client import Cerebrum
from cerebrum.llm.communication import LLMQuery
from cerebrum.memory.layer import MemoryLayer
from cerebrum.runtime.process import LLMProcessor
from requests import HTTPError

HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def served():
    with gateway(slots=2, window_tokens=512, slot_tokens=512) as made:
        yield made


@pytest.fixture(scope="module")
def client(served):
    return Cerebrum(served.url)


def ask(client, **query):
    return LLMProcessor(client).process("writer", LLMQuery(messages=HELLO, **query))["response"]


def test_a_chat_is_answered_and_its_agent_is_a_task(served, client):
    answer = ask(client)
    assert answer["finished"]
    assert answer["error"] is None
    assert isinstance(answer["response_message"], str)
    assert served.tasks()["aios-writer"]["requests"] >= 1


def test_json_is_whole_and_valid(client):
    answer = ask(client, message_return_type="json")
    assert isinstance(json.loads(answer["response_message"]), dict)


def test_a_tool_is_called_with_valid_parameters(client):
    tool = {"name": "demo/add", "description": "adds", "parameters": SCHEMA}
    answer = ask(client, tools=[tool], action_type="tool_use")
    (call,) = answer["tool_calls"]
    assert call["name"] == "demo/add"
    jsonschema.validate(call["parameters"], SCHEMA)


def test_the_parts_are_told(client):
    assert client.get_status()["llm"] == "active"
    assert client.get_status()["memory"] == "inactive"


@pytest.mark.parametrize(
    "act",
    [
        lambda it: it._post(
            "/query", {"query_type": "memory", "agent_name": "writer", "query_data": {}}
        ),
        lambda it: ask(it, action_type="operate_file"),
        lambda it: it._post("/core/memory/setup", {"memory_limit": MemoryLayer.__name__}),
    ],
)
def test_what_is_not_served_says_so(client, act):
    with pytest.raises(HTTPError) as raised:
        act(client)
    assert raised.value.response.status_code == 501
    assert "is not served here" in raised.value.response.json()["detail"]
