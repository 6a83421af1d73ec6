"""Sends malformed messages over a socket of its own and counts how each is answered.

Settings: count, seed. One message at a time: each must be answered by one typed error before the next is
sent. Some cost the connection: there the error is the reason, and the next goes over a new one. Records
errors by name, the reasons, and what was answered otherwise or not at all.
"""

from __future__ import annotations

import random
from collections import Counter

import msgpack
import zmq
from record import settings, wait_for_go, write

from agentix import Agent
from kernel.abi.address import endpoint, own_socket
from kernel.abi.calls import CALLS
from kernel.abi.codec import MAGIC, MAX_FRAME_BYTES, PROTOCOL_VERSION, encode_call

ANSWER_MS = 10_000
CUTTING_SHARE = 0.01  # of messages that cost the connection: a process may connect only so often
draw = random.Random(settings["seed"])
wrong_values = [None, -1, 1 << 62, 2.5, "x" * 9000, b"\xff\x00", [[]], {"a": {}}, True, [1] * 300, {1: 2}]


def message(*values: object) -> bytes:
    return MAGIC + msgpack.packb(values)


def call(method: str = "sys.info", body: object = None) -> bytes:
    return message(any_id(), method, {} if body is None else body)


def any_id() -> int:
    return draw.randrange(1, 1 << 40)


def noise(most: int) -> bytes:
    return draw.randbytes(draw.randrange(most))


def random_bytes() -> bytes:
    return draw.choice([b"", MAGIC]) + noise(400)


def wrong_magic() -> bytes:
    return draw.choice([b"AGX1", b"AGX9", b"", b"HTTP/1.1", noise(60)]) + call()[len(MAGIC) :]


def cut_off() -> bytes:
    whole = call("log.write", {"text": "a" * draw.choice([50, 700])})
    return whole[: draw.randrange(len(MAGIC), len(whole))]


def huge_length() -> bytes:
    """msgpack that announces gigabytes: of a string, an array, a map, bytes, an extension."""
    kind = draw.choice([b"\xdb", b"\xdd", b"\xdf", b"\xc6", b"\xc9"])
    lie = kind + b"\xff\xff\xff\xf0" + noise(draw.choice([20, 999]))
    start = b"\x93" + msgpack.packb(any_id())
    return MAGIC + draw.choice([b"", start, start + msgpack.packb("sys.info")]) + lie


def deep() -> bytes:
    start = MAGIC + b"\x93" + msgpack.packb(any_id()) + msgpack.packb("sys.info")
    return start + b"\x81\xa1a" * draw.randrange(100, 3000) + b"\xc0"


def wrong_header() -> bytes:
    field = draw.choice(["id", "method", "body", "deadline_ms", "task", "more"])
    value = draw.choice(wrong_values)
    if field == "id":
        return message(-5 if value == 1 << 62 else value, "sys.info", {})
    if field == "method":
        return message(any_id(), value, {})
    if field == "body":
        return message(any_id(), "sys.info", value)
    return message(any_id(), "sys.info", {}, {field: -5 if value is None else value})


def wrong_shape() -> bytes:
    """No array, one of another length, or more behind it."""
    values = [any_id(), "sys.info", {}, {}]
    cases = [values[:count] for count in (0, 1, 2)] + [values + [1] * count for count in (1, 40)]
    cases += [None, 7, "sys.info", {"id": 7}, values[:3] * 100]
    chosen = draw.randrange(len(cases) + 1)
    return MAGIC + msgpack.packb(cases[chosen]) if chosen < len(cases) else call() + noise(20) + b"\0"


def unknown_method() -> bytes:
    return call(draw.choice(["", "sys", "llm.generate ", "__class__", "proc.\x00", "é" * 100, "sys.hello2"]))


def unknown_field() -> bytes:
    method = draw.choice([name for name in CALLS if name != "sys.shutdown"])
    return call(method, {draw.choice(["", "zz", "__init__"]): 1})


def wrong_type() -> bytes:
    method, field = draw.choice(
        [("llm.generate", "prompt"), ("llm.generate", "max_tokens"), ("llm.generate", "tokens"),
         ("proc.spawn", "script"), ("proc.kill", "pid"), ("ipc.send", "data"), ("mem.create", "name"),
         ("sched.setattr", "nice"), ("llm.detokenize", "tokens"), ("log.write", "text"),
         ("task.create", "name")]
    )  # fmt: skip
    return call(method, {field: draw.choice([2.5, {"a": {}}, True])})


def oversize() -> bytes:
    """Of a field, or of the number of values."""
    if draw.random() < 0.3:
        return call("x" * 5000)
    if draw.random() < 0.3:
        return call("llm.detokenize", {"tokens": [1] * 9000})
    return call("log.write", {"text": "y" * draw.choice([5000, 60_000])})


def several_frames() -> list[bytes]:
    return [call() for _ in range(draw.choice([2, 3, 9, 40]))]


def too_long() -> list[bytes]:
    return [call("log.write", {"text": "y" * draw.choice([MAX_FRAME_BYTES, 1 << 20])})]


KINDS = [random_bytes, wrong_magic, cut_off, huge_length, deep, wrong_header, wrong_shape,
         unknown_method, unknown_field, wrong_type, oversize]  # fmt: skip
CUTTING = [several_frames, too_long]


def connect(context: zmq.Context) -> zmq.Socket:
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(endpoint(own_socket()))
    socket.send(encode_call(1, "sys.hello", {"version": PROTOCOL_VERSION}))
    if not socket.poll(ANSWER_MS):
        raise TimeoutError("sys.hello was not answered")
    socket.recv()
    return socket


def fuzz(context: zmq.Context) -> dict[str, object]:
    socket = connect(context)
    errors: Counter[str] = Counter()
    others: list[str] = []
    reasons: Counter[str] = Counter()
    has_extra = False
    for _ in range(settings["count"]):
        cuts = draw.random() < CUTTING_SHARE
        make = draw.choice(CUTTING if cuts else KINDS)
        made = make()
        socket.send_multipart(made if cuts else [made])
        if not socket.poll(ANSWER_MS):
            others.append(f"{make.__name__}: no answer")
            if len(others) > 20:
                break
            continue
        call_id, kind, body = msgpack.unpackb(socket.recv()[len(MAGIC) :])[:3]
        if kind != "error":
            others.append(f"{make.__name__}: {kind}")
            continue
        errors[body["name"] if set(body) == {"errno", "name", "text"} else "not typed"] += 1
        if cuts:
            reasons[body["text"] if call_id == 0 else "a call's error"] += 1
            has_extra |= bool(socket.poll(0))
            socket.close()
            socket = connect(context)
    has_extra |= bool(socket.poll(200))
    socket.close()
    return {"errors": dict(errors), "others": others, "extra": has_extra, "reasons": dict(reasons)}


with Agent("fuzzer") as me:
    wait_for_go(me)
    outcome = fuzz(zmq.Context())
    me.sched.get()
    write("json", outcome)
