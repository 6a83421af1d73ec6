"""The connection to a kernel, and the watch on it: user space's only importer of zmq.

Who uses it: client.py and aio_client.py. What must hold: whoever touched the socket (send or receive) receives
until nothing is left before letting others at it, for ZeroMQ's descriptors tell of news only once; nobody waits
on a kernel that is dead or has closed the connection, for its pidfd and the loss of the connection are in every
poll; while the payload ring is fetched nobody receives, for answers may come through it at once.
"""

from __future__ import annotations

import mmap
import os
import select

import zmq

from agentix.descriptors import SideChannel
from agentix.errors import KernelGone, NoKernel, error_of
from kernel.abi import address
from kernel.abi.codec import MAX_INLINE_BYTES
from kernel.abi.descriptors import RING, RING_BYTES, read_reference, reference
from kernel.abi.errors import KernelError

LINGER_MS = 200  # for the last message to leave when the kernel is slow
NEVER_MS = 86_400_000  # -1, "do not reconnect", has libzmq throw away what came last: why it was closed
DYING_S = 0.1  # between a kernel's connections and its pidfd, when it dies
READABLE, WRITABLE = int(zmq.POLLIN), int(zmq.POLLOUT)  # its enums cost more than the question
LOST = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CONNECT_RETRIED  # it could not even connect: the backlog is full
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
LOSS = "inproc://loss"  # where libzmq tells of it, inside our own context


class Transport:
    """A connection to the kernel `name` in the "agent" or "operator" role."""

    def __init__(self, role: str, name: str) -> None:
        """Connect. Raises NoKernel, or PermissionDenied when the kernel is another user's."""
        self.kernel = name
        socket_name, self.kernel_pid, self.pidfd = _find(role, name)
        self.side_channel = SideChannel(socket_name, self.kernel_pid)
        self._ring: _Ring | None = None
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.setsockopt(zmq.RECONNECT_IVL, NEVER_MS)
        self._socket.monitor(LOSS, LOST)
        self._monitor = self._context.socket(zmq.PAIR)
        self._monitor.connect(LOSS)
        self._is_lost = False
        self.is_lost()  # its descriptor tells of what comes after a look that found nothing
        self._socket.connect(address.endpoint(socket_name))
        self.fd: int = self._socket.getsockopt(zmq.FD)
        self.loss_fd: int = self._monitor.getsockopt(zmq.FD)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = _poll_of(self.fd, self.loss_fd, self.pidfd, self._wake_fd)
        self._loss_poll, self._life_poll = _poll_of(self.loss_fd), _poll_of(self.pidfd)

    def send(self, frame: bytes) -> bool:
        """Queue a message; False when there is no room for it now. Receive afterwards.

        A long one takes the payload ring: see needs_ring.
        """
        if len(frame) > MAX_INLINE_BYTES:
            if not self._socket.getsockopt(zmq.EVENTS) & WRITABLE:
                return False  # what is in the ring must be told of, and once
            assert self._ring is not None
            position = self._ring.sent.put(frame)
            if position is None:
                return False
            frame = reference(position, len(frame))
        try:
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> list[bytes]:
        """Every message that has come."""
        messages = []
        ring = self._ring
        while self._socket.getsockopt(zmq.EVENTS) & READABLE:
            frame = self._socket.recv(zmq.NOBLOCK)
            if ring is not None and (found := read_reference(frame)) is not None:
                frame = ring.received.take(*found)
            messages.append(frame)
        return messages

    def needs_ring(self, frame: bytes) -> bool:
        """Whether open_ring must come before this message can be sent."""
        return len(frame) > MAX_INLINE_BYTES and self._ring is None

    def open_ring(self, connection: int, timeout: float | None) -> None:
        """Fetch the payload ring of the connection that the kernel knows by this number, and wait for it.

        Touches no ZeroMQ socket. Raises TryAgain, OutOfMemory, TimedOut, KernelGone.
        """
        what = f"a payload ring, for messages over {MAX_INLINE_BYTES >> 10} KiB"
        self._ring = _Ring(self.side_channel.map(RING, connection, what, timeout))

    def wait(self, timeout_s: float | None) -> bool:
        """Sleep until there may be news, the connection is lost (True), wake() is called, or the time passes.

        True means that all that ever comes can be received. The only method that may run while another
        thread uses the socket; one thread at a time.
        """
        ready = self._poll.poll(None if timeout_s is None else max(0, timeout_s) * 1000)
        fds = [fd for fd, _ in ready]
        if self._wake_fd in fds:
            os.eventfd_read(self._wake_fd)
        if self.pidfd in fds or (self.loss_fd in fds and self.is_lost()):
            self._settle()
            return True
        return False

    def wake(self) -> None:
        """End the wait() that is going on, or the next one."""
        os.eventfd_write(self._wake_fd, 1)

    def is_lost(self) -> bool:
        """Whether the kernel has closed the connection. To be asked whenever loss_fd is readable."""
        if not self._is_lost:
            self._is_lost = bool(self._monitor.getsockopt(zmq.EVENTS) & READABLE)
        return self._is_lost

    def obituary(self) -> KernelGone:
        """What ends the calls in flight once the connection is lost."""
        if self._life_poll.poll(0):
            return KernelGone(f"kernel {self.kernel!r} (pid {self.kernel_pid}) has died")
        return KernelGone("the kernel closed this connection")

    def close(self) -> None:
        self.side_channel.close()
        if self._ring is not None:
            self._ring.memory.close()
        self._monitor.close(0)
        self._socket.close()
        self._context.term()
        os.close(self._wake_fd)
        os.close(self.pidfd)

    def _settle(self) -> None:
        """Of a kernel that dies, both signs come, in either order: the last messages are before the loss."""
        self._life_poll.poll(DYING_S * 1000)
        if not self.is_lost():
            self._loss_poll.poll(DYING_S * 1000)
            self.is_lost()


class _Ring:
    """The payload ring of a connection: what we send, then what the kernel sends."""

    def __init__(self, memory: mmap.mmap) -> None:
        from shm.ring import Consumer, Producer, ring_bytes
        from shm.segment import Mapping

        self.memory = memory
        mapping = Mapping(memory)
        self.sent = Producer(mapping, 0, RING_BYTES)
        self.received = Consumer(mapping, ring_bytes(RING_BYTES), RING_BYTES)


def _poll_of(*fds: int) -> select.poll:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return poll


def _find(role: str, name: str) -> tuple[str, int, int]:
    """Return a kernel's socket, and pid and pidfd of the process that listens on it.

    A launched agent has a socket of its own at the kernel that launched it, which is the one in its environment.
    """
    try:
        own = address.own_socket() if role == "agent" else None
        if own is None or name != address.kernel_name():
            own = address.socket_name(role, name)
        pid = address.listener_pid(own, name)
        if pid is not None:
            return own, pid, os.pidfd_open(pid)
    except KernelError as error:
        raise error_of(int(error.number), error.text) from None
    except ProcessLookupError:
        pass  # it died between the two
    raise NoKernel(f"no kernel named {name!r} is running: start one with `agentix up`")
