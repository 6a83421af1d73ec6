"""A JSON schema as a grammar in GBNF.

Who calls it: gatechild.py. What must hold: every text that the grammar takes is JSON that the schema holds for (draft
2020-12, and what earlier ones have in common with it); what a grammar cannot ask for is refused by name, never
left out. The grammar need not take everything that is valid: an object has its properties in the order of the
schema, and others only where additionalProperties asks for them; a schema without a type is of the types that its
keywords are for.

Nothing is ever fetched. Formats that are not in schemastrings.FORMATS are annotations, as the standard has it.
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any

from kernel.engine.base import EngineError
from kernel.engine.textside.schemaarray import write_array
from kernel.engine.textside.schemakeywords import (
    KEYWORDS,
    Impossible,
    Schema,
    SchemaError,
    count_of,
    kind_of,
    kinds_of,
    show,
    types_of,
)
from kernel.engine.textside.schemamerge import Schemas
from kernel.engine.textside.schemanumbers import NUMBER, first_digits, integers, multiples, numbers
from kernel.engine.textside.schemaobject import write_object
from kernel.engine.textside.schemapattern import PatternError, of_pattern
from kernel.engine.textside.schemastrings import CHAR, FORMATS, of_length, quoted
from kernel.engine.textside.schematext import json_literal, literal

MAX_RULES = 20_000
_SPACE = '(" " | "\\n" [ \\t]{0,20})?'  # between the parts of a value, if the model wants some
_MOST_REMAINDERS = 1000
_MOST_EXPONENT = 300


def to_gbnf(text: str, before: str = "", after: str = "") -> str:
    """Return the grammar of a schema, given as JSON text, between two others. Raises EngineError with the reason."""
    try:
        document = json.loads(text, parse_float=Decimal, parse_constant=_refuse_constant)
        return _Converter(document).convert(before, after)
    except (SchemaError, PatternError) as error:
        raise EngineError(f"json_schema: {error}") from None
    except Impossible:
        raise EngineError("json_schema: no value satisfies it") from None
    except (ValueError, InvalidOperation) as error:
        raise EngineError(f"json_schema is no JSON: {error}") from None
    except RecursionError:
        raise EngineError(
            "json_schema: schemas are nested too deep, or refer to themselves"
        ) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class _Converter:
    def __init__(self, document: Any) -> None:
        self._document = document
        self._schemas = Schemas(document)
        self._rules: list[str] = []
        self._names: dict[str, str] = {}  # of rules, by their bodies
        self._visited: dict[str, str] = {}  # the rules of schemas, by the schemas' text
        self._space = self._add(_SPACE)
        self._char = self._add(CHAR)

    def convert(self, before: str, after: str) -> str:
        root = self._visit(self._document)
        parts = [literal(before) if before else "", root, literal(after) if after else ""]
        lines = [
            f"root ::= {' '.join(part for part in parts if part)}",
            *(f"r{number} ::= {body}" for number, body in enumerate(self._rules)),
        ]
        return "\n".join(lines)

    def _add(self, body: str) -> str:
        """Return the name of a rule with this body."""
        if body not in self._names:
            self._names[body] = self._reserve()
            self._rules[int(self._names[body][1:])] = body
        return self._names[body]

    def _reserve(self) -> str:
        if len(self._rules) == MAX_RULES:
            raise SchemaError(f"it takes more than {MAX_RULES} grammar rules")
        self._rules.append("")
        return f"r{len(self._rules) - 1}"

    def _visit(self, schema: Any) -> str:
        """Return the name of the rule of a schema; the same schema met inside itself is the same rule."""
        key = json.dumps(schema, default=str, sort_keys=False)
        if key not in self._visited:
            name = self._visited[key] = self._reserve()
            try:
                self._rules[int(name[1:])] = self._body(schema)
            except Impossible:
                self._rules[int(name[1:])] = _NEVER
                self._visited[key] = _NEVER
        if self._visited[key] == _NEVER:
            raise Impossible
        return self._visited[key]

    def _body(self, schema: Any) -> str:
        alternatives: list[str] = []
        for one in self._schemas.alternatives(self._schemas.flatten(schema)):
            try:
                alternatives += self._of_types(one)
            except Impossible:
                continue
        if not alternatives:
            raise Impossible
        return " | ".join(dict.fromkeys(alternatives))

    def _of_types(self, schema: Schema) -> list[str]:
        for name in ("not", "if", "$dynamicRef", "$recursiveRef"):
            if name in schema:
                raise SchemaError(f"{name} cannot be held by a grammar")
        if "enum" in schema:
            return self._enumeration(schema)
        makers = {
            "object": lambda schema: write_object(
                schema, self._visit, self._add, self._space, self._char
            ),
            "array": lambda schema: write_array(schema, self._visit, self._add, self._space),
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
            "boolean": lambda schema: '"true" | "false"',
            "null": lambda schema: '"null"',
        }
        found = []
        for kind in types_of(schema):
            try:
                found.append(makers[kind](schema))
            except Impossible:
                continue
        return found

    def _enumeration(self, schema: Schema) -> list[str]:
        values = schema["enum"]
        if not isinstance(values, list):
            raise SchemaError(f"enum is {show(values)}, wanted a list")
        kinds = kinds_of(types_of({"type": schema["type"]})) if "type" in schema else None
        found = []
        for value in values:
            kind = kind_of(value)
            for name in KEYWORDS.get("number" if kind in ("integer", "fraction") else kind, ()):
                if name in schema and name != "format":
                    raise SchemaError(f"{name} beside enum or const")
            if kinds is None or kind in kinds:
                found.append(json_literal(_plain(value)))
        return found

    # -- types --------------------------------------------------------------------------------

    def _string(self, schema: Schema) -> str:
        least, most = count_of(schema, "minLength") or 0, count_of(schema, "maxLength")
        if most is not None and most < least:
            raise Impossible
        form = schema.get("format")
        for name in ("pattern", "format"):
            is_grammar = name in schema and (name == "pattern" or form in FORMATS)
            if is_grammar and (least or most is not None):
                raise SchemaError(f"{name} beside minLength or maxLength")
        if "pattern" in schema:
            if not isinstance(schema["pattern"], str):
                raise SchemaError(f"pattern is {show(schema['pattern'])}, wanted a string")
            return quoted(of_pattern(schema["pattern"], self._char))
        if isinstance(form, str) and form in FORMATS:
            return quoted(FORMATS[form])
        return (
            quoted(of_length(self._char, least, most))
            if least or most is not None
            else self._text()
        )

    def _text(self) -> str:
        return self._add(quoted(f"{self._char}*"))

    def _integer(self, schema: Schema) -> str:
        low, high, excludes = _bounds(schema)
        if schema.get("multipleOf", 1) != 1:
            return self._multiples(schema)
        if low is not None and excludes[0] and low == low.to_integral_value():
            low += 1
        if high is not None and excludes[1] and high == high.to_integral_value():
            high -= 1
        found = integers(low, high)
        if found is None:
            raise Impossible
        return self._add(found)

    def _number(self, schema: Schema) -> str:
        low, high, excludes = _bounds(schema)
        if "multipleOf" in schema:
            return self._integer(schema)
        found = NUMBER if low is None and high is None else numbers(low, high, excludes)
        if found is None:
            raise Impossible
        return self._add(found)

    def _multiples(self, schema: Schema) -> str:
        """Of an integer: the remainder after each digit is a rule."""
        step = schema["multipleOf"]
        has_bounds = any(one is not None for one in _bounds(schema)[:2])
        if (
            has_bounds
            or isinstance(step, bool)
            or not isinstance(step, int)
            or not 1 <= step <= _MOST_REMAINDERS
        ):
            raise SchemaError(f"multipleOf {show(step)}, but for small integers without bounds")
        names = [self._reserve() for _ in range(step)]
        for name, body in zip(names, multiples(step, names), strict=True):
            self._rules[int(name[1:])] = body
        return f'"0" | "-"? ({first_digits(step, names)})'


_NEVER = "[\\x00]"  # the rule of what cannot be


def _bounds(schema: Schema) -> tuple[Decimal | None, Decimal | None, tuple[bool, bool]]:
    """Return the lower and the upper bound of a number, and whether each is excluded."""
    ends: list[Decimal | None] = []
    excludes = []
    for plain, strict, tighter in (
        ("minimum", "exclusiveMinimum", max),
        ("maximum", "exclusiveMaximum", min),
    ):
        for name in (plain, strict):
            value = schema.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, int | Decimal):
                raise SchemaError(f"{name} is {show(value)}, wanted a number")
            _check_exponent(value)
        given = [Decimal(schema[name]) for name in (plain, strict) if name in schema]
        end = tighter(given) if given else None
        ends.append(end)
        excludes.append(end is not None and strict in schema and end == schema[strict])
    return ends[0], ends[1], (excludes[0], excludes[1])


def _plain(value: Any) -> Any:
    """Return a JSON value that json can write: Decimal is how its fractions are read here."""
    if isinstance(value, Decimal):
        _check_exponent(value)
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return (
        {name: _plain(item) for name, item in value.items()} if isinstance(value, dict) else value
    )


def _check_exponent(value: int | Decimal) -> None:
    if value and abs(Decimal(value).adjusted()) > _MOST_EXPONENT:
        raise SchemaError(f"{show(value)} is no number that a double can be")
