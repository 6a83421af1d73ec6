"""JSON schemas as grammars: what these take is valid, what they cannot hold is refused by name."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from benchmarks.json_schema_cases import made_schema
from kernel.engine.base import EngineError
from kernel.engine.textside.automaton import DEAD, Automaton
from kernel.engine.textside.gbnf import parse
from kernel.engine.textside.lexicon import Lexicon
from kernel.engine.textside.plan import Plan
from kernel.engine.textside.schema import to_gbnf

WORDS = [
    b'{"',
    b'":',
    b'", "',
    b'"}',
    b"},",
    b"[[",
    b"]]",
    b"true",
    b"null",
    b"-1",
    b"e+",
    b'\\"',
    b"\\u",
    b" ",
    b"\n",
]
PIECES = [bytes([byte]) for byte in range(256)] + WORDS + [b""]
END = len(PIECES) - 1
LEXICON = Lexicon(PIECES, [END], END)


def automaton(schema: Any) -> Automaton:
    return Automaton(parse(to_gbnf(json.dumps(schema)), lambda written: None), LEXICON)


def takes(schema: Any, text: str) -> bool:
    built = automaton(schema)
    state = built.start
    for byte in text.encode():
        state = built.step(state, byte)
        if state == DEAD:
            return False
    return built.is_whole(state)


def draw(schema: Any, seed: int, max_tokens: int = 150) -> str:
    """Return a text drawn from all that may come next, with a way to the end kept open."""
    random = np.random.default_rng(seed)
    plan = Plan(automaton(schema), LEXICON, max_tokens)
    text = b""
    for _ in range(max_tokens):
        among = np.flatnonzero(np.unpackbits(plan.admitted(), count=len(PIECES)))
        token = int(random.choice(among))
        token = token if plan.admits(token) else plan.closing()
        if token == END:
            break
        plan.accept(token)
        text += PIECES[token]
    return text.decode()


def test_whatever_is_drawn_under_a_schema_is_whole_and_valid() -> None:
    drawn = 0
    for seed in range(60):
        schema = made_schema(seed)
        try:
            text = draw(schema, seed)
        except EngineError:  # refused by name: see below
            continue
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))
        drawn += 1
    assert drawn > 50


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (
            {"type": "integer", "minimum": -3, "exclusiveMaximum": 120},
            ["-3", "0", "119"],
            ["-4", "120", "01", "1.5"],
        ),
        ({"type": "integer", "maximum": -5}, ["-5", "-99999"], ["-4", "0"]),
        ({"type": "integer", "multipleOf": 7}, ["0", "7", "-14", "7777"], ["1", "20"]),
        (
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            ["0.01", "0.99"],
            ["0", "1", "0.00", "1.00"],
        ),
        ({"type": "number"}, ["-0", "1.5e10", "2E-3"], ["1.", ".5", "+1", "NaN"]),
        (
            {"type": "string", "minLength": 2, "maxLength": 3},
            ['"ab"', r'"\n\u00e9x"', '"\U0001f600\u4f60"'],
            ['"a"', '"abcd"'],
        ),
        ({"type": "string"}, ['""', '"\\""'], ['"\\ud800"', '"\n"', '"']),
        (
            {"enum": ["a", 1, None, {"b": [1.5]}]},
            ['"a"', "1", "null", '{"b": [1.5]}'],
            ["2", '"b"'],
        ),
        ({"enum": [1, "x"], "type": "string"}, ['"x"'], ["1"]),
        ({"const": 'q"\\\n'}, [r'"q\"\\\n"'], ['"q"']),
        ({"type": ["boolean", "null"]}, ["true", "null"], ["0"]),
        (
            {"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2},
            ["[null]", "[ null,null ]"],
            ["[]", "[null,null,null]"],
        ),
        (
            {"prefixItems": [{"const": 1}, {"const": 2}], "items": {"const": 3}},
            ["[]", "[1]", "[1,2,3,3]"],
            ["[2]", "[1,2,4]"],
        ),
        ({"items": {"type": "integer"}, "contains": {"minimum": 7}}, ["[7, 1]"], ["[]", "[1]"]),
        (
            {
                "type": "object",
                "properties": {"a": {"const": 1}, "b": {"const": 2}},
                "required": ["b"],
            },
            ['{"a":1,"b":2}', '{"b": 2}'],
            ["{}", '{"a":1}', '{"b":2,"c":3}'],
        ),
        (
            {"properties": {"a": {"const": 1}}, "additionalProperties": {"const": 2}},
            ['{"a":1,"b":2}', '{"b":2}', '{"ab":2, "\u00e9":2}'],
            ['{"a":2}', '{"a":1,"a":2}', r'{"\u0061":2}'],
        ),
        (
            {"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 1},
            ['{"x": null}'],
            ["{}"],
        ),
        (
            {"patternProperties": {"^x-": {"const": 1}}},
            ['{"x-a": 1}', "{}"],
            ['{"y": 1}', '{"x-a": 2}'],
        ),
        (
            {
                "type": "object",
                "propertyNames": {"enum": ["a", "b"]},
                "additionalProperties": {"const": 1},
            },
            ['{"b": 1}'],
            ['{"c": 1}'],
        ),
        (
            {"properties": {"a": {}, "b": {"const": 1}}, "dependentRequired": {"a": ["b"]}},
            ['{"a":0,"b":1}'],
            ['{"a":0}'],
        ),
        (
            {
                "allOf": [
                    {"properties": {"a": {"minimum": 1}}},
                    {"properties": {"a": {"maximum": 2}}, "required": ["a"]},
                ]
            },
            ['{"a":1}', '{"a":2}'],
            ["{}", '{"a":3}'],
        ),
        (
            {
                "allOf": [
                    {"properties": {"a": {"const": 1}}},
                    {"additionalProperties": {"type": "string"}},
                ]
            },
            ["{}"],
            ['{"a":1}'],
        ),
        ({"anyOf": [{"const": 1}, {"const": 2}], "enum": [2, 3]}, ["2"], ["1", "3"]),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, ['"a"', "1"], ["1.5"]),
        (
            {
                "$ref": "#/$defs/list",
                "$defs": {
                    "list": {
                        "anyOf": [
                            {"type": "null"},
                            {"type": "array", "items": {"$ref": "#/$defs/list"}},
                        ]
                    }
                },
            },
            ["[[],[null]]"],
            ["[1]"],
        ),
        (
            {"properties": {"next": {"$ref": "#"}}, "required": [], "additionalProperties": False},
            ['{"next":{"next":{}}}'],
            ['{"next":1}'],
        ),
        (
            {"properties": {"a": True}, "unevaluatedProperties": False},
            ['{"a":1}', "{}"],
            ['{"b":1}'],
        ),
        (
            {"allOf": [{"properties": {"a": True}}, {"unevaluatedProperties": False}]},
            ["{}"],
            ['{"a":1}'],
        ),
        (
            {"type": "string", "format": "date"},
            ['"2024-02-28"', '"1999-12-31"'],
            ['"2024-02-30"', '"2024-13-01"'],
        ),
        (
            {"type": "string", "format": "ipv4"},
            ['"127.0.0.1"', '"255.1.20.3"'],
            ['"256.1.1.1"', '"1.1.1"'],
        ),
        ({"not": False, "if": {"const": 1}, "type": "null", "uniqueItems": True}, ["null"], ["1"]),
        (True, ["1", '{"a":[{}]}', '"x"'], ["", "{"]),
    ],
)
def test_a_schema_takes_what_is_valid_and_nothing_else(
    schema: Any, good: list[str], bad: list[str]
) -> None:
    assert [text for text in good if not takes(schema, text)] == []
    assert [text for text in bad if takes(schema, text)] == []


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("^[a-c]{2,}$", ["ab", "abcabc"], ["a", "abd"]),
        ("ab|^c", ["xxabyy", "cz"], ["xc"]),
        (r"^\d+\.\d{2}$", ["1.50"], ["1.5", "1,50"]),
        (r"^\w\W\s\S$", ["a- b"], ["a--b"]),
        (r"^\"\\\/$", [r"\"\\/"], ["x"]),
        ("^(?:a|(?<n>b))*?$", ["", "abba"], ["c"]),
        (r"^\u00e9\x41\t$", ["\u00e9A\\t"], ["\u00e9A\t"]),
        (r"^[^\d\n]$", ["a"], ["1", "\u0663"]),
        ("^a{$", ["a{"], ["a"]),
        ("", ["anything", ""], []),
    ],
)
def test_a_pattern_takes_the_strings_that_it_finds_a_match_in(
    pattern: str, good: list[str], bad: list[str]
) -> None:
    schema = {"type": "string", "pattern": pattern}
    assert [text for text in good if not takes(schema, f'"{text}"')] == []
    assert [text for text in bad if takes(schema, f'"{text}"')] == []


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"not": {"type": "null"}}, "not cannot be held by a grammar"),
        ({"if": {}, "then": {}}, "if cannot be held by a grammar"),
        ({"uniqueItems": True}, "uniqueItems cannot be held by a grammar"),
        ({"type": "string", "pattern": "^(?=a)"}, "look-around"),
        ({"type": "string", "pattern": r"(a)\1"}, r"\1, at character"),
        ({"type": "string", "pattern": r"\bword"}, r"\b, at character"),
        ({"type": "string", "pattern": "(a"}, "a group without its end"),
        (
            {"type": "string", "pattern": "a", "minLength": 3},
            "pattern beside minLength or maxLength",
        ),
        ({"type": "number", "multipleOf": 0.01}, "multipleOf Decimal('0.01')"),
        ({"enum": [1, 2], "minimum": 2}, "minimum beside enum or const"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "may satisfy option 2 too; anyOf"),
        ({"oneOf": [{"type": "string"}, {"minimum": 3}]}, "may satisfy option 2 too; anyOf"),
        ({"$ref": "https://example.org/schema"}, "references are not fetched"),
        ({"$ref": "#/$defs/none"}, "there is no '$defs'"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "refers to itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#"}]}}}, "refer to themselves"),
        ({"type": "float"}, "type is 'float', wanted one of object"),
        ({"minItems": -1}, "minItems is -1, wanted an integer from 0"),
        ({"properties": []}, "properties is []"),
        (
            {"type": "object", "maxProperties": 1, "properties": {"a": {}, "b": {}}},
            "maxProperties 1",
        ),
        (False, "no value satisfies it"),
        ({"type": "string", "enum": [1]}, "no value satisfies it"),
        ({"required": ["a"], "properties": {"a": False}}, "no value satisfies it"),
        ([], "a schema is [], wanted a map or a boolean"),
    ],
)
def test_what_a_grammar_cannot_hold_is_refused_by_name(schema: Any, reason: str) -> None:
    with pytest.raises(EngineError) as raised:
        to_gbnf(json.dumps(schema))
    assert reason in str(raised.value)
    assert str(raised.value).startswith("json_schema")


@pytest.mark.parametrize(
    "text", ["", "{", "nul", "NaN", '{"minimum": 1e999999999999}', "[" * 100_000, "\ud800"]
)
def test_a_schema_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(EngineError, match="json_schema"):
        to_gbnf(text)


def test_bounds_larger_than_any_text_cost_nothing() -> None:
    schema = {"type": "string", "minLength": 3, "maxLength": 900_000_000}
    assert takes(schema, '"abc"')
    assert not takes(schema, '"ab"')
