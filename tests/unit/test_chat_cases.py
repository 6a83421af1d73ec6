"""More outputs than llama.cpp's tests have: other spellings, malformed calls, no tools, text about marks."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chat_facts import (
    ANALYSIS,
    ARGUMENTS,
    CALL,
    CALLS,
    FINAL,
    HELLO,
    R1,
    SEPARATOR,
    SPECIAL,
    THOUGHT,
)
from test_chat_harness import Case, check, cut, hermes, read, xml

CALL_OF_TIME = '{"name": "get_time", "arguments": {"city": "Rome"}}'
LLAMA_CALL = CALL_OF_TIME.replace("arguments", "parameters")
TIME = ("get_time", {"city": "Rome"})
WEATHER = ("get_weather", {"city": "Rome"})
BROKEN = '<tool_call>{"name": "get_time", "arguments": {city: 1}}</tool_call>'
TO_TIME = "<|channel|>commentary to=functions.get_time"

OWN = {
    # llama3
    "llama3: call": Case("llama3", LLAMA_CALL, calls=[TIME]),
    "llama3: space around": Case("llama3", f"\n {LLAMA_CALL}\n", calls=[TIME]),
    "llama3: type first": Case("llama3", LLAMA_CALL.replace("{", '{"type": "function", ', 1), calls=[TIME]),
    "llama3: arguments first": Case(
        "llama3", '{"parameters": {"city": "Rome"}, "name": "get_time"}', calls=[TIME]
    ),
    "llama3: function for name": Case(
        "llama3", '{"function": "get_time", "parameters": {"city": "Rome"}}', calls=[TIME]
    ),
    "llama3: nested": Case(
        "llama3",
        '{"type": "function", "function": {"name": "get_time", "arguments": {"city": "Rome"}}}',
        calls=[TIME],
    ),
    "llama3: semicolon": Case(
        "llama3", f"{LLAMA_CALL}; {LLAMA_CALL.replace('time', 'weather')}", calls=[TIME, WEATHER]
    ),
    "llama3: tag, call": Case("llama3", f"<|python_tag|>{LLAMA_CALL}<|eom_id|>", calls=[TIME]),
    "llama3: content, tag, call": Case("llama3", f"Wait.\n<|python_tag|>{LLAMA_CALL}", "Wait.", calls=[TIME]),
    "llama3: built-in form": Case(
        "llama3",
        '<|python_tag|>get_time.call(city="Rome", at=[1, "2"])',
        calls=[("get_time", TIME[1] | {"at": [1, "2"]})],
    ),
    "llama3: code": Case(
        "llama3",
        '<|python_tag|>print("x")\nprint(2)<|eom_id|>',
        calls=[("python", {"code": 'print("x")\nprint(2)'})],
    ),
    "llama3: code, no interpreter": Case(
        "llama3",
        "<|python_tag|>print(1)",
        "<|python_tag|>print(1)",
        tools=[{"function": {"name": "f"}}],
        faults=1,
    ),
    "llama3: other JSON": Case(
        "llama3", '{"answer": {"name": "get_time"}}', '{"answer": {"name": "get_time"}}'
    ),
    "llama3: other name": Case("llama3", '{"name": "Ann", "age": 3}', '{"name": "Ann", "age": 3}'),
    "llama3: tool's name alone": Case("llama3", '{"name": "get_time"}', '{"name": "get_time"}'),
    "llama3: no JSON": Case("llama3", "{x} is a set", "{x} is a set"),
    "llama3: text first": Case("llama3", f"See: {LLAMA_CALL}", f"See: {LLAMA_CALL}"),
    "llama3: breaks late": Case("llama3", LLAMA_CALL[:-2] + "]", LLAMA_CALL[:-2] + "]", faults=1),
    "llama3: no tools": Case("llama3", f"<|python_tag|>{LLAMA_CALL}<|eom_id|>", LLAMA_CALL, tools=None),
    # json
    "json: call": Case("json", CALL_OF_TIME, calls=[TIME]),
    "json: list": Case("json", f"[{CALL_OF_TIME}, {CALL_OF_TIME}]", calls=[TIME, TIME]),
    "json: fence": Case("json", f"```json\n[{CALL_OF_TIME}]\n```\n", calls=[TIME]),
    "json: fence of another": Case("json", '```json\n{"a": 1}\n```', '```json\n{"a": 1}\n```'),
    "json: lines": Case("json", f"{CALL_OF_TIME}\n{CALL_OF_TIME}", calls=[TIME, TIME]),
    "json: second breaks": Case("json", f"[{CALL_OF_TIME}, 7]", ", 7]", calls=[TIME]),
    "json: list of others": Case("json", "[1, 2]", "[1, 2]"),
    "json: no tools": Case("json", CALL_OF_TIME, CALL_OF_TIME, tools=None),
    "json: reasoning first": Case("json", f"hm</think>{CALL_OF_TIME}", "", "hm", [TIME], True),
    # hermes
    "hermes: keys in any order": Case(
        "hermes",
        '<tool_call>{"id": "a1", "arguments": {"city": "Rome"}, "name": "get_time"}</tool_call>',
        calls=[(*TIME, "a1")],
    ),
    "hermes: arguments in a string": Case(
        "hermes",
        '<tool_call>{"name": "get_time", "arguments": "{\\"city\\": \\"Rome\\"}"}</tool_call>',
        calls=[TIME],
    ),
    "hermes: arguments null": Case("hermes", hermes("empty_args", "null"), calls=[("empty_args", {})]),
    "hermes: no arguments": Case(
        "hermes", '<tool_call>{"name": "empty_args"}</tool_call>', calls=[("empty_args", {})]
    ),
    "hermes: unknown function": Case("hermes", hermes("not_there"), calls=[("not_there", {})]),
    "hermes: two in a tag": Case(
        "hermes", f"<tool_call>{CALL_OF_TIME}\n{CALL_OF_TIME}</tool_call>", calls=[TIME, TIME]
    ),
    "hermes: last tag missing": Case("hermes", f"<tool_call>{CALL_OF_TIME}", calls=[TIME]),
    "hermes: content after": Case(
        "hermes", f"A\n{hermes('empty_args')}\nB", "A\n\nB", calls=[("empty_args", {})]
    ),
    "hermes: space is kept": Case("hermes", " a\n\n b \n", " a\n\n b \n"),
    "hermes: own reasoning": Case("hermes", f"<think>\n{THOUGHT}\n</think>\n\n{HELLO}", HELLO, THOUGHT),
    "hermes: empty reasoning": Case("hermes", f"<think>\n\n</think>\n\n{HELLO}", HELLO),
    "hermes: opened again": Case("hermes", "<think>\nhm</think>x", "x", "hm", opens=True),
    "hermes: marks in a text": Case(
        "hermes", "It uses <think> and </think>.", "It uses <think> and </think>."
    ),
    "hermes: call in reasoning": Case(
        "hermes", f"<think>write {hermes('f')}</think>x", "x", f"write {hermes('f')}"
    ),
    "hermes: reasoning not closed": Case("hermes", "<think>hm", "", "hm"),
    "hermes: broken": Case("hermes", f"a {BROKEN} b", f"a {BROKEN} b", faults=1),
    "hermes: broken, whole": Case(
        "hermes", f"{BROKEN}\n{hermes('empty_args')}", BROKEN, calls=[("empty_args", {})], faults=1
    ),
    "hermes: whole, broken": Case(
        "hermes", f"{hermes('empty_args')}{BROKEN}", BROKEN, calls=[("empty_args", {})], faults=1
    ),
    "hermes: a brace too many": Case(
        "hermes", f"<tool_call>{CALL_OF_TIME}}}</tool_call>x", "}x", calls=[TIME], faults=1
    ),
    "hermes: list for arguments": Case("hermes", hermes("f", "[1]"), hermes("f", "[1]"), faults=1),
    "hermes: no name": Case("hermes", "<tool_call>{}</tool_call>", "<tool_call>{}</tool_call>", faults=1),
    "hermes: name with a space": Case("hermes", hermes("a b"), hermes("a b"), faults=1),
    "hermes: two names": Case(
        "hermes",
        '<tool_call>{"name": "a", "name": "b"}</tool_call>',
        '<tool_call>{"name": "a", "name": "b"}</tool_call>',
        faults=1,
    ),
    "hermes: half a pair": Case(
        "hermes",
        hermes("f", '"{\\"a\\": \\"\\ud800\\"}"'),
        hermes("f", '"{\\"a\\": \\"\\ud800\\"}"'),
        faults=1,
    ),
    "hermes: no tools": Case("hermes", BROKEN, BROKEN, tools=None),
    "hermes: marks cut off": Case("hermes", "a <tool_ca", "a <tool_ca"),
    # qwen-xml
    "qwen-xml: Python's constants": Case(
        "qwen-xml", xml("toggle", enabled="True"), calls=[("toggle", {"enabled": True})]
    ),
    "qwen-xml: on one line": Case(
        "qwen-xml",
        "<tool_call><function=get_time><parameter=city>Rome</parameter></function></tool_call>",
        calls=[TIME],
    ),
    "qwen-xml: two in a tag": Case(
        "qwen-xml",
        f"<tool_call>{2 * '<function=empty_args></function>'}</tool_call>",
        calls=2 * [("empty_args", {})],
    ),
    "qwen-xml: unknown parameter": Case(
        "qwen-xml", xml("f", a="1", b="x"), calls=[("f", {"a": 1, "b": "x"})]
    ),
    "qwen-xml: not a number": Case(
        "qwen-xml", xml("amount", orig="a lot"), calls=[("amount", {"orig": "a lot"})]
    ),
    "qwen-xml: tag in a text": Case("qwen-xml", "write <function=f> so", "write <function=f> so"),
    "qwen-xml: cut off": Case(
        "qwen-xml", "<tool_call>\n<function=f>\n<par", "<tool_call>\n<function=f>\n<par", faults=1
    ),
    "qwen-xml: broken in reasoning": Case(
        "qwen-xml", "a <tool_call> b</think>c", "c", "a <tool_call> b", opens=True, faults=1
    ),
    "qwen-xml: closed after a call": Case(
        "qwen-xml", f"hm {xml('empty_args')}</think>x", "x", "hm", [("empty_args", {})], True
    ),
    # mistral
    "mistral: two in a list": Case(
        "mistral", f"[TOOL_CALLS] [{CALL_OF_TIME}, {CALL_OF_TIME}]", calls=[TIME, TIME]
    ),
    "mistral: no mark for arguments": Case(
        "mistral-args", '[TOOL_CALLS]get_time{"city": "Rome"}', calls=[TIME]
    ),
    "mistral: broken": Case(
        "mistral-args", "[TOOL_CALLS]get_time[ARGS]Rome", "[TOOL_CALLS]get_time[ARGS]Rome", faults=1
    ),
    "mistral: no tools": Case("mistral-args", "[TOOL_CALLS]get_time[ARGS]{}", "get_time{}", tools=None),
    "mistral: second breaks": Case(
        "mistral", f"[TOOL_CALLS][{CALL_OF_TIME}, {{]", ", {]", calls=[TIME], faults=1
    ),
    # gemma
    "gemma: code": Case("gemma", "Now:\n```tool_code\nget_time(city='Rome')\n```", "Now:", calls=[TIME]),
    "gemma: two lines of code": Case(
        "gemma", "```tool_code\nget_time(city='Rome')\nget_weather(city=\"Rome\")\n```", calls=[TIME, WEATHER]
    ),
    "gemma: list of code": Case(
        "gemma", "```tool_code\n[get_time(city='Rome',), empty_args()]\n```", calls=[TIME, ("empty_args", {})]
    ),
    "gemma: literals": Case(
        "gemma",
        "```tool_code\nf(a=[1, (2.5, None)], b={'k': True, 'l': 'a\\n\\x41\\'\"'}, c=-1)\n```",
        calls=[("f", {"a": [1, [2.5, None]], "b": {"k": True, "l": "a\nA'\""}, "c": -1})],
    ),
    "gemma: nested call": Case(
        "gemma", "```tool_code\nprint(f(a=1))\n```", "```tool_code\nprint(f(a=1))\n```", faults=1
    ),
    "gemma: JSON": Case("gemma", LLAMA_CALL, calls=[TIME]),
    "gemma: fence": Case("gemma", f"```json\n{LLAMA_CALL}\n```", calls=[TIME]),
    "gemma: no tools": Case("gemma", "```tool_code\nf()\n```", "```tool_code\nf()\n```", tools=None),
    "gemma4: text with marks of JSON": Case(
        "gemma4",
        '<|tool_call>call:f{a:<|"|>}"{\\<|"|>,b:{c:[[],{}]}}<tool_call|>',
        calls=[("f", {"a": '}"{\\', "b": {"c": [[], {}]}})],
    ),
    "gemma4: broken": Case(
        "gemma4", "<|tool_call>call:f{a:b}<tool_call|>", "<|tool_call>call:f{a:b}", faults=1
    ),
    "gemma4: no tools": Case(
        "gemma4", '<|tool_call>call:f{a:<|"|>x<|"|>}<tool_call|>', "call:f{a:x}", tools=None
    ),
    # harmony
    "harmony: no header": Case("harmony", HELLO, HELLO),
    "harmony: call ends": Case("harmony", f"{TO_TIME}<|message|>{{}}<|call|>", calls=[("get_time", {})]),
    "harmony: empty arguments": Case("harmony", f"{TO_TIME}<|message|><|call|>", calls=[("get_time", {})]),
    "harmony: preamble, call": Case(
        "harmony",
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
        f'{TO_TIME}<|message|>{{"city": "Rome"}}',
        "I look.",
        calls=[TIME],
    ),
    "harmony: two thoughts": Case(
        "harmony",
        f"{ANALYSIS}<|start|>assistant{ANALYSIS}<|start|>assistant{FINAL}",
        HELLO,
        f"{THOUGHT}\n{THOUGHT}",
    ),
    "harmony: two contents": Case("harmony", f"{FINAL}<|end|><|start|>assistant{FINAL}", f"{HELLO}\n{HELLO}"),
    "harmony: no end": Case("harmony", f"{ANALYSIS.removesuffix('<|end|>')}{FINAL}", HELLO, THOUGHT),
    "harmony: opened": Case(
        "harmony", f"{THOUGHT}<|end|><|start|>assistant{FINAL}", HELLO, THOUGHT, opens=True
    ),
    "harmony: broken": Case("harmony", f"{TO_TIME}<|message|>Rome", f"{TO_TIME}<|message|>Rome", faults=1),
    "harmony: cut off": Case("harmony", f'{TO_TIME}<|message|>{{"c', f'{TO_TIME}<|message|>{{"c', faults=1),
    "harmony: body cut off": Case("harmony", f"{TO_TIME}<|message|>", f"{TO_TIME}<|message|>", faults=1),
    "harmony: no function": Case(
        "harmony",
        "<|channel|>analysis to=python<|message|>1<|call|>",
        "<|channel|>analysis to=python<|message|>1",
        faults=1,
    ),
    "harmony: no tools": Case("harmony", f"{TO_TIME}<|message|>{ARGUMENTS}<|call|>", ARGUMENTS, tools=None),
    "harmony: header without end": Case(
        "harmony", "<|start|>" + 600 * "x", "<|start|>" + 600 * "x", faults=1
    ),
    # deepseek
    "deepseek: two fences": Case(
        "deepseek",
        R1.replace(CALLS, "").replace("<｜tool▁calls▁end｜>", "\n") + R1.replace(CALLS, ""),
        calls=[SPECIAL, SPECIAL],
    ),
    "deepseek: no outer marks": Case("deepseek", f"{CALL}get_time{SEPARATOR}{{}}", calls=[("get_time", {})]),
    "deepseek: broken": Case("deepseek", f"{CALLS}get_time", f"{CALLS}get_time", faults=1),
    "deepseek: no separator": Case("deepseek", f"{CALL}{400 * 'x'}", f"{CALL}{400 * 'x'}", faults=1),
    "deepseek: no tools": Case("deepseek", f"{CALLS}{CALL}f{SEPARATOR}{{}}", "f{}", tools=None),
    # others
    "think: reasoning": Case("think", f"<think>{THOUGHT}</think>{HELLO}", HELLO, THOUGHT),
    "think: calls are text": Case("think", hermes("f"), hermes("f")),
    "content: all is text": Case("content", f" <think>{hermes('f')} ", f" <think>{hermes('f')} "),
    "content: opened reasoning": Case("content", "hm</think>x", "x", "hm", opens=True),
    "no template: text": Case("", HELLO, HELLO),
}


@pytest.mark.parametrize("name", OWN)
def test_an_output_means_the_same_whole_and_character_by_character(name):
    case = OWN[name]
    check(case, [case.text])
    check(case, case.text)


@settings(max_examples=20, deadline=None)
@given(places=st.lists(st.integers(0, 1 << 16), max_size=12))
def test_every_output_means_the_same_however_it_is_cut(places):
    for name, case in OWN.items():
        try:
            check(case, cut(case.text, places))
        except AssertionError as error:
            error.add_note(name)
            raise


def test_arguments_are_the_very_text_that_the_model_wrote():
    arguments = '{ "arg1" :1.50 ,"x":"\\u00e9" }'
    call = read("hermes", [hermes("f", arguments)]).message.tool_calls[0]
    assert call.arguments == arguments


def test_text_of_a_parameter_becomes_valid_json_whatever_it_holds():
    value = 'a"b\\c\x01\t</para\u2028'
    (call,) = read("qwen-xml", xml("python", code=value)).message.tool_calls
    assert json.loads(call.arguments) == {"code": value}
