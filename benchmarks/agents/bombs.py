"""Messages that cost as much as their bytes can to read: in a frame, and through a payload ring.

Who uses it: attacker.py. Each is either refused for what it announces, or valid up to a limit of the protocol
and then refused for what it says; none may cost the kernel memory, or others their time.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from itertools import cycle

import msgpack
from hostile import doors, is_over, tally

from benchmarks.rawpeer import Cut, RawPeer, connect
from kernel.abi.codec import MAGIC, MAX_MESSAGE_BYTES, decode_answer
from kernel.abi.descriptors import ANSWER, HELLO, REQUEST, RING, RING_BYTES, reference
from kernel.abi.errors import KernelError
from kernel.abi.shape import MAX_DEPTH, MAX_ITEMS
from shm.ring import Producer, ring_bytes
from shm.segment import Mapping, Segment

INLINE_BYTES = 60_000
LONG_BYTES = MAX_MESSAGE_BYTES - 100
SMALL_BYTES = 500  # not looked at before it is unpacked
ANSWER_S = 5.0
LOG_BYTES = 60_000  # more than goes inline


def array(count: int) -> bytes:
    return b"\xdd" + struct.pack(">I", count)


def table(count: int) -> bytes:
    return b"\xdf" + struct.pack(">I", count)


def messages(size_bytes: int) -> Iterator[bytes]:
    """Bombs of about this size."""
    call = MAGIC + b"\x93\x07" + msgpack.packb("sys.info")
    room = size_bytes - len(call)
    yield call + array(0xFFFFFFFF) * (room // 5)  # arrays in one another, each said to be endless
    yield call + array(room - 5) * (room // 5)  # each no longer than the message
    yield call + table(room // 2) * (room // 5)
    yield call + b"\x9f" * room
    yield call + b"\x91" * room  # deep
    yield call + b"\x81\xa1a" * (room // 3)
    yield call + array(room - 5) + b"\x80" * (room - 5)  # empty maps
    yield call + array(room - 5) + b"\x90" * (room - 5)
    yield call + table(room // 3) + b"".join(b"\xa1%c\x80" % (number % 128) for number in range(room // 3))
    yield call + b"\xc9" + struct.pack(">I", room) + b"\x01" * (room - 5)  # an extension
    yield call + b"\xdb\xff\xff\xff\xff" + b"a" * (room - 5)


def at_the_limits(size_bytes: int) -> Iterator[bytes]:
    """Well-formed calls, with as many values or as much nesting as may be, and wrong fields."""
    keys = MAX_ITEMS // 2 - 10
    if size_bytes > 8 * keys:
        yield MAGIC + msgpack.packb([7, "sys.info", {f"k{number}": number for number in range(keys)}])
        yield MAGIC + msgpack.packb([7, "sys.info", {"zz": [{} for _ in range(MAX_ITEMS - 10)]}])
        yield MAGIC + msgpack.packb([7, "llm.detokenize", {"tokens": [[] for _ in range(MAX_ITEMS - 10)]}])
    nested: object = "x"
    for _ in range(MAX_DEPTH - 3):
        nested = {"a": nested}
    yield MAGIC + msgpack.packb([7, "sys.info", {"zz": nested}])
    yield MAGIC + msgpack.packb([7, "log.write", {"text": "a" * (size_bytes - 100)}])


INLINE_BOMBS = [*messages(INLINE_BYTES), *at_the_limits(INLINE_BYTES), *messages(SMALL_BYTES)]


@cache
def long_bombs() -> list[bytes]:
    return [*messages(LONG_BYTES), *at_the_limits(LONG_BYTES)]


def ring_bombs() -> None:
    """Bombs a hundred times as long, through a ring; then nonsense in the ring and references to nowhere."""
    lies = cycle(((0, MAX_MESSAGE_BYTES + 1), ((1 << 64) - 1, 8), (0, 1 << 63), (RING_BYTES - 1, 100)))
    while not is_over():
        try:
            with closing(Ringed(next(doors))) as peer:
                for bomb in long_bombs():
                    if is_over():
                        return
                    peer.throw(bomb)
                peer.spoil()
                peer.refer(*next(lies))
                peer.hear_all()
        except (Cut, KernelError, OSError) as error:  # TimeoutError is one of these
            tally.did_one("cut off")
            tally.hear(str(error))


class Ringed:
    """A greeted connection and the ring that it may write."""

    def __init__(self, door: str) -> None:
        """Raises Cut, KernelError, OSError."""
        self._peer = RawPeer(door, ANSWER_S)
        try:
            tally.did_one("connects")
            number = self._peer.hello("attacker")["connection"]
            with closing(connect(door, ANSWER_S)) as side:
                side.sendall(HELLO + REQUEST.pack(RING, number))
                raw, fds, _, _ = socket.recv_fds(side, ANSWER.size, 1)
            if not fds:
                raise OSError(ANSWER.unpack(raw)[0] if len(raw) == ANSWER.size else 0, "no ring was given")
            with closing(Segment.attach(fds[0])) as segment:
                self._memory = Mapping(segment.map())
        except BaseException:
            self._peer.close()
            raise
        self._unanswered = 0
        self._ring = Producer(self._memory, 0, RING_BYTES)

    def throw(self, bomb: bytes) -> None:
        """Send a message through the ring, as soon as there is room for it. Raises Cut, OSError."""
        while (position := self._ring.put(bomb)) is None:
            self._hear()
        tally.did_one("messages through a ring")
        self.refer(position, len(bomb))

    def refer(self, position: int, length: int) -> None:
        """Send a reference. Raises OSError."""
        self._peer.send(reference(position, length))
        self._unanswered += 1

    def spoil(self) -> None:
        """Write nonsense over what the kernel reads of the ring, then have it put a long answer there."""
        self.hear_all()
        for base in (0, ring_bytes(RING_BYTES)):
            self._memory.write(base, b"\xff" * 64)
        print("x" * LOG_BYTES, flush=True)
        self._peer.call("proc.logs", pid=os.getpid())

    def hear_all(self) -> None:
        """Wait for all answers. Raises Cut, OSError."""
        while self._unanswered:
            self._hear()

    def _hear(self) -> None:
        answer = decode_answer(self._peer.receive())
        self._unanswered -= 1
        tally.hear(f"{answer.body.get('name', answer.kind)}: {answer.body.get('text', '')}")

    def close(self) -> None:
        self._memory.close()
        self._peer.close()
