"""Messages and tools as OpenAI's chat API shapes them, checked and made into the maps that the kernel takes.

Who uses it: the SDK's chat(); the parser for the tools' schemas. What must hold: what comes out has text as
content and objects as arguments, which is what templates read; an error names the message and the wrong
value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentix.chat.jsontext import is_json
from agentix.chat.writer import NAME
from agentix.errors import InvalidValue

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
KEYS = ("role", "content", "tool_calls", "tool_call_id", "reasoning_content", "name")
MAX_INT = (1 << 63) - 1  # what the wire carries; larger ones become floats
MAX_DEPTH = 100
NO_PARAMETERS = {"type": "object", "properties": {}}


def normalise(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages {"role", "content", "tool_calls"?, "tool_call_id"?, "reasoning_content"?, "name"?}.

    Content is text: parts of text are joined by line ends, none becomes empty. "developer" becomes "system".
    Arguments become objects. Reasoning of turns before the last user's is left out: models are not shown it.
    Raises InvalidValue.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise InvalidValue(f"messages is {_brief(messages)}, wanted a list of maps, one at least")
    made: list[dict[str, Any]] = []
    known_ids: set[str] = set()
    for index, message in enumerate(messages):
        made.append(_message(f"messages[{index}]", message, known_ids))
    last_user = max((index for index, message in enumerate(made) if message["role"] == "user"), default=-1)
    for message in made[: last_user + 1]:
        message.pop("reasoning_content", None)
    return made


def _message(where: str, message: Mapping[str, Any], known_ids: set[str]) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidValue(f"{where} is {_brief(message)}, wanted a map")
    fields = {key: value for key, value in message.items() if value is not None}
    for key in fields:
        if key not in KEYS:
            raise InvalidValue(f"{where} has {_brief(key)}, known are {', '.join(KEYS)}")
    role = _text(f"{where}.role", fields.get("role"))
    if role not in ROLES:
        raise InvalidValue(f"{where}.role is {_brief(role)}, wanted {', '.join(ROLES)}")
    made: dict[str, Any] = {
        "role": ROLES[role],
        "content": _content(f"{where}.content", fields.get("content"), role),
    }
    if "name" in fields:
        made["name"] = _text(f"{where}.name", fields["name"])
    for key, owner in (
        ("tool_calls", "assistant"),
        ("reasoning_content", "assistant"),
        ("tool_call_id", "tool"),
    ):
        if key in fields and role != owner:
            raise InvalidValue(f"{where} has {key} and the role {role!r}, wanted {owner!r}")
    if "reasoning_content" in fields:
        made["reasoning_content"] = _text(f"{where}.reasoning_content", fields["reasoning_content"])
    if calls := fields.get("tool_calls"):
        made["tool_calls"] = _calls(f"{where}.tool_calls", calls)
        known_ids.update(call["id"] for call in made["tool_calls"])
    if role == "tool":
        call_id = _text(f"{where}.tool_call_id", fields.get("tool_call_id"))
        if call_id not in known_ids:
            raise InvalidValue(
                f"{where}.tool_call_id is {_brief(call_id)}, no tool call before it has that id"
            )
        made["tool_call_id"] = call_id
    return made


def _content(where: str, content: Any, role: str) -> str:
    if content is None:
        if role != "assistant":
            raise InvalidValue(f"{where} is missing")
        return ""
    if isinstance(content, str):
        return _text(where, content)
    if not isinstance(content, list | tuple):
        raise InvalidValue(f"{where} is {_brief(content)}, wanted text or a list of parts")
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else part
        if kind != "text":
            raise InvalidValue(f"{where}[{index}] is {_brief(kind)}, wanted a part of type 'text'")
        texts.append(_text(f"{where}[{index}].text", part.get("text")))
    return "\n".join(texts)


def _calls(where: str, calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, list | tuple):
        raise InvalidValue(f"{where} is {_brief(calls)}, wanted a list of maps")
    made = []
    for index, call in enumerate(calls):
        at = f"{where}[{index}]"
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise InvalidValue(f"{at} is {_brief(call)}, wanted {{'id', 'type', 'function'}}")
        name = _text(f"{at}.function.name", function.get("name"))
        arguments = _arguments(f"{at}.function.arguments", function.get("arguments"))
        made.append(
            {
                "id": _text(f"{at}.id", call.get("id")),
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
        )
    return made


def _arguments(where: str, arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, str):
        if not is_json(arguments):
            raise InvalidValue(f"{where} is {_brief(arguments)}, wanted a JSON object")
        arguments = json.loads(arguments)
    if not isinstance(arguments, Mapping):
        raise InvalidValue(f"{where} is {_brief(arguments)}, wanted an object")
    return _plain(where, arguments, 0)


def _plain(where: str, value: Any, depth: int) -> Any:
    """Return a JSON value as the wire can carry it."""
    if depth > MAX_DEPTH:
        raise InvalidValue(f"{where} is nested deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) <= MAX_INT else float(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{where}.{key}", one, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(f"{where}[{index}]", one, depth + 1) for index, one in enumerate(value)]
    raise InvalidValue(f"{where} is {_brief(value)}, wanted a JSON value")


def tool_list(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return tools as {"type", "function": {"name", "description", "parameters"}}. Raises InvalidValue."""
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise InvalidValue(f"tools is {_brief(tools)}, wanted a list of maps")
    made: dict[str, dict[str, Any]] = {}
    for index, tool in enumerate(tools):
        at = f"tools[{index}]"
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or tool.get("type", "function") != "function":
            raise InvalidValue(f"{at} is {_brief(tool)}, wanted {{'type': 'function', 'function': {{...}}}}")
        name = _text(f"{at}.function.name", function.get("name"))
        if not NAME.fullmatch(name):
            raise InvalidValue(
                f"{at}.function.name is {_brief(name)}, wanted letters, digits and _.:/@+-, 128 at most"
            )
        if name in made:
            raise InvalidValue(f"{at}.function.name is {name!r}, as another tool's is")
        if function.get("strict"):
            raise InvalidValue(
                f"{at}.function.strict is {_brief(function['strict'])}, and calls are not constrained"
            )
        parameters = function.get("parameters") or NO_PARAMETERS
        if not isinstance(parameters, Mapping):
            raise InvalidValue(f"{at}.function.parameters is {_brief(parameters)}, wanted a JSON schema")
        made[name] = {
            "name": name,
            "description": _text(f"{at}.function.description", function.get("description") or ""),
            "parameters": _plain(f"{at}.function.parameters", parameters, 0),
        }
    return [{"type": "function", "function": function} for function in made.values()]


def tool_schemas(tools: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the schema of each tool's parameters by its name. Raises InvalidValue."""
    functions = (tool["function"] for tool in tool_list(tools))
    return {function["name"]: function["parameters"] for function in functions}


def _text(where: str, value: Any) -> str:
    if value is None:
        raise InvalidValue(f"{where} is missing")
    if not isinstance(value, str):
        raise InvalidValue(f"{where} is {_brief(value)}, wanted text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidValue(f"{where} has half a surrogate pair at character {error.start}") from None
    return value


def _brief(value: Any) -> str:
    return ascii(value)[:60]
