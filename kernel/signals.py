"""Signals to the kernel as bytes in a pipe, so that the loop can wait for them like for all else.

Who makes it: boot; the loop reads it. What must hold: nothing is done inside a handler.
"""

from __future__ import annotations

import os
import signal

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Wakeup:
    """Catches the signals that end the kernel until it is closed. One at a time in a process."""

    def __init__(self) -> None:
        self.fd, self._write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._former = {number: signal.signal(number, _ignore) for number in CAUGHT}
        self._former_fd = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)

    def read(self) -> list[int]:
        """Return the numbers of signals that came, oldest first."""
        try:
            return list(os.read(self.fd, 256))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Give signals back to whoever had them."""
        signal.set_wakeup_fd(self._former_fd)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._write_end)


def _ignore(number: int, stack: object) -> None:
    """Python writes the wakeup byte only for signals that have a handler."""
