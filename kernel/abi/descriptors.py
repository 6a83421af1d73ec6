"""The side channel: how a process gets descriptors, which a ZeroMQ socket cannot carry.

libzmq reads with recv and so loses whatever ancillary data came along. A process that wants a descriptor
connects once more to the socket that it speaks ZeroMQ on, as a plain stream, and says HELLO. From then on
each request of REQUEST's layout is answered by one record of ANSWER's, in order; one that says errno 0
carries exactly one descriptor (SCM_RIGHTS).
  WRITABLE, READ_ONLY   number: a segment of the caller's, from mem.create or mem.stat
  RING                  number: `connection` from the answer to sys.hello; the connection's payload ring, a
                        segment with two rings (shm/ring.py) of RING_BYTES each: the first is the caller's to
                        write, the second the kernel's
A message longer than MAX_INLINE_BYTES is put into the ring, and `reference` is sent in its place.

Who uses it: the kernel's server and the SDK. What must hold: a segment is handed to the process that owns it,
as Linux attests it, and to nobody else; unknown, foreign and gone are one error, ENOENT.
"""

from __future__ import annotations

import struct

HELLO = b"AGXF"
WRITABLE, READ_ONLY, RING = 1, 2, 3
REQUEST = struct.Struct("<BQ")  # kind, number
ANSWER = struct.Struct("<iQ")  # errno or 0, size in bytes
RING_BYTES = 8 << 20  # of each of the two: pages that are never written take no memory

_MAGIC = b"AGXP"
_REFERENCE = struct.Struct("<4sQQ")
REFERENCE_BYTES = _REFERENCE.size


def reference(position: int, length: int) -> bytes:
    """Return the frame that stands for `length` bytes at `position` of a payload ring."""
    return _REFERENCE.pack(_MAGIC, position, length)


def read_reference(frame: bytes) -> tuple[int, int] | None:
    """Return (position, length), or None for a frame that stands for itself."""
    if len(frame) != REFERENCE_BYTES or frame[:4] != _MAGIC:
        return None
    _, position, length = _REFERENCE.unpack(frame)
    return position, length
