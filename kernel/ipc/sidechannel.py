"""The kernel's end of the side channel: descriptors for those whom they belong to.

Who uses it: server.py. The protocol is kernel/abi/descriptors.py's. What must hold: an answer is sent whole or
the channel is closed; a process that does not read its answers holds at most what one socket buffer holds.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from kernel.abi.descriptors import ANSWER, HELLO, READ_ONLY, REQUEST, RING, WRITABLE
from kernel.abi.errors import Errno
from kernel.identity import Process
from kernel.ipc.account import Account
from shm.segment import Segment

READ_BYTES = REQUEST.size * 2  # in one turn of the loop
SEND_BUFFER_BYTES = 4096  # descriptors in a socket's buffer count against this user's limit

Owned = Callable[[Process, int], Segment | None]  # a process's segment by its number
RingOf = Callable[[Account, int], "Segment | Errno"]  # the payload ring of a connection of the process's


@dataclass(slots=True, eq=False)
class SideChannel:
    """A peer that asked for descriptors."""

    peer: socket.socket
    account: Account
    owned: Owned
    ring_of: RingOf
    fd: int = -1
    _rest: bytes = b""
    _is_greeted: bool = False

    def __post_init__(self) -> None:
        self.fd = self.peer.fileno()
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def serve(self) -> None:
        """Answer some of what has come. Raises EOFError when the channel is over."""
        try:
            data = self.peer.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            raise EOFError from None
        if not data:
            raise EOFError
        data = self._rest + data
        if not self._is_greeted:
            if not data.startswith(HELLO):
                raise EOFError
            data, self._is_greeted = data[len(HELLO) :], True
        whole = len(data) - len(data) % REQUEST.size
        for kind, number in REQUEST.iter_unpack(data[:whole]):
            self._answer(kind, number)
        self._rest = data[whole:]

    def close(self) -> None:
        self.peer.close()

    def _answer(self, kind: int, number: int) -> None:
        found: Segment | Errno | None = Errno.EINVAL
        if kind in (WRITABLE, READ_ONLY):
            found = self.owned(self.account.process, number)
        elif kind == RING:
            found = self.ring_of(self.account, number)
        if not isinstance(found, Segment):
            self._send(ANSWER.pack(found or Errno.ENOENT, 0), [])
            return
        if kind != READ_ONLY:
            self._send(ANSWER.pack(0, found.size_bytes), [found.fd])
            return
        try:
            fd = found.open_read_only()
        except OSError:  # no descriptor left
            self._send(ANSWER.pack(Errno.EAGAIN, 0), [])
            return
        try:
            self._send(ANSWER.pack(0, found.size_bytes), [fd])
        finally:
            os.close(fd)

    def _send(self, record: bytes, fds: list[int]) -> None:
        sent = 0
        with suppress(OSError):  # its buffer is full, or it is gone: either way it is over
            sent = socket.send_fds(self.peer, [record], fds, socket.MSG_NOSIGNAL)
        if sent < len(record):
            raise EOFError
