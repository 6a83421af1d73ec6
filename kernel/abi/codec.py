"""Frames of the protocol: the only importer of msgpack.

A message is three frames after any routing frame: MAGIC, a header map and a body map.
  call    header {"id": int > 0, "method": str, "deadline_ms"?: int}      body {fields of the call}
  chunk   header {"id": int, "kind": "chunk", "seq": int from 0}          body {...}
  reply   header {"id": int, "kind": "reply"}                             body {...}
  error   header {"id": int, "kind": "error"}   body {"errno": int, "name": str, "text": str}
A call ends in exactly one reply or error; chunks come before it, numbered. A message that no call id
can be read from is answered with id 0.

Who calls it: the kernel's ipc server and the SDK's transport. What must hold: nothing that an agent
sends makes decode raise anything but KernelError.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack

from kernel.abi.errors import Errno, KernelError

MAGIC = b"AGX1"
PROTOCOL_VERSION = 1
MAX_HEADER_BYTES = 1024
MAX_BODY_BYTES = 8 << 20  # a long prompt; larger payloads are for segments
MAX_FRAME_BYTES = 16 << 20  # the transport cuts the peer off beyond this
MAX_ID = (1 << 63) - 1


class Call(NamedTuple):
    id: int
    method: str
    body: dict[str, Any]
    deadline_ms: int | None


class Answer(NamedTuple):
    id: int
    kind: str  # "chunk", "reply" or "error"
    seq: int  # of a chunk; -1 otherwise
    body: dict[str, Any]


def encode_call(
    call_id: int, method: str, body: dict[str, Any], deadline_ms: int | None = None
) -> list[bytes]:
    header: dict[str, Any] = {"id": call_id, "method": method}
    if deadline_ms is not None:
        header["deadline_ms"] = deadline_ms
    return [MAGIC, msgpack.packb(header), msgpack.packb(body)]


def encode_answer(call_id: int, kind: str, body: dict[str, Any], seq: int = -1) -> list[bytes]:
    header: dict[str, Any] = {"id": call_id, "kind": kind}
    if seq >= 0:
        header["seq"] = seq
    return [MAGIC, msgpack.packb(header), msgpack.packb(body)]


def encode_error(call_id: int, error: KernelError) -> list[bytes]:
    body = {"errno": int(error.number), "name": error.number.name, "text": error.text}
    return encode_answer(call_id, "error", body)


def decode_call(frames: list[bytes]) -> Call:
    """Return the call in a message's frames, or raise BadCall, which carries the id if there is one."""
    header = _envelope(frames)
    call_id = header.pop("id", None)
    if not _is_int(call_id) or not 0 < call_id <= MAX_ID:
        raise BadCall(Errno.EBADMSG, f"header id is {_show(call_id)}, wanted an int from 1 to 2^63-1")
    if len(frames[2]) > MAX_BODY_BYTES:
        text = f"body is {len(frames[2])} bytes, the limit is {MAX_BODY_BYTES}"
        raise BadCall(Errno.EMSGSIZE, text, call_id)
    try:
        method = header.pop("method", None)
        deadline_ms = header.pop("deadline_ms", None)
        if not isinstance(method, str):
            raise BadCall(Errno.EBADMSG, f"header method is {_show(method)}, wanted a string")
        if deadline_ms is not None and not (_is_int(deadline_ms) and 0 <= deadline_ms < 1 << 40):
            raise BadCall(Errno.EBADMSG, f"header deadline_ms is {_show(deadline_ms)}")
        if header:
            raise BadCall(Errno.EBADMSG, f"header has an unknown field {_show(next(iter(header)))}")
        return Call(call_id, method, _map("body", frames[2]), deadline_ms)
    except BadCall as error:
        raise BadCall(error.number, error.text, call_id) from None


def decode_answer(frames: list[bytes]) -> Answer:
    """Return a kernel's answer. Raises BadCall on anything that is not one."""
    header = _envelope(frames)
    kind = header.get("kind")
    if kind not in ("chunk", "reply", "error") or not _is_int(header.get("id")):
        raise BadCall(Errno.EBADMSG, f"not an answer: header {_show(header)}")
    return Answer(header["id"], kind, header.get("seq", -1), _map("body", frames[2]))


def pack(value: Any) -> bytes:
    """Serialise plain values for a trusted peer (the LLM core's link)."""
    return msgpack.packb(value)


def unpack(raw: bytes) -> Any:
    """The inverse of pack; lists come back as tuples."""
    return msgpack.unpackb(raw, use_list=False, strict_map_key=False)


class BadCall(KernelError):
    """A message that is no valid call; `call_id` is 0 when none could be read."""

    def __init__(self, number: Errno, text: str, call_id: int = 0) -> None:
        super().__init__(number, text)
        self.call_id = call_id


def _envelope(frames: list[bytes]) -> dict[str, Any]:
    if len(frames) != 3:
        raise BadCall(Errno.EBADMSG, f"a message has 3 frames, this one {len(frames)}")
    if frames[0] != MAGIC:
        known = frames[0][:3] == MAGIC[:3]
        number = Errno.EPROTO if known else Errno.EBADMSG
        raise BadCall(number, f"first frame is {_show(bytes(frames[0][:16]))}, wanted {MAGIC!r}")
    if len(frames[1]) > MAX_HEADER_BYTES:
        text = f"header is {len(frames[1])} bytes, the limit is {MAX_HEADER_BYTES}"
        raise BadCall(Errno.EMSGSIZE, text)
    return _map("header", frames[1])


def _map(name: str, raw: bytes) -> dict[str, Any]:
    try:
        value = msgpack.unpackb(raw, strict_map_key=True, max_ext_len=0)
    except Exception as error:  # msgpack raises half a dozen unrelated classes on hostile input
        raise BadCall(Errno.EBADMSG, f"{name} is not msgpack: {_show(str(error))}") from None
    if not isinstance(value, dict):
        raise BadCall(Errno.EBADMSG, f"{name} is a {type(value).__name__}, wanted a map")
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _show(value: Any) -> str:
    """A value for an error text: bounded, printable."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
