"""The parser of chat models' text: any cut, what is held back, what a hostile text costs, JSON in pieces."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chat_harness import TOOLS, cut, hermes, put_together, read

from agentix.chat import FORMATS, CallArguments, CallDropped, CallStart, Content, Parser, Reasoning
from agentix.chat.jsontext import MAX_DEPTH, JsonText, is_json
from agentix.errors import InvalidValue

MARKS = [
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<function=", "<function=get_time>", "<parameter=city>",
    "</parameter>", "</function>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]", "<|python_tag|>",
    "<|eom_id|>", "```json", "```tool_code", "```", "<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>",
    "<|constrain|>", " to=functions.get_time", "to=python", "analysis", "final", "assistant", "<|tool_call>",
    "<tool_call|>", "<|channel>", "<channel|>", "thought", '<|"|>', "call:get_time", "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
]  # fmt: skip
PARTS = [
    '{"name": "get_time", "arguments": {"city": "Rome"}}', '"name": "get_time"', '"arguments": {}', '"parameters": ',
    "get_time(city='Rome')", "get_time.call(city=1)", "get_time", "{", "}", "[", "]", '"', ":", ",", ";", "\\", "'",
    "(", ")", "=", "1", "-", "true", " ", "\n", "\n\n", "a", "<", "é", "x" * 300,
]  # fmt: skip
SOUPS = st.lists(st.sampled_from(MARKS + PARTS), max_size=25).map("".join)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=20, deadline=None)
@given(
    soup=SOUPS,
    places=st.lists(st.integers(0, 1 << 16), max_size=8),
    opens=st.booleans(),
    has_tools=st.booleans(),
)
def test_any_text_means_the_same_in_any_pieces(format, soup, places, opens, has_tools):
    tools = TOOLS[:5] if has_tools else None
    whole = read(format, [soup], opens, tools)
    for pieces in (soup, cut(soup, places)):
        message, faults, deltas = read(format, pieces, opens, tools)
        assert (message, faults) == (whole.message, whole.faults)
        assert put_together(deltas) == message
    for call in whole.message.tool_calls:
        assert isinstance(json.loads(call.arguments), dict)
    assert has_tools or not whole.message.tool_calls


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=15, deadline=None)
@given(text=st.text(st.characters(exclude_characters="<{[`", exclude_categories=["Cs"]), max_size=60))
def test_a_text_without_marks_is_the_content_to_the_last_space(format, text):
    if format == "harmony" and text.lstrip().startswith("to="):
        return
    assert read(format, [text]).message.content == text


@given(before=st.text("ab <", max_size=9), after=st.text("ab >", max_size=9))
def test_every_character_of_a_malformed_call_comes_out(before, after):
    text = f"{before}<tool_call>{{{after}"
    assert read("hermes", text).message.content == text


# -- what is held back --------------------------------------------------------------------------


def fed(parser: Parser, *pieces: str) -> list[object]:
    return [delta for piece in pieces for delta in parser.feed(piece)]


def test_text_is_held_back_only_while_it_may_be_the_start_of_a_mark():
    parser = Parser("hermes", tools=TOOLS)
    assert fed(parser, "a <too") == [Content("a")]
    assert fed(parser, "l_ca") == []
    assert fed(parser, "l x") == [Content(" <tool_cal x")]
    assert fed(parser, "<") == []
    assert parser.finish() == [Content("<")]


def test_json_that_is_no_call_comes_out_at_its_first_key():
    parser = Parser("llama3", tools=TOOLS)
    assert fed(parser, '{"answe') == []
    assert fed(parser, 'r": 4') == [Content('{"answer": 4')]


@pytest.mark.parametrize(
    ("format", "before"),
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "'),
        ("llama3", '{"name": "get_time", "parameters": {"a": "'),
        ("mistral-args", '[TOOL_CALLS]f[ARGS]{"a": "'),
        ("harmony", '<|channel|>commentary to=functions.f<|message|>{"a": "'),
        ("deepseek", '<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": "'),
        ("gemma4", '<|tool_call>call:f{a:<|"|>'),
        ("gemma", "```tool_code\nf(a='"),
        ("qwen-xml", "<tool_call><function=get_time><parameter=city>\n"),
    ],
)
def test_arguments_come_as_the_model_writes_them(format, before):
    parser = Parser(format, tools=TOOLS)
    started = fed(parser, before)
    assert isinstance(started[0], CallStart)
    assert fed(parser, "x", "y", "z") == [CallArguments(0, letter) for letter in "xyz"]


def test_reasoning_comes_as_the_model_writes_it():
    parser = Parser("hermes", opens_reasoning=True)
    assert fed(parser, "\n", "a", " ", "b", "\n</th", "ink>", "\n", "c") == [
        Reasoning("a"), Reasoning(" b"), Content("c"),
    ]  # fmt: skip


def test_a_call_that_breaks_is_taken_back_and_its_place_is_free_again():
    pieces = ['<tool_call>{"name": "f", "arguments": {"a": 1', "]}", hermes("g")]
    message, faults, deltas = read("hermes", pieces)
    assert deltas[:3] == [CallStart(0, "call00000", "f"), CallArguments(0, '{"a": 1'), CallDropped(0)]
    assert CallStart(0, "call00000", "g") in deltas
    assert [call.name for call in message.tool_calls] == ["g"]
    assert faults == ["tool call 0: ']' came where JSON has a comma or }"]


def test_the_ids_that_are_made_are_new_and_fit_mistral():
    parser = Parser("hermes", tools=TOOLS, first_call=7)
    parser.feed(hermes("f") + hermes("g"))
    parser.finish()
    ids = [call.id for call in parser.message.tool_calls]
    assert ids == ["call00007", "call00008"]
    assert all(len(one) == 9 and one.isalnum() for one in ids)


def test_an_unknown_format_is_named():
    with pytest.raises(InvalidValue, match=r"^chat format is 'klingon', known are content, think, json, "):
        Parser("klingon")


# -- what a text costs --------------------------------------------------------------------------

HOSTILE = {
    "less-than signs": "<",
    "starts of marks": "<tool_cal<|channe[TOOL_CALL<think",
    "braces": "{",
    "brackets": "[",
    "deep JSON in calls": '<tool_call>{"name":"f","arguments":' + '{"a":' * 50,
    "white space": " \n",
    "fences": "```json",
    "quotes": '<tool_call>{"name":"f","arguments":{"a":"\\"',
    "Mistral's marks": "[TOOL_CALLS][",
    "Mistral's names": "[TOOL_CALLS]f[ARGS]{",
    "harmony's headers": "<|start|><|channel|>to=functions.f<|constrain|>",
    "harmony's messages": "<|channel|>analysis<|message|>x",
    "DeepSeek's heads": "<｜tool▁call▁begin｜>" + 300 * "x",
    "Gemma's values": "<|tool_call>call:f{a:[[",
    "Gemma's quotes": '<|tool_call>call:f{a:<|"|>x',
    "code": "```tool_code f(a=[[['x",
    "parameters": "<function=get_time><parameter=city>x",
    "tags": "<tool_call><function=f><parameter=a>1</parameter>",
    "python tags": "<|python_tag|>x",
    "whole calls": '<tool_call>{"name":"f","arguments":{}}</tool_call>',
}


def work(format: str, text: str, size: int) -> int:
    """Characters looked at while a text is read in pieces of a size."""
    parser = Parser(format, tools=TOOLS[:5])
    for start in range(0, len(text), size):
        parser.feed(text[start : start + size])
    parser.finish()
    return parser.work


def calls(format: str, text: str, size: int) -> int:
    """Calls of functions, Python's and C's, while a text is read."""
    count = 0

    def profile(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(profile)
    try:
        work(format, text, size)
    finally:
        sys.setprofile(None)
    return count


GRAMMARS = [name for name in FORMATS if name not in ("", "mistral")]  # these two are others' twins


@pytest.mark.parametrize("format", GRAMMARS)
def test_a_hostile_text_is_looked_at_in_proportion_to_its_length(format):
    for name, unit in HOSTILE.items():
        text = unit * (1500 // len(unit) + 4)
        for size in (1, 1 << 30):
            once = work(format, text, size)
            assert once <= 40 * len(text), name
            assert work(format, 2 * text, size) <= 2.2 * once + 100, name


@pytest.mark.parametrize("format", GRAMMARS)
def test_a_hostile_text_takes_calls_in_proportion_to_its_length(format):
    for name, unit in HOSTILE.items():
        text = unit * (200 // len(unit) + 1)
        for size in (1, 1 << 30):
            assert calls(format, 2 * text, size) <= 2.2 * calls(format, text, size) + 200, name


@pytest.mark.parametrize("format", FORMATS)
def test_a_million_less_than_signs_are_looked_at_a_few_times_each(format):
    parser = Parser(format, tools=TOOLS[:5])
    parser.feed("<" * 1_000_000)
    parser.finish()
    assert len(parser.message.content) == 1_000_000
    assert parser.work < 6_000_000


# -- JSON in pieces -----------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
ALPHABET = '{}[]:,"\\ \n019-+.eEtruefalsnN/bu\x01é'


def accepts(text: str) -> bool:
    try:
        json.loads(text, parse_constant=int)  # NaN and Infinity are no JSON: int() refuses them
    except ValueError:
        return False
    return True


@settings(max_examples=100, deadline=None)
@given(
    value=VALUES, spaces=st.sampled_from([None, 1]), place=st.integers(0, 200), char=st.sampled_from(ALPHABET)
)
def test_what_json_loads_takes_is_json_and_nothing_else(value, spaces, place, char):
    text = json.dumps(value, indent=spaces)
    assert is_json(text)
    damaged = text[: place % (len(text) + 1)] + char + text[place % (len(text) + 1) + place % 2 :]
    assert is_json(damaged) == accepts(damaged)


@given(text=st.text(ALPHABET, max_size=12))
def test_random_characters_are_json_when_json_loads_takes_them(text):
    assert is_json(text) == accepts(text)


@given(value=VALUES.map(lambda value: [value]), places=st.lists(st.integers(0, 500), max_size=5))
def test_a_value_ends_at_the_same_place_in_any_pieces(value, places):
    text = json.dumps(value)
    machine, taken = JsonText(), 0
    for piece in cut(text + "]tail", places):
        taken += machine.feed(piece, 0)
    assert machine.is_whole
    assert taken == len(text)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ('{"a": ' * (MAX_DEPTH + 1), f"JSON is nested deeper than {MAX_DEPTH}"),
        ('{"a": ' + "9" * 500 + "}", "a number in JSON has more than 400 characters"),
        ('{"a": NaN}', "'NaN' is no JSON value"),
        ('{"a": "\n"}', "'\\n' came in a JSON string"),
        ('{"a": "\\x"}', "'x' came in an escape of a JSON string"),
        ('{"a": 1', "it is cut off"),
    ],
)
def test_what_is_wrong_with_arguments_is_said(arguments, fault):
    message, faults, _ = read("hermes", [f'<tool_call>{{"name": "f", "arguments": {arguments}'])
    assert faults == [f"tool call 0: {fault}"]
    assert not message.tool_calls
