"""What the tests of agentix.chat share: tools, cases, reading a text in any pieces. And tests of these."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from agentix.chat import (
    CallArguments,
    CallDropped,
    CallStart,
    Content,
    Delta,
    Message,
    Parser,
    Reasoning,
    ToolCall,
)


def tool(name: str, /, **properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TEXT, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
MAYBE_TEXT = {"type": ["null", "string"]}
OPTIONS = {f"opt{number}": INTEGER if number in (2, 4) else TEXT for number in range(1, 6)}
TOOLS = [
    tool("special_function", arg1=INTEGER),
    tool("special_function_with_opt", arg1=INTEGER, arg2=INTEGER),
    tool("python", code=TEXT),
    tool("html", markup=TEXT),
    tool("get_time", city=TEXT),
    tool("get_weather", city=TEXT),
    tool("todo_list", todos={"type": "array"}),
    tool("edit", filename=TEXT, oldString=TEXT, newString=TEXT, replaceAll={"type": "boolean"}),
    tool("magic", name=TEXT, ref=TEXT),
    tool("magic_int", name=TEXT, ref=INTEGER),
    tool("string_param", text=TEXT),
    tool("quoted_unquoted", quoted=TEXT, unquoted=TEXT),
    tool("amount", orig=NUMBER),
    tool("imaginary_number", number={"type": "object"}),
    tool("toggle", enabled={"type": "boolean"}),
    tool("set_nullable", value={"type": "null"}),
    tool("set_nullable_str", name=MAYBE_TEXT),
    tool("set_nullable_int", count={"type": ["integer", "null"]}),
    tool("set_union", value={"type": ["string", "object"]}, amount={"anyOf": [TEXT, INTEGER]}),
    tool("set_unit", unit={"enum": ["celsius", "fahrenheit"]}),
    tool("set_config", config={"type": "object"}),
    tool("options", req1=TEXT, req2=INTEGER, **OPTIONS),
    tool("run_in_terminal", command=TEXT),
    tool("empty_args"),
]


class Case(NamedTuple):
    format: str
    text: str
    content: str = ""
    reasoning: str = ""
    calls: Sequence[tuple[Any, ...]] = ()  # (name, arguments) or (name, arguments, id)
    opens: bool = False
    tools: list[dict[str, Any]] | None = TOOLS
    faults: int = 0


class Read(NamedTuple):
    message: Message
    faults: list[str]
    deltas: list[Delta]


def read(format: str, pieces: Iterable[str], opens: bool = False, tools: Any = TOOLS) -> Read:
    """Feed pieces to a parser."""
    parser = Parser(format, opens_reasoning=opens, tools=tools)
    deltas = [delta for piece in pieces for delta in parser.feed(piece)]
    deltas += parser.finish()
    return Read(parser.message, parser.faults, deltas)


def put_together(deltas: Iterable[Delta]) -> Message:
    """The message that a reader of the deltas has at the end."""
    content = reasoning = ""
    calls: list[ToolCall] = []
    for delta in deltas:
        match delta:
            case Content(text):
                content += text
            case Reasoning(text):
                reasoning += text
            case CallStart(index, call_id, name):
                assert index == len(calls)
                calls.append(ToolCall(call_id, name, ""))
            case CallArguments(index, text):
                assert index == len(calls) - 1
                calls[-1] = ToolCall(calls[-1].id, calls[-1].name, calls[-1].arguments + text)
            case CallDropped(index):
                assert index == len(calls) - 1
                calls.pop()
    return Message(content, reasoning, tuple(calls))


def check(case: Case, pieces: Iterable[str]) -> None:
    """What came of the pieces is what the case says, in the message and in the deltas."""
    message, faults, deltas = read(case.format, pieces, case.opens, case.tools)
    assert put_together(deltas) == message
    assert (message.content, message.reasoning) == (case.content, case.reasoning)
    found = [(call.name, json.loads(call.arguments)) for call in message.tool_calls]
    assert found == [wanted[:2] for wanted in case.calls]
    for call, wanted in zip(message.tool_calls, case.calls, strict=True):
        assert wanted[2:] in ((), (call.id,))
    assert len({call.id for call in message.tool_calls}) == len(message.tool_calls)
    assert len(faults) == case.faults, faults


def cut(text: str, places: Iterable[int]) -> list[str]:
    """The text in pieces that begin at these places."""
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def xml(name: str, /, **parameters: str) -> str:
    """A call as Qwen 3 Coder writes it."""
    lines = [f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters.items()]
    return f"<tool_call>\n<function={name}>\n{''.join(lines)}</function>\n</tool_call>"


def hermes(name: str, arguments: str = "{}") -> str:
    """A call as Hermes and Qwen write it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def test_cut_pieces_are_the_text():
    assert cut("abcdef", [4, 2, 2]) == ["ab", "", "cd", "ef"]
    assert "".join(cut("abc", [7, 100])) == "abc"


def test_what_is_put_together_forgets_dropped_calls():
    deltas = [
        CallStart(0, "a", "f"),
        CallArguments(0, "{"),
        CallDropped(0),
        Content("x"),
        CallStart(0, "b", "g"),
    ]
    assert put_together(deltas) == Message("x", "", (ToolCall("b", "g", ""),))
