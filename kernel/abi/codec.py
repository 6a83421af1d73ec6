"""Messages of the protocol: the only importer of msgpack.

A message is one ZeroMQ frame: MAGIC and a msgpack array.
  call    [id: int > 0, method: str, {fields of the call}]
  call    [id, method, {...}, {"deadline_ms"?: int, "task"?: int}]
  chunk   [id, "chunk", {...}, seq: int from 0]
  reply   [id, "reply", {...}]
  error   [id, "error", {"errno": int, "name": str, "text": str}]
A call ends in exactly one reply or error; chunks come before it, numbered. A message that no call id can be
read from is answered with id 0; so is the reason why the kernel closes a connection, its last message.
`task` makes the call in the name of a task that the caller holds. Maps have string keys.

Who calls it: the kernel's dispatcher and the SDK. What must hold: nothing that an agent sends makes decode
raise anything but KernelError, nor build much more in memory than its own bytes.
"""

from __future__ import annotations

from reprlib import Repr
from typing import Any, NamedTuple

import msgpack

from kernel.abi.errors import Errno, KernelError
from kernel.abi.shape import TooMuch, check_shape

MAGIC = b"AGX2"
PROTOCOL_VERSION = 2
MAX_INLINE_BYTES = 48 << 10  # of a message in its own frame; beyond, it goes through the payload ring
MAX_FRAME_BYTES = 64 << 10  # the kernel cuts a peer off beyond this
MAX_MESSAGE_BYTES = 4 << 20  # of a message in the payload ring: a long prompt
MAX_ID = (1 << 63) - 1
SMALL_BYTES = 512  # so short a message cannot make much of itself, whatever it holds

_START = len(MAGIC)
_unpackb = msgpack.unpackb
_packb = msgpack.packb
_pack_answer = msgpack.Packer().pack  # making one costs more than packing; one thread makes all answers


class Call(NamedTuple):
    id: int
    method: str
    body: dict[str, Any]
    deadline_ms: int | None = None
    task: int | None = None


class Answer(NamedTuple):
    id: int
    kind: str  # "chunk", "reply" or "error"
    seq: int  # of a chunk; -1 otherwise
    body: dict[str, Any]


def encode_call(
    call_id: int,
    method: str,
    body: dict[str, Any],
    deadline_ms: int | None = None,
    task: int | None = None,
) -> bytes:
    if deadline_ms is None and task is None:
        return MAGIC + _packb((call_id, method, body))
    pairs = (("deadline_ms", deadline_ms), ("task", task))
    options = {name: value for name, value in pairs if value is not None}
    return MAGIC + _packb((call_id, method, body, options))


def encode_answer(call_id: int, kind: str, body: dict[str, Any], seq: int = -1) -> bytes:
    if seq >= 0:
        return MAGIC + _pack_answer((call_id, kind, body, seq))
    return MAGIC + _pack_answer((call_id, kind, body))


def encode_error(call_id: int, error: KernelError) -> bytes:
    body = {"errno": int(error.number), "name": error.number.name, "text": error.text}
    if error.retry_after_ms is not None:
        body["retry_after_ms"] = error.retry_after_ms
    return encode_answer(call_id, "error", body)


def decode_call(frame: bytes) -> Call:
    """Return the call in a message, or raise BadCall, which carries the id if there is one."""
    values = _array(frame)
    call_id = values[0] if values else None
    if type(call_id) is not int or not 0 < call_id <= MAX_ID:
        raise BadCall(Errno.EBADMSG, f"call id is {show(call_id)}, wanted an int from 1 to 2^63-1")
    if not 3 <= len(values) <= 4:
        text = f"a call is an array of 3 or 4 values, this one of {len(values)}"
        raise BadCall(Errno.EBADMSG, text, call_id)
    method, body = values[1], values[2]
    if type(method) is not str:
        raise BadCall(Errno.EBADMSG, f"method is {show(method)}, wanted a string", call_id)
    if type(body) is not dict:
        text = f"the body of {show(method)} is a {type(body).__name__}, wanted a map"
        raise BadCall(Errno.EBADMSG, text, call_id)
    if len(values) == 3:
        return Call(call_id, method, body)
    return Call(call_id, method, body, *_options(call_id, values[3]))


def decode_answer(frame: bytes) -> Answer:
    """Return a kernel's answer. Raises BadCall on anything that is not one."""
    if frame[:_START] != MAGIC:
        raise BadCall(Errno.EBADMSG, f"an answer starts with {show(bytes(frame[:_START]))}")
    try:
        values = _unpackb(memoryview(frame)[_START:])
        call_id, kind, body, *rest = values
    except Exception as error:
        raise BadCall(Errno.EBADMSG, f"not an answer: {show(str(error))}") from None
    seq = rest[0] if rest else -1
    is_typed = type(call_id) is int and type(body) is dict and type(seq) is int
    is_known = kind in ("chunk", "reply", "error")
    if not (is_typed and is_known and len(rest) == (seq >= 0) == (kind == "chunk")):
        raise BadCall(Errno.EBADMSG, f"not an answer: {show(values)}")
    return Answer(call_id, kind, seq, body)


def pack(value: Any) -> bytes:
    """Serialise plain values for a trusted peer (the LLM core's link)."""
    return _packb(value)


def unpack(raw: bytes) -> Any:
    """The inverse of pack; lists come back as tuples."""
    return _unpackb(raw, use_list=False, strict_map_key=False)


def unpack_stored(raw: bytes) -> Any:
    """The inverse of pack for what a disk has kept: nothing but plain values. Raises ValueError."""
    try:
        return _unpackb(raw, strict_map_key=True, max_ext_len=0)
    except Exception as error:  # as in _array
        raise ValueError(show(str(error))) from None


class BadCall(KernelError):
    """A message that is no valid call; `call_id` is 0 when none could be read."""

    def __init__(self, number: Errno, text: str, call_id: int = 0) -> None:
        super().__init__(number, text)
        self.call_id = call_id


def _array(frame: bytes) -> list[Any]:
    """Unpack a message, after a look at what it holds when it is long enough to hold much."""
    if frame[:_START] != MAGIC:
        number = Errno.EPROTO if frame[:3] == MAGIC[:3] else Errno.EBADMSG
        raise BadCall(number, f"a message starts with {show(bytes(frame[:_START]))}, wanted {MAGIC!r}")
    try:
        if len(frame) > SMALL_BYTES:
            check_shape(frame, _START)
        values = _unpackb(memoryview(frame)[_START:], strict_map_key=True, max_ext_len=0)
    except TooMuch as error:
        raise BadCall(Errno.EBADMSG, str(error), error.call_id) from None
    except Exception as error:  # msgpack raises half a dozen unrelated classes on hostile input
        raise BadCall(Errno.EBADMSG, f"a message is not msgpack: {show(str(error))}") from None
    if type(values) is not list:
        raise BadCall(Errno.EBADMSG, f"a message is a {type(values).__name__}, wanted an array")
    return values


def _options(call_id: int, options: Any) -> tuple[int | None, int | None]:
    if type(options) is not dict or not options.keys() <= {"deadline_ms", "task"}:
        text = f"call options are {show(options)}, wanted a map of deadline_ms and task"
        raise BadCall(Errno.EBADMSG, text, call_id)
    for name, most in (("deadline_ms", 1 << 40), ("task", 1 << 31)):
        value = options.get(name)
        if value is not None and not (type(value) is int and 0 <= value < most):
            text = f"call option {name} is {show(value)}, wanted an int from 0 to {most - 1}"
            raise BadCall(Errno.EBADMSG, text, call_id)
    return options.get("deadline_ms"), options.get("task")


def show(value: Any) -> str:
    """Return a value for an error text: bounded, printable, however long or deep the value is."""
    text = _brief.repr(value).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 80 else text[:77] + "..."


class _Brief(Repr):
    def repr_bytes(self, value: bytes, _: int) -> str:
        return repr(value[:80])


_brief = _Brief()
_brief.maxstring = 80
