"""What fuzzed inputs are made of: msgpack values and ZMTP streams, most of them right, some of them lies.

Who uses it: mutate.py, to make inputs that get past the first checks; make_corpus.py, for the kept ones. What
must hold: the same random numbers give the same bytes.
"""

from __future__ import annotations

import struct
from random import Random

from kernel.abi.calls import CALLS, SCHEMAS
from kernel.abi.codec import MAGIC, MAX_FRAME_BYTES, PROTOCOL_VERSION
from kernel.abi.descriptors import HELLO, REQUEST, reference
from kernel.abi.shape import MAX_DEPTH, MAX_ITEMS
from kernel.ipc.zmtp import GREETING_BYTES, MAX_COMMAND_BYTES

COUNTS = (
    0, 1, 15, 16, 31, 255, 256, MAX_ITEMS - 1, MAX_ITEMS, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
)  # fmt: skip
SIZES_BYTES = (
    0, 1, 255, 256, MAX_COMMAND_BYTES, MAX_COMMAND_BYTES + 1, MAX_FRAME_BYTES - 1, MAX_FRAME_BYTES,
    MAX_FRAME_BYTES + 1, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
)  # fmt: skip
HARMLESS = sorted(set(CALLS) - {"sys.shutdown"})

# -- msgpack ----------------------------------------------------------------------------------


def text(value: str) -> bytes:
    raw = value.encode()
    if len(raw) < 32:
        return bytes([0xA0 | len(raw)]) + raw
    return b"\xda" + struct.pack(">H", len(raw)) + raw


def integer(value: int) -> bytes:
    return bytes([value]) if value < 128 else b"\xcf" + struct.pack(">Q", value)


SCALARS = (
    *(bytes([one]) for one in (0, 1, 2, 127, 0xC0, 0xC2, 0xC3, 0xE0, 0xFF)),
    *(b"\xcf" + struct.pack(">Q", one) for one in (0, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)),
    *(b"\xd3" + struct.pack(">q", one) for one in (-(1 << 63), -1, 0, (1 << 63) - 1)),
    *(b"\xcb" + struct.pack(">d", one) for one in (0.0, 0.5, -1.0, float("inf"), float("nan"))),
    b"\xcc\x80", b"\xcd\x01\x00", b"\xce\0\0\0\x07", b"\xd0\x80", b"\xd1\x80\0", b"\xd2\x80\0\0\0",
    b"\xca\0\0\0\0",
    b"\xa0", b"\xa1x", b"\xa2\xc3\xa9", b"\xd9\x01y", b"\xda\0\x01z", b"\xdb\0\0\0\x01w", text("n" * 65),
    b"\xc4\0", b"\xc4\x04\x05\0\0\0", b"\xc5\0\x01\0", b"\xc6\0\0\0\x01\0", b"\xc7\0\x05",
)  # fmt: skip
BROKEN = (
    b"\xc1", b"\xa1\xff", b"\xd4\x05\0", b"\xd6\xff\0\0\0\0", b"\xc8\0\0\xff", b"\xc9\0\0\0\0\0",
    b"\xc7\x01\x05\0",
)  # fmt: skip
KEYS = tuple(text(name) for name in sorted({name for schema in SCHEMAS.values() for name in schema}))
METHODS = tuple(text(name) for name in HARMLESS)
MESSAGE = b"\x82\xa4role\xa4user\xa7content\xa1x"
GOOD: dict[type, tuple[bytes, ...]] = {
    str: tuple(text(one) for one in ("x", "", "KILL", "STOP", "CONT", "fcfs", "a.py", "n" * 64)),
    int: tuple(integer(one) for one in (0, 1, 2, 5, 16, 100, 4096, 1 << 20)),
    float: (b"\xcb?\xe0" + bytes(6), b"\0", b"\1"),
    bool: (b"\xc2", b"\xc3"),
    bytes: (b"\xc4\0", b"\xc4\x04\x05\0\0\0", b"\xc4\x08" + bytes(8), b"\xc4\x03abc"),
    list: (b"\x90", *(b"\x91" + one for one in (b"\x05", b"\xa1x", MESSAGE, text("task.create")))),
    dict: (b"\x80", b"\x81\xa1A\xa1b"),
    type(None): (b"\xc0",),
}
# Of each method: its fields, each with right values and whether it must be there.
FIELDS = {
    text(method): tuple(
        (text(name), tuple(one for kind in kinds for one in GOOD[kind]), is_required)
        for name, (kinds, _, _, is_required) in SCHEMAS[method].items()
    )
    for method in HARMLESS
}
OPTIONS = (text("deadline_ms"), text("task"))
LIES = tuple(
    bytes([first]) + count.to_bytes(width, "big")
    for width, kinds in ((2, (0xDC, 0xDE, 0xDA, 0xC5)), (4, (0xDD, 0xDF, 0xDB, 0xC6)))
    for first in kinds
    for count in COUNTS
    if count < 1 << (8 * width)
)
NESTS = tuple(
    one * depth for one in (b"\x91", b"\x81\xa1x", b"\x92\xc0", b"\xdc\0\x01") for depth in (MAX_DEPTH, 9, 60)
)


def pick(rng: Random, choices: tuple) -> object:
    return choices[int(rng.random() * len(choices))]


def value(rng: Random, depth: int = 0) -> bytes:
    """Any value, now and then one that announces more than comes."""
    dice = rng.random()
    if dice < 0.8 or depth > 4:
        return pick(rng, SCALARS)
    if dice < 0.84:
        return pick(rng, pick(rng, (BROKEN, LIES, NESTS)))
    count = int(rng.random() * 4)
    if dice < 0.93:
        return bytes([0x90 | count]) + b"".join([value(rng, depth + 1) for _ in range(count)])
    pairs = [pick(rng, KEYS) + value(rng, depth + 1) for _ in range(count)]
    return bytes([0x80 | count]) + b"".join(pairs)


def call(rng: Random) -> bytes:
    """A call without its MAGIC: nearly right."""
    random = rng.random
    method = pick(rng, METHODS) if random() < 0.95 else value(rng)
    pairs = [
        name + (pick(rng, values) if random() < 0.9 else value(rng))
        for name, values, is_required in FIELDS.get(method, ())
        if random() < (0.97 if is_required else 0.3)
    ]
    if random() < 0.1:
        pairs.append(value(rng) + value(rng))
    body = bytes([0x80 | len(pairs)]) + b"".join(pairs) if random() < 0.97 else value(rng)
    number = integer(1 + int(random() * 200)) if random() < 0.95 else value(rng)
    if random() < 0.8:
        return b"\x93" + number + method + body
    option = pick(rng, OPTIONS) + (integer(int(random() * 1000)) if random() < 0.5 else value(rng))
    return b"\x94" + number + method + body + b"\x81" + option


def answer(rng: Random) -> bytes:
    """An answer without its MAGIC: nearly right."""
    random = rng.random
    kind = pick(rng, (b"\xa5reply", b"\xa5error", b"\xa5chunk")) if random() < 0.95 else value(rng)
    count = int(random() * 4)
    body = bytes([0x80 | count]) + b"".join([pick(rng, KEYS) + value(rng) for _ in range(count)])
    parts = [integer(int(random() * 200)) if random() < 0.95 else value(rng), kind, body]
    if (kind == b"\xa5chunk") == (random() < 0.9):
        parts.append(integer(int(random() * 300)) if random() < 0.9 else value(rng))
    return bytes([0x90 | len(parts)]) + b"".join(parts)


# -- ZMTP -------------------------------------------------------------------------------------


def greeting(version: int = 3, mechanism: bytes = b"NULL") -> bytes:
    head = b"\xff" + bytes(7) + b"\1\x7f" + bytes([version, 1])
    return (head + mechanism.ljust(20, b"\0")).ljust(GREETING_BYTES, b"\0")


def frame(flags: int, data: bytes, announced_bytes: int | None = None) -> bytes:
    """A frame, of a length that may be a lie; flag 2 makes the length 8 bytes."""
    size_bytes = len(data) if announced_bytes is None else announced_bytes
    if size_bytes > 255 or flags & 2:
        return bytes([flags | 2]) + size_bytes.to_bytes(8, "big") + data
    return bytes([flags, size_bytes]) + data


def command(name: bytes, data: bytes) -> bytes:
    return frame(4, bytes([len(name)]) + name + data)


def ready(*properties: tuple[bytes, bytes]) -> bytes:
    parts = [bytes([len(name)]) + name + struct.pack(">I", len(value)) + value for name, value in properties]
    return command(b"READY", b"".join(parts))


GREETING = greeting()
READY = ready((b"Socket-Type", b"DEALER"), (b"Identity", b""))
GREETINGS = (
    *(greeting(version) for version in (0, 1, 2, 4)),
    *(greeting(mechanism=name) for name in (b"PLAIN", b"CURVE", b"GSSAPI", b"")),
    GREETING[:10], GREETING[:11], GREETING[:63], b"\xff" + bytes(20), b"\1\0", b"\0" * GREETING_BYTES,
    b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)  # fmt: skip
READIES = (
    ready(),
    ready((b"Socket-Type", b"REQ")),
    ready((b"Identity", b"x" * 200), (b"socket-type", b"DEALER")),
    ready((b"", b""), (b"Socket-Type", b"DEALER")),
    command(b"READY", b"\x0bSocket-Type\xff\xff\xff\xff"),
    command(b"READY", b"\xff"),
    command(b"READY", b"\x0bSocket-Type\0\0\0\x07DEALER"),
    command(b"HELLO", b""),
    command(b"ERROR", b"\x02no"),
)
COMMANDS = (
    command(b"PING", b"\0\0"),
    command(b"PING", b"\0\x0actx"),
    command(b"PING", b"\0\0" + b"x" * 17),
    command(b"PING", b""),
    command(b"PONG", b""),
    command(b"ERROR", b"\x00"),
    command(b"SUBSCRIBE", b"x"),
    READY,
    frame(4, b""),
    frame(4, b"\0"),
    frame(4, b"\xffX"),
    frame(4, b"", MAX_COMMAND_BYTES),
    frame(4, b"", MAX_COMMAND_BYTES + 1),
)
SIDE_CHANNELS = (
    HELLO,
    HELLO[:2],
    HELLO + REQUEST.pack(1, 1) + REQUEST.pack(2, 1) + REQUEST.pack(3, 1),
    HELLO + REQUEST.pack(9, (1 << 64) - 1) + b"\1",
)
FRAME_LIES = tuple(frame(flags, b"x", size) for flags in (0, 2) for size in SIZES_BYTES)
FLAGS = tuple(frame(flags, b"xy") for flags in range(1, 256) if flags not in (2, 4))
REFERENCES = tuple(
    frame(0, reference(at, size)) for at in (0, 1, 1 << 63) for size in (0, 60_000, (1 << 64) - 1)
)
SYS_HELLO = frame(0, MAGIC + b"\x93\x01\xa9sys.hello\x81\xa7version" + bytes([PROTOCOL_VERSION]))
PIECES = (
    GREETING, READY, *GREETINGS, *READIES, *COMMANDS, *FRAME_LIES, *FLAGS[:16], *REFERENCES, *SIDE_CHANNELS,
)  # fmt: skip


def message(rng: Random) -> bytes:
    """One frame after the handshake: nearly always a call."""
    dice = rng.random()
    if dice < 0.8:
        return frame(0, MAGIC + call(rng))
    if dice < 0.9:
        return pick(rng, COMMANDS)
    if dice < 0.93:
        return frame(0, value(rng))
    if dice < 0.99:
        return pick(rng, pick(rng, (FRAME_LIES, FLAGS, REFERENCES)))
    return frame(2, MAGIC + call(rng) * int(rng.random() * 600))


def stream(rng: Random, hello: bytes = b"") -> bytes:
    """How a stream is cut, one byte, and the stream: a handshake, `hello` and messages."""
    random = rng.random
    cut = bytes([int(random() * 256)]) if random() < 0.7 else b"\0"
    start = GREETING if random() < 0.95 else pick(rng, GREETINGS)
    shake = READY if random() < 0.93 else pick(rng, READIES)
    messages = [message(rng) for _ in range(int(random() * 6))]
    if random() < 0.01:
        return cut + pick(rng, SIDE_CHANNELS)
    return cut + start + shake + hello + b"".join(messages)


def conversation(rng: Random) -> bytes:
    """A stream of a peer that the kernel will know, more often than not."""
    return stream(rng, SYS_HELLO if rng.random() < 0.8 else b"")
