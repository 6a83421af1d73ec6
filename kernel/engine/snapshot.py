"""The bytes of a parked context: a header that can be checked, then llama.cpp's sequence state.

Who calls it: llama.py and fake.py, on segments that the kernel made. What must hold: the header is
written last, so a save that was cut off is no snapshot; nothing is handed to llama.cpp, which trusts
what it parses, before every field and the checksum have been found right.

Layout (little endian): magic 8s, format u32, tokens u32, fingerprint 16s, digest of the token ids u64,
payload bytes u64, zero u64, checksum u64 of all before it and the payload; then the payload.
"""

from __future__ import annotations

import struct

import numpy as np

MAGIC = b"AGXKVSNP"
FORMAT = 1
HEADER_BYTES = 64
_FIELDS = struct.Struct("<8sII16sQQQ")
_CHECKSUM = struct.Struct("<Q")


class SnapshotError(Exception):
    """A snapshot that must not be restored; the text names the field and both values."""


def checksum(payload: np.ndarray) -> int:
    """Return a 64-bit sum of a uint8 array: memory speed, and any single damaged word changes it."""
    whole = len(payload) // 8 * 8
    total = int(np.add.reduce(payload[:whole].view(np.uint64), dtype=np.uint64))
    tail = int.from_bytes(payload[whole:].tobytes(), "little")
    return (total + tail) & ((1 << 64) - 1)


def seal(segment: np.ndarray, fingerprint: bytes, tokens: int, digest: int, payload_bytes: int) -> int:
    """Write the header over a uint8 segment whose payload is in place; return the bytes used in all."""
    fields = _FIELDS.pack(MAGIC, FORMAT, tokens, fingerprint, digest, payload_bytes, 0)
    total = _total(fields, segment[HEADER_BYTES : HEADER_BYTES + payload_bytes])
    segment[:HEADER_BYTES] = np.frombuffer(fields + _CHECKSUM.pack(total), dtype=np.uint8)
    return HEADER_BYTES + payload_bytes


def unseal(segment: np.ndarray, fingerprint: bytes, tokens: int, digest: int) -> np.ndarray:
    """Return the payload of a snapshot, or raise SnapshotError with what is wrong."""
    fields = segment[: _FIELDS.size].tobytes()
    magic, form, held, made_by, ids, size, _ = _FIELDS.unpack(fields)
    for name, found, wanted in (
        ("magic", magic, MAGIC),
        ("format", form, FORMAT),
        ("model fingerprint", made_by.hex(), fingerprint.hex()),
        ("token count", held, tokens),
        ("digest of token ids", ids, digest),
    ):
        if found != wanted:
            raise SnapshotError(f"snapshot {name} is {found!r}, wanted {wanted!r}")
    if size > len(segment) - HEADER_BYTES:
        raise SnapshotError(f"snapshot payload of {size} bytes is longer than its segment")
    payload = segment[HEADER_BYTES : HEADER_BYTES + size]
    (total,) = _CHECKSUM.unpack(segment[_FIELDS.size : HEADER_BYTES].tobytes())
    if _total(fields, payload) != total:
        raise SnapshotError(f"snapshot checksum is {_total(fields, payload)}, wanted {total}")
    return payload


def _total(fields: bytes, payload: np.ndarray) -> int:
    summed = checksum(np.frombuffer(fields, dtype=np.uint8)) + checksum(payload)
    return summed & ((1 << 64) - 1)
