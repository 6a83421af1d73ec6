"""Segments are whole, sealed, and gone when they are closed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shm.segment import Segment


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_two_mappings_see_the_same_bytes_and_outlive_the_descriptor() -> None:
    segment = Segment.create("test", 8192, touch=True)
    one, other = segment.map(), segment.map()
    segment.close()
    one[8191] = 7
    assert other[8191] == 7
    one.close()
    other.close()


def test_a_segment_cannot_be_resized_or_unsealed_by_whoever_holds_it() -> None:
    segment = Segment.create("test", 4096, touch=False)
    for size in (0, 8192):
        with pytest.raises(PermissionError):
            os.ftruncate(segment.fd, size)
    segment.close()


def test_a_touched_segment_has_its_pages_and_an_untouched_one_none() -> None:
    touched, untouched = (Segment.create("test", 1 << 20, touch=touch) for touch in (True, False))
    assert os.fstat(touched.fd).st_blocks * 512 == 1 << 20
    assert os.fstat(untouched.fd).st_blocks == 0
    touched.close()
    untouched.close()


def test_closing_twice_closes_nobody_elses_descriptor() -> None:
    segment = Segment.create("test", 4096, touch=False)
    segment.close()
    other = os.open("/dev/null", os.O_RDONLY)  # most likely the same number
    segment.close()
    os.close(other)


@pytest.mark.parametrize("size_bytes", [-1, 1 << 63])
def test_a_size_that_no_file_has_is_an_error_that_leaves_nothing(size_bytes: int) -> None:
    before = open_fds()
    with pytest.raises((OSError, OverflowError)):
        Segment.create("test", size_bytes, touch=True)
    assert open_fds() == before
