"""Sends malformed messages over a socket of its own and counts how each is answered.

Settings: count, seed. One message at a time: each must be answered by one typed error before the next
is sent. Records errors by name, and what was answered otherwise or not at all.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import msgpack
import zmq
from record import settings, wait_for_go, write

from agentix import Agent
from kernel.abi.address import endpoint, kernel_name
from kernel.abi.calls import CALLS
from kernel.abi.codec import MAGIC, MAX_BODY_BYTES

ANSWER_MS = 10_000
draw = random.Random(settings["seed"])
wrong_values = [None, -1, 1 << 62, 2.5, "x" * 9000, b"\xff\x00", [[]], {"a": {}}, True, [1] * 300]


def header(**fields: object) -> bytes:
    return msgpack.packb({"id": draw.randrange(1, 1 << 40), "method": "sys.info"} | fields)


def noise(most: int) -> bytes:
    return draw.randbytes(draw.randrange(most))


def random_bytes() -> list[bytes]:
    return [noise(400) for _ in range(3)]


def wrong_count() -> list[bytes]:
    frames = [MAGIC, header(), msgpack.packb({})]
    count = draw.choice([1, 2, 4, 5, 8, 9, 40])
    return (frames * 14)[:count]


def wrong_magic() -> list[bytes]:
    return [draw.choice([b"AGX2", b"", b"HTTP/1.1", noise(60)]), header(), msgpack.packb({})]


def cut_off() -> list[bytes]:
    head, body = header(), msgpack.packb({"text": "a" * 50})
    if draw.random() < 0.5:
        return [MAGIC, head[: draw.randrange(len(head))], body]
    return [MAGIC, head, body[: draw.randrange(len(body))]]


def huge_length() -> list[bytes]:
    """msgpack that announces gigabytes: of a string, an array, a map, bytes, an extension."""
    lie = draw.choice([b"\xdb", b"\xdd", b"\xdf", b"\xc6", b"\xc9"]) + b"\xff\xff\xff\xf0" + noise(20)
    return [MAGIC, lie, msgpack.packb({})] if draw.random() < 0.5 else [MAGIC, header(), lie]


def deep() -> list[bytes]:
    return [MAGIC, header(), b"\x81\xa1a" * draw.randrange(200, 3000) + b"\xc0"]


def wrong_header() -> list[bytes]:
    field = draw.choice(["id", "method", "deadline_ms", "more"])
    value = draw.choice([item for item in wrong_values if item != 1 << 62])
    if field == "deadline_ms" and value is None:
        value = -5
    return [MAGIC, header(**{field: value}), msgpack.packb({})]


def unknown_method() -> list[bytes]:
    name = draw.choice(["", "sys", "llm.generate ", "__class__", "proc.\x00", "é" * 100, "sys.hello2"])
    return [MAGIC, header(method=name), msgpack.packb({})]


def unknown_field() -> list[bytes]:
    method = draw.choice([name for name in CALLS if name != "sys.shutdown"])
    return [MAGIC, header(method=method), msgpack.packb({draw.choice(["", "zz", "__init__"]): 1})]


def wrong_type() -> list[bytes]:
    method, field = draw.choice(
        [("llm.generate", "prompt"), ("llm.generate", "max_tokens"), ("llm.generate", "tokens"),
         ("proc.spawn", "script"), ("proc.kill", "pid"), ("ipc.send", "data"), ("mem.create", "name"),
         ("sched.setattr", "priority"), ("llm.detokenize", "tokens"), ("log.write", "text")]
    )  # fmt: skip
    return [MAGIC, header(method=method), msgpack.packb({field: draw.choice([2.5, {"a": {}}, True])})]


def oversize() -> list[bytes]:
    if draw.random() < 0.5:
        return [MAGIC, header(method="x" * 5000), msgpack.packb({})]
    if draw.random() < 0.98:
        return [MAGIC, header(method="log.write"), msgpack.packb({"text": "y" * 5000})]
    return [MAGIC, header(method="log.write"), msgpack.packb({"text": "y" * (MAX_BODY_BYTES + 1)})]


KINDS = [random_bytes, wrong_count, wrong_magic, cut_off, huge_length, deep, wrong_header,
         unknown_method, unknown_field, wrong_type, oversize]  # fmt: skip


def connect(context: zmq.Context) -> zmq.Socket:
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(endpoint("agent", kernel_name()))
    return socket


def fuzz(context: zmq.Context) -> dict[str, object]:
    socket = connect(context)
    errors: Counter[str] = Counter()
    others: list[str] = []
    for _ in range(settings["count"]):
        make = draw.choice(KINDS)
        socket.send_multipart(make())
        if not socket.poll(ANSWER_MS):
            others.append(f"{make.__name__}: no answer")
            if len(others) > 20:
                break
            continue
        frames = socket.recv_multipart()
        kind = msgpack.unpackb(frames[1])["kind"]
        if kind == "error":
            body = msgpack.unpackb(frames[2])
            errors[body["name"] if set(body) == {"errno", "name", "text"} else "not typed"] += 1
        else:
            others.append(f"{make.__name__}: {kind}")
    extra = bool(socket.poll(200))
    socket.close()
    return {"errors": dict(errors), "others": others, "extra": extra}


def beyond_frames(context: zmq.Context) -> None:
    """A frame beyond the transport's limit: the kernel cuts the connection."""
    socket = connect(context)
    socket.send_multipart([MAGIC, os.urandom(17 << 20), b""])
    socket.poll(1000)
    socket.close()


with Agent("fuzzer") as me:
    wait_for_go(me)
    context = zmq.Context()
    outcome = fuzz(context)
    beyond_frames(context)
    me.sched.get()
    write("json", outcome)
