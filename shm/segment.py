"""One memfd: memory with a descriptor and no name in any file system, so nothing is left behind.

Who uses it: the kernel makes every segment and hands descriptors to the LLM core and to agents; an agent
attaches what it was handed. What must hold: the size is sealed before anyone else sees the descriptor (a
mapping of a shrunk file dies with SIGBUS), and memory goes back at close, not when a collector comes by.
Whoever must survive what the others do to the memory uses read and write: they copy each byte once, and no
page of the segment is in their own address space to fault on.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

_SIZE_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Segment:
    """A memfd of sealed size that this process owns. `fd` is -1 once it is closed."""

    __slots__ = ("fd", "size_bytes")

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.fd = fd
        self.size_bytes = size_bytes

    @classmethod
    def create(cls, name: str, size_bytes: int) -> Segment:
        """Make a segment, whose pages come into being as they are written. Raises OSError.

        It is no test of free memory: Linux kills somebody before it says no.
        """
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size_bytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SIZE_SEALS | fcntl.F_SEAL_SEAL)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, size_bytes)

    @classmethod
    def attach(cls, fd: int) -> Segment:
        """Take over a descriptor that somebody else made: of a memfd whose size is sealed, or it is closed.

        Raises OSError: EINVAL for any other file, whose mapping could die of SIGBUS.
        """
        try:
            size_bytes = _sealed_size(fd)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, size_bytes)

    def map(self, writable: bool = True) -> mmap.mmap:
        """Return the segment's memory; the caller closes it.

        Raises OSError: EACCES for a writable mapping of a descriptor that is open for reading.
        """
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        return mmap.mmap(self.fd, self.size_bytes, access=access)

    def open_read_only(self) -> int:
        """Return another descriptor of the same memory, open for reading; the caller closes it.

        Raises OSError. It protects from an honest mistake: writes through it fail, and so do writable
        mappings. It does not protect from malice: a process of the same user that holds it can open it anew,
        for writing, through its own /proc/self/fd, just as is done here.
        """
        # /proc/self/fd belongs to root in a process that gave up being dumpable, as the kernel does. It
        # opens all the same: Linux asks about permission only when somebody else looks.
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def read(self, offset: int, length: int) -> bytes:
        """Return a copy of `length` bytes at `offset`. Raises OSError: EINVAL outside the segment."""
        _check(offset, length, self.size_bytes)
        data = os.pread(self.fd, length, offset)
        while len(data) < length:
            more = os.pread(self.fd, length - len(data), offset + len(data))
            if not more:
                text = f"a segment of {self.size_bytes} bytes ends at byte {offset + len(data)}"
                raise OSError(errno.EINVAL, text)
            data += more
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Copy `data` to `offset`.

        Raises OSError: EINVAL outside the segment, EBADF when it is open for reading, ENOSPC without memory.
        """
        _check(offset, len(data), self.size_bytes)
        done = os.pwrite(self.fd, data, offset)
        while done < len(data):
            done += os.pwrite(self.fd, memoryview(data)[done:], offset + done)

    def close(self) -> None:
        """Give up the descriptor; mappings live on. Closing twice is harmless."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class Mapping:
    """The same read and write over mapped memory, which it owns: no system call for each.

    For a process that trusts whoever made the segment, as an agent trusts the kernel.
    """

    __slots__ = ("_memory",)

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    def read(self, offset: int, length: int) -> bytes:
        """Return a copy of `length` bytes at `offset`. Raises OSError: EINVAL outside the mapping."""
        _check(offset, length, len(self._memory))
        return self._memory[offset : offset + length]

    def write(self, offset: int, data: bytes) -> None:
        """Copy `data` to `offset`.

        Raises OSError: EINVAL outside the mapping; TypeError when it is mapped for reading.
        """
        _check(offset, len(data), len(self._memory))
        self._memory[offset : offset + len(data)] = data

    def close(self) -> None:
        """Unmap the memory. Closing twice is harmless."""
        self._memory.close()


def _check(offset: int, length: int, size_bytes: int) -> None:
    if offset < 0 or length < 0 or offset + length > size_bytes:
        text = f"{length} bytes at offset {offset} are not inside a segment of {size_bytes} bytes"
        raise OSError(errno.EINVAL, text)


def _sealed_size(fd: int) -> int:
    """Return the size of a memfd that can no longer change. Raises OSError: EINVAL for anything else."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise OSError(errno.EINVAL, "the descriptor is not a memfd's") from None
    if seals & _SIZE_SEALS != _SIZE_SEALS:
        raise OSError(errno.EINVAL, "the size of the memfd is not sealed")
    size_bytes = os.fstat(fd).st_size
    if size_bytes == 0:
        raise OSError(errno.EINVAL, "the memfd is empty")
    return size_bytes
