"""JSON schemas to try grammars with: made by a seed, and those of the public test suite.

Who calls it: json_schema.py and the unit tests. What must hold: a case is a function of its seed.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

_NAMES = ("name", "kind", "count", "items", "note", "a b", 'say "x"', "\u00e9t\u00e9", "n")
_PATTERNS = (
    "^[a-z]{2,5}$",
    r"^\d{3}-\d{4}$",
    "^(red|green|blue)$",
    r"^\w+@\w+\.(com|org)$",
    "ab+c",
    "^[^0-9]*$",
    r"^(\\|/)?x$",
)
_FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "hostname", "email", "uri", "unknown")
_SUITE = "json/tests/draft2020-12/"  # inside jsonschema's source archive


def made_schema(seed: int) -> Schema:
    """Return a schema of a few levels in which every keyword may occur that a grammar can hold."""
    made = _Maker(random.Random(seed))
    schema = made.schema(3)
    return schema | ({"$defs": made.definitions} if made.definitions else {})


def public_schemas(folder: Path) -> list[Any] | None:
    """Return the schemas of the JSON Schema Test Suite, draft 2020-12, kept in a folder; None without a network.

    They come with the source archive of the Python package jsonschema.
    """
    kept = folder / f"json-schema-suite-{metadata.version('jsonschema')}.json"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as scratch:
            wanted = f"jsonschema=={metadata.version('jsonschema')}"
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--no-binary=:all:",
            ]
            done = subprocess.run(
                [*command, "--dest", scratch, wanted], capture_output=True, timeout=300, check=False
            )
            archives = list(Path(scratch).glob("jsonschema-*.tar.gz"))
            if done.returncode or not archives:
                return None
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(_read_suite(archives[0])))
    schemas: list[Any] = json.loads(kept.read_text())
    return schemas


def _read_suite(archive: Path) -> list[Any]:
    found = []
    with tarfile.open(archive) as packed:
        for member in sorted(packed.getmembers(), key=lambda one: one.name):
            inside = member.name.partition("/")[2]
            if inside.startswith(_SUITE) and inside.endswith(".json") and inside.count("/") == 3:
                file = packed.extractfile(member)
                assert file is not None
                found += [group["schema"] for group in json.load(file)]
    return found


class _Maker:
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.definitions: dict[str, Schema] = {}

    def schema(self, depth: int) -> Schema:
        leaves: list[Callable[[], Schema]] = [
            self._string,
            self._number,
            self._integer,
            self._enum,
            lambda: {"type": self._chance.choice(("boolean", "null", "string", "number"))},
            lambda: {"type": self._chance.sample(["string", "integer", "null", "boolean"], 2)},
            lambda: {"const": self._chance.choice([1, "x", None, [1, {"a": True}], 0.5, 'q"\\\n'])},
        ]
        inner = [self._object, self._array, self._tuple, self._union, self._both, self._reference]
        if depth > 0 and self._chance.random() < 0.75:
            return self._chance.choice(inner)(depth - 1)
        return self._chance.choice(leaves)()

    def _string(self) -> Schema:
        kind = self._chance.randrange(4)
        if kind == 0:
            return {"type": "string", "pattern": self._chance.choice(_PATTERNS)}
        if kind == 1:
            return {"type": "string", "format": self._chance.choice(_FORMATS)}
        low = self._chance.randrange(4)
        bounds = {"minLength": low, "maxLength": low + self._chance.randrange(6)}
        return {"type": "string"} | (bounds if kind == 2 else {})

    def _number(self) -> Schema:
        low = round(self._chance.uniform(-50, 50), self._chance.randrange(4))
        high = low + self._chance.choice((0.5, 3, 1000))
        lower = {self._chance.choice(("minimum", "exclusiveMinimum")): low}
        upper = {self._chance.choice(("maximum", "exclusiveMaximum")): high}
        return {"type": "number"} | self._some(lower) | self._some(upper)

    def _integer(self) -> Schema:
        if self._chance.random() < 0.2:
            return {"type": "integer", "multipleOf": self._chance.choice((2, 5, 7))}
        low = self._chance.randint(-1200, 1200)
        lower = {self._chance.choice(("minimum", "exclusiveMinimum")): low}
        upper = {"maximum": low + 1 + self._chance.randrange(300)}
        return {"type": "integer"} | self._some(lower) | self._some(upper)

    def _enum(self) -> Schema:
        return {"enum": self._chance.sample(["a", "b\n", 1, 2.5, None, True, [], {"x": 1}], 3)}

    def _object(self, depth: int) -> Schema:
        names = self._chance.sample(_NAMES, self._chance.randrange(5))
        schema: Schema = {
            "type": "object",
            "properties": {name: self.schema(depth) for name in names},
            "required": [name for name in names if self._chance.random() < 0.5],
        }
        others = self._chance.choice((None, False, True, {"type": "integer"}))
        if others is not None:
            schema["additionalProperties"] = others
        if len(names) > 1 and self._chance.random() < 0.2:
            schema["dependentRequired"] = {names[0]: [names[1]]}
        return schema

    def _array(self, depth: int) -> Schema:
        low = self._chance.randrange(3)
        bounds = {"minItems": low, "maxItems": low + self._chance.randrange(4)}
        return {"type": "array", "items": self.schema(depth)} | self._some(bounds)

    def _tuple(self, depth: int) -> Schema:
        first = [self.schema(depth - 1) for _ in range(1 + self._chance.randrange(3))]
        rest = {"items": self._chance.choice((False, {"type": "integer"}))}
        least = {"minItems": self._chance.randrange(len(first) + 1)}
        return {"type": "array", "prefixItems": first} | self._some(rest) | self._some(least)

    def _union(self, depth: int) -> Schema:
        if self._chance.random() < 0.3:
            kinds = ("circle", "square")
            return {
                "oneOf": [
                    {
                        "type": "object",
                        "properties": {"kind": {"const": kind}, "v": self.schema(depth - 1)},
                        "required": ["kind"],
                    }
                    for kind in kinds
                ]
            }
        return {"anyOf": [self.schema(depth - 1) for _ in range(2 + self._chance.randrange(2))]}

    def _both(self, depth: int) -> Schema:
        parts = [self._object(depth - 1) for _ in range(2)]
        for part, others in zip(parts, (None, True), strict=True):
            part.pop("additionalProperties", None)
            if others is not None:
                part["additionalProperties"] = others
        return {"allOf": parts}

    def _reference(self, depth: int) -> Schema:
        name = f"d{len(self.definitions)}"
        if self.definitions and self._chance.random() < 0.5:
            name = self._chance.choice(list(self.definitions))
        else:
            self.definitions[name] = {}  # it may refer to itself from inside
            self.definitions[name] = {"anyOf": [self.schema(depth - 1), {"type": "null"}]}
        return {"$ref": f"#/$defs/{name}"}

    def _some(self, keywords: Schema) -> Schema:
        return keywords if self._chance.random() < 0.7 else {}
