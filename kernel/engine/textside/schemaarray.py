"""Grammars of JSON arrays.

Who calls it: schema.py. What must hold: see there.
"""

from __future__ import annotations

from typing import Any

from kernel.engine.textside.schemakeywords import (
    Impossible,
    Schema,
    SchemaError,
    count_of,
    items_of,
    join,
)
from kernel.engine.textside.schemaobject import Visit
from kernel.engine.textside.schematext import AddRule


def write_array(schema: Schema, visit: Visit, add: AddRule, space: str) -> str:
    """Return the body of a rule; space: the rule of white space."""
    first, rest = items_of(schema)
    least, most = count_of(schema, "minItems") or 0, count_of(schema, "maxItems")
    if schema.get("uniqueItems") and (most is None or most > 1):
        raise SchemaError("uniqueItems cannot be held by a grammar")
    if "contains" in schema:
        first = _with_contained(schema, first, rest)
        least = max(least, len(first))
    if first and "items" not in schema and least <= len(first):
        rest = False  # a tuple is no longer than it says, if it need not be
    if most is not None and most < least:
        raise Impossible
    rules: list[str] = []
    for one in first[:most]:
        try:
            rules.append(visit(one))
        except Impossible:
            rest = False
            break
    try:
        repeated = visit(rest) if most is None or most > len(rules) else None
    except Impossible:
        repeated = None
    if repeated is None and len(rules) < least:
        raise Impossible
    return _write(rules, repeated, least, most, add, space)


def _with_contained(schema: Schema, first: list[Any], rest: Any) -> list[Any]:
    """Return the first items, so many of which are what the array must contain."""
    least = count_of(schema, "minContains")
    least = 1 if least is None else least
    if first or "maxContains" in schema or least > 1000:
        raise SchemaError("contains beside prefixItems or maxContains cannot be held by a grammar")
    return [join(rest, schema["contains"])] * least


def _write(
    rules: list[str], repeated: str | None, least: int, most: int | None, add: AddRule, space: str
) -> str:
    comma = f'"," {space}'
    body = '""'
    if repeated is not None:
        low = max(0, least - len(rules))
        high = None if most is None else most - len(rules)
        following = f"({comma} {repeated} {space})"
        if rules:
            body = f"{following}{{{low},{'' if high is None else high}}}"
        else:
            bounds = f"{{{max(0, low - 1)},{'' if high is None else high - 1}}}"
            body = f"({repeated} {space} {following}{bounds}){'' if low else '?'}"
    for place in range(len(rules) - 1, -1, -1):
        body = f"{comma if place else ''} {rules[place]} {space} {body}"
        if place >= least:
            body = add(f'"" | {body}')
    return f'"[" {space} {body} "]"'
