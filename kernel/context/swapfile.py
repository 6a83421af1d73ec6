"""The swap file, and the thread that copies contexts between it and memory.

Who uses it: the loop, for SwapOut and SwapIn; the file has no name, so that nothing of it outlives the kernel. What
must hold: what is asked for is done in that order, and each is answered once; the loop never waits for a disk.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from kernel.context.iothread import IoThread

END_S = 1.0  # that closing waits for the disk; the thread ends with the process then


class Done(NamedTuple):
    """An answer: error is empty when all bytes were copied."""

    core: int
    ticket: int
    error: str


class _Copy(NamedTuple):
    core: int
    ticket: int
    is_out: bool
    fd: int  # of the segment; ours
    offset: int
    size_bytes: int


class SwapFile(IoThread[_Copy, Done]):
    """An unnamed file in `folder`; making it raises OSError. `wake_fd` is readable when there are answers."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._fd = _unnamed(folder)
        super().__init__("swap")

    def copy(self, core: int, ticket: int, is_out: bool, segment_fd: int, offset: int, size_bytes: int) -> None:
        """Copy a segment's first bytes to the file (is_out) or from it. Raises OSError where no descriptor is left."""
        self.ask(_Copy(core, ticket, is_out, os.dup(segment_fd), offset, size_bytes))

    def close(self) -> None:
        """Give the file up, and what is still to be copied."""
        if self.end(END_S):
            os.close(self._fd)

    def _carry_out(self, wanted: _Copy) -> Done:
        try:
            error = "" if _copied(self._fd, wanted) else "the file is shorter than what was written"
        except OSError as failure:
            error = failure.strerror or str(failure)
        os.close(wanted.fd)
        return Done(wanted.core, wanted.ticket, error)


def _copied(fd: int, wanted: _Copy) -> bool:
    """Copy without a detour through this process's memory; say whether all was there. Raises OSError."""
    source, target = (wanted.fd, fd) if wanted.is_out else (fd, wanted.fd)
    begin = 0 if wanted.is_out else wanted.offset
    os.lseek(target, wanted.offset if wanted.is_out else 0, os.SEEK_SET)
    done = 0
    while done < wanted.size_bytes:
        sent = os.sendfile(target, source, begin + done, wanted.size_bytes - done)
        if not sent:
            return False
        done += sent
    return True


def _unnamed(folder: Path) -> int:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # some file systems have none
        fd, path = tempfile.mkstemp(dir=folder, prefix="swap-")
        os.unlink(path)
        return fd
