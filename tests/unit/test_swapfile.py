"""The swap file on a real disk: what is written comes back, errors are answers, nothing is left behind."""

from __future__ import annotations

import os
import resource
import select
import signal
import threading

import pytest

from kernel.context.swapfile import Done, SwapFile
from shm.segment import Segment

PATIENCE_S = 20


@pytest.fixture
def swap(tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    file = SwapFile(tmp_path / "swap")
    yield file
    file.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path / "swap") == []


def answer(swap: SwapFile) -> Done:
    ready, _, _ = select.select([swap.wake_fd], [], [], PATIENCE_S)
    assert ready, "the disk does not answer"
    (one,) = swap.answers()
    return one


@pytest.fixture
def segments():
    made = [Segment.create("swap-test", 1 << 20) for _ in range(2)]
    yield made
    for segment in made:
        segment.close()


def test_what_was_written_comes_back_and_is_in_no_folder(swap, segments, tmp_path):
    source, target = segments
    content = os.urandom(300_001)
    source.write(0, content)
    swap.copy(2, 7, True, source.fd, 8192, len(content))
    assert answer(swap) == Done(2, 7, "")
    swap.copy(0, 8, False, target.fd, 8192, len(content))
    assert answer(swap) == Done(0, 8, "")
    assert target.read(0, len(content)) == content
    assert os.listdir(tmp_path / "swap") == []


def test_copies_are_made_in_order(swap, segments):
    source, target = segments
    source.write(0, b"a" * 4096)
    swap.copy(0, 1, True, source.fd, 0, 4096)
    swap.copy(0, 2, False, target.fd, 0, 4096)
    done = []
    while len(done) < 2:
        select.select([swap.wake_fd], [], [], PATIENCE_S)
        done += swap.answers()
    assert [one.ticket for one in done] == [1, 2]
    assert target.read(0, 4096) == b"a" * 4096


def test_reading_beyond_what_was_written_is_an_answer(swap, segments):
    swap.copy(0, 3, False, segments[0].fd, 1 << 30, 4096)
    assert answer(swap) == Done(0, 3, "the file is shorter than what was written")


def test_a_disk_that_takes_no_more_is_an_answer_and_the_next_copy_is_made(swap, segments):
    """A limit on this process's files stands for the full disk."""
    source = segments[0]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        swap.copy(0, 4, True, source.fd, 4096, 1 << 20)
        assert answer(swap).error == "File too large"
        swap.copy(0, 5, True, source.fd, 0, 4096)
        assert answer(swap) == Done(0, 5, "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, former)


def test_closing_ends_the_thread_whatever_is_to_be_copied(tmp_path, segments):
    swap = SwapFile(tmp_path)
    for ticket in range(50):
        swap.copy(0, ticket, True, segments[0].fd, 0, 1 << 20)
    swap.close()
    assert not any(thread.name == "swap" for thread in threading.enumerate())


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        SwapFile(tmp_path / "file" / "swap")
