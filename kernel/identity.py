"""Who is at the other end of a unix socket, as Linux attests it and not as the peer says.

Who uses it: ipc/doors.py, once for each connection, and the launcher for a task's own process. What must hold: a
process is (pid, birth): a pid comes round again, the time at which its process started does not. A peer that
is dead by the time it is asked about is nobody, whoever holds its socket or its pid now.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import NamedTuple

_SO_PEERPIDFD = 77  # Linux 6.5; socket.SO_PEERPIDFD from Python 3.14
_CREDENTIALS = struct.Struct("3i")
_STAT_BYTES = 1024  # a stat line is shorter


class Process(NamedTuple):
    pid: int
    birth: int  # clock ticks from boot to its start


def peer_credentials(peer: socket.socket) -> tuple[int, int]:
    """Return (pid, uid) of who connected, as recorded at that time (SO_PEERCRED)."""
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


def attest(peer: socket.socket) -> Process | None:
    """Return the process that connected, None when it is dead already.

    The descriptor of SO_PEERPIDFD names the very process that connected. While that lives the pid is its
    own, so what /proc says of the pid is said of it. Older kernels give no such descriptor: there the pid
    is opened, and a process that took the pid of a dead one in between passes for it.
    """
    pid, _ = peer_credentials(peer)
    try:
        pidfd = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if isinstance(error, ProcessLookupError) or pid <= 0:
            return None
        pidfd = -1
    return _living(pid, pidfd)


def process_of(pid: int) -> Process | None:
    """Return a process by its pid, None when there is none. The caller knows whose the pid is."""
    birth = birth_of(pid)
    return None if birth is None else Process(pid, birth)


def birth_of(pid: int) -> int | None:
    """Return when a process started, None when it is gone."""
    fields = stat_fields(pid)
    return None if fields is None else int(fields[19])


def stat_fields(pid: int | str) -> list[bytes] | None:
    """Return what /proc says of a process behind its name (see proc_pid_stat(5)), None when it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        raw = os.read(fd, _STAT_BYTES)
    except OSError:
        return None
    finally:
        os.close(fd)
    # The name in parentheses may hold anything, ") 1 2 3" included: fields start after the last one.
    return raw[raw.rindex(b")") + 2 :].split(b" ", 22)


def _living(pid: int, pidfd: int) -> Process | None:
    try:
        if pidfd < 0:
            pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        process = process_of(pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return None if poll.poll(0) else process
    finally:
        os.close(pidfd)
