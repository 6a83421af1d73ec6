"""Who calls and how it wants to be scheduled: a request's headers, and its key.

Who uses it: every endpoint, before anything else. What must hold: a request asks for no more than its key
allows, and a header with a wrong value is an error that names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from agentix.gateway.keys import Key, KeyRing
from agentix.gateway.problems import Problem, invalid

# What clients send that must send something: no key at all.
PLACEHOLDERS = frozenset(
    ("", "-", "0", "dummy", "empty", "fake", "key", "local", "no-key", "none", "not-needed", "null", "ollama",
     "sk-no-key-required", "sk-xxx", "test", "unused", "x", "xxx")
)  # fmt: skip
TRUE = ("1", "true", "yes", "on")


@dataclass(frozen=True, slots=True)
class Caller:
    """One request's sender."""

    key: Key
    name: str  # of its task; "": of no key, its task is its conversation's
    group: str
    priority: int
    deadline_s: float | None
    wants_progress: bool  # comments that say its place in the queue
    wants_truncation: bool  # rather than an error, of a prompt that is too long


def identify(headers: Mapping[str, str], ring: KeyRing, policy: str) -> Caller:
    """Return the caller. `policy` is the one that callers share by. Raises Problem."""
    secret = _secret(headers)
    key = ring.find(secret) if secret else None
    if key is None:
        if not ring.default.is_allowed or (secret and ring.has_file):
            text = "the API key is not one of this gateway's" if secret else "an API key is needed"
            raise Problem(
                401,
                "invalid_api_key",
                f"{text}: send it as `Authorization: Bearer KEY`",
                may_retry=False,
            )
        key = ring.default
    name = key.name
    if not name and secret:
        name = (
            "key-" + hashlib.blake2b(secret.encode("utf-8", "replace"), digest_size=4).hexdigest()
        )
    _check_policy(headers, key, policy)
    return Caller(
        key=key,
        name=name,
        group=_group(headers) or key.group,
        priority=_priority(headers, key),
        deadline_s=_deadline_s(headers, key),
        wants_progress=headers.get("x-agentix-progress", "").lower() in TRUE,
        wants_truncation=headers.get("x-agentix-truncate", "").lower() in TRUE,
    )


def _secret(headers: Mapping[str, str]) -> str:
    kind, _, secret = headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer":
        secret = headers.get("x-api-key", "") or headers.get("api-key", "")
    secret = secret.strip()
    return "" if secret.lower() in PLACEHOLDERS else secret


def _group(headers: Mapping[str, str]) -> str:
    group = headers.get("x-agentix-group", "").strip()
    if len(group) > 32 or not group.isprintable():
        raise invalid(
            f"header X-Agentix-Group is {group[:40]!r}, wanted at most 32 printable characters"
        )
    return group


def _priority(headers: Mapping[str, str], key: Key) -> int:
    given = headers.get("x-agentix-priority")
    if given is None:
        return key.priority
    priority = _number("X-Agentix-Priority", given, -20, 19)
    if priority < key.priority:
        text = (
            f"header X-Agentix-Priority is {priority}, this caller may ask for {key.priority} to 19"
        )
        raise Problem(403, "permission_denied", text, may_retry=False)
    return priority


def _deadline_s(headers: Mapping[str, str], key: Key) -> float | None:
    given = headers.get("x-agentix-deadline-ms")
    if given is None:
        return key.deadline_ms / 1000 if key.deadline_ms else None
    return _number("X-Agentix-Deadline-Ms", given, 1, 1 << 40) / 1000


def _check_policy(headers: Mapping[str, str], key: Key, policy: str) -> None:
    asked = headers.get("x-agentix-policy", key.policy)
    if asked not in ("", policy):
        text = f"policy {asked[:40]!r} was asked for, this gateway's callers share by {policy!r}"
        raise invalid(f"{text}: an operator sets it with `agentix group set`", "X-Agentix-Policy")


def _number(name: str, text: str, low: int, high: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise invalid(f"header {name} is {text[:40]!r}, wanted a number from {low} to {high}", name)
    return value
