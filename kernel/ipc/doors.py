"""The listening sockets: one for operators, one for any process of the user's, one for each launched agent.

Who uses it: server.py. What must hold: a peer is known by what Linux attests before anything of its is read;
no process gets more than its share of connections, and none can take the descriptors that others need; when
the kernel has none left it says so to who comes, and never ends of it.

A door's backlog belongs to whoever knocks there: an agent that floods its own keeps nobody else waiting.
"""

from __future__ import annotations

import errno
import os
import resource
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from kernel.abi.address import socket_name
from kernel.abi.errors import Errno, KernelError
from kernel.identity import Process, attest, peer_credentials
from kernel.ipc.account import Account, Pace
from kernel.limits import (
    DOOR_PAUSE_NS,
    MAX_CONNECTIONS,
    MAX_PROCESS_CONNECTIONS,
    PUBLIC_PAUSE_NS,
)

BACKLOG = 1024
ACCEPTS_PER_TURN = 3  # of one door
REFUSALS = 32  # in a row of one process, between two pauses of a door that it shares with others
TOLD_WHY = 8  # refusals in a row that come with a reason: what is closed without one is cheaper
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class AddressInUse(Exception):
    """Somebody already listens on a socket's address; `role` says which socket."""

    def __init__(self, role: str) -> None:
        super().__init__(f"the {role} socket's address is in use")
        self.role = role


@dataclass(slots=True, eq=False)
class Door:
    """A listening socket."""

    listener: socket.socket
    name: str
    is_operator: bool
    owner: int | None = None  # the only pid that it serves; None: any of the user's
    until_ns: int = 0  # nobody is let in before: its owner knocks too often


@dataclass(slots=True)
class Doors:
    """Every listening socket of a kernel, and who came through. Raises AddressInUse when bound."""

    kernel_name: str
    register: Callable[[int], None]  # has epoll watch a listener
    by_fd: dict[int, Door] = field(default_factory=dict)
    accounts: dict[Process, Account] = field(default_factory=dict)
    refused: int = 0
    _connections: int = 0
    _paces: dict[int, Pace] = field(default_factory=dict)
    _spare_fd: int = -1  # given up for a moment when there is no other left
    _uid: int = field(default_factory=os.getuid)

    def open_public(self) -> None:
        self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        for role in ("agent", "operator"):
            self._open(socket_name(role, self.kernel_name), role, None)

    def open_own(self) -> Door:
        """Make a door for an agent that is about to be launched. Raises OSError."""
        name = socket_name(f"agent/{secrets.token_hex(8)}", self.kernel_name)
        return self._open(name, "agent", 0)

    def _open(self, name: str, role: str, owner: int | None) -> Door:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.bind("\0" + name)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(role) from None
            raise
        door = Door(listener, name, role == "operator", owner)
        self.by_fd[listener.fileno()] = door
        self.register(listener.fileno())
        return door

    def close(self, door: Door) -> None:
        """Close a door; what came through it stays."""
        if self.by_fd.pop(door.listener.fileno(), None) is not None:
            door.listener.close()

    def close_all(self) -> None:
        for door in list(self.by_fd.values()):
            self.close(door)
        if self._spare_fd >= 0:
            os.close(self._spare_fd)
            self._spare_fd = -1

    # -- who comes ------------------------------------------------------------------------------

    def accept(
        self, door: Door, now_ns: int
    ) -> Iterator[tuple[socket.socket, Account | KernelError]]:
        """Yield those who wait at a door, a few in a turn: each with its account, or why it must go."""
        for _ in range(ACCEPTS_PER_TURN):
            try:
                peer, _ = door.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_DESCRIPTOR and self._turn_away(door):
                    continue
                return
            pid, uid = peer_credentials(peer)
            pace = self._pace(pid)
            if pace.refused < TOLD_WHY and _has_left(peer):
                peer.close()
                continue
            if not pace.take(now_ns):
                self.refused += 1
                if door.owner == pid:
                    door.until_ns = now_ns + DOOR_PAUSE_NS
                elif pace.refused % REFUSALS == 0:
                    door.until_ns = now_ns + PUBLIC_PAUSE_NS
                if pace.refused > TOLD_WHY:
                    peer.close()
                else:
                    yield peer, KernelError(Errno.EAGAIN, f"process {pid} connects too often")
                if door.until_ns:
                    return
                continue
            admitted = self._admit(peer, door, pid, uid)
            if isinstance(admitted, KernelError):
                self.refused += 1
            yield peer, admitted

    def leave(self, account: Account) -> None:
        """A connection of a process's was closed."""
        account.connections -= 1
        self._connections -= 1
        if not account.connections:
            del self.accounts[account.process]

    def _admit(self, peer: socket.socket, door: Door, pid: int, uid: int) -> Account | KernelError:
        if uid != self._uid:
            text = f"process {pid} is of user {uid}, this kernel serves user {self._uid} alone"
            return KernelError(Errno.EPERM, text)
        if door.owner is not None and door.owner != pid:
            text = f"this socket is task {door.owner}'s, and process {pid} is another: connect to the kernel's"
            return KernelError(Errno.EPERM, text)
        process = attest(peer)
        if process is None:
            return KernelError(Errno.ESRCH, f"process {pid} is dead")
        if self._connections >= self._most():
            return KernelError(Errno.EAGAIN, "the kernel has no connection left")
        account = self.accounts.get(process)
        if account is None:
            account = self.accounts[process] = Account(process)
        if account.connections >= MAX_PROCESS_CONNECTIONS:
            text = f"process {pid} has {MAX_PROCESS_CONNECTIONS} connections, the limit"
            return KernelError(Errno.EAGAIN, text)
        account.connections += 1
        self._connections += 1
        return account

    @staticmethod
    def _most() -> int:
        """Connections that leave the kernel half of its descriptors for all else."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return min(MAX_CONNECTIONS, soft // 2) if soft > 0 else MAX_CONNECTIONS

    def _pace(self, pid: int) -> Pace:
        pace = self._paces.get(pid)
        if pace is None:
            if len(self._paces) >= MAX_CONNECTIONS:
                self._paces.clear()  # of processes that are long gone, most of them
            pace = self._paces[pid] = Pace()
        return pace

    def _turn_away(self, door: Door) -> bool:
        """Out of descriptors: use the spare one to close who waits first, or epoll reports it for ever."""
        if self._spare_fd < 0:
            return False
        os.close(self._spare_fd)
        self._spare_fd = -1
        with suppress(OSError):
            door.listener.accept()[0].close()
            self.refused += 1
        with suppress(OSError):
            self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        return self._spare_fd >= 0


def _has_left(peer: socket.socket) -> bool:
    """Whether who connected only wanted to know who listens, and is gone."""
    try:
        return not peer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
