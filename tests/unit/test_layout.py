"""An array is found as it was placed, and whatever else the bytes say leads nowhere outside them."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shm.layout import HEADER_BYTES, LayoutError, array_bytes, find_array, place_array
from shm.segment import Segment

TYPES = ["?", "i1", "u1", "i2", ">i2", "u4", "i8", ">u8", "f2", "f4", "f8", ">f8", "c8", "c16", "longdouble"]
SHAPES = [(), (0,), (1,), (7,), (3, 5), (0, 4), (2, 1, 3), (1,) * 8]


@contextmanager
def mapped(size_bytes: int) -> Iterator[tuple[mmap.mmap, mmap.mmap]]:
    """Two mappings of one segment, as two processes have them; the second is read-only."""
    segment = Segment.create("test", size_bytes)
    ours, theirs = segment.map(), segment.map(writable=False)
    segment.close()
    try:
        yield ours, theirs
    finally:
        ours.close()
        theirs.close()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TYPES)
def test_an_array_is_found_with_its_type_shape_and_numbers(dtype: str, shape: tuple[int, ...]) -> None:
    with mapped(array_bytes(dtype, shape)) as (ours, theirs):
        placed = place_array(ours, dtype, shape)
        placed[...] = np.arange(placed.size).reshape(shape) % 2
        found = find_array(theirs)
        assert found.dtype == np.dtype(dtype)
        assert found.shape == shape
        assert found.tobytes() == placed.tobytes()
        del placed, found


def test_both_sides_see_one_memory_and_the_reader_cannot_write_it() -> None:
    with mapped(array_bytes("f4", (3,))) as (ours, theirs):
        placed, found = place_array(ours, "f4", (3,)), find_array(theirs)
        placed[1] = 2.5
        assert found.tolist() == [0.0, 2.5, 0.0]
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 1
        again = find_array(ours)
        again[0] = 1
        assert found[0] == 1
        del placed, found, again


def test_an_array_takes_its_header_and_its_numbers_which_start_at_a_cache_line() -> None:
    assert array_bytes("f4", (3, 5)) == HEADER_BYTES + 60
    with mapped(array_bytes("f8", (4,))) as (ours, _):
        placed = place_array(ours, "f8", (4,))
        assert placed.ctypes.data % 64 == 0
        del placed


@pytest.mark.parametrize("dtype", ["O", "S4", "U4", "V8", "M8[s]", "m8[s]", "i4,f4", "3i4"])
def test_only_numbers_and_booleans_are_placed(dtype: str) -> None:
    with pytest.raises(LayoutError, match="none of numbers or booleans"):
        array_bytes(dtype, (1,))
    with pytest.raises(LayoutError, match="none of numbers or booleans"):
        place_array(bytearray(4096), dtype, (1,))


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((1,) * 9, "9 dimensions"),
        ((3, -1), "negative"),
        ((1 << 62, 1 << 62), "too large"),
        ((0, 1 << 62), "too large"),
    ],
)
def test_a_shape_that_no_array_has_is_refused(shape: tuple[int, ...], why: str) -> None:
    with pytest.raises(LayoutError, match=why):
        array_bytes("f4", shape)


def test_an_array_is_placed_only_where_it_fits_and_may_be_written() -> None:
    size_bytes = array_bytes("f4", (8,))
    place_array(bytearray(size_bytes), "f4", (8,))
    with pytest.raises(LayoutError, match="does not fit"):
        place_array(bytearray(size_bytes - 1), "f4", (8,))
    with pytest.raises(LayoutError, match="read-only"):
        place_array(bytes(size_bytes), "f4", (8,))


def header(
    magic: bytes = b"AGXA",
    version: int = 1,
    count: int = 2,
    dtype: bytes = b"<f4",
    shape: tuple[int, ...] = (3, 5),
) -> bytes:
    """A header as the module's docstring describes it."""
    dimensions = struct.pack("<8Q", *shape, *[0] * (8 - len(shape)))
    fields = magic + struct.pack("<HBx", version, count) + dtype.ljust(8, b"\0") + dimensions
    return fields.ljust(HEADER_BYTES, b"\0")


def test_the_header_is_what_the_docstring_says() -> None:
    buffer = bytearray(b"\xff" * array_bytes("<f4", (3, 5)))
    place_array(buffer, "<f4", (3, 5))
    assert bytes(buffer) == header() + b"\xff" * 60


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: bytes(4096), "begins with"),
        (lambda: header()[:-1], "too few"),
        (lambda: b"", "too few"),
        (lambda: header(version=2) + bytes(60), "version 2"),
        (lambda: header(count=9) + bytes(60), "9 dimensions"),
        (lambda: header(dtype=b"|O") + bytes(60), "type '|O'"),
        (lambda: header(dtype=b"<f4,<f4") + bytes(120), "type '<f4,<f4'"),
        (lambda: header(dtype=b"<M8[s]") + bytes(120), "type"),
        (lambda: header(dtype=b"float") + bytes(120), "type 'float'"),
        (lambda: header(dtype=b"\xff\0<f4") + bytes(120), "type"),
        (lambda: header(dtype=b"") + bytes(120), "type ''"),
        (lambda: header() + bytes(59), "188 bytes, there are 187"),
        (lambda: header(shape=(1 << 63, 2)) + bytes(60), "too large"),  # 2^66 bytes: 0 in 64 bits
        (lambda: header(shape=(0, 1 << 63)) + bytes(60), "too large"),
    ],
)
def test_a_header_that_lies_is_named_and_not_believed(make: Callable[[], bytes], why: str) -> None:
    with pytest.raises(LayoutError) as caught:
        find_array(make())
    assert why in str(caught.value)


@settings(deadline=None)
@given(
    dtype=st.sampled_from(TYPES).map(lambda name: np.dtype(name).str.encode()) | st.binary(max_size=8),
    count=st.integers(0, 255),
    shape=st.lists(st.integers(0, 5) | st.integers(0, (1 << 64) - 1), max_size=8),
    data=st.binary(max_size=200),
)
def test_no_header_leads_outside_its_buffer(dtype: bytes, count: int, shape: list[int], data: bytes) -> None:
    buffer = header(dtype=dtype, count=count, shape=tuple(shape)) + data
    try:
        found = find_array(buffer)
    except LayoutError:
        return
    assert found.dtype.kind in "biufc"
    assert found.tobytes() == data[: found.nbytes]


def test_bytes_that_were_never_an_array_are_none() -> None:
    noise = np.random.default_rng(1).integers(0, 256, 4096, np.uint8).tobytes()
    with pytest.raises(LayoutError, match="begins with"):
        find_array(noise)


def test_memory_cannot_be_unmapped_under_a_living_array():
    memory = mmap.mmap(-1, 4096)
    placed = place_array(memory, "int32", (4,))
    found = find_array(memory)
    with pytest.raises(BufferError):
        memory.close()
    found[0] = 7
    assert placed[0] == 7
    del placed, found
    memory.close()
