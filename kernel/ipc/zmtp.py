"""ZMTP 3.0 as a server speaks it to DEALER sockets, bytes in and bytes out: no socket, no clock.

Who uses it: connection.py. What must hold: nothing is kept beyond one message of MAX_FRAME_BYTES and what one
read brought; a length is judged when it is announced, not when it has come; whatever comes raises Violation
and nothing else.

Source: ZeroMQ RFC 23 (https://rfc.zeromq.org/spec/23/). Of it: the NULL mechanism, the socket type DEALER, and
messages of one frame. PING (RFC 37) is answered, since stock clients may send it.
"""

from __future__ import annotations

from typing import NamedTuple

from kernel.abi.codec import MAX_FRAME_BYTES

GREETING_BYTES = 64
MAX_COMMAND_BYTES = 512  # of a handshake's or a PING's
MAX_PING_CONTEXT_BYTES = 16
MAX_HELD_READS = 64  # before they are joined: many small ones would take far more memory than their bytes

_SIGNATURE_HEAD, _SIGNATURE_TAIL = 0xFF, 0x7F
_VERSION_AT, _MECHANISM_AT, _MECHANISM_BYTES = 10, 12, 20
_MORE, _LONG, _COMMAND = 1, 2, 4


class Violation(Exception):
    """The peer does not speak what this server speaks; the text is for whoever wrote the peer."""


class Command(NamedTuple):
    name: bytes
    data: bytes


def _greeting() -> bytes:
    head = bytes([_SIGNATURE_HEAD]) + bytes(8) + bytes([_SIGNATURE_TAIL, 3, 0])
    return (head + b"NULL".ljust(_MECHANISM_BYTES, b"\0")).ljust(GREETING_BYTES, b"\0")


def _command(name: bytes, data: bytes) -> bytes:
    body = bytes([len(name)]) + name + data
    return bytes([_COMMAND, len(body)]) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value


GREETING = _greeting()
READY = _command(b"READY", _property(b"Socket-Type", b"ROUTER") + _property(b"Identity", b""))


def error_command(reason: str) -> bytes:
    """Return the command that refuses a handshake."""
    text = reason.encode(errors="replace")[:200]
    return _command(b"ERROR", bytes([len(text)]) + text)


def pong(ping: Command) -> bytes:
    """Return the answer to a PING: its context comes back. Raises Violation."""
    context = ping.data[2:]  # after the time to live
    if len(ping.data) < 2 or len(context) > MAX_PING_CONTEXT_BYTES:
        raise Violation(f"a PING of {len(ping.data)} bytes")
    return _command(b"PONG", context)


_SHORT_HEADS = tuple(bytes([0, size]) for size in range(256))


def message_head(size_bytes: int) -> bytes:
    """Return what goes before the only frame of a message."""
    if size_bytes < 256:
        return _SHORT_HEADS[size_bytes]
    return bytes([_LONG]) + size_bytes.to_bytes(8, "big")


def check_ready(command: Command) -> None:
    """Raise Violation unless a handshake's command is the READY of a DEALER."""
    if command.name != b"READY":
        raise Violation(f"the handshake's command is {command.name[:32]!a}, wanted READY")
    at, data = 0, command.data
    kind = b""
    while at < len(data):
        name_end = at + 1 + data[at]
        value_at = name_end + 4
        value_end = value_at + int.from_bytes(data[name_end:value_at], "big")
        if value_end > len(data):
            raise Violation("the metadata of READY ends early")
        if data[at + 1 : name_end].lower() == b"socket-type":
            kind = data[value_at:value_end]
        at = value_end
    if kind != b"DEALER":
        raise Violation(f"socket type {kind[:32]!a}, wanted DEALER")


def check_greeting(greeting: bytes) -> None:
    """Raise Violation unless a greeting asks for ZMTP 3 and the NULL mechanism."""
    if greeting[0] != _SIGNATURE_HEAD or greeting[9] & 1 == 0:
        raise Violation(f"a greeting starts with {greeting[:10]!a}, which is not ZMTP")
    if greeting[_VERSION_AT] < 3:
        raise Violation(f"ZMTP version {greeting[_VERSION_AT]}, wanted 3 (libzmq 4.0 or newer)")
    mechanism = greeting[_MECHANISM_AT : _MECHANISM_AT + _MECHANISM_BYTES].rstrip(b"\0")
    if mechanism != b"NULL":
        raise Violation(f"security mechanism {mechanism!a}, wanted NULL: this socket never leaves the machine")


class Decoder:
    """What a peer sends, cut into a greeting, commands and messages on demand."""

    __slots__ = ("_at", "_data", "_held", "_held_bytes", "_is_greeted", "_wanted_bytes", "has_more")

    def __init__(self) -> None:
        self.has_more = False  # `next` may give something before more is fed
        self._data = b""
        self._at = 0
        self._held: list[bytes] = []  # came while `_data` was not whole, and belongs behind it
        self._held_bytes = 0
        self._wanted_bytes = 0  # from `_at` on, for `next` to give anything, when it gave None
        self._is_greeted = False

    def feed(self, data: bytes) -> None:
        """Take what a read brought, once `next` has given None."""
        if self._at == len(self._data) and not self._held:
            self._data, self._at = data, 0
            self.has_more = bool(data)
            return
        if self._at:  # what was served already is not kept while the rest waits
            self._data, self._at = self._data[self._at :], 0
        self._held.append(data)
        self._held_bytes += len(data)
        is_enough = len(self._data) + self._held_bytes >= self._wanted_bytes
        if is_enough or len(self._held) == MAX_HELD_READS:
            self._data = b"".join((self._data, *self._held))
            self._held, self._held_bytes = [], 0
            self.has_more = is_enough

    def next(self) -> bytes | Command | None:
        """Return the next message or command, None while it is not whole. Raises Violation.

        The greeting comes first, as a Command named GREETING.
        """
        data, at = self._data, self._at
        have = len(data) - at
        if not self._is_greeted:
            return self._greeting(data, at, have)
        if have < 2:
            return self._wait(2)
        flags = data[at]
        if not flags & _LONG:
            size, start = data[at + 1], at + 2
        elif have < 9:
            return self._wait(9)
        else:
            size, start = int.from_bytes(data[at + 1 : at + 9], "big"), at + 9
        if flags & ~_LONG:
            self._check_flags(flags, size)
        elif size > MAX_FRAME_BYTES:
            raise Violation(f"a frame of {size} bytes, the limit is {MAX_FRAME_BYTES}")
        stop = start + size
        if stop > len(data):
            return self._wait(stop - at)
        self._at = stop
        self.has_more = stop < len(data)
        frame = data[start:stop]
        return _read_command(frame) if flags & _COMMAND else frame

    def _greeting(self, data: bytes, at: int, have: int) -> Command | None:
        if have and data[at] != _SIGNATURE_HEAD:
            raise Violation(f"a connection starts with {data[at : at + 16]!a}, which is not ZMTP")
        if have > _VERSION_AT and data[at + _VERSION_AT] < 3:  # an old peer never sends the rest
            check_greeting(data[at : at + have].ljust(GREETING_BYTES, b"\0"))
        if have < GREETING_BYTES:
            return self._wait(have + 1)
        self._at = at + GREETING_BYTES
        self._is_greeted = True
        self.has_more = self._at < len(data)
        return Command(b"GREETING", data[at : self._at])

    def _wait(self, wanted_bytes: int) -> None:
        self._wanted_bytes = wanted_bytes
        self.has_more = False

    @staticmethod
    def _check_flags(flags: int, size: int) -> None:
        if flags & ~(_MORE | _LONG | _COMMAND):
            raise Violation(f"a frame's flags are {flags:#04x}, whose upper bits are reserved")
        if flags & _MORE:
            raise Violation("a frame says that more follow: a message of this protocol has one frame")
        if size > MAX_COMMAND_BYTES:
            raise Violation(f"a command of {size} bytes, the limit is {MAX_COMMAND_BYTES}")


def _read_command(frame: bytes) -> Command:
    end = 1 + frame[0] if frame else 0
    if not 1 < end <= len(frame):
        raise Violation(f"a command without a name: {frame[:16]!a}")
    return Command(frame[1:end], frame[end:])
