"""Grammars of JSON strings: of any text, of a length, of a format, or that are not some names.

Who calls it: schema.py. What must hold: every text that a grammar of these takes is a JSON string whose value is as
asked, and is no half of a character: escapes of surrogates are left out.
"""

from __future__ import annotations

from collections.abc import Iterable

from kernel.engine.textside.gbnf import complement, merge
from kernel.engine.textside.schematext import AddRule, char_class, literal

CHAR = (
    r'[^"\\\x00-\x1F\x7F] | "\\" ["\\/bfnrt] | "\\u" [0-9a-cefA-CEF] [0-9a-fA-F]{3}'
    r' | "\\u" [dD] [0-7] [0-9a-fA-F]{2}'
)
_NAME_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
_NAME_CHAR = r'[^"\\\x00-\x1F\x7F] | "\\" ["\\bfnrt]'
_UNNAMED = (
    (1, 31),
    (34, 34),
    (92, 92),
    (127, 127),
)  # code points that a name has by an escape, or not at all

_DAY = '("0" [1-9] | [12] [0-9] | "3" [01])'
_DATE = (
    f'("20" | "19") [0-9]{{2}} "-" (("0" [13578] | "1" [02]) "-" {_DAY}'
    ' | ("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30") | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8]))'
)
_TIME = '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})?'
_ZONE = '("Z" | [+-] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])'
_OCTET = '("25" [0-5] | "2" [0-4] [0-9] | "1" [0-9] [0-9] | [1-9]? [0-9])'
_LABEL = "[a-z] [a-z0-9]{0,15}"
FORMATS = {
    "date": _DATE,
    "time": f"{_TIME} {_ZONE}",
    "date-time": f'({_DATE}) "T" {_TIME} {_ZONE}',
    "uuid": '[0-9a-f]{8} ("-" [0-9a-f]{4}){3} "-" [0-9a-f]{12}',
    "ipv4": f'{_OCTET} ("." {_OCTET}){{3}}',
    "ipv6": '([0-9a-f]{1,4} ":"){7} [0-9a-f]{1,4}',
    "hostname": f'{_LABEL} ("." {_LABEL}){{0,4}}',
    "email": f'[a-z0-9] [a-z0-9_]{{0,31}} "@" {_LABEL} ("." {_LABEL}){{1,4}}',
    "uri": f'"http" "s"? "://" {_LABEL} ("." {_LABEL}){{0,4}} ("/" [a-zA-Z0-9_]{{1,32}}){{0,8}}',
}


def quoted(content: str) -> str:
    """Return the grammar of a string whose content has this one."""
    return rf'"\"" ({content}) "\""'


def of_length(char: str, low: int, high: int | None) -> str:
    """Return a grammar of the content of strings of low to high characters; char: the rule of one."""
    return f"{char}{{{low},{'' if high is None else high}}}"


def other_names(names: Iterable[str], add: AddRule) -> str:
    """Return a grammar of the content of strings that are none of these, written with no choice of escapes.

    So a property that the schema knows by name never comes under another schema.
    """
    tree: dict[str, dict] = {}
    ends = set()
    for name in names:
        node = tree
        for char in name:
            node = node.setdefault(char, {})
        ends.add(id(node))
    rest = add(f"({_NAME_CHAR})*")

    def visit(node: dict[str, dict]) -> str:
        alternatives = [] if id(node) in ends else ['""']
        for char, below in node.items():
            written = next(
                (f"\\{sign}" for sign, meant in _NAME_ESCAPES.items() if meant == char), char
            )
            alternatives.append(f"{literal(written)} {visit(below)}")
        taken = [(ord(char), ord(char)) for char in node]
        alternatives.append(f"{char_class(complement(merge([*taken, *_UNNAMED])))} {rest}")
        free = [sign for sign, meant in _NAME_ESCAPES.items() if meant not in node]
        alternatives += [f"{literal(chr(92) + sign)} {rest}" for sign in free]
        return add(" | ".join(alternatives))

    return visit(tree)
