"""What a disk keeps of a durable session: enough for the same next token, and no KV. Pure.

Who uses it: durable.py makes and reads records, recordfile.py seals and opens their files. What must hold: a record
that did not come back as it was written is found by its seal; nothing of one that did is believed before it was looked
at.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from dataclasses import dataclass
from typing import Any, NamedTuple

from kernel.abi.codec import pack, show, unpack_stored
from kernel.abi.errors import KernelError
from kernel.abi.messages import check_messages
from kernel.abi.schema import MAX_TOKENS
from kernel.abi.shape import MAX_DEPTH
from kernel.context.kv import Context, Turns
from kernel.limits import MAX_KEPT_TOKENS, MAX_SESSION_BYTES, MAX_SESSION_CONTEXTS

FORMAT = 1
_SEAL = struct.Struct("<4sQ16s")  # before a body: _MAGIC, the body's bytes, their checksum
SEAL_BYTES = _SEAL.size
_MAGIC = b"AGXS"
_MOST = 1 << 48  # of what is only counted
_TOKEN_BYTES = 4


class Damaged(Exception):
    """A record is not what was written, or nothing that could have been; the message says how."""


class Key(NamedTuple):
    """Whose a durable session is: whoever comes again under these names goes on with it."""

    group: str
    task: str
    session: str

    @property
    def file_name(self) -> str:
        return hashlib.blake2b(pack(tuple(self)), digest_size=16).hexdigest() + ".session"

    def __str__(self) -> str:
        return f"{self.session!a} of task {self.task!a} in group {self.group}"


class Answer(NamedTuple):
    """What a model said, and what must be known to read it."""

    text: str
    chat_format: str
    opens_reasoning: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A session after its last turn. Its fields are those of sessions.Session; `contexts` are kept.py's."""

    key: Key
    model: str
    fingerprint: str  # of the model's file
    turns: int
    dropped_turns: int
    dropped_tokens: int
    tokens: list[int]
    messages: list[dict[str, Any]] | None
    answer: Answer | None
    contexts: tuple[Context, ...]


def encode(record: Record) -> bytes:
    """Return a record's body."""
    contexts = [(one.tokens.tobytes(), one.turns) for one in record.contexts]
    return pack(
        {
            "format": FORMAT,
            "key": record.key,
            "model": record.model,
            "fingerprint": record.fingerprint,
            "turns": record.turns,
            "dropped_turns": record.dropped_turns,
            "dropped_tokens": record.dropped_tokens,
            "tokens": array("I", record.tokens).tobytes(),
            "messages": record.messages,
            "answer": record.answer,
            "contexts": contexts,
        }
    )


def seal(body: bytes) -> bytes:
    """Return what stands before a body in its file."""
    return _SEAL.pack(_MAGIC, len(body), _checksum(body))


def unseal(raw: bytes) -> bytes:
    """Return the body of a file. Raises Damaged."""
    if len(raw) < _SEAL.size or not raw.startswith(_MAGIC):
        raise Damaged(f"it begins with {show(raw[:8])}, which is no session")
    _, size, checksum = _SEAL.unpack_from(raw)
    body = raw[_SEAL.size :]
    if len(body) != size:
        raise Damaged(f"it has {len(body)} of {size} bytes")
    if _checksum(body) != checksum:
        raise Damaged("its checksum is wrong")
    return body


def decode(body: bytes, key: Key) -> Record:
    """Return the record of a session out of a body. Raises Damaged."""
    try:
        value = unpack_stored(body)
    except ValueError as error:
        raise Damaged(f"it is not msgpack: {error}") from None
    if not isinstance(value, dict):
        raise Damaged(f"it holds {show(value)}, wanted a map")
    if value.get("format") != FORMAT:
        raise Damaged(f"its format is {show(value.get('format'))}, wanted {FORMAT}")
    if value.get("key") != list(key):
        raise Damaged(f"it is the session {show(value.get('key'))}")
    tokens = list(_tokens("tokens", value.get("tokens"), MAX_TOKENS))
    messages = _messages(value.get("messages"))
    answer = _answer(value.get("answer"))
    if answer is not None and messages is None:
        raise Damaged("it has an answer and no messages")
    return Record(
        key=key,
        model=_typed(value, "model", str),
        fingerprint=_typed(value, "fingerprint", str),
        turns=_count(value, "turns", 1),
        dropped_turns=_count(value, "dropped_turns"),
        dropped_tokens=_count(value, "dropped_tokens"),
        tokens=tokens,
        messages=messages,
        answer=answer,
        contexts=_contexts(value.get("contexts")),
    )


def check_vocabulary(record: Record, vocab: int) -> None:
    """Raise Damaged for a token that the model does not have."""
    for tokens in (record.tokens, *(one.tokens for one in record.contexts)):
        if tokens and max(tokens) >= vocab:
            raise Damaged(f"it has token {max(tokens)}, and the model {vocab}")


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


def _typed(value: dict[str, Any], name: str, kind: type) -> Any:
    found = value.get(name)
    if type(found) is not kind:
        raise Damaged(f"{name} is {show(found)}, wanted {kind.__name__}")
    return found


def _count(value: dict[str, Any], name: str, least: int = 0) -> int:
    found: int = _typed(value, name, int)
    if not least <= found < _MOST:
        raise Damaged(f"{name} is {found}, wanted {least} at least")
    return found


def _tokens(name: str, raw: Any, most: int) -> array[int]:
    if type(raw) is not bytes or len(raw) % _TOKEN_BYTES or len(raw) > most * _TOKEN_BYTES:
        raise Damaged(f"{name} are {show(raw)}, wanted {_TOKEN_BYTES} bytes for each of at most {most}")
    return array("I", raw)


def _messages(value: Any) -> list[dict[str, Any]] | None:
    if value is None:
        return None
    if type(value) is not list or not _is_plain(value, MAX_DEPTH):
        raise Damaged(f"messages are {show(value)}")
    try:
        check_messages("it", value)
    except KernelError as error:
        raise Damaged(error.text) from None
    if len(pack(value)) > MAX_SESSION_BYTES:
        raise Damaged(f"its messages come to more than {MAX_SESSION_BYTES} bytes")
    return value


def _is_plain(value: Any, depth: int) -> bool:
    """Whether a value is no deeper than a call's may be, and its maps have texts as keys."""
    if isinstance(value, dict):
        return depth > 0 and all(type(key) is str and _is_plain(one, depth - 1) for key, one in value.items())
    return not isinstance(value, list) or (depth > 0 and all(_is_plain(one, depth - 1) for one in value))


def _answer(value: Any) -> Answer | None:
    if value is None:
        return None
    kinds = [str, str, bool]
    if type(value) is not list or [type(one) for one in value] != kinds:
        raise Damaged(f"answer is {show(value)}")
    return Answer(*value)


def _contexts(value: Any) -> tuple[Context, ...]:
    if type(value) is not list or len(value) > MAX_SESSION_CONTEXTS:
        raise Damaged(f"contexts are {show(value)}, wanted at most {MAX_SESSION_CONTEXTS}")
    if not all(type(one) is list and len(one) == 2 for one in value):
        raise Damaged(f"contexts are {show(value)}, wanted pairs")
    return tuple(_context(*one) for one in value)


def _context(raw: Any, turns: Any) -> Context:
    tokens = _tokens("a context's tokens", raw, MAX_KEPT_TOKENS)
    end, checked = 0, []
    for turn in turns if type(turns) is list else (turns,):
        is_pair = type(turn) is list and [type(one) for one in turn] == [int, int]
        if not is_pair or not end < turn[0] < turn[1] <= len(tokens):
            raise Damaged(f"a context of {len(tokens)} tokens has the turn {show(turn)} after {end}")
        checked.append((turn[0], turn[1]))
        end = turn[1]
    found: Turns = tuple(checked)
    return Context(tokens, found)
