"""A JSON value that comes in pieces: where it ends, and whether it is one. RFC 8259, strictly.

Who uses it: reader.py for every value inside a tool call; qwen_xml.py for values that may be JSON. What must
hold: what was taken is a prefix of some JSON value until `fault` says otherwise; each character is looked at
once; a value that is whole can be read by json.loads without reaching its limits of depth and digits.
"""

from __future__ import annotations

import re

MAX_DEPTH = 100  # of arrays and objects in one another: json.loads recurses
MAX_SCALAR_CHARS = 400  # of a number: int() refuses more than 4,300 digits

SPACE = " \t\n\r"
CONSTANTS = ("true", "false", "null")
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_SPACES = re.compile(r"[ \t\n\r]+")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')  # of a string
_SCALAR = re.compile(r"[-+.0-9A-Za-z]+")
_HEX = frozenset("0123456789abcdefABCDEF")

# What may come between values: place -> character -> the next place; "" is decided by what is open.
_OPENS = {"{": "a key or }", "[": "a value or ]", '"': "string"}
_PLACES: dict[str, dict[str, str]] = {
    "a value": _OPENS,
    "a value or ]": _OPENS | {"]": ""},
    "a key or }": {'"': "key string", "}": ""},
    "a key": {'"': "key string"},
    "a colon": {":": "a value"},
    "a comma or ]": {",": "a value", "]": ""},
    "a comma or }": {",": "a key", "}": ""},
}
_MAY_BE_SCALAR = ("a value", "a value or ]")


class JsonText:
    """One JSON value. Feed it text; it takes the value's part and stops behind it, or where it breaks."""

    __slots__ = ("_escaped", "_open", "_place", "_scalar", "fault", "is_whole")

    def __init__(self) -> None:
        self.is_whole = False
        self.fault = ""  # why this is no JSON
        self._place = "a value"
        self._open: list[str] = []
        self._escaped = 0  # characters that an escape in a string still takes; -1: its first
        self._scalar = ""

    def feed(self, text: str, start: int) -> int:
        """Take text from `start` on; return where it stopped: the end, or the first character not taken."""
        at = start
        while at < len(text) and not self.is_whole and not self.fault:
            if self._place in ("string", "key string"):
                at = self._in_string(text, at)
            elif self._place == "scalar":
                at = self._in_scalar(text, at)
            else:
                at = self._between(text, at)
        return at

    def close(self) -> None:
        """Say that no more text comes: a number may end here, anything else is cut off."""
        if self._place == "scalar":
            self._end_scalar()
        if not self.is_whole and not self.fault:
            self.fault = "it is cut off"

    def _between(self, text: str, at: int) -> int:
        if spaces := _SPACES.match(text, at):
            return spaces.end()
        char = text[at]
        place = _PLACES[self._place].get(char)
        if place is None:
            if self._place in _MAY_BE_SCALAR and _SCALAR.match(char):
                self._place = "scalar"
                return at
            self.fault = f"{char!a} came where JSON has {self._place}"
            return at
        if char in "{[":
            self._open.append(char)
            if len(self._open) > MAX_DEPTH:
                self.fault = f"JSON is nested deeper than {MAX_DEPTH}"
                return at
        self._place = place
        if not place:
            self._open.pop()
            self._end_value()
        return at + 1

    def _in_string(self, text: str, at: int) -> int:
        char = text[at]
        if self._escaped:
            is_fit = char in '"\\/bfnrtu' if self._escaped < 0 else char in _HEX
            if not is_fit:
                self.fault = f"{char!a} came in an escape of a JSON string"
                return at
            self._escaped = (4 if char == "u" else 0) if self._escaped < 0 else self._escaped - 1
            return at + 1
        if plain := _PLAIN.match(text, at):
            return plain.end()
        if char == "\\":
            self._escaped = -1
        elif char == '"':
            if self._place == "key string":
                self._place = "a colon"
            else:
                self._end_value()
        else:
            self.fault = f"{char!a} came in a JSON string"
            return at
        return at + 1

    def _in_scalar(self, text: str, at: int) -> int:
        run = _SCALAR.match(text, at)
        if run is None:
            self._end_scalar()
            return at
        end = min(run.end(), at + MAX_SCALAR_CHARS + 1)
        self._scalar += text[at:end]
        if len(self._scalar) > MAX_SCALAR_CHARS:
            self.fault = f"a number in JSON has more than {MAX_SCALAR_CHARS} characters"
        return end

    def _end_scalar(self) -> None:
        if self._scalar in CONSTANTS or NUMBER.fullmatch(self._scalar):
            self._scalar = ""
            self._end_value()
        else:
            self.fault = f"{self._scalar[:20]!a} is no JSON value"

    def _end_value(self) -> None:
        if not self._open:
            self.is_whole = True
        else:
            self._place = "a comma or }" if self._open[-1] == "{" else "a comma or ]"


def is_json(text: str) -> bool:
    """Whether text is one JSON value, with space around it or not."""
    value = JsonText()
    end = value.feed(text, 0)
    if not value.is_whole:
        value.close()
    return not value.fault and not text[end:].strip(SPACE)
