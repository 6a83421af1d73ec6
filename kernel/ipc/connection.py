"""One connection: its handshake, what has come and is not served, what is to go and is not sent.

Who uses it: server.py. What must hold: nothing here blocks; a connection is closed once, by `close`; whatever
ends it, the peer is told why first if it can still be told.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum

from kernel.abi.codec import encode_error
from kernel.abi.errors import KernelError
from kernel.ipc import zmtp
from kernel.ipc.account import Account
from kernel.limits import LAST_WORDS_NS, MAX_LAST_CALLS, UNREAD_SOFT_BYTES
from kernel.states import InvalidTransition

READ_BYTES = 64 << 10  # at a time
SEND_PARTS = 64  # joined into one send
SHORT_BYTES = 4096  # a message with its head is copied into one piece up to here
EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class State(Enum):
    GREETING = "greeting"  # nothing has come
    HANDSHAKE = "handshake"  # its greeting has; READY is to come
    OPEN = "open"
    CLOSING = "closing"  # told why, no longer listened to
    CLOSED = "closed"


_TRANSITIONS: dict[State, tuple[State, ...]] = {
    State.GREETING: (State.HANDSHAKE, State.CLOSING, State.CLOSED),
    State.HANDSHAKE: (State.OPEN, State.CLOSING, State.CLOSED),
    State.OPEN: (State.CLOSING, State.CLOSED),
    State.CLOSING: (State.CLOSED,),
    State.CLOSED: (),
}


@dataclass(slots=True, eq=False)
class Connection:
    """A peer that speaks ZMTP. `number` is its name in the kernel, never used twice."""

    peer: socket.socket
    number: int
    account: Account
    is_operator: bool
    until_ns: int  # the end of the time for the handshake, then for the last words
    state: State = State.GREETING
    is_open: bool = False  # these two follow from the state, and are asked for every message
    is_heard: bool = True  # it may say more
    is_queued: bool = False  # waits in one of the server's queues to be served
    is_deaf: bool = False  # nothing that is sent reaches it
    last_calls: int = MAX_LAST_CALLS
    was_cut: bool = False  # closed for what it did
    was_refused: bool = False  # its last message was no valid call
    burst: int = 0  # messages since it last paused
    unread_bytes: int = 0  # in `_out`
    is_drained: bool = True  # nothing more to read until epoll says so
    is_over: bool = False  # the peer sends no more than what is there: its end is not told again
    fd: int = -1
    _out: deque[bytes] = field(default_factory=deque)
    _decoder: zmtp.Decoder = field(default_factory=zmtp.Decoder)

    def __post_init__(self) -> None:
        self.fd = self.peer.fileno()
        self.put(zmtp.GREETING)  # libzmq sends the rest of its own only when it has seen the start of ours

    def move(self, new: State) -> None:
        """Enter a state. Raises InvalidTransition."""
        if new not in _TRANSITIONS[self.state]:
            raise InvalidTransition(f"connection {self.number}: {self.state.name} -> {new.name}")
        self.state = new
        self.is_open = new is State.OPEN
        self.is_heard = new in (State.HANDSHAKE, State.OPEN)

    # -- what comes -----------------------------------------------------------------------------

    def next(self) -> bytes | None:
        """Return the next message; None when there is none for now.

        Raises zmtp.Violation, and EOFError when the peer is gone.
        """
        decoder = self._decoder
        while self.is_heard:
            found = decoder.next() if decoder.has_more else None
            if found is None:
                if self.is_drained or not self._read():
                    self.burst = 0
                    return None
            elif type(found) is bytes:
                if not self.is_open:
                    raise zmtp.Violation("a message came before the handshake was done")
                if self.is_deaf:
                    self.last_calls -= 1
                    if self.last_calls < 0:
                        raise EOFError
                self.burst += 1
                return found
            else:
                self._obey(found)
        return None

    @property
    def may_have_more(self) -> bool:
        """Whether `next` is worth another call before epoll has news."""
        return self._decoder.has_more or not self.is_drained

    @property
    def is_done(self) -> bool:
        """Whether its handshake is over, well or not."""
        return self.state not in (State.GREETING, State.HANDSHAKE)

    @property
    def is_held_back(self) -> bool:
        """Whether it leaves so much unread that no more calls of its are taken."""
        return self.unread_bytes > UNREAD_SOFT_BYTES

    def _read(self) -> bool:
        try:
            data = self.peer.recv(READ_BYTES)
        except BlockingIOError:
            self.is_drained = True
            return False
        except OSError:
            raise EOFError from None
        if not data:
            raise EOFError
        self.is_drained = len(data) < READ_BYTES and not self.is_over
        self._decoder.feed(data)
        return True

    def _obey(self, command: zmtp.Command) -> None:
        if self.state is State.GREETING:
            zmtp.check_greeting(command.data)
            self.move(State.HANDSHAKE)
            self.put(zmtp.READY)
        elif self.state is State.HANDSHAKE:
            zmtp.check_ready(command)
            self.move(State.OPEN)
        elif command.name == b"PING":
            self.put(zmtp.pong(command))
        elif command.name == b"ERROR":
            raise EOFError  # it gives up
        else:
            raise zmtp.Violation(f"unknown command {command.name[:32]!a}")

    # -- what goes ------------------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        """Keep bytes for the next flush."""
        self._out.append(data)
        self.unread_bytes += len(data)

    def put_message(self, frame: bytes) -> None:
        size = len(frame)
        if size < SHORT_BYTES:
            self.put(zmtp.message_head(size) + frame)
        else:
            self.put(zmtp.message_head(size))
            self.put(frame)

    def flush(self) -> bool:
        """Send what the peer takes; whether all is gone."""
        out = self._out
        while out:
            data = out.popleft() if len(out) == 1 else self._join(out)
            try:
                sent = self.peer.send(data, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:  # it reads no more; some of what it has sent is served all the same
                out.clear()
                self.unread_bytes = 0
                self.is_deaf = True
                return True
            self.unread_bytes -= sent
            if sent < len(data):
                out.appendleft(data[sent:])
                return False
        return True

    @staticmethod
    def _join(out: deque[bytes]) -> bytes:
        """Take what makes one send: short pieces together, long ones alone."""
        parts = [out.popleft()]
        while out and len(parts) < SEND_PARTS and len(parts[0]) + len(out[0]) < READ_BYTES:
            parts.append(out.popleft())
        return b"".join(parts)

    # -- the end --------------------------------------------------------------------------------

    def refuse(self, error: KernelError, now_ns: int) -> bool:
        """Say why it ends, in what it can read; whether that is on its way and it may be closed."""
        if self.is_open:
            self.put_message(encode_error(0, error))
        else:
            self.put(zmtp.error_command(error.text))
        self.move(State.CLOSING)
        self.until_ns = now_ns + LAST_WORDS_NS
        return self.flush()

    def close(self) -> None:
        self.move(State.CLOSED)
        self._out.clear()
        self.peer.close()


@dataclass(slots=True, eq=False)
class Stranger:
    """A peer of which nothing has come yet."""

    peer: socket.socket
    account: Account
    is_operator: bool
    until_ns: int
    fd: int = -1
    is_done: bool = False  # it has said what it speaks, or left

    def __post_init__(self) -> None:
        self.fd = self.peer.fileno()


def turn_away(peer: socket.socket, error: KernelError) -> None:
    """Close a socket that just connected, telling it why in the only words it can read by now."""
    with suppress(OSError):
        peer.send(zmtp.GREETING + zmtp.error_command(error.text), socket.MSG_NOSIGNAL)
    peer.close()
