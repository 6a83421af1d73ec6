"""API keys: who may call, and how each one's task is scheduled. Read from a TOML file.

    [default]                 # for callers without a key, and what the keys below leave out
    is_allowed = true         # false: a request without a known key is refused
    priority = 0
    max_in_flight = 64

    [models]                  # other names that clients may use
    "gpt-4o-mini" = "default"

    [keys.alice]              # the task's name
    secret = "sk-..."
    priority = -5             # nice: -20 first, 19 last
    policy = "mlfq"           # its requests are refused unless callers share by it
    group = "research"        # requests of one group are one task
    deadline_ms = 60000
    max_in_flight = 16

Who uses it: callers.py, and the keys that `agentix run --` asks for. What must hold: a file with an unknown
field or a wrong value is refused as a whole, with the name of the field; a secret is compared in constant time
as far as a dictionary allows: by its hash.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

MAX_IN_FLIGHT = 64  # as the kernel has it for one task


@dataclass(frozen=True, slots=True)
class Key:
    """What a caller may do, and how its task is scheduled."""

    name: str = ""
    priority: int = (
        0  # nice of the key's task; its requests may ask for later turns, not for sooner ones
    )
    group: str = ""
    policy: str = ""  # "": whatever callers share by
    deadline_ms: int = 0  # of a request that gives none; 0: none
    max_in_flight: int = MAX_IN_FLIGHT  # requests at once
    pid: int = 0  # a process with which the key ends; 0: none
    is_allowed: bool = True


class KeysError(Exception):
    """The file of keys cannot be used; the text says where and why."""


class KeyRing:
    """The keys by secret, and what holds for callers without one."""

    def __init__(self, path: str | None = None) -> None:
        """Read a file of keys; without one everybody is let in. Raises KeysError."""
        self._by_hash: dict[bytes, Key] = {}
        self.default = Key()
        self.models: dict[str, str] = {}
        self.has_file = path is not None
        if path is not None:
            self._read(path)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._by_hash.values())

    def find(self, secret: str) -> Key | None:
        return self._by_hash.get(_hash(secret))

    def add(self, secret: str, key: Key) -> None:
        self._by_hash[_hash(secret)] = key

    def remove(self, name: str) -> bool:
        """Forget the keys of this name; say whether there was one."""
        found = [hashed for hashed, key in self._by_hash.items() if key.name == name]
        for hashed in found:
            del self._by_hash[hashed]
        return bool(found)

    def _read(self, path: str) -> None:
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise KeysError(f"keys file {path!r}: {error}") from None
        for part in data:
            if part not in ("default", "models", "keys"):
                raise KeysError(
                    f"keys file {path!r}: unknown table [{part}], known are default, models, keys"
                )
        self.default = _key(path, "default", Key(), data.get("default", {}), ("pid", "name"))
        for name, model in _table(path, "models", data.get("models", {})).items():
            if not isinstance(model, str):
                raise KeysError(
                    f"keys file {path!r}: models.{name} is {model!r}, wanted a model's name"
                )
            self.models[name] = model
        for name, given in _table(path, "keys", data.get("keys", {})).items():
            where = f"keys.{name}"
            rest = dict(_table(path, where, given))
            secret = rest.pop("secret", None)
            if not isinstance(secret, str) or len(secret) < 8:
                raise KeysError(
                    f"keys file {path!r}: {where}.secret is missing or shorter than 8 characters"
                )
            if self.find(secret) is not None:
                raise KeysError(f"keys file {path!r}: {where}.secret is another key's too")
            base = replace(self.default, name=name, is_allowed=True)
            self.add(secret, _key(path, where, base, rest, ("pid", "name")))


def _table(path: str, where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise KeysError(f"keys file {path!r}: {where} is {value!r}, wanted a table")
    return value


_RANGES = {"priority": (-20, 19), "deadline_ms": (0, 1 << 40), "max_in_flight": (1, MAX_IN_FLIGHT)}


def _key(path: str, where: str, base: Key, given: Any, closed: tuple[str, ...]) -> Key:
    known = {field.name for field in fields(Key)} - set(closed)
    for name, value in _table(path, where, given).items():
        if name not in known:
            raise KeysError(
                f"keys file {path!r}: unknown field {where}.{name}, known are {', '.join(sorted(known))}"
            )
        wanted = type(getattr(base, name))
        if type(value) is not wanted:
            raise KeysError(
                f"keys file {path!r}: {where}.{name} is {value!r}, wanted {wanted.__name__}"
            )
        low, high = _RANGES.get(name, (0, 0))
        if name in _RANGES and not low <= value <= high:
            raise KeysError(
                f"keys file {path!r}: {where}.{name} is {value}, wanted {low} to {high}"
            )
    return replace(base, **given)


def _hash(secret: str) -> bytes:
    return hashlib.blake2b(secret.encode("utf-8", "replace"), digest_size=32).digest()
