"""What a process takes up of the kernel's sockets, and how fast it may come.

Who uses it: doors.py, which makes accounts, and server.py, which looks at them before it serves.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernel.identity import Process
from kernel.limits import CONNECT_BURST, CONNECTS_PER_S


@dataclass(slots=True, eq=False)
class Account:
    """What one process takes up: made by its first connection, dropped with its last."""

    process: Process
    connections: int = 0
    rings: int = 0
    not_before_ns: int = 0  # it was heavy: nothing more of its is looked at until then


@dataclass(slots=True)
class Pace:
    """A token bucket of connects, by pid: cheaper to ask than who a process is."""

    left: float = CONNECT_BURST
    at_ns: int = 0
    refused: int = 0  # in a row

    def take(self, now_ns: int) -> bool:
        since_s = (now_ns - self.at_ns) / 1e9 if self.at_ns else 0.0
        self.left = min(CONNECT_BURST, self.left + since_s * CONNECTS_PER_S)
        self.at_ns = now_ns
        if self.left < 1:
            self.refused += 1
            return False
        self.refused = 0
        self.left -= 1
        return True
