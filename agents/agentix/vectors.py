"""Embeddings as the caller can use them: a numpy array where numpy is installed, lists of floats elsewhere.

Who uses it: llm.py and aio.py. What must hold: importing this does not load numpy.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

    Vectors = numpy.ndarray | list[list[float]]


def vectors_of(raw: Sequence[bytes]) -> Vectors:
    """Return vectors of little-endian float32 as an array of shape (texts, width), float32, or as lists."""
    try:
        import numpy
    except ImportError:
        return [list(struct.unpack(f"<{len(one) // 4}f", one)) for one in raw]
    flat = numpy.frombuffer(bytearray().join(raw), "<f4")
    return flat.reshape(len(raw), -1) if raw else flat.reshape(0, 0)
