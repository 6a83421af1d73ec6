"""A thread that does for the loop what would wait for a disk.

Who uses it: swapfile.py, recordfile.py. What must hold: what is asked for is done in that order, and each is answered
once; the loop never waits.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from queue import SimpleQueue
from typing import Generic, TypeVar

Wanted = TypeVar("Wanted")
Done = TypeVar("Done")


class IoThread(ABC, Generic[Wanted, Done]):
    """`wake_fd` is readable when there are answers."""

    def __init__(self, name: str) -> None:
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wanted: SimpleQueue[Wanted | None] = SimpleQueue()
        self._done: deque[Done] = deque()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, wanted: Wanted) -> None:
        """Have it done after all that was asked before."""
        self._wanted.put(wanted)

    def answers(self) -> list[Done]:
        """Return what was done since the last call."""
        try:
            os.eventfd_read(self.wake_fd)
        except BlockingIOError:
            return []
        return [self._done.popleft() for _ in range(len(self._done))]

    def end(self, seconds: float) -> bool:
        """End after all that was asked; False: that took longer, and the thread ends with the process."""
        self._wanted.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            return False
        os.close(self.wake_fd)
        return True

    @abstractmethod
    def _carry_out(self, wanted: Wanted) -> Done:
        """Do it, in the thread; an OSError is part of the answer."""

    def _run(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            self._done.append(self._carry_out(wanted))
            os.eventfd_write(self.wake_fd, 1)
