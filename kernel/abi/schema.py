"""What a call's body may hold: the types, ranges and lengths that its class declares, and the check of a body.

Who uses it: calls.py, whose classes declare their fields with `bounded`. What must hold: whatever a body holds, it
is refused with EINVAL or EMSGSIZE naming field and value, or it fits; a number that is no number fits no range.
"""

from __future__ import annotations

from dataclasses import MISSING, field, fields
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from kernel.abi.errors import Errno, KernelError

# Bounds that calls of several files share.
MAX_NAME_CHARS = 64
MAX_TOKENS = 1 << 20

Schema = dict[str, tuple[tuple[type, ...], float | None, float | None, bool]]


def bounded(low: float, high: float, default: Any = MISSING) -> Any:
    """Declare a number field with its inclusive range, or a text, bytes, list or map field with its length's."""
    return field(default=default, metadata={"low": low, "high": high})


def schema_of(call: type) -> Schema:
    """Return field -> (accepted types, low, high, is required), worked out once per class."""
    hints = get_type_hints(call)
    table = {}
    for item in fields(call):
        hint = hints[item.name]
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if float in kinds:
            kinds = (*kinds, int)
        is_required = item.default is MISSING
        table[item.name] = (kinds, item.metadata.get("low"), item.metadata.get("high"), is_required)
    return table


def check_body(method: str, schema: Schema, body: dict[str, Any]) -> None:
    """Raise KernelError EINVAL or EMSGSIZE for the first field that is wrong, unknown or missing."""
    for name, value in body.items():
        if name not in schema:
            raise KernelError(Errno.EINVAL, f"{method}: unknown field {name[:64]!a}")
        kinds, low, high, _ = schema[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            got = type(value).__name__
            raise KernelError(Errno.EINVAL, f"{method}: {name} is a {got}, wanted {wanted}")
        if low is None or high is None or value is None:
            continue
        is_sized = isinstance(value, str | bytes | list | tuple | dict)
        measure = len(value) if is_sized else value
        if not low <= measure <= high:  # so is a NaN refused
            what = f"{name} has length" if is_sized else f"{name} is"
            number = Errno.EMSGSIZE if isinstance(value, bytes) and measure > high else Errno.EINVAL
            raise KernelError(number, f"{method}: {what} {measure}, wanted {low} to {high}")
    for name, (_, _, _, is_required) in schema.items():
        if is_required and name not in body:
            raise KernelError(Errno.EINVAL, f"{method}: field {name} is missing")
