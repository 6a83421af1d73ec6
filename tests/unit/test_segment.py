"""Segments are whole, sealed, and gone when they are closed."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from shm.segment import Mapping, Segment

NOBODY = 65534
PR_SET_DUMPABLE = 4


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_two_mappings_see_the_same_bytes_and_outlive_the_descriptor() -> None:
    segment = Segment.create("test", 8192)
    one, other = segment.map(), segment.map()
    segment.close()
    one[8191] = 7
    assert other[8191] == 7
    one.close()
    other.close()


def test_a_segment_cannot_be_resized_or_unsealed_by_whoever_holds_it() -> None:
    segment = Segment.create("test", 4096)
    for size in (0, 8192):
        with pytest.raises(PermissionError):
            os.ftruncate(segment.fd, size)
    segment.close()


def test_a_segment_has_no_pages_until_it_is_written() -> None:
    segment = Segment.create("test", 1 << 20)
    assert os.fstat(segment.fd).st_blocks == 0
    segment.write(0, b"x")
    assert os.fstat(segment.fd).st_blocks * 512 == mmap.PAGESIZE
    segment.close()


def test_closing_twice_closes_nobody_elses_descriptor() -> None:
    segment = Segment.create("test", 4096)
    segment.close()
    other = os.open("/dev/null", os.O_RDONLY)  # most likely the same number
    segment.close()
    os.close(other)


@pytest.mark.parametrize("size_bytes", [-1, 1 << 63])
def test_a_size_that_no_file_has_is_an_error_that_leaves_nothing(size_bytes: int) -> None:
    before = open_fds()
    with pytest.raises((OSError, OverflowError)):
        Segment.create("test", size_bytes)
    assert open_fds() == before


def test_a_segment_handed_over_is_the_same_memory() -> None:
    made = Segment.create("test", 8192)
    attached = Segment.attach(os.dup(made.fd))
    assert attached.size_bytes == 8192
    made.write(5000, b"hello")
    made.close()
    assert attached.read(5000, 5) == b"hello"
    attached.close()


def unsealed() -> int:
    return os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def sealed_against(seals: int) -> int:
    fd = unsealed()
    os.ftruncate(fd, 4096)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def pipe_end() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (pipe_end, "not a memfd"),
        (lambda: os.open("/dev/zero", os.O_RDWR), "not a memfd"),
        (lambda: os.open("/", os.O_PATH), "not a memfd"),
        (unsealed, "not sealed"),
        (lambda: os.memfd_create("test"), "not sealed"),
        (lambda: sealed_against(fcntl.F_SEAL_GROW), "not sealed"),
        (lambda: sealed_against(fcntl.F_SEAL_SHRINK), "not sealed"),
        (lambda: Segment.create("test", 0).fd, "empty"),
    ],
    ids=["a pipe", "a device", "a path", "unsealed", "unsealable", "may shrink", "may grow", "empty"],
)
def test_what_could_be_resized_is_refused_and_closed(make: Callable[[], int], why: str) -> None:
    before = open_fds()
    with pytest.raises(OSError, match=why) as caught:
        Segment.attach(make())
    assert caught.value.errno == errno.EINVAL
    assert open_fds() == before


def test_a_read_only_descriptor_shows_every_write_and_takes_none() -> None:
    segment = Segment.create("test", 4096)
    shown = Segment.attach(segment.open_read_only())
    segment.write(0, b"seen")
    assert shown.read(0, 4) == b"seen"
    with pytest.raises(OSError, match="Bad file descriptor"):
        shown.write(0, b"lost")
    with pytest.raises(PermissionError):
        shown.map()
    memory = shown.map(writable=False)
    with pytest.raises(TypeError):
        memory[0] = 1
    assert memory[:4] == b"seen"
    memory.close()
    shown.close()
    segment.close()


def test_a_read_only_descriptor_is_not_inherited() -> None:
    segment = Segment.create("test", 4096)
    fd = segment.open_read_only()
    assert not os.get_inheritable(fd)
    os.close(fd)
    segment.close()


def test_a_process_that_nobody_may_look_into_opens_its_own_segment_read_only() -> None:
    """As the kernel does: an ordinary user's process that gave up being dumpable."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)
            assert os.stat("/proc/self/fd").st_uid != os.getuid(), "not closed to its own user"
            segment = Segment.create("test", 4096)
            segment.write(0, b"mine")
            status = 0 if Segment.attach(segment.open_read_only()).read(0, 4) == b"mine" else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


MEMORIES = [lambda segment: segment, lambda segment: Mapping(segment.map())]


@pytest.mark.parametrize("memory_of", MEMORIES, ids=["segment", "mapping"])
def test_every_byte_inside_is_read_and_written_and_none_outside(
    memory_of: Callable[[Segment], Segment | Mapping],
) -> None:
    segment = Segment.create("test", 10_000)  # no multiple of a page
    memory = memory_of(segment)
    memory.write(0, bytes(range(250)) * 40)
    assert memory.read(0, 10_000) == bytes(range(250)) * 40
    memory.write(9_999, b"!")
    assert memory.read(9_998, 2) == bytes([248]) + b"!"
    assert memory.read(10_000, 0) == b""
    for offset, length in ((-1, 1), (0, 10_001), (9_999, 2), (10_001, 0), (1 << 63, 1), (5, -1)):
        with pytest.raises(OSError, match="not inside") as caught:
            memory.read(offset, length)
        assert caught.value.errno == errno.EINVAL
    for offset, data in ((-1, b"x"), (9_999, b"xx"), (1 << 63, b"x")):
        with pytest.raises(OSError, match="not inside"):
            memory.write(offset, data)
    memory.close()
    segment.close()


def test_a_read_that_comes_to_an_early_end_is_an_error() -> None:
    segment = Segment.create("test", 4096)
    with pytest.raises(OSError, match="ends at byte 4096"):
        Segment(segment.fd, 8192).read(4000, 1000)
    segment.close()


def test_a_write_that_linux_cuts_short_goes_on_where_it_was_cut() -> None:
    segment = Segment.create("test", 8192)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))  # the rest is an error of its own: EFBIG
    try:
        with pytest.raises(OSError, match="too large") as caught:
            segment.write(4000, b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert segment.read(3999, 1002) == b"\0" + b"x" * 1000 + b"\0"
    segment.close()
