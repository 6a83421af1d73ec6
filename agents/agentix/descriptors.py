"""The client's end of the side channel: shared memory of the kernel's, mapped into this process.

Who uses it: transport.py for the payload ring, memory.py and aio.py for segments. The protocol is
kernel/abi/descriptors.py's. What must hold: one request at a time, whatever the number of threads; every wait
ends, after WAIT_S at most; whatever goes wrong, no descriptor is left behind and the next request gets a channel of its
own, since the answers of one come in order.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import threading
from contextlib import suppress

from agentix.errors import AgentixError, KernelGone, TimedOut, error_of
from kernel.abi.descriptors import ANSWER, HELLO, READ_ONLY, REQUEST

WAIT_S = 10.0  # at most, for the kernel to answer
GRACE_S = 1.0  # as in client.py: a call's timeout is the kernel's, its answer may take so much longer
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class SideChannel:
    """A channel to the kernel of this pid at the socket of abstract name `name`, opened when first needed.

    It is kept: the kernel bounds how often a process may connect.
    """

    def __init__(self, name: str, kernel_pid: int) -> None:
        self._name = name
        self._kernel_pid = kernel_pid
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_closed = False

    def map(self, kind: int, number: int, what: str, timeout: float | None = None) -> mmap.mmap:
        """Return the memory that a request of this kind and number stands for; `what` names it in errors.

        Closing it is the caller's, or the collector's; `timeout` is in seconds. Raises TimedOut, KernelGone,
        and the error of the kernel's answer: NoSuchSegment, TryAgain, OutOfMemory.
        """
        wait_s = WAIT_S if timeout is None else min(timeout + GRACE_S, WAIT_S)
        with self._lock:
            if self._is_closed:
                raise KernelGone("this connection was closed")
            try:
                fd = self._ask(kind, number, what, wait_s)
            except AgentixError:
                raise  # an answer: the channel is in step
            except BaseException as error:
                self._hang_up()
                if isinstance(error, TimeoutError):
                    raise TimedOut(f"{what}: no descriptor came within {wait_s:g} s") from None
                if isinstance(error, OSError):
                    raise KernelGone(f"{what}: the side channel was lost: {error.strerror}") from None
                raise
        return _mapped(fd, kind != READ_ONLY, what)

    def close(self) -> None:
        """End the request that is going on, and the channel."""
        self._is_closed = True
        channel = self._socket
        if channel is not None:
            with suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._hang_up()

    def _ask(self, kind: int, number: int, what: str, wait_s: float) -> int:
        """Return the descriptor that a request is answered with."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._greet(self._socket, wait_s)
        self._socket.settimeout(wait_s)
        self._socket.sendall(REQUEST.pack(kind, number))
        answer, fds = b"", list[int]()
        try:
            while len(answer) < ANSWER.size:
                wanted = ANSWER.size - len(answer)
                data, more, _, _ = socket.recv_fds(self._socket, wanted, 1, socket.MSG_CMSG_CLOEXEC)
                fds += more
                if not data:
                    raise ConnectionResetError(0, "the kernel closed it")
                answer += data
            status, _ = ANSWER.unpack(answer)
            if status:
                raise error_of(status, f"{what}: {os.strerror(status).lower()}")
            if not fds:
                raise ConnectionResetError(0, "an answer came without a descriptor")
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return fds[0]

    def _greet(self, channel: socket.socket, wait_s: float) -> None:
        channel.settimeout(wait_s)
        channel.connect("\0" + self._name)
        raw = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, _, _ = _CREDENTIALS.unpack(raw)
        if pid != self._kernel_pid:
            raise ConnectionRefusedError(0, f"process {pid} listens there, the kernel is {self._kernel_pid}")
        channel.sendall(HELLO)

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _mapped(fd: int, is_writable: bool, what: str) -> mmap.mmap:
    """Map a descriptor and close it: the mapping lives on."""
    from shm.segment import Segment

    try:
        segment = Segment.attach(fd)
        try:
            return segment.map(is_writable)
        finally:
            segment.close()
    except OSError as error:
        raise error_of(error.errno or 0, f"{what}: cannot be mapped: {error.strerror}") from None
