"""What keywords of JSON schemas are for, and small questions about schemas and values.

Who calls it: the other schema modules. What must hold: a keyword of another shape than the standard's is a SchemaError.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

Schema = dict[str, Any]

TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
KEYWORDS = {  # by the type whose values they speak of
    "object": frozenset({
        "properties", "required", "additionalProperties", "patternProperties", "propertyNames",
        "minProperties", "maxProperties", "dependentRequired", "dependentSchemas", "dependencies",
    }),
    "array": frozenset({
        "items", "prefixItems", "additionalItems", "contains", "minContains", "maxContains",
        "minItems", "maxItems", "uniqueItems",
    }),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
}  # fmt: skip


class SchemaError(Exception):
    """A schema that no grammar can be made of; the text says why."""


class Impossible(Exception):
    """Nothing is valid here; elsewhere something may be."""


def types_of(schema: Schema) -> list[str]:
    """Return the types of values that are written for a flat schema: those it names, or has keywords for, or all."""
    named = schema.get("type")
    if named is None:
        implied = [kind for kind, keywords in KEYWORDS.items() if not keywords.isdisjoint(schema)]
        return implied or list(TYPES[:3]) + list(TYPES[4:])
    found = named if isinstance(named, list) else [named]
    for kind in found:
        if kind not in TYPES:
            raise SchemaError(f"type is {show(kind)}, wanted one of {', '.join(TYPES)}")
    return list(dict.fromkeys(found))


def items_of(schema: Schema) -> tuple[list[Any], Any]:
    """Return the schemas of an array's first items, and of the rest, in a flat schema."""
    first = list_of(schema, "prefixItems") if "prefixItems" in schema else []
    return first, schema.get("items", True)


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return one == other


def kind_of(value: Any) -> str:
    """Return the type of a JSON value; "fraction" for a number that is no integer."""
    if isinstance(value, Decimal):
        return "integer" if value == value.to_integral_value() else "fraction"
    kinds = {
        bool: "boolean",
        int: "integer",
        str: "string",
        list: "array",
        dict: "object",
        type(None): "null",
    }
    return kinds[type(value)]


def kinds_of(types: Iterable[str]) -> set[str]:
    """Return types with numbers told apart as kind_of does."""
    kinds = set(types)
    if "number" in kinds:
        kinds = kinds - {"number"} | {"integer", "fraction"}
    return kinds


def list_of(schema: Schema, name: str) -> list[Any]:
    """Return the value of a keyword that is a list."""
    value = schema[name]
    if not isinstance(value, list):
        raise SchemaError(f"{name} is {show(value)}, wanted a list")
    return value


def join(*schemas: Any) -> Any:
    """Return the schema that asks for all, each once: so a schema that refers to itself comes to an end."""
    parts: list[Any] = []
    for schema in schemas:
        inner = (
            schema["allOf"] if isinstance(schema, dict) and list(schema) == ["allOf"] else [schema]
        )
        parts += [part for part in inner if part is not True and part != {} and part not in parts]
    return {"allOf": parts} if len(parts) > 1 else parts[0] if parts else True


def refuse(schema: Schema, name: str, *harmless: Any) -> None:
    """Raise SchemaError if a schema has this keyword with another value than these."""
    if name in schema and schema[name] not in harmless:
        raise SchemaError(f"{name} cannot be held by a grammar")


def count_of(schema: Schema, name: str) -> int | None:
    """Return the value of a keyword that counts, None without it."""
    value = schema.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
    if not is_number or not 0 <= value < 10**9 or value != int(value):
        raise SchemaError(f"{name} is {show(value)}, wanted an integer from 0")
    return int(value)


def show(value: Any) -> str:
    """Return a value as it stands in an error, not all of it if it is long."""
    return ascii(value)[:80]
