"""What attacks are made of: connections that never wait, and a tally of what was done and what was answered.

Who uses it: attacker.py and bombs.py. What must hold: nothing here costs more than the bytes it moves, so
that the attacker is not its own limit: answers are not taken apart, only the end of each read is looked at.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from itertools import count, cycle

from record import settings

from benchmarks.rawpeer import Frame
from kernel.abi.address import kernel_name, own_socket, socket_name
from kernel.abi.codec import MAGIC, decode_answer
from kernel.abi.errors import KernelError

READ_BYTES = 64 << 10
TAIL_BYTES = 1024
TEXTS = 40  # told apart; the rest is counted together

doors = cycle([name for name in (own_socket(), socket_name("agent", kernel_name())) if name])
_numbers = count()
_START = MAGIC + b"\x93"  # of an answer that is no chunk; texts may hold MAGIC


def is_over() -> bool:
    return os.path.exists(settings["until"])


class Tally:
    """What one attacker did, and what the kernel said to it."""

    def __init__(self) -> None:
        self.unit, self.unit_bytes = "bytes", 1  # that sent bytes are counted in
        self.sent_bytes = 0
        self._did: Counter[str] = Counter()
        self._said: Counter[str] = Counter()

    def did_one(self, what: str) -> None:
        self._did[what] += 1

    def most(self, what: str, value: int) -> None:
        self._did[what] = max(self._did[what], value)

    def hear(self, text: str) -> None:
        self._said[text if text in self._said or len(self._said) < TEXTS else "other texts"] += 1

    def did(self) -> dict[str, int]:
        sent = {f"{self.unit} sent": self.sent_bytes // self.unit_bytes} if self.sent_bytes else {}
        return {**self._did, **sent}

    def said(self) -> dict[str, int]:
        return dict(self._said.most_common())


tally = Tally()


class Line:
    """A connection to one of the kernel's sockets."""

    def __init__(self, peer: socket.socket, first: bytes) -> None:
        self.number = next(_numbers)
        self.socket = peer
        self.is_cut = False
        self.sent_bytes = 0
        self.received_bytes = 0
        self._rest = first
        self._tail = b""
        self._turns = 0
        self._moved_s = time.monotonic()

    @classmethod
    def open(cls, first: bytes) -> Line | None:
        """Connect to the next door; `first` is sent before all else. None when there is no way in now."""
        try:
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:
            tally.did_one("no descriptor of its own left")
            return None
        try:
            peer.connect("\0" + next(doors))
        except OSError as error:
            peer.close()
            tally.did_one(f"connects refused ({error.strerror})")
            return None
        tally.did_one("connects")
        return cls(peer, first)

    def turn(self) -> int:
        """How often this was asked before."""
        self._turns += 1
        return self._turns - 1

    def push(self, data_of: Callable[[Line], bytes]) -> bool:
        """Send what was left, else what `data_of` makes; whether anything was taken."""
        try:
            if not self._rest:
                self._rest = data_of(self)
            sent = self.socket.send(self._rest)
        except BlockingIOError:
            return False
        except OSError:  # closed: why is still to be read
            self.pull()
            self._cut()
            return False
        self._rest = self._rest[sent:]
        self.sent_bytes += sent
        tally.sent_bytes += sent
        self._moved_s = time.monotonic()
        return sent > 0

    def pull(self) -> bool:
        """Read; whether anything came."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            self._cut()
            return False
        if not data:
            self._cut()
            return False
        self.received_bytes += len(data)
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        if text := _last_error(self._tail):
            tally.hear(text)
        return True

    def stalled_s(self) -> float:
        """How long nothing was taken."""
        return time.monotonic() - self._moved_s

    def close(self) -> None:
        self.socket.close()

    def _cut(self) -> None:
        if not self.is_cut:
            self.is_cut = True
            tally.did_one("cut off" if self.received_bytes else "closed without a word")


def _last_error(tail: bytes) -> str | None:
    """The error that some bytes end with, or the refusal of a handshake."""
    if (at := tail.rfind(b"\5ERROR")) >= 0:
        return Frame(tail[at:], True).reason()
    try:
        answer = decode_answer(tail[tail.rfind(_START) :])
    except KernelError:
        return None
    return f"{answer.body.get('name')}: {answer.body.get('text')}" if answer.kind == "error" else None
