"""The kernel's two sockets, one for agents and one for operators; the only importer of zmq in kernel/.

Who calls it: boot binds them, the loop receives and sends. What must hold: no call blocks; who sent a
message is what Linux attested when the peer connected, never what the message says; a peer that does
not read can hold only a bounded number of messages and bytes here.
"""

from __future__ import annotations

import os
from collections import deque

import zmq

from kernel.abi.address import endpoint
from kernel.abi.codec import MAX_FRAME_BYTES
from kernel.effects import Send
from kernel.events import Message

MAX_FRAMES = 8  # passed on of one message; a valid one has 3, the rest is thrown away unread
QUEUE_MESSAGES = 1000  # in each direction, of each peer, inside zmq
OVERFLOW_MESSAGES = 4096  # of one peer, here, beyond that
OVERFLOW_BYTES = 64 << 20
READABLE = int(zmq.POLLIN)  # its enum costs more than the question
LINGER_MS = 300  # for the last replies at exit


class AddressInUse(Exception):
    """Somebody already listens on a socket's address; `role` says which socket."""

    def __init__(self, role: str) -> None:
        super().__init__(f"the {role} socket's address is in use")
        self.role = role


class Server:
    """Both sockets. Raises AddressInUse from the constructor."""

    def __init__(self, name: str) -> None:
        self._context = zmq.Context()
        self._ports: list[_Port] = []
        try:
            for role in ("agent", "operator"):
                self._ports.append(_Port(self._context, role, name))
        except BaseException:
            self.close()
            raise

    @property
    def fds(self) -> tuple[int, ...]:
        """Descriptors that wake an epoll; only has_input says whether there is anything to receive."""
        return tuple(port.fd for port in self._ports)

    @property
    def has_input(self) -> bool:
        """Whether recv has something. To be asked before every sleep: zmq's descriptors tell of news
        only once, and sending or receiving may swallow it."""
        return any(port.has_input for port in self._ports)

    @property
    def has_overflow(self) -> bool:
        """Whether retry has something to do."""
        return any(port.overflow for port in self._ports)

    def recv(self, now_ns: int) -> Message | None:
        """Return the next message, an operator's first."""
        for port in reversed(self._ports):
            if port.has_input:
                return port.recv(now_ns)
        return None

    def send(self, send: Send) -> bool:
        """Send or keep a message. False once for a peer whose queue ran full: it is sent no more."""
        return self._ports[send.is_operator].send(send.peer, send.frames)

    def retry(self) -> None:
        """Send what was kept, as far as it goes."""
        for port in self._ports:
            port.retry()

    def close(self) -> None:
        """Give the last messages a moment, then leave nothing behind."""
        for port in self._ports:
            port.close()
        self._context.term()


class _Port:
    """One ROUTER socket."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], role: str, name: str) -> None:
        self._is_operator = role == "operator"
        self._stalled: set[bytes] = set()
        self.overflow: dict[bytes, _Overflow] = {}
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        self._socket.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES)
        self._socket.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.setsockopt(zmq.BACKLOG, 1024)
        try:
            self._socket.bind(endpoint(role, name))
        except zmq.ZMQError as error:
            self._socket.close(linger=0)
            if error.errno == zmq.EADDRINUSE:
                raise AddressInUse(role) from None
            raise OSError(error.errno, os.strerror(error.errno), endpoint(role, name)) from None
        self.fd: int = self._socket.getsockopt(zmq.FD)

    @property
    def has_input(self) -> bool:
        return bool(self._socket.getsockopt(zmq.EVENTS) & READABLE)

    def recv(self, now_ns: int) -> Message | None:
        socket = self._socket
        try:
            routing = socket.recv(zmq.NOBLOCK, copy=False)  # only a Frame carries who sent it
        except zmq.Again:
            return None
        frames = []
        while socket.getsockopt(zmq.RCVMORE):
            if len(frames) < MAX_FRAMES:
                frames.append(socket.recv(zmq.NOBLOCK))
            else:
                socket.recv(zmq.NOBLOCK, copy=False)
        pid, uid = _identity(routing)
        return Message(now_ns, routing.bytes, pid, uid, self._is_operator, tuple(frames))

    def send(self, peer: bytes, frames: tuple[bytes, ...]) -> bool:
        kept = self.overflow.get(peer)
        if kept is None:
            if peer in self._stalled or self._try_send(peer, frames):
                return True
            kept = self.overflow[peer] = _Overflow()
        if kept.add(frames):
            return True
        del self.overflow[peer]
        self._stalled.add(peer)
        return False

    def retry(self) -> None:
        for peer, kept in list(self.overflow.items()):
            while kept.messages and self._try_send(peer, kept.messages[0]):
                kept.drop_first()
            if not kept.messages:
                del self.overflow[peer]

    def _try_send(self, peer: bytes, frames: tuple[bytes, ...]) -> bool:
        """Hand a message to zmq. False: its queue for the peer is full."""
        try:
            self._socket.send_multipart((peer, *frames), zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._stalled.discard(peer)  # it is gone; its pidfd says so to whom it concerns
        return True

    def close(self) -> None:
        self.overflow.clear()
        self._socket.close()


class _Overflow:
    """Messages of one peer that zmq would not take."""

    __slots__ = ("_bytes", "messages")

    def __init__(self) -> None:
        self.messages: deque[tuple[bytes, ...]] = deque()
        self._bytes = 0

    def add(self, frames: tuple[bytes, ...]) -> bool:
        self._bytes += sum(map(len, frames))
        self.messages.append(frames)
        return len(self.messages) <= OVERFLOW_MESSAGES and self._bytes <= OVERFLOW_BYTES

    def drop_first(self) -> None:
        self._bytes -= sum(map(len, self.messages.popleft()))


def _identity(routing: zmq.Frame) -> tuple[int, int]:
    """Return (pid, uid) of the process that connected; (0, -1) when zmq could not tell.

    libzmq reads SO_PEERCRED at accept and writes "localhost:uid:gid:pid"; a property of that name in
    the peer's own handshake does not replace it (a test tries).
    """
    try:
        _, uid, _, pid = routing.get("Peer-Address").rsplit(":", 3)
        return int(pid), int(uid)
    except (zmq.ZMQError, ValueError, AttributeError):
        return 0, -1
