"""Model outputs and what they mean, as llama.cpp's tests of chat formats have them, in any pieces.

The outputs and meanings are facts of the formats, taken from tests/test-chat.cpp of llama.cpp (MIT); white
space that its tests do not compare is as agentix.chat gives it.
"""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chat_harness import TOOLS, Case, check, cut, hermes, xml

from agentix.chat import Parser, ToolCall

qwen, qwen_2 = partial(Case, "qwen-xml"), partial(Case, "hermes")
mistral, gemma = partial(Case, "mistral-args"), partial(Case, "gemma4")
gpt_oss, deepseek = partial(Case, "harmony"), partial(Case, "deepseek")

HELLO = "Hello, world!\nWhat's up?"
THOUGHT = "I'm\nthinking"
SPECIAL = ("special_function", {"arg1": 1})
OPTIONAL = ("special_function_with_opt", {"arg1": 1, "arg2": 2})
SPECIAL_XML = xml("special_function", arg1="1")
OPTIONAL_XML = xml("special_function_with_opt", arg1="1", arg2="2")
SPECIAL_JSON = hermes("special_function", '{"arg1": 1}')
OPTIONAL_JSON = hermes("special_function_with_opt", '{"arg1": 1, "arg2": 2}')
PWD_XML = xml("run_in_terminal", command="pwd")
PWD = ("run_in_terminal", {"command": "pwd"})
CODE = 'def hello():\n    print("Hello, world!")\n\nhello()'
PAGE = "<html>\n <head>\n  <title>Hello!</title>\n </head>\n</html>"
TODOS = '[{"item": "Check stuff", "selected": false}, {"item": "Prepare stuff", "selected": true}]'
TODO_LIST = [{"item": "Check stuff", "selected": False}, {"item": "Prepare stuff", "selected": True}]
INVOICE = '{"amount": 123.45, "date": "2025-12-03"}'
INVOICE_THOUGHT = "I need to output the invoice details in JSON"
WHILE = "Let me inspect the current directory."

QWEN_XML = {
    # Qwen 3.5, Nemotron 3
    "content": qwen(HELLO, HELLO),
    "reasoning": qwen(f"{THOUGHT}\n</think>\n\n{HELLO}", HELLO, THOUGHT, opens=True),
    "one line after reasoning": qwen(f"{THOUGHT}\n</think>\n{HELLO}", HELLO, THOUGHT, opens=True),
    "call": qwen(SPECIAL_XML, calls=[SPECIAL]),
    "call and line end": qwen(SPECIAL_XML + "\n", calls=[SPECIAL]),
    "reasoning, call": qwen(f"{THOUGHT}\n</think>\n\n{SPECIAL_XML}", "", THOUGHT, [SPECIAL], True),
    "two calls": qwen(f"{SPECIAL_XML}\n{OPTIONAL_XML}", calls=[SPECIAL, OPTIONAL]),
    "code": qwen(xml("python", code=CODE), calls=[("python", {"code": CODE})]),
    "edit": qwen(
        xml("edit", filename="foo.c", oldString="#iclunde", newString="#include"),
        calls=[("edit", {"filename": "foo.c", "oldString": "#iclunde", "newString": "#include"})],
    ),
    "value ends in a line end": qwen(
        xml("edit", newString="#include\n"), calls=[("edit", {"newString": "#include\n"})]
    ),
    "value begins with spaces": qwen(
        xml("python", code="    print(1)"), calls=[("python", {"code": "    print(1)"})]
    ),
    "JSON answer": qwen(f"{INVOICE_THOUGHT}\n</think>\n\n{INVOICE}", INVOICE, INVOICE_THOUGHT, opens=True),
    "call ends the prompt's reasoning": qwen(PWD_XML, calls=[PWD], opens=True),
    "call ends reasoning": qwen(f"Need to inspect.\n{PWD_XML}", "", "Need to inspect.", [PWD], opens=True),
    "no arguments": qwen(xml("empty_args"), calls=[("empty_args", {})]),
    "no reasoning": qwen(f"</think>\n\n{SPECIAL_XML}", calls=[SPECIAL], opens=True),
    "no reasoning, content, call": qwen(f"</think>\n\n{WHILE}\n{PWD_XML}", WHILE, calls=[PWD], opens=True),
    "reasoning, content, call": qwen(
        f"I should.\n</think>\n\n{WHILE}\n{PWD_XML}", WHILE, "I should.", [PWD], True
    ),
    # Qwen 3 Coder
    "no opening tag": qwen(SPECIAL_XML.removeprefix("<tool_call>\n"), calls=[SPECIAL]),
    "content, no opening tag": qwen(
        f"Let me call it.\n{SPECIAL_XML.removeprefix('<tool_call>')}", "Let me call it.", calls=[SPECIAL]
    ),
    "no opening tag, two calls": qwen(
        f"{SPECIAL_XML.removeprefix('<tool_call>')}\n{OPTIONAL_XML}", calls=[SPECIAL, OPTIONAL]
    ),
    "Chinese": qwen(xml("python", code="格"), calls=[("python", {"code": "格"})]),
    "HTML": qwen(xml("html", markup=PAGE), calls=[("html", {"markup": PAGE})]),
    "list": qwen(xml("todo_list", todos=TODOS), calls=[("todo_list", {"todos": TODO_LIST})]),
    "any order": qwen(
        xml("edit", newString="#include", filename="foo.c", oldString="#iclunde"),
        calls=[("edit", {"newString": "#include", "filename": "foo.c", "oldString": "#iclunde"})],
    ),
    "required and optional": qwen(
        xml("options", req2="42", req1="hello", opt2="200"),
        calls=[("options", {"req2": 42, "req1": "hello", "opt2": 200})],
    ),
    "optional in reverse": qwen(
        xml("options", req1="hello", req2="42", opt4="100", opt2="200"),
        calls=[("options", {"req1": "hello", "req2": 42, "opt4": 100, "opt2": 200})],
    ),
    "optional texts in reverse": qwen(
        xml("options", req1="world", req2="7", opt5="last", opt3="middle", opt1="first"),
        calls=[("options", {"req1": "world", "req2": 7, "opt5": "last", "opt3": "middle", "opt1": "first"})],
    ),
    "optional shuffled": qwen(
        xml("options", req1="test", req2="99", opt3="c", opt1="a", opt5="e", opt4="4", opt2="2"),
        calls=[
            (
                "options",
                {"req1": "test", "req2": 99, "opt3": "c", "opt1": "a", "opt5": "e", "opt4": 4, "opt2": 2},
            )
        ],
    ),
    "text or null": qwen(
        xml("set_nullable_str", name="hello world"), calls=[("set_nullable_str", {"name": "hello world"})]
    ),
    "null": qwen(xml("set_nullable_str", name="null"), calls=[("set_nullable_str", {"name": None})]),
    "integer or null": qwen(xml("set_nullable_int", count="42"), calls=[("set_nullable_int", {"count": 42})]),
    "unions": qwen(
        xml("set_union", value='{"a": 1}', amount="2 dollars"),
        calls=[("set_union", {"value": {"a": 1}, "amount": "2 dollars"})],
    ),
    "unions, no JSON": qwen(
        xml("set_union", value="{not valid json", amount="42"),
        calls=[("set_union", {"value": "{not valid json", "amount": 42})],
    ),
    "enumeration": qwen(xml("set_unit", unit="celsius"), calls=[("set_unit", {"unit": "celsius"})]),
    # StepFun 3.5
    "digits that are text": qwen(
        f"Magic.\n</think>\n{xml('magic', name='fooBar', ref='5123123')}",
        reasoning="Magic.",
        calls=[("magic", {"name": "fooBar", "ref": "5123123"})],
        opens=True,
    ),
    "digits that are a number": qwen(
        xml("magic_int", ref="42555916", name="baz"), calls=[("magic_int", {"ref": 42555916, "name": "baz"})]
    ),
    "empty text": qwen(xml("string_param", text=""), calls=[("string_param", {"text": ""})]),
    "quotes": qwen(
        xml("quoted_unquoted", quoted='"foo"', unquoted="foo"),
        calls=[("quoted_unquoted", {"quoted": '"foo"', "unquoted": "foo"})],
    ),
    "quotes and backslashes": qwen(
        xml("quoted_unquoted", quoted='"printf(\\"foo\\");"', unquoted='printf("foo");'),
        calls=[("quoted_unquoted", {"quoted": '"printf(\\"foo\\");"', "unquoted": 'printf("foo");'})],
    ),
    "negative number": qwen(xml("magic_int", ref="-14"), calls=[("magic_int", {"ref": -14})]),
    "decimal number": qwen(xml("amount", orig="3.14"), calls=[("amount", {"orig": 3.14})]),
    "object": qwen(
        xml("imaginary_number", number='{ "real": 3.14, "imaginary": 2.71 }'),
        calls=[("imaginary_number", {"number": {"real": 3.14, "imaginary": 2.71}})],
    ),
}

HERMES = {
    # Hermes 2 and 3, Qwen 2.5, QwQ, MiMo, Granite 4, Reka
    "content": qwen_2(HELLO, HELLO),
    "call": qwen_2(SPECIAL_JSON, calls=[SPECIAL]),
    "no line end": qwen_2(SPECIAL_JSON.replace("}}\n", "}}"), calls=[SPECIAL]),
    "content, call": qwen_2(f"{HELLO}{SPECIAL_JSON}", HELLO, calls=[SPECIAL]),
    "content, line end, call": qwen_2(f"{HELLO}\n{SPECIAL_JSON}", HELLO, calls=[SPECIAL]),
    "two calls": qwen_2(f"{SPECIAL_JSON}\n{OPTIONAL_JSON}", calls=[SPECIAL, OPTIONAL]),
    "reasoning": qwen_2("Let me think...\n</think>\nIt is 42.", "It is 42.", "Let me think...", opens=True),
    "no reasoning": qwen_2("</think>Hello, world!", "Hello, world!", opens=True),
    "reasoning, call": qwen_2(f"{THOUGHT}\n</think>\n\n{SPECIAL_JSON}", "", THOUGHT, [SPECIAL], True),
    "cut off": qwen_2(
        '<tool_call>\n{"name": "special_function", "arguments": {"arg',
        '<tool_call>\n{"name": "special_function", "arguments": {"arg',
        faults=1,
    ),
}

HERMES |= {
    "two calls, no line ends": qwen_2(
        SPECIAL_JSON.replace("}}\n", "}}") + OPTIONAL_JSON.replace("}}\n", "}}"), calls=[SPECIAL, OPTIONAL]
    ),
    "text": qwen_2(hermes("get_time", '{"city": "XYZCITY"}'), calls=[("get_time", {"city": "XYZCITY"})]),
    "no arguments": qwen_2(hermes("empty_args"), calls=[("empty_args", {})]),
    "reasoning, content, call": qwen_2(
        f"I must call.\n</think>\n\n{WHILE}{SPECIAL_JSON}", WHILE, "I must call.", [SPECIAL], True
    ),
    "call in reasoning": qwen_2(
        f"Think about {OPTIONAL_JSON} hmm\n</think>\n\n{SPECIAL_JSON}",
        "",
        f"Think about {OPTIONAL_JSON} hmm",
        [SPECIAL],
        True,
    ),
}

MISTRAL = {
    "content": Case("mistral", HELLO, HELLO),
    "list": Case(
        "mistral",
        '[TOOL_CALLS][{"name": "special_function", "arguments": {"arg1": 1}, "id": "123456789"}]',
        calls=[(*SPECIAL, "123456789")],
    ),
    "name": mistral('[TOOL_CALLS]special_function[ARGS]{"arg1":1}', calls=[SPECIAL]),
    "content, name": mistral(
        f'{HELLO}[TOOL_CALLS]special_function[ARGS]{{"arg1": 1}}', HELLO, calls=[SPECIAL]
    ),
    "reasoning": mistral(f"[THINK]{THOUGHT}[/THINK]{HELLO}", HELLO, THOUGHT),
    "reasoning, name": mistral(
        f'[THINK]{THOUGHT}[/THINK][TOOL_CALLS]special_function[ARGS]{{"arg1":1}}', "", THOUGHT, [SPECIAL]
    ),
    "two names": mistral(
        '[TOOL_CALLS]special_function[ARGS]{"arg1": 1}'
        '[TOOL_CALLS]special_function_with_opt[ARGS]{"arg1": 1, "arg2": 2}',
        calls=[SPECIAL, OPTIONAL],
    ),
    "call in reasoning": mistral(
        '[THINK]Think about [TOOL_CALLS]special_function[ARGS]{"arg1":1} and more[/THINK]'
        '[TOOL_CALLS]special_function[ARGS]{"arg1": 1}',
        "",
        'Think about [TOOL_CALLS]special_function[ARGS]{"arg1":1} and more',
        [SPECIAL],
    ),
    "ids": mistral(
        '[TOOL_CALLS]special_function[CALL_ID]000000001[ARGS]{"arg1": 1}'
        '[TOOL_CALLS]special_function_with_opt[CALL_ID]000000002[ARGS]{"arg1": 1, "arg2": 2}',
        calls=[(*SPECIAL, "000000001"), (*OPTIONAL, "000000002")],
    ),
}


def gemma4(name: str, arguments: str = "") -> str:
    return f"<|tool_call>call:{name}{{{arguments}}}<tool_call|>"


PARIS = gemma4("get_time", 'city:<|"|>Paris<|"|>')
PARIS_CALL = ("get_time", {"city": "Paris"})
GEMMA = {
    "content": Case("gemma", "Line 1\nLine 2\nLine 3", "Line 1\nLine 2\nLine 3"),
    "reasoning": gemma(f"<|channel>thought\n{THOUGHT}<channel|>{HELLO}", HELLO, THOUGHT),
    "empty reasoning": gemma(f"<|channel>thought<channel|>{HELLO}", HELLO),
    "text": gemma(PARIS, calls=[PARIS_CALL]),
    "text with a space": gemma(
        gemma4("get_time", 'city:<|"|>San Francisco<|"|>'), calls=[("get_time", {"city": "San Francisco"})]
    ),
    "no arguments": gemma(gemma4("empty_args"), calls=[("empty_args", {})]),
    "content, call": gemma(HELLO + PARIS, HELLO, calls=[PARIS_CALL]),
    "reasoning, call": gemma(f"<|channel>thought\n{THOUGHT}<channel|>{PARIS}", "", THOUGHT, [PARIS_CALL]),
    "two calls": gemma(
        PARIS + gemma4("get_weather", 'city:<|"|>Paris<|"|>'),
        calls=[PARIS_CALL, ("get_weather", {"city": "Paris"})],
    ),
    "integer": gemma(gemma4("special_function", "arg1:42"), calls=[("special_function", {"arg1": 42})]),
    "negative": gemma(gemma4("special_function", "arg1:-7"), calls=[("special_function", {"arg1": -7})]),
    "decimal": gemma(gemma4("amount", "orig:3.14"), calls=[("amount", {"orig": 3.14})]),
    "true": gemma(gemma4("toggle", "enabled:true"), calls=[("toggle", {"enabled": True})]),
    "false": gemma(gemma4("toggle", "enabled:false"), calls=[("toggle", {"enabled": False})]),
    "null": gemma(gemma4("set_nullable", "value:null"), calls=[("set_nullable", {"value": None})]),
    "list": gemma(
        gemma4("todo_list", 'todos:[<|"|>buy milk<|"|>,<|"|>walk dog<|"|>]'),
        calls=[("todo_list", {"todos": ["buy milk", "walk dog"]})],
    ),
    "object": gemma(
        gemma4("set_config", 'config:{theme:<|"|>dark<|"|>,count:3}'),
        calls=[("set_config", {"config": {"theme": "dark", "count": 3}})],
    ),
    "empty list": gemma(gemma4("todo_list", "todos:[]"), calls=[("todo_list", {"todos": []})]),
    "empty object": gemma(gemma4("set_config", "config:{}"), calls=[("set_config", {"config": {}})]),
    "exponent": gemma(gemma4("amount", "orig:1.5e10"), calls=[("amount", {"orig": 1.5e10})]),
    "closed twice": gemma(f"<|channel>thought\n<channel|>{HELLO}<channel|>", HELLO),
    "thought at the end": gemma(f"<|channel>thought\n<channel|>{HELLO}<|channel>thought\n<channel|>", HELLO),
    "thought at the end closed twice": gemma(
        f"<|channel>thought\n<channel|>{HELLO}<|channel>thought\n<channel|><channel|>", HELLO
    ),
    "opened twice": gemma(f"<|channel><|channel>thought\n<channel|>{HELLO}", HELLO),
}

ANALYSIS = f"<|channel|>analysis<|message|>{THOUGHT}<|end|>"
FINAL = f"<|channel|>final<|message|>{HELLO}"
ARGUMENTS = '{"arg1": 1}'
HARMONY = {
    "final": gpt_oss(FINAL, HELLO),
    "commentary": gpt_oss(f"<|channel|>commentary<|message|>{HELLO}", HELLO),
    "analysis, final": gpt_oss(f"{ANALYSIS}<|start|>assistant{FINAL}", HELLO, THOUGHT),
    "analysis": gpt_oss(ANALYSIS.removesuffix("<|end|>"), "", THOUGHT),
    "recipient in role": gpt_oss(
        f" to=functions.special_function<|channel|>analysis<|message|>{ARGUMENTS}", calls=[SPECIAL]
    ),
    "recipient in channel": gpt_oss(
        f"<|channel|>analysis to=functions.special_function<|message|>{ARGUMENTS}", calls=[SPECIAL]
    ),
    "constraint": gpt_oss(
        f" to=functions.special_function<|channel|>analysis <|constrain|>json<|message|>{ARGUMENTS}",
        calls=[SPECIAL],
    ),
    "commentary call": gpt_oss(
        f"<|channel|>commentary to=functions.special_function<|message|>{ARGUMENTS}", calls=[SPECIAL]
    ),
    "analysis, call": gpt_oss(
        f"{ANALYSIS}<|start|>assistant to=functions.special_function<|channel|>analysis"
        f"<|message|>{ARGUMENTS}",
        "",
        THOUGHT,
        [SPECIAL],
    ),
    "less-than signs": gpt_oss(
        f"{ANALYSIS}<|start|>assistant<|channel|>commentary to=functions.edit <|constrain|>json<|message|>"
        '{"oldString": "if (part < railCount - 1) {", "newString": "if (part < 4) {", "replaceAll": false}',
        "",
        THOUGHT,
        [
            (
                "edit",
                {
                    "oldString": "if (part < railCount - 1) {",
                    "newString": "if (part < 4) {",
                    "replaceAll": False,
                },
            )
        ],
    ),
    "JSON answer": gpt_oss(
        f"{ANALYSIS}<|start|>assistant<|channel|>final <|constrain|>json<|message|>{INVOICE}",
        INVOICE,
        THOUGHT,
    ),
    "to assistant before analysis": gpt_oss(
        f"<|channel|>commentary to=assistant{ANALYSIS}<|start|>assistant{FINAL}", HELLO, THOUGHT
    ),
    "to assistant before final": gpt_oss(
        f"{ANALYSIS}<|start|>assistant<|channel|>commentary to=assistant{FINAL}", HELLO, THOUGHT
    ),
}

CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, SEPARATOR, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
TOKYO = f'{CALL}get_time{SEPARATOR}{{"city": "Tokyo"}}{CALL_END}'
WEATHER = f'{CALL}get_weather{SEPARATOR}{{"city": "Tokyo"}}{CALL_END}'
R1 = f"{CALLS}{CALL}function{SEPARATOR}special_function\n```json\n{ARGUMENTS}```{CALL_END}{CALLS_END}"
TOKYO_CALL, WEATHER_CALL = ("get_time", {"city": "Tokyo"}), ("get_weather", {"city": "Tokyo"})
DEEPSEEK = {
    # V3.1
    "content": deepseek("CONTENT", "CONTENT"),
    "call": deepseek(f"{CALLS}{TOKYO}{CALLS_END}", calls=[TOKYO_CALL]),
    "reasoning, call": deepseek(f"R</think>{CALLS}{TOKYO}{CALLS_END}", "", "R", [TOKYO_CALL], True),
    "all": deepseek(
        f"R</think>C{CALLS}{TOKYO}{WEATHER}{CALLS_END}", "C", "R", [TOKYO_CALL, WEATHER_CALL], True
    ),
    "reasoning, line end": deepseek("REASONING</think>\nCONTENT", "CONTENT", "REASONING", opens=True),
    # R1 and its distilled models
    "no reasoning": deepseek(f"</think>{HELLO}", HELLO, opens=True),
    "reasoning": deepseek(f"{THOUGHT}</think>{HELLO}", HELLO, THOUGHT, opens=True),
    "fence": deepseek(f"</think>{R1}", calls=[SPECIAL], opens=True),
    "fence alone": deepseek(R1, calls=[SPECIAL]),
}

LLAMA = {"content": Case("llama3", HELLO, HELLO)}

FAMILIES = {
    "qwen-xml": QWEN_XML, "hermes": HERMES, "mistral": MISTRAL, "gemma": GEMMA, "harmony": HARMONY,
    "deepseek": DEEPSEEK, "llama": LLAMA,
}  # fmt: skip
CASES = {f"{family}: {name}": case for family, cases in FAMILIES.items() for name, case in cases.items()}


def test_there_are_enough_of_them():
    assert len(CASES) >= 60


@pytest.mark.parametrize(("end", "arguments"), [('{"arg', '{"arg'), ('{"arg1":', '{"arg1":')])
def test_a_call_that_is_under_way_shows_its_arguments_so_far(end, arguments):
    parser = Parser("hermes", tools=TOOLS)
    parser.feed(f'<tool_call>\n{{"name": "special_function", "arguments": {end}')
    assert parser.message.tool_calls == (ToolCall("call00000", "special_function", arguments),)


@pytest.mark.parametrize("name", CASES)
def test_an_output_means_the_same_whole_and_character_by_character(name):
    case = CASES[name]
    check(case, [case.text])
    check(case, case.text)


@settings(max_examples=20, deadline=None)
@given(places=st.lists(st.integers(0, 1 << 16), max_size=12))
def test_every_output_means_the_same_however_it_is_cut(places):
    for name, case in CASES.items():
        try:
            check(case, cut(case.text, places))
        except AssertionError as error:
            error.add_note(name)
            raise
