"""Qwen 3 Coder and Qwen 3.5: <tool_call><function=f><parameter=p>value</parameter></function></tool_call>.

Who uses it: the registry in formats.py. What must hold: see prose.py; a value becomes what the tool's schema
says it is, and text where it cannot. Source: the templates of these models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentix.chat.jsontext import SPACE, is_json
from agentix.chat.prose import Asked, Marks, NoCall, Prose
from agentix.chat.reader import Broken, Markers, Reader, Reading, Sink
from agentix.chat.writer import Writer

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
MARKS = Marks(calls=(OPEN, FUNCTION), closers=(CLOSE,), call_ends_reasoning=True)
VALUE_END = Markers(PARAMETER_END)

Types = frozenset[str] | None  # JSON Schema's names; None: any
TEXT: Types = frozenset({"string"})
PYTHON = {"True": "true", "False": "false", "None": "null"}
JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
MAX_NESTED_SCHEMAS = 8


def qwen_xml(reader: Reader, writer: Writer, asked: Asked) -> Reading[None]:
    def read(mark: str) -> Reading[None]:
        if mark == OPEN:
            yield from reader.space()
            yield from reader.choice(FUNCTION)
        while True:
            yield from _function(reader, writer, asked, is_known=mark == FUNCTION)
            reader.record()
            yield from reader.space()
            if not (yield from reader.starts(FUNCTION)):
                break
            yield from reader.choice(FUNCTION)
        is_closed = yield from reader.starts(CLOSE)
        if is_closed or (mark == OPEN and (yield from reader.peek())):
            yield from reader.choice(CLOSE)

    yield from Prose(reader, writer, asked, MARKS).read_calls(read)


def _function(reader: Reader, writer: Writer, asked: Asked, is_known: bool) -> Reading[None]:
    name = yield from reader.word(">")
    yield from reader.choice(">")
    if is_known and name not in asked.tools:  # the tag alone may be part of a text
        raise NoCall(f"{name!a} is no tool")
    schema = asked.tools.get(name, {})
    writer.begin_call(name)
    before = "{"
    while True:
        yield from reader.space()
        if (yield from reader.choice(PARAMETER, FUNCTION_END)) == FUNCTION_END:
            break
        key = yield from reader.word(">")
        yield from reader.choice(">")
        writer.arguments(f"{before}{json.dumps(key, ensure_ascii=False)}: ")
        yield from _value(reader, writer, types_of_parameter(schema, key))
        before = ", "
    writer.arguments("{}" if before == "{" else "}")
    writer.end_call()


def _value(reader: Reader, writer: Writer, types: Types) -> Reading[None]:
    """Read a value between its tags, each on a line of its own."""
    if (yield from reader.peek()) == "\n":
        yield from reader.choice("\n")
    if types == TEXT:
        held = ""  # the line end that may belong to the closing tag

        def write(text: str) -> None:
            nonlocal held
            text = held + text
            held = "\n" if text.endswith("\n") else ""
            writer.arguments(_escaped(text.removesuffix("\n")))

        writer.arguments('"')
        yield from _until_end(reader, write)
        writer.arguments('"')
        return
    parts: list[str] = []
    yield from _until_end(reader, parts.append)
    writer.arguments(as_json("".join(parts).removesuffix("\n"), types))


def _until_end(reader: Reader, sink: Sink) -> Reading[None]:
    if not (yield from reader.until(VALUE_END, sink)):
        raise Broken("it is cut off")


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def as_json(text: str, types: Types) -> str:
    """Return a value as JSON text: JSON of an allowed type as it stands, anything else as a string."""
    bare = text.strip(SPACE)
    if types is not None and "string" not in types:
        bare = PYTHON.get(bare, bare)
    if not bare.startswith('"') and is_json(bare):
        kind = {"{": "object", "[": "array", "t": "boolean", "f": "boolean", "n": "null"}.get(
            bare[0], "number"
        )
        is_whole = kind == "number" and bare.lstrip("-").isdigit()
        if types is None or kind in types or (is_whole and "integer" in types):
            return bare
    return json.dumps(text, ensure_ascii=False)


def types_of_parameter(schema: Mapping[str, Any], key: str) -> Types:
    """Return the JSON types that a tool's schema allows for one of its parameters."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not isinstance(properties.get(key), Mapping):
        return None
    return _types(properties[key], 0)


def _types(schema: Mapping[str, Any], depth: int) -> Types:
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list | tuple):
        return frozenset(str(one) for one in named)
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list | tuple):
        return frozenset(JSON_TYPES.get(type(value), "string") for value in values)
    choices = schema.get("anyOf") or schema.get("oneOf")
    if not isinstance(choices, list | tuple) or depth >= MAX_NESTED_SCHEMAS:
        return None
    found: set[str] = set()
    for choice in choices:
        types = _types(choice, depth + 1) if isinstance(choice, Mapping) else None
        if types is None:
            return None
        found |= types
    return frozenset(found)
