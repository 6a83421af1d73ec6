"""Messages, tools and tool_choice on their way to the kernel: what they become, and what is refused how."""

from __future__ import annotations

import json

import pytest
from test_chat_harness import tool

from agentix.chat.choice import choose, constraint_of
from agentix.chat.messages import normalise, tool_list
from agentix.chat.turn import Turn
from agentix.errors import InvalidValue

USER = {"role": "user", "content": "hi"}
TOOLS = tool_list([tool("f", a={"type": "string"}), tool("g")])


def called(arguments, call_id="a", name="f"):
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def test_text_parts_become_one_text_and_developers_system():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts, "name": "Ann"},
    ]
    assert normalise(messages) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a\nb", "name": "Ann"},
    ]


@pytest.mark.parametrize("arguments", ['{"x": [1, "é"]}', {"x": (1, "é")}])
def test_arguments_become_an_object_and_no_content_becomes_empty_text(arguments):
    answer = {"role": "tool", "tool_call_id": "a", "content": "3"}
    _, call, told = normalise([USER, called(arguments), answer])
    assert call["content"] == ""
    assert call["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": [1, "é"]}}
    assert told == answer


def test_values_that_the_wire_cannot_carry_are_made_to_fit():
    _, call = normalise([USER, called('{"x": 123456789012345678901234567890, "y": "\\ud800"}')])
    assert call["tool_calls"][0]["function"]["arguments"] == {"x": 123456789012345678901234567890.0, "y": "?"}


def test_reasoning_before_the_last_user_turn_is_left_out():
    thought = {"role": "assistant", "content": "x", "reasoning_content": "hm"}
    messages = normalise([USER, thought, USER, thought])
    assert ["reasoning_content" in message for message in messages] == [False, False, False, True]


def test_empty_lists_and_nulls_are_as_if_absent():
    message = {
        "role": "assistant",
        "content": "x",
        "tool_calls": [],
        "refusal": None,
        "reasoning_content": None,
    }
    assert normalise([message]) == [{"role": "assistant", "content": "x"}]


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([], "messages is [], wanted a list of maps, one at least"),
        ("hi", "messages is 'hi', wanted a list of maps, one at least"),
        ([USER, "hi"], "messages[1] is 'hi', wanted a map"),
        ([{"content": "x"}], "messages[0].role is missing"),
        (
            [{"role": "bot", "content": "x"}],
            "messages[0].role is 'bot', wanted system, developer, user, assistant, tool",
        ),
        ([{"role": "user"}], "messages[0].content is missing"),
        ([{"role": "user", "content": 7}], "messages[0].content is 7, wanted text or a list of parts"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            "messages[0].content[0] is 'image_url', wanted a part of type 'text'",
        ),
        (
            [{"role": "user", "content": "a\ud800"}],
            "messages[0].content has half a surrogate pair at character 1",
        ),
        (
            [USER | {"tool_call_id": "a"}],
            "messages[0] has tool_call_id and the role 'user'",
        ),
        ([USER | {"mood": 1}], "messages[0] has 'mood', known are role, content"),
        ([called("{")], "messages[0].tool_calls[0].function.arguments is '{', wanted a JSON object"),
        ([called("[1]")], "messages[0].tool_calls[0].function.arguments is [1], wanted an object"),
        (
            [called({"x": {1, 2}})],
            "messages[0].tool_calls[0].function.arguments.x is {1, 2}, wanted a JSON value",
        ),
        ([called(None)], "messages[0].tool_calls[0].function.arguments is None, wanted an object"),
        (
            [{"role": "assistant", "tool_calls": [{"id": "a"}]}],
            "messages[0].tool_calls[0] is {'id': 'a'}, wanted",
        ),
        (
            [called("{}"), {"role": "tool", "tool_call_id": "b", "content": "x"}],
            "messages[1].tool_call_id is 'b', no tool call before it has that id",
        ),
    ],
)
def test_a_message_that_is_wrong_is_named_with_its_value(messages, text):
    with pytest.raises(InvalidValue) as raised:
        normalise(messages)
    assert raised.value.text.startswith(text)


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        ({}, "tools is {}, wanted a list of maps"),
        ([{"name": "f"}], "tools[0] is {'name': 'f'}, wanted {'type': 'function', 'function': {...}}"),
        ([{"function": {}}], "tools[0].function.name is missing"),
        ([tool("a b")], "tools[0].function.name is 'a b', wanted letters"),
        ([tool("f"), tool("f")], "tools[1].function.name is 'f', as another tool's is"),
        (
            [{"function": {"name": "f", "parameters": 3}}],
            "tools[0].function.parameters is 3, wanted a JSON schema",
        ),
        (
            [{"function": {"name": "f", "strict": True}}],
            "tools[0].function.strict is True, and calls are not",
        ),
    ],
)
def test_a_tool_that_is_wrong_is_named_with_its_value(tools, text):
    with pytest.raises(InvalidValue) as raised:
        tool_list(tools)
    assert raised.value.text.startswith(text)


def test_a_tool_without_parameters_takes_an_empty_object():
    (made,) = tool_list([{"function": {"name": "f"}}])
    assert made["function"] == {
        "name": "f",
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    }


def test_a_choice_says_which_tools_are_shown_and_which_must_be_called():
    named = {"type": "function", "function": {"name": "g"}}
    assert choose(TOOLS, None) == choose(TOOLS, "auto") == (TOOLS, [])
    assert choose(TOOLS, "none") == ([], [])
    assert choose(TOOLS, "required") == (TOOLS, TOOLS)
    assert choose(TOOLS, named) == (TOOLS, TOOLS[1:])


@pytest.mark.parametrize(
    ("tools", "choice", "text"),
    [
        ([], "required", "tool_choice is 'required' and there are no tools"),
        (TOOLS, "must", "tool_choice is 'must', wanted 'auto', 'none', 'required' or"),
        (TOOLS, {"function": {"name": "h"}}, "tool_choice names 'h', which is not among the tools"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(tools, choice, text):
    with pytest.raises(InvalidValue) as raised:
        choose(tools, choice)
    assert raised.value.text.startswith(text)


def test_a_forced_call_is_a_schema_of_the_whole_answer():
    schema = json.loads(constraint_of(TOOLS[:1], "llama3")["json_schema"])
    assert schema["properties"]["name"] == {"const": "f"}
    assert schema["properties"]["parameters"]["properties"] == {"a": {"type": "string"}}
    both = json.loads(constraint_of(TOOLS, "json")["json_schema"])["anyOf"]
    assert [one["required"] for one in both] == [["name", "arguments"]] * 2


def test_references_inside_a_tool_hold_at_their_new_place():
    parameters = {"$defs": {"p": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/p"}}}
    tools = tool_list([{"function": {"name": "f", "parameters": parameters}}, tool("g")])
    one = json.loads(constraint_of(tools[:1], "json")["json_schema"])["properties"]["arguments"]
    two = json.loads(constraint_of(tools, "json")["json_schema"])["anyOf"][0]["properties"]["arguments"]
    assert one["properties"]["a"]["$ref"] == "#/properties/arguments/$defs/p"
    assert two["properties"]["a"]["$ref"] == "#/anyOf/0/properties/arguments/$defs/p"


def test_a_forced_call_stands_between_the_marks_of_its_format():
    assert constraint_of(TOOLS, "hermes")["json_around"] == ["<tool_call>\n", "\n</tool_call>"]
    forced = constraint_of(TOOLS[:1], "mistral")
    assert forced["json_around"] == ["[TOOL_CALLS][", "]"]
    assert json.loads(forced["json_schema"])["required"] == ["name", "arguments", "id"]


def test_a_call_cannot_be_forced_where_it_is_no_json_object_between_marks():
    with pytest.raises(InvalidValue, match=r"'qwen-xml'; models of the formats json, .* can be made to call a tool"):
        constraint_of(TOOLS, "qwen-xml")


def test_a_forced_call_and_a_grammar_are_too_much():
    with pytest.raises(InvalidValue, match="tool_choice forces a call, and json_schema or grammar forces"):
        Turn([USER], {"tools": TOOLS, "tool_choice": "required", "grammar": "root ::= [a]"})
