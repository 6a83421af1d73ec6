"""How characters and texts are written in GBNF, plainly and inside a JSON string.

Who calls it: the other schema modules. What must hold: what is written for a text takes that text and no other; for a
set of characters, no character outside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from kernel.engine.textside.gbnf import Ranges, complement, merge

AddRule = Callable[[str], str]  # takes the body of a rule, returns its name

_SHORT_ESCAPES = {8: "b", 9: "t", 10: "n", 12: "f", 13: "r", 34: '"', 92: "\\"}
_PLAIN = complement(merge([(1, 31), (34, 34), (92, 92)]))


def literal(text: str) -> str:
    """Return the GBNF of exactly this text."""
    return '"' + "".join(map(_written, text)) + '"'


def json_literal(value: object) -> str:
    """Return the GBNF of a JSON value, written in one way."""
    return literal(json.dumps(value, ensure_ascii=False, separators=(", ", ": ")))


def char_class(ranges: Ranges) -> str:
    """Return the GBNF of one character out of a set that is not empty."""
    shown = [_escaped(low) + ("-" + _escaped(high) if high > low else "") for low, high in ranges]
    return "[" + "".join(shown) + "]"


def in_string(ranges: Ranges) -> str | None:
    """Return the GBNF of one character out of a set as it stands in a JSON string; None for an empty set.

    Control characters without a short escape are left out, but from sets of nothing else.
    """
    shown = []
    plain = intersection(ranges, _PLAIN)
    if plain:
        shown.append(char_class(plain))
    codes = [code for code in range(1, 93) if any(low <= code <= high for low, high in ranges)]
    shown += [literal("\\" + _SHORT_ESCAPES[code]) for code in codes if code in _SHORT_ESCAPES]
    if not shown:
        shown += [literal(f"\\u{code:04x}") for code in codes if code < 32]
    return f"({' | '.join(shown)})" if shown else None


def intersection(one: Ranges, other: Ranges) -> Ranges:
    """Return the code points that are in both sets."""
    return complement(merge([*complement(one), *complement(other)]))


def _written(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isascii() and char.isprintable() else _escaped(ord(char))


def _escaped(code: int) -> str:
    if chr(code).isalnum() and code < 128:
        return chr(code)
    return f"\\x{code:02X}" if code < 256 else f"\\U{code:08X}"
