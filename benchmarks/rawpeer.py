"""A small ZMTP 3.0 client by hand: what libzmq's DEALER says on the wire, without its threads and its checks.

Who uses it: benchmarks that need thousands of connections, or bytes that libzmq would not send. What must
hold: it is written from the specification (ZeroMQ RFC 23, https://rfc.zeromq.org/spec/23/) and not from
kernel/ipc/zmtp.py, so that each checks the other; nothing waits without a time limit.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import Any, NamedTuple

from kernel.abi.codec import PROTOCOL_VERSION, decode_answer, encode_call
from kernel.abi.errors import Errno, KernelError

MORE, LONG, COMMAND = 1, 2, 4  # flags of a frame
GREETING_BYTES = 64
READ_BYTES = 64 << 10
FULL_S = 0.005  # between looks at a backlog that is full


def framed(body: bytes, flags: int = 0) -> bytes:
    """Return a frame as it is sent."""
    return head(len(body), flags) + body


def head(size_bytes: int, flags: int = 0) -> bytes:
    """Return what goes before a frame that is said to have so many bytes, up to 2^64-1."""
    if size_bytes < 256:
        return bytes([flags, size_bytes])
    return bytes([flags | LONG]) + size_bytes.to_bytes(8, "big")


def _ready() -> bytes:
    parts = [bytes([5]), b"READY"]
    for name, value in ((b"Socket-Type", b"DEALER"), (b"Identity", b"")):
        parts += [bytes([len(name)]), name, len(value).to_bytes(4, "big"), value]
    return framed(b"".join(parts), COMMAND)


GREETING = b"\xff" + bytes(8) + b"\x7f" + bytes([3, 0]) + b"NULL".ljust(20, b"\0") + bytes(32)
READY = _ready()


class Frame(NamedTuple):
    body: bytes
    is_command: bool

    def reason(self) -> str | None:
        """What a kernel says as it closes a connection, if this is its last frame; None for other frames."""
        if self.is_command:
            if not self.body.startswith(b"\5ERROR"):
                return None
            return self.body[7 : 7 + self.body[6]].decode(errors="replace") if len(self.body) > 6 else ""
        try:
            answer = decode_answer(self.body)
        except KernelError:
            return None
        if answer.id or answer.kind != "error":
            return None
        return f"{answer.body.get('name')}: {answer.body.get('text')}"


class Incoming:
    """What comes, cut into frames; the greeting is taken off."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._is_greeted = False

    def feed(self, data: bytes) -> list[Frame]:
        """Take what a read brought and return the frames that are whole."""
        held = self._data
        held += data
        at = 0
        if not self._is_greeted:
            if len(held) < GREETING_BYTES:
                return []
            self._is_greeted, at = True, GREETING_BYTES
        frames = []
        while len(held) - at >= 2:
            start = at + (9 if held[at] & LONG else 2)
            if len(held) < start:
                break
            stop = start + int.from_bytes(held[at + 1 : start], "big")
            if len(held) < stop:
                break
            frames.append(Frame(bytes(held[start:stop]), bool(held[at] & COMMAND)))
            at = stop
        del held[:at]
        return frames


class Cut(Exception):
    """The other end closed the connection; the text is the reason it gave."""


class RawPeer:
    """A connection whose handshake is done; every wait ends after `timeout_s` with TimeoutError."""

    def __init__(self, abstract: str, timeout_s: float = 10.0) -> None:
        """Connect to an abstract name. Raises OSError, Cut, TimeoutError."""
        self._incoming = Incoming()
        self._frames: list[Frame] = []  # the next one last
        self._last_id = 0
        self._reason: str | None = None  # what came last, if it may be the reason for the end
        self.socket = connect(abstract, timeout_s)
        try:
            with suppress(BrokenPipeError):  # it was turned away: the reason is there to be read
                self.socket.sendall(GREETING + READY)
            frame = self._next()
            if not (frame.is_command and frame.body.startswith(b"\5READY")):
                raise Cut(self._reason or "its handshake is no ZMTP")
        except BaseException:
            self.close()
            raise

    def send(self, message: bytes) -> None:
        """Raises TimeoutError when it is not taken, OSError when the connection is closed."""
        self.socket.sendall(framed(message))

    def receive(self) -> bytes:
        """Return the next message. Raises Cut at the end of the connection, TimeoutError."""
        while (frame := self._next()).is_command:
            pass
        return frame.body

    def call(self, method: str, task: int | None = None, **body: Any) -> dict[str, Any]:
        """Make a call while none is in flight; return the reply. Raises its KernelError, and as receive."""
        self._last_id += 1
        self.send(encode_call(self._last_id, method, body, task=task))
        answer = decode_answer(self.receive())
        if answer.kind == "error":
            raise KernelError(Errno(answer.body["errno"]), answer.body["text"])
        return answer.body

    def hello(self, name: str = "") -> dict[str, Any]:
        return self.call("sys.hello", version=PROTOCOL_VERSION, name=name)

    def close(self) -> None:
        self.socket.close()

    def _next(self) -> Frame:
        while not self._frames:
            try:
                data = self.socket.recv(READ_BYTES)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Cut(self._reason or "no reason given")
            self._frames = self._incoming.feed(data)[::-1]
        frame = self._frames.pop()
        self._reason = frame.reason()
        return frame


def connect(abstract: str, timeout_s: float) -> socket.socket:
    """Connect to an abstract name. Raises OSError; TimeoutError for a backlog that stays full."""
    until_s = time.monotonic() + timeout_s
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        peer.settimeout(timeout_s)
        while True:
            try:
                peer.connect("\0" + abstract)
                return peer
            except BlockingIOError:
                if time.monotonic() > until_s:
                    raise TimeoutError(f"the backlog of {abstract} is full") from None
                time.sleep(FULL_S)
    except BaseException:
        peer.close()
        raise
