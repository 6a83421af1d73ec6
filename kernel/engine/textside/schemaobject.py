"""Grammars of JSON objects.

Who calls it: schema.py. What must hold: see there; moreover a name that the schema knows is written in one way
and comes once, so that no reader takes it for another property.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from kernel.engine.textside.schemakeywords import (
    Impossible,
    Schema,
    SchemaError,
    count_of,
    join,
    refuse,
    show,
)
from kernel.engine.textside.schemapattern import of_pattern
from kernel.engine.textside.schemastrings import other_names, quoted
from kernel.engine.textside.schematext import AddRule, json_literal

Visit = Callable[[Any], str]  # takes a schema, returns the name of its rule; raises Impossible

_NAME_KEYWORDS = {"type", "enum", "minLength", "maxLength", "pattern", "format"}


def write_object(schema: Schema, visit: Visit, add: AddRule, space: str, char: str) -> str:
    """Return the body of a rule; space: the rule of white space, char: that of a character in a string."""
    return _Writer(schema, visit, add, space, char).write()


class _Writer:
    def __init__(self, schema: Schema, visit: Visit, add: AddRule, space: str, char: str) -> None:
        self._schema = schema
        self._visit = visit
        self._add = add
        self._space = space
        self._char = char
        self._comma = f'"," {space}'
        self._properties = schema.get("properties", {})
        self._patterns = schema.get("patternProperties", {})
        required = schema.get("required", [])
        for name, value, kind in (
            ("properties", self._properties, dict),
            ("patternProperties", self._patterns, dict),
            ("required", required, list),
        ):
            if not isinstance(value, kind):
                raise SchemaError(f"{name} is {show(value)}")
        self._required = list(dict.fromkeys(required))
        self._others = schema.get(
            "additionalProperties", not self._properties and not self._patterns
        )

    def write(self) -> str:
        refuse(self._schema, "dependentSchemas", {})
        refuse(self._schema, "dependencies", {})
        self._require_dependents()
        members = self._members()
        tail = self._tail(members)
        least = count_of(self._schema, "minProperties") or 0
        most = count_of(self._schema, "maxProperties")
        missing = least - sum(is_required for *_, is_required in members)
        if missing > (not any(is_required for *_, is_required in members)):
            raise SchemaError(
                f"minProperties {least} is more than a grammar can count of what may come"
            )
        if most is not None and members and (tail is not None or most < len(members)):
            raise SchemaError(f"maxProperties {most} is less than the properties that may come")
        if most == 0:
            members, tail = [], None
        return self._body(members, tail, missing > 0, most)

    def _require_dependents(self) -> None:
        """Have a property always come that another one asks for."""
        asked = self._schema.get("dependentRequired", {})
        if not isinstance(asked, dict):
            raise SchemaError(f"dependentRequired is {show(asked)}, wanted a map")
        for name, needed in asked.items():
            if name in self._properties or name in self._required:
                self._required += [one for one in needed if one not in self._required]
            elif self._others is not False and needed:
                raise SchemaError(
                    f"dependentRequired of {show(name)}, which is no property that is listed"
                )

    def _members(self) -> list[tuple[str, str, bool]]:
        """Return (name, rule of its value, whether it must come) of the properties that are known by name."""
        members = []
        for name in [
            *self._properties,
            *(name for name in self._required if name not in self._properties),
        ]:
            if not isinstance(name, str):
                raise SchemaError(f"required holds {show(name)}, wanted names")
            asked = [self._properties[name]] if name in self._properties else []
            asked += [value for pattern, value in self._patterns.items() if _finds(pattern, name)]
            asked = asked or [self._schema.get("additionalProperties", True)]
            try:
                self._check_name(name)
                members.append((name, self._visit(join(*asked)), name in self._required))
            except Impossible:
                if name in self._required:
                    raise
        return members

    def _check_name(self, name: str) -> None:
        """Raise Impossible where propertyNames forbids a name."""
        asked = self._schema.get("propertyNames", True)
        if asked is False:
            raise Impossible
        if not isinstance(asked, dict):
            return
        unknown = asked.keys() - _NAME_KEYWORDS
        if unknown:
            raise SchemaError(f"{min(unknown)} in propertyNames, beside names that are listed")
        length = len(name)
        if not (
            name in asked.get("enum", [name])
            and (count_of(asked, "minLength") or 0) <= length
            and length
            <= (length if asked.get("maxLength") is None else count_of(asked, "maxLength") or 0)
            and ("pattern" not in asked or _finds(asked["pattern"], name))
        ):
            raise Impossible

    def _tail(self, members: list[tuple[str, str, bool]]) -> str | None:
        """Return the rule of one property that is not known by name; None if there is none."""
        known = [name for name, _, _ in members] + list(self._properties)
        asks = "propertyNames" in self._schema
        if known and (asks or self._patterns):
            if "additionalProperties" in self._schema:
                refuse(self._schema, "additionalProperties", False)
            return None
        if len(self._patterns) > 1 or (self._patterns and (asks or self._others is not False)):
            if "additionalProperties" in self._schema or len(self._patterns) > 1 or asks:
                raise SchemaError("patternProperties beside other rules for names")
        try:
            if self._patterns:
                ((pattern, value),) = self._patterns.items()
                name = self._add(quoted(of_pattern(pattern, self._char)))
                return self._member(name, self._visit(value))
            value = self._visit(self._others)
            if asks:
                name = self._visit(join({"type": "string"}, self._schema["propertyNames"]))
            else:
                name = self._add(quoted(other_names(known, self._add)))
            return self._member(name, value)
        except Impossible:
            return None

    def _member(self, name: str, value: str) -> str:
        return self._add(f'{name} {self._space} ":" {self._space} {value} {self._space}')

    def _body(
        self,
        members: list[tuple[str, str, bool]],
        tail: str | None,
        needs_one: bool,
        most: int | None,
    ) -> str:
        """Return the body of the rule. It is made from the last member to the first.

        `after`: what may follow a member that came; `first`: the same where none has come yet.
        """
        after = '""'
        first = None if needs_one else '""'
        if tail is not None:
            bounds = "*" if most is None else f"{{0,{most - 1}}}"
            after = self._add(f"({self._comma} {tail}){bounds}")
            first = self._add(" | ".join(([first] if first else []) + [f"{tail} {after}"]))
        for name, value, is_required in reversed(members):
            member = self._member(json_literal(name), value)
            came, came_first = f"{self._comma} {member} {after}", f"{member} {after}"
            if not is_required:
                came += f" | {after}"
                came_first += f" | {first}" if first else ""
            after, first = self._add(came), self._add(came_first)
        if first is None:
            raise Impossible
        return f'"{{" {self._space} {first} "}}"'


def _finds(pattern: Any, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except (re.error, TypeError, OverflowError):
        raise SchemaError(
            f"{show(pattern)} is no regular expression that names can be tried by"
        ) from None
