"""JSON schemas put into one form: references followed, allOf made one schema, alternatives spread out.

Who calls it: schema.py. What must hold: a value that a returned schema holds for is one that the given schema holds
for. What cannot be told so is refused: no keyword that a value must satisfy is ever left out in silence.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from kernel.engine.textside.schemakeywords import (
    KEYWORDS,
    TYPES,
    Impossible,
    Schema,
    SchemaError,
    items_of,
    join,
    kind_of,
    kinds_of,
    list_of,
    same,
    show,
    types_of,
)

_ANNOTATIONS = frozenset({
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator",
    "$comment", "$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$defs", "definitions", "$vocabulary",
    "contentEncoding", "contentMediaType", "contentSchema",
})  # fmt: skip
MAX_ALTERNATIVES = 256


class Schemas:
    """The schemas inside one document."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self._anchors: dict[str, Any] = {}
        self._own_id = document.get("$id", "") if isinstance(document, dict) else ""
        self._has_inner_id = False
        self._find_anchors(document)

    def flatten(self, schema: Any) -> Schema:
        """Return an equal schema without $ref and allOf at its top, and without annotations. Raises Impossible."""
        return self._flatten(schema, ())

    def alternatives(self, schema: Schema) -> list[Schema]:
        """Return flat schemas that a value may satisfy one of, where a flat schema has anyOf or oneOf."""
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                options = list_of(schema, keyword)
                rest = {
                    name: value
                    for name, value in schema.items()
                    if name not in (keyword, *_UNEVALUATED)
                }
                late = {name: schema[name] for name in _UNEVALUATED if name in schema}
                found = []
                for option in options:
                    try:
                        found += self.alternatives(self.flatten({"allOf": [rest, option], **late}))
                    except Impossible:
                        continue
                    if len(found) > MAX_ALTERNATIVES:
                        raise SchemaError(
                            f"{keyword} leads to more than {MAX_ALTERNATIVES} alternatives"
                        )
                if keyword == "oneOf":
                    self._check_apart(options, rest)
                return found
        return [schema]

    # -- references ---------------------------------------------------------------------------

    def _find_anchors(self, document: Any) -> None:
        todo = [(document, True)]
        while todo:
            node, is_root = todo.pop()
            if isinstance(node, dict):
                if isinstance(node.get("$anchor"), str):
                    self._anchors[node["$anchor"]] = node
                if not is_root and isinstance(node.get("$id"), str):
                    self._has_inner_id = True
            children = (
                node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
            )
            todo += [(child, False) for child in children]

    def _resolve(self, reference: Any) -> Any:
        if not isinstance(reference, str):
            raise SchemaError(f"$ref is {show(reference)}, wanted a string")
        shown = show(reference)
        base, _, fragment = reference.partition("#")
        if base and base != self._own_id.partition("#")[0]:
            raise SchemaError(f"$ref {shown} is outside this schema: references are not fetched")
        if self._has_inner_id:
            raise SchemaError(
                f"$ref {shown} beside a $id inside the schema: what it refers to is not worked out"
            )
        if fragment and not fragment.startswith("/"):
            if fragment not in self._anchors:
                raise SchemaError(f"$ref {shown}: there is no such anchor")
            return self._anchors[fragment]
        node = self._document
        for part in fragment.split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
                node = node[int(name)]
            elif isinstance(node, dict) and name in node:
                node = node[name]
            else:
                raise SchemaError(f"$ref {shown}: there is no {show(name)}")
        return node

    def _flatten(self, schema: Any, seen: tuple[str, ...]) -> Schema:
        if schema is True:
            return {}
        if schema is False:
            raise Impossible
        if not isinstance(schema, dict):
            raise SchemaError(f"a schema is {show(schema)}, wanted a map or a boolean")
        own = {name: value for name, value in schema.items() if name not in _ANNOTATIONS}
        parts = []
        if "$ref" in own:
            reference = own.pop("$ref")
            if reference in seen:
                raise SchemaError(f"$ref {show(reference)} refers to itself")
            parts.append(self._flatten(self._resolve(reference), (*seen, reference)))
        if "allOf" in own:
            parts += [self._flatten(part, seen) for part in list_of(own, "allOf")]
            del own["allOf"]
        _drop_conditions(own)
        _write_items_anew(own)
        if "const" in own:
            own["enum"] = (
                [own.pop("const")]
                if "enum" not in own
                else _common(own["enum"], [own.pop("const")])
            )
        late = {name: own.pop(name) for name in _UNEVALUATED if name in own}
        merged = own
        for part in parts:
            merged = self._merge(merged, part)
        if "anyOf" in merged or "oneOf" in merged:  # what these evaluate is not known yet
            return {**merged, **late}
        for name, plain in _UNEVALUATED.items():
            if late.get(name, True) is not True and plain not in merged:
                merged[plain] = late[name]
        return merged

    # -- both of two schemas ------------------------------------------------------------------

    def _merge(self, one: Schema, other: Schema) -> Schema:
        """Return a schema that holds where both flat ones do. Raises Impossible."""
        for schema in (one, other):
            if any(name in schema for name in _UNEVALUATED):
                raise SchemaError(
                    "unevaluatedProperties or unevaluatedItems beside anyOf, in a part of a schema"
                )
            if "patternProperties" in schema and not KEYWORDS["object"].isdisjoint(
                one if schema is other else other
            ):
                raise SchemaError("patternProperties in one of two schemas that are both asked for")
        merged = {**one, **other}
        if "properties" in merged or "additionalProperties" in merged:
            self._merge_properties(one, other, merged)
        if "items" in merged or "prefixItems" in merged:
            self._merge_items(one, other, merged)
        for name in one.keys() & other.keys():
            if name in _JOINED:
                merged[name] = _JOINED[name](one[name], other[name])
            elif name in ("anyOf", "oneOf"):
                merged[name] = self._products(name, one, other)
            elif name not in _MERGED_APART and not same(one[name], other[name]):
                if name == "format":  # an annotation: one of them is told to the model
                    merged[name] = one[name]
                else:
                    raise SchemaError(
                        f"{name} is asked for twice: {show(one[name])}, {show(other[name])}"
                    )
        return merged

    def _products(self, name: str, one: Schema, other: Schema) -> list[Schema]:
        if name == "oneOf":
            for schema in (one, other):
                self._check_apart(list_of(schema, name), {})
        pairs = [{"allOf": [a, b]} for a in list_of(one, name) for b in list_of(other, name)]
        if len(pairs) > MAX_ALTERNATIVES:
            raise SchemaError(f"{name} in allOf leads to more than {MAX_ALTERNATIVES} alternatives")
        return pairs

    def _merge_properties(self, one: Schema, other: Schema, merged: Schema) -> None:
        mine, theirs = one.get("properties", {}), other.get("properties", {})
        for properties in (mine, theirs):
            if not isinstance(properties, dict):
                raise SchemaError(f"properties is {show(properties)}, wanted a map")
        found = {}
        for name in [*mine, *(name for name in theirs if name not in mine)]:
            parts = [
                properties[name] if name in properties else schema.get("additionalProperties", True)
                for properties, schema in ((mine, one), (theirs, other))
            ]
            found[name] = join(*parts)
        merged["properties"] = found
        if "additionalProperties" in one and "additionalProperties" in other:
            merged["additionalProperties"] = join(
                one["additionalProperties"], other["additionalProperties"]
            )

    def _merge_items(self, one: Schema, other: Schema, merged: Schema) -> None:
        (mine, my_rest), (theirs, their_rest) = items_of(one), items_of(other)
        longest = max(len(mine), len(theirs))
        mine, theirs = (
            [*first, *[rest] * (longest - len(first))]
            for first, rest in ((mine, my_rest), (theirs, their_rest))
        )
        merged["prefixItems"] = [join(a, b) for a, b in zip(mine, theirs, strict=True)]
        if "items" in merged:  # else nothing speaks of the rest, which unevaluatedItems may do
            merged["items"] = join(my_rest, their_rest)

    # -- one of several -----------------------------------------------------------------------

    def _check_apart(self, options: list[Any], rest: Schema) -> None:
        """Raise SchemaError where a value that we would write may satisfy two options of a oneOf."""
        flat: list[Schema | None] = []
        for option in options:
            try:
                flat.append(self.flatten({"allOf": [rest, option]}))
            except Impossible:
                flat.append(None)
        for first, one in enumerate(flat):
            for second, other in enumerate(flat[:first]):
                if one is not None and other is not None and not self._are_apart(one, other, 0):
                    raise SchemaError(
                        f"oneOf: what satisfies option {second + 1} may satisfy option {first + 1} too;"
                        " anyOf says that this is meant"
                    )

    def _are_apart(self, one: Schema, other: Schema, depth: int) -> bool:
        """Whether no value that is written for either satisfies the other."""
        if depth > 8 or any("anyOf" in schema or "oneOf" in schema for schema in (one, other)):
            return False
        if "enum" in one and "enum" in other:
            return not any(
                same(value, wanted)
                for value in list_of(one, "enum")
                for wanted in list_of(other, "enum")
            )
        kinds = (_written(one) & _accepted(other)) | (_written(other) & _accepted(one))
        for enum in (one, other):
            if "enum" in enum:
                return kinds.isdisjoint(map(kind_of, list_of(enum, "enum")))
        return not kinds or (kinds == {"object"} and self._are_objects_apart(one, other, depth))

    def _are_objects_apart(self, one: Schema, other: Schema, depth: int) -> bool:
        for name in {*one.get("required", ())} & {*other.get("required", ())}:
            try:
                parts = [
                    self.flatten(schema.get("properties", {}).get(name, True))
                    for schema in (one, other)
                ]
            except Impossible:
                return True
            if self._are_apart(*parts, depth + 1):
                return True
        return all(
            set(wants.get("required", ()))
            - set(writes.get("properties", {}))
            - set(writes.get("required", ()))
            and not writes.get("additionalProperties", not writes.get("properties"))
            for wants, writes in ((one, other), (other, one))
        )


def _written(schema: Schema) -> set[str]:
    return kinds_of(types_of(schema))


def _accepted(schema: Schema) -> set[str]:
    """Types that a value may have: keywords for one type say nothing of values of the others."""
    return kinds_of(types_of({"type": schema["type"]}) if "type" in schema else TYPES)


def _drop_conditions(schema: Schema) -> None:
    """Drop what says nothing: if without then and else, these without if, not false."""
    if "if" not in schema or not ("then" in schema or "else" in schema):
        for name in ("if", "then", "else"):
            schema.pop(name, None)
    if schema.get("not") is False:
        del schema["not"]


def _write_items_anew(schema: Schema) -> None:
    """Have items for the rest and prefixItems for the first ones, as it has been written since 2020."""
    rest = {"items": schema.pop("additionalItems")} if "additionalItems" in schema else {}
    if isinstance(schema.get("items"), list):
        schema["prefixItems"] = schema.pop("items")
        schema.update(rest)


def _common(one: Any, other: Any) -> list[Any]:
    if not isinstance(one, list) or not isinstance(other, list):
        raise SchemaError(f"enum is {show(one)}, wanted a list")
    found = [value for value in one if any(same(value, wanted) for wanted in other)]
    if not found:
        raise Impossible
    return found


def _common_types(one: Any, other: Any) -> list[str]:
    mine, theirs = types_of({"type": one}), types_of({"type": other})
    found = [kind for kind in mine if kind in theirs or (kind == "integer" and "number" in theirs)]
    if "number" in mine and "integer" in theirs and "integer" not in found:
        found.append("integer")
    if not found:
        raise Impossible
    return found


_JOINED = {
    "type": _common_types,
    "enum": _common,
    "required": lambda one, other: list(dict.fromkeys([*one, *other])),
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
}
# what is asked of the parts that no other keyword, in the same schema or one that it is made of, speaks of
_UNEVALUATED = {"unevaluatedProperties": "additionalProperties", "unevaluatedItems": "items"}
_MERGED_APART = frozenset({"properties", "additionalProperties", "items", "prefixItems"})
