"""One memfd: memory with a descriptor and no name in any file system, so nothing is left behind.

Who calls it: the kernel's loop makes every segment and hands descriptors to the LLM core and to
agents. What must hold: the size is sealed before anyone else sees the descriptor (a mapping of a
shrunk file dies with SIGBUS), and memory goes back at close, not when a collector comes by.
"""

from __future__ import annotations

import fcntl
import mmap
import os

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Segment:
    """A sealed memfd that this process owns. `fd` is -1 once it is closed."""

    __slots__ = ("fd", "size_bytes")

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.fd = fd
        self.size_bytes = size_bytes

    @classmethod
    def create(cls, name: str, size_bytes: int, touch: bool) -> Segment:
        """Make a segment; `touch`: with its pages in memory already. Raises OSError.

        Touching is fallocate: it makes zeroed pages without mapping them, three times as fast as any
        write here. It is no test of free memory: Linux kills somebody before it says no.
        """
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size_bytes)
            if touch:
                os.posix_fallocate(fd, 0, size_bytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, size_bytes)

    def map(self) -> mmap.mmap:
        """Return the segment's memory, readable and writable; the caller closes it."""
        return mmap.mmap(self.fd, self.size_bytes)

    def close(self) -> None:
        """Give up the descriptor; mappings live on. Closing twice is harmless."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
