"""Arrays that describe themselves: a header with type and shape, then the numbers, in any shared memory.

Header of HEADER_BYTES, little-endian: magic, version (u16), number of dimensions (u8), a zero byte, numpy's
name of the type ("<f4"; zeros up to 8 bytes), 8 dimensions (u64; zeros after the last), zeros. The numbers
follow in C order, so they are aligned to 64 bytes where the memory is.

Who uses it: agents that share arrays through segments. What must hold: a header is untrusted; what find_array
returns lies inside the buffer and holds numbers or booleans, never objects. Nothing is pickled.
"""

from __future__ import annotations

import math
import mmap
import struct
import sys

import numpy as np
from numpy.typing import DTypeLike

HEADER_BYTES = 128
MAX_DIMENSIONS = 8

Buffer = bytes | bytearray | memoryview | mmap.mmap

_HEADER = struct.Struct("<4sHBx8s8Q")
_MAGIC = b"AGXA"
_VERSION = 1
_TYPES = frozenset(
    np.dtype(code).newbyteorder(order).str
    for code in "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]
    for order in "<>"
)


class LayoutError(ValueError):
    """An array that cannot be placed, or bytes that are no array; the text says what is wrong."""


def array_bytes(dtype: DTypeLike, shape: tuple[int, ...]) -> int:
    """Return how many bytes an array takes, its header included.

    Raises LayoutError for a type that is no number or boolean, or a shape that no array has.
    """
    return HEADER_BYTES + _data_bytes(np.dtype(dtype).str, shape)


def place_array(buffer: Buffer, dtype: DTypeLike, shape: tuple[int, ...]) -> np.ndarray:
    """Write the header at the start of `buffer` and return the array, a view that holds what was there.

    The buffer cannot be closed while the array lives. Raises LayoutError as array_bytes does, and for a
    buffer that is too short or read-only.
    """
    name = np.dtype(dtype).str
    size_bytes = HEADER_BYTES + _data_bytes(name, shape)
    with memoryview(buffer) as view, view.cast("B") as raw:
        if raw.readonly:
            raise LayoutError("an array cannot be placed in read-only memory")
        if size_bytes > len(raw):
            raise LayoutError(f"an array of {size_bytes} bytes does not fit into {len(raw)} bytes")
        dimensions = (*shape, *[0] * (MAX_DIMENSIONS - len(shape)))
        header = _HEADER.pack(_MAGIC, _VERSION, len(shape), name.encode(), *dimensions)
        raw[:HEADER_BYTES] = header.ljust(HEADER_BYTES, b"\0")
    return _view(buffer, name, shape)


def find_array(buffer: Buffer) -> np.ndarray:
    """Return the array that was placed at the start of `buffer`: a view, read-only when the buffer is.

    The buffer cannot be closed while the array lives. Others may change the numbers at any time, but neither
    type nor shape: the header is read once. Raises LayoutError for anything that place_array did not write.
    """
    with memoryview(buffer) as view, view.cast("B") as raw:
        length, header = len(raw), bytes(raw[: _HEADER.size])
    if length < HEADER_BYTES:
        raise LayoutError(f"{length} bytes are too few for an array's header of {HEADER_BYTES}")
    magic, version, count, padded, *dimensions = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise LayoutError(f"an array begins with {_MAGIC!r}, not {magic!r}")
    if version != _VERSION:
        raise LayoutError(f"the array has layout version {version}, this program reads {_VERSION}")
    if count > MAX_DIMENSIONS:
        raise LayoutError(f"the array has {count} dimensions, at most {MAX_DIMENSIONS} are possible")
    name, shape = padded.rstrip(b"\0").decode("latin-1"), tuple(dimensions[:count])
    size_bytes = HEADER_BYTES + _data_bytes(name, shape)
    if size_bytes > length:
        raise LayoutError(f"the array says that it takes {size_bytes} bytes, there are {length}")
    return _view(buffer, name, shape)


def _view(buffer: Buffer, name: str, shape: tuple[int, ...]) -> np.ndarray:
    # Not np.ndarray(buffer=...): it does not keep an mmap from being closed under the array.
    flat = np.frombuffer(buffer, name, math.prod(shape), HEADER_BYTES)
    return flat.reshape(shape)


def _data_bytes(name: str, shape: tuple[int, ...]) -> int:
    """Return how many bytes the numbers take. Raises LayoutError."""
    if name not in _TYPES:
        raise LayoutError(f"type {name!a} is none of numbers or booleans in shared memory")
    if len(shape) > MAX_DIMENSIONS:
        raise LayoutError(f"{len(shape)} dimensions, at most {MAX_DIMENSIONS} are possible")
    if any(length < 0 for length in shape):
        raise LayoutError(f"a negative dimension in {shape}")
    item_bytes = np.dtype(name).itemsize
    # numpy leaves zeros out when it looks for overflow: (0, 1 << 62) numbers are none, and too many.
    if item_bytes * math.prod(length or 1 for length in shape) > sys.maxsize:
        raise LayoutError(f"an array of {shape} numbers of {item_bytes} bytes is too large")
    return item_bytes * math.prod(shape)
