"""What a chat's messages may hold.

Who uses it: fields.py for those of a call, record.py for those that a disk has kept. What must hold: whatever they are,
they are refused with EINVAL naming what is wrong, or nothing of them can harm a core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kernel.abi.codec import show
from kernel.abi.errors import Errno, KernelError

_MESSAGE = {
    "role": (str,),
    "content": (str, type(None)),
    "tool_calls": (list, type(None)),
    "tool_call_id": (str, type(None)),
    "name": (str, type(None)),
    "reasoning_content": (str, type(None)),
}
_TOOL_CALL = {"id": (str, type(None)), "type": (str,), "function": (dict,)}
_FUNCTION = {"name": (str,), "arguments": (str, dict)}


def check_messages(method: str, messages: Sequence[Any]) -> None:
    """Raise EINVAL for the first that is none."""
    for index, message in enumerate(messages):
        what = f"{method}: messages[{index}]"
        _check_map(what, message, _MESSAGE, ("role",))
        if all(message.get(name) is None for name in ("content", "tool_calls", "reasoning_content")):
            raise KernelError(Errno.EINVAL, f"{what} has neither content nor tool_calls")
        for place, call in enumerate(message.get("tool_calls") or ()):
            _check_map(f"{what}.tool_calls[{place}]", call, _TOOL_CALL, ("function",))
            _check_map(f"{what}.tool_calls[{place}].function", call["function"], _FUNCTION, tuple(_FUNCTION))


def _check_map(what: str, value: Any, kinds: dict[str, tuple[type, ...]], required: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        raise KernelError(Errno.EINVAL, f"{what} is {show(value)}, wanted a map")
    for name, item in value.items():
        if name not in kinds:
            raise KernelError(Errno.EINVAL, f"{what} has an unknown field {show(name)}")
        if not isinstance(item, kinds[name]):
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds[name])
            raise KernelError(Errno.EINVAL, f"{what}: {name} is a {type(item).__name__}, wanted {wanted}")
    for name in required:
        if name not in value:
            raise KernelError(Errno.EINVAL, f"{what} has no {name}")
