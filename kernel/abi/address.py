"""Where a kernel listens: sockets in Linux's abstract namespace, which vanish with their process.

Who uses it: the kernel to bind, the SDK and the command line to connect. What must hold: the name
carries the user's id, and either side checks the other's (SO_PEERCRED), since abstract names have no
file permissions.
"""

from __future__ import annotations

import os
import socket
import struct

from kernel.abi.errors import Errno, KernelError

NAME_VARIABLE = "AGENTIX_KERNEL"  # which kernel to talk to, when a user runs several
SOCKET_VARIABLE = "AGENTIX_SOCKET"  # a launched agent's own socket; its child processes use the kernel's
DEFAULT_NAME = "main"
MAX_NAME_CHARS = 32


def kernel_name() -> str:
    """Return the kernel's name from the environment. Raises KernelError EINVAL for a wrong one."""
    name = os.environ.get(NAME_VARIABLE, DEFAULT_NAME)
    if not 0 < len(name) <= MAX_NAME_CHARS or not name.replace("-", "").isalnum():
        text = f"{NAME_VARIABLE} is {name!r}: wanted letters, digits and '-', at most {MAX_NAME_CHARS}"
        raise KernelError(Errno.EINVAL, text)
    return name


def socket_name(role: str, name: str) -> str:
    """Return the abstract name of a kernel's "agent" or "operator" socket."""
    return f"agentix/{os.getuid()}/{name}/{role}"


def own_socket() -> str | None:
    """Return the abstract name of this process's own socket, if the kernel gave it one.

    A launched agent leads a session; a process that it starts inherits the variable and not the socket.
    """
    return os.environ.get(SOCKET_VARIABLE) if os.getsid(0) == os.getpid() else None


def endpoint(socket_name: str) -> str:
    """Return the ZeroMQ endpoint of a socket."""
    return f"ipc://@{socket_name}"


def kernel_pid(role: str, name: str) -> int | None:
    """Return the pid that listens on a kernel's socket, or None when nobody does.

    Raises KernelError EPERM when the listener belongs to another user: not to be spoken to.
    """
    return listener_pid(socket_name(role, name), name)


def listener_pid(abstract: str, name: str) -> int | None:
    """The same for any socket of the kernel called `name`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect("\0" + abstract)
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        pid, uid, _ = struct.unpack(
            "3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        )
    if uid != os.getuid():
        raise KernelError(Errno.EPERM, f"kernel {name!r} belongs to user {uid}, you are {os.getuid()}")
    return pid
