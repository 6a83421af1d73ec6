"""A request's body read field by field. No I/O.

Who uses it: the endpoints of every API. What must hold: a wrong value is an error
that names the field and the value; a field that is not known is ignored, as clients send new ones every month.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from agentix.gateway.problems import Problem, invalid


class Fields:
    """The fields of a JSON object, null as good as absent."""

    def __init__(self, body: Mapping[str, Any], where: str = "") -> None:
        self._body = body
        self._where = where  # goes before the names

    def get(self, name: str) -> Any:
        return self._body.get(name)

    def wrong(self, name: str, wanted: str) -> Problem:
        return invalid(
            f"{self._where}{name} is {brief(self.get(name))}, wanted {wanted}",
            f"{self._where}{name}",
        )

    def text(self, name: str) -> str | None:
        value = self.get(name)
        if value is not None and not is_text(value):
            raise self.wrong(name, "text")
        return value

    def flag(self, name: str) -> bool:
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return bool(value)

    def number(self, name: str, low: float, high: float) -> float | None:
        value = self.get(name)
        if value is None:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
        ):
            raise self.wrong(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def integer(self, name: str, low: int, high: int) -> int | None:
        value = self.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(name, f"a whole number from {low} to {high}")
        return value

    def table(self, name: str) -> Fields | None:
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.wrong(name, "an object")
        return Fields(value, f"{self._where}{name}.")

    def texts(self, name: str) -> list[str]:
        """A text or a list of them; empty ones are left out."""
        value = self.get(name)
        values = [value] if isinstance(value, str) else value or []
        if not isinstance(values, list) or not all(is_text(one) for one in values):
            raise self.wrong(name, "text or a list of texts")
        return [one for one in values if one]


def is_text(value: Any) -> bool:
    """Whether it is text that can be encoded: JSON may hold half a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def brief(value: Any) -> str:
    """A value as an error shows it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    shown = ascii(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
