r"""A regular expression as a grammar of the content of a JSON string.

Who calls it: schema.py. What must hold: every string that the grammar takes is one that the expression finds a match
in, by ECMA-262's rules and by Python's: \d, \w and \s are ASCII's, and so is what \D, \W and \S take.

Look-around, back references, \b and \p are refused: they are no part of a grammar. A part that is not anchored may
stand anywhere in the string.
"""

from __future__ import annotations

from kernel.engine.textside.gbnf import LAST_CODE_POINT, Ranges, complement, merge
from kernel.engine.textside.schematext import in_string, intersection

_ASCII: Ranges = ((1, 127),)
_DIGIT = merge([(48, 57)])
_WORD = merge([(48, 57), (65, 90), (95, 95), (97, 122)])
_SPACE = merge([(9, 13), (32, 32)])
_SETS = {"d": _DIGIT, "w": _WORD, "s": _SPACE} | {
    sign: intersection(_ASCII, complement(ranges))
    for sign, ranges in (("D", _DIGIT), ("W", _WORD), ("S", _SPACE))
}
_DOT = complement(merge([(10, 10), (13, 13), (0x2028, 0x2029)]))
_DIGITS = set("0123456789")
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
_MAX_NESTING = 100


class PatternError(Exception):
    """An expression that no grammar can be made of; the text says why."""


def of_pattern(pattern: str, char: str) -> str:
    """Return a grammar of the content of strings that match; char: the rule of any one character."""
    return _Reader(pattern, char).read()


class _Reader:
    def __init__(self, pattern: str, char: str) -> None:
        self._text = pattern
        self._at = 0
        self._any = f"{char}*"
        self._depth = 0

    def read(self) -> str:
        found = []
        while True:
            is_start = self._takes("^")
            body = self._sequence()
            is_end = self._takes("$")
            found.append(
                " ".join(
                    [*([] if is_start else [self._any]), body, *([] if is_end else [self._any])]
                )
            )
            if not self._takes("|"):
                break
        if self._at < len(self._text):
            raise self._error(f"{self._text[self._at]!r} where an alternative should end")
        return " | ".join(found)

    def _error(self, what: str) -> PatternError:
        return PatternError(f"{what}, at character {self._at} of {self._text[:80]!r}")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _takes(self, what: str) -> bool:
        if not self._text.startswith(what, self._at):
            return False
        self._at += len(what)
        return True

    def _alternatives(self) -> str:
        found = [self._sequence()]
        while self._takes("|"):
            found.append(self._sequence())
        return " | ".join(found)

    def _sequence(self) -> str:
        found = []
        while self._peek() and self._peek() not in "|)$":
            found.append(self._atom() + self._times())
        return " ".join(found) or '""'

    def _atom(self) -> str:
        if self._takes("("):
            return self._group()
        if self._takes("["):
            return self._one_of(self._class())
        if self._takes("."):
            return self._one_of(_DOT)
        if self._takes("\\"):
            return self._one_of(self._escape())
        char = self._peek()
        if char in "^*+?":
            raise self._error(f"{char!r} in this place")
        self._at += 1
        return self._one_of(((ord(char), ord(char)),))

    def _one_of(self, ranges: Ranges) -> str:
        shown = in_string(ranges)
        if shown is None:
            raise self._error("a class that no character of a text is in")
        return shown

    def _group(self) -> str:
        self._depth += 1
        if self._depth > _MAX_NESTING:
            raise self._error(f"groups nested more than {_MAX_NESTING} deep")
        if self._takes("?"):
            if self._takes("<"):
                name, _, _ = self._text[self._at :].partition(">")
                if not name.isidentifier():
                    raise self._error("look-around")
                self._at += len(name) + 1
            elif not self._takes(":"):
                raise self._error("look-around or a flag")
        inner = self._alternatives()
        if not self._takes(")"):
            raise self._error("an anchor inside a group, or a group without its end")
        self._depth -= 1
        return f"({inner})"

    def _times(self) -> str:
        sign = self._peek()
        if sign and sign in "*+?":
            self._at += 1
        elif sign == "{":
            bounds, brace, _ = self._text[self._at + 1 :].partition("}")
            low, _, high = bounds.partition(",")
            if not brace or not set(low + high) <= _DIGITS or not low + high:
                return ""  # a brace of the text itself
            if not low:
                raise self._error(f"a repetition of {bounds[:30]}, which engines read differently")
            if len(low) > 9 or len(high) > 9 or (high and int(high) < int(low)):
                raise self._error(f"a repetition of {bounds[:30]}")
            self._at += len(bounds) + 2
            sign = f"{{{bounds}}}"
        else:
            return ""
        self._takes("?")  # as few as can be or as many: the same strings
        return sign

    def _class(self) -> Ranges:
        is_negated = self._takes("^")
        ranges: list[tuple[int, int]] = []
        has_set = False
        while not self._takes("]"):
            first = self._member()
            has_set = has_set or len(first) > 1 or first == _DIGIT
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                last = self._member()
                if len(first) != 1 or len(last) != 1 or first[0][0] > last[0][1]:
                    raise self._error("a range of characters without a beginning or an end")
                first = ((first[0][0], last[0][1]),)
            ranges += first
        merged = merge(ranges)
        if not is_negated:
            return merged
        return intersection(complement(merged), _ASCII) if has_set else complement(merged)

    def _member(self) -> Ranges:
        if self._takes("\\"):
            return ((8, 8),) if self._takes("b") else self._escape()
        char = self._peek()
        if not char:
            raise self._error("a class without its end")
        self._at += 1
        return ((ord(char), ord(char)),)

    def _escape(self) -> Ranges:
        sign = self._peek()
        self._at += 1
        if sign in _SETS:
            return _SETS[sign]
        if sign in _CONTROLS:
            code = _CONTROLS[sign]
        elif sign == "c" and self._peek().isalpha() and self._peek().isascii():
            code = ord(self._peek()) % 32
            self._at += 1
        elif sign == "x":
            code = self._hex(2)
        elif sign == "u":
            code = self._unicode()
        elif not sign or (sign.isalnum() and sign.isascii()):
            raise self._error(f"\\{sign}")
        else:
            code = ord(sign)
        return ((code, code),)

    def _hex(self, width: int) -> int:
        digits = self._text[self._at : self._at + width]
        try:
            code = int(digits, 16)
        except ValueError:
            code = -1
        if len(digits) != width or not digits.isalnum() or not 0 <= code <= LAST_CODE_POINT:
            raise self._error(f"the code {digits!r}")
        self._at += width
        return code

    def _unicode(self) -> int:
        if self._takes("{"):
            code = self._hex(len(self._text[self._at :].partition("}")[0]))
            self._takes("}")
            return code
        code = self._hex(4)
        if 0xD800 <= code < 0xDC00 and self._takes("\\u"):
            code = 0x10000 + ((code - 0xD800) << 10) + self._hex(4) - 0xDC00
        return code
