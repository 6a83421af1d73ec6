"""tool_choice: whether the model may, must or must not call a tool, and how it is made to.

Who uses it: turn.py. What must hold: a choice that this model cannot be held to is an error and never
ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentix.calls import Sampling
from agentix.chat.formats import FORMATS
from agentix.errors import InvalidValue

ToolChoice = str | Mapping[str, Any] | None
Tools = list[dict[str, Any]]


class Chatting(Sampling, total=False):
    """What chat() takes beside messages."""

    tools: Sequence[Mapping[str, Any]] | None  # that the model may call, as in OpenAI's API
    tool_choice: ToolChoice  # "auto", "none", "required", {"type": "function", "function": {"name": ...}}


def choose(tools: Tools, choice: ToolChoice) -> tuple[Tools, Tools]:
    """Return the tools that the model is shown, and those of which it must call one, none if it need not.

    choice: None or "auto", "none", "required", or {"type": "function", "function": {"name": ...}}. Raises
    InvalidValue for another one, or one of a tool that is not among the tools.
    """
    if choice is None or choice == "auto":
        return tools, []
    if choice == "none":
        return [], []
    if choice == "required":
        if not tools:
            raise InvalidValue("tool_choice is 'required' and there are no tools")
        return tools, tools
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        wanted = "'auto', 'none', 'required' or {'type': 'function', 'function': {'name': ...}}"
        raise InvalidValue(f"tool_choice is {ascii(choice)[:60]}, wanted {wanted}")
    forced = [tool for tool in tools if tool["function"]["name"] == name]
    if not forced:
        raise InvalidValue(f"tool_choice names {name[:40]!a}, which is not among the tools")
    return tools, forced


def constraint_of(forced: Sequence[Mapping[str, Any]], chat_format: str) -> dict[str, Any]:
    """Return the options json_schema and json_around of an answer that calls one of these tools, and says nothing else.

    Raises InvalidValue for a format in which a call is not one JSON object between marks.
    """
    form = FORMATS.get(chat_format)
    if form is None or not form.arguments_key:
        able = ", ".join(name for name, one in FORMATS.items() if one.arguments_key)
        text = f"this model's chat format is {chat_format!r}; models of the formats {able} can be made to call a tool"
        raise InvalidValue(f"tool_choice: {text}")
    is_one = len(forced) == 1
    calls = []
    for index, tool in enumerate(forced):
        function = tool["function"]
        where = f"properties/{form.arguments_key}"
        parameters = _moved(function["parameters"], where if is_one else f"anyOf/{index}/{where}")
        properties = {"name": {"const": function["name"]}, form.arguments_key: parameters}
        if form.id_pattern:
            properties["id"] = {"type": "string", "pattern": form.id_pattern}
        calls.append(
            {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        )
    options: dict[str, Any] = {"json_schema": json.dumps(calls[0] if is_one else {"anyOf": calls})}
    if any(form.around):
        options["json_around"] = list(form.around)
    return options


def _moved(schema: Any, where: str) -> Any:
    """Return a schema whose references to itself hold at its new place in another."""
    if isinstance(schema, list):
        return [_moved(one, where) for one in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, where) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = f"#/{where}{reference[1:]}"
    return moved
