"""The socket to a kernel, and the watch on its life: user space's only importer of zmq.

Who uses it: client.py and aio.py. What must hold: whoever touched the socket (send or receive) receives until
nothing is left before letting others at it, for ZeroMQ's descriptor tells of news only once; nobody waits on
a kernel that is dead, for its pidfd is in every poll.
"""

from __future__ import annotations

import os
import select

import zmq

from agentix.errors import NoKernel, error_of
from kernel.abi import address
from kernel.abi.errors import KernelError

LINGER_MS = 200  # for the last message to leave when the kernel is slow
READABLE = int(zmq.POLLIN)  # its enum costs more than the question


class Transport:
    """A connection to the kernel `name` in the "agent" or "operator" role."""

    def __init__(self, role: str, name: str) -> None:
        """Connect. Raises NoKernel, or PermissionDenied when the kernel is another user's."""
        self.kernel_pid, self.pidfd = _find(role, name)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.connect(address.endpoint(role, name))
        self.fd: int = self._socket.getsockopt(zmq.FD)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        for fd in (self.fd, self.pidfd, self._wake_fd):
            self._poll.register(fd, select.POLLIN)
        self._life = select.poll()
        self._life.register(self.pidfd, select.POLLIN)

    def send(self, frames: list[bytes]) -> bool:
        """Queue a message; False when the queue is full. Receive afterwards."""
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> list[list[bytes]]:
        """Every message that has come."""
        messages = []
        while self._socket.getsockopt(zmq.EVENTS) & READABLE:
            messages.append(self._socket.recv_multipart(zmq.NOBLOCK))
        return messages

    def is_kernel_dead(self) -> bool:
        return bool(self._life.poll(0))

    def wait(self, timeout_s: float | None) -> bool:
        """Sleep until there may be news, the kernel dies (True), wake() is called, or the time passes.

        The only method that may run while another thread uses the socket.
        """
        ready = self._poll.poll(None if timeout_s is None else max(0, timeout_s) * 1000)
        fds = [fd for fd, _ in ready]
        if self._wake_fd in fds:
            os.eventfd_read(self._wake_fd)
        return self.pidfd in fds

    def wake(self) -> None:
        """End the wait() that is going on, or the next one."""
        os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        self._socket.close()
        self._context.term()
        os.close(self._wake_fd)
        os.close(self.pidfd)


def _find(role: str, name: str) -> tuple[int, int]:
    """Return (pid, pidfd) of the process that listens on a kernel's socket."""
    try:
        pid = address.kernel_pid(role, name)
        if pid is not None:
            return pid, os.pidfd_open(pid)
    except KernelError as error:
        raise error_of(int(error.number), error.text) from None
    except ProcessLookupError:
        pass  # it died between the two
    raise NoKernel(f"no kernel named {name!r} is running: start one with `agentix up`")
