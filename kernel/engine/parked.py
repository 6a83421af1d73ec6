"""A segment of the kernel's as the core sees it: memory for one parked context.

Who calls it: llama.py. What must hold: a header is written after what it vouches for; the descriptor that came with
the segment stays the caller's.
"""

from __future__ import annotations

import mmap
import os

import numpy as np

from kernel.engine.snapshot import HEADER_BYTES


class ParkedMemory:
    """Bytes that are written to a file the first time and mapped from then on.

    The first save brings the pages into being. Through a mapping each would be zeroed first, and the two threads that
    fault would wait for each other; as a write it costs a third. Later saves and restores find all pages there.
    """

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.is_fresh = True
        self._fd = os.dup(fd)
        self._map: mmap.mmap | None = None

    def write(self, snapshot: np.ndarray) -> None:
        """Make a sealed snapshot the content. Raises OSError."""
        self.is_fresh = False
        content = memoryview(snapshot)
        at = HEADER_BYTES
        while at < len(content):
            at += os.pwrite(self._fd, content[at:], at)
        os.pwrite(self._fd, content[:HEADER_BYTES], 0)

    @property
    def array(self) -> np.ndarray:
        """All bytes, mapped."""
        if self._map is None:
            self.is_fresh = False
            self._map = mmap.mmap(self._fd, self.size_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
            os.close(self._fd)  # the map has one of its own
            self._fd = -1
            self._array = np.frombuffer(self._map, dtype=np.uint8)
        return self._array

    def close(self) -> None:
        """Give the memory up; views of it must be gone."""
        if self._map is None:
            os.close(self._fd)
        else:
            del self._array  # the map cannot close under a view
            self._map.close()
