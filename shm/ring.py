"""A ring of byte records in shared memory, for messages too long for a socket: one producer, one consumer.

Layout, from a base offset of a segment: a control page, whose first 8 bytes are the consumer's position
(u64, little-endian), then the data. Positions only grow; a position's byte is at position % size. A record
lies in one piece: where it does not fit before the end of the data, and where the ring is empty, the
producer goes on at the next multiple of the size. So who sends one record at a time uses the pages of the
longest and no more. The consumer hears elsewhere where a record is: the socket carries (position, length).

Who uses it: the kernel and the SDK, each on either end. What must hold: neither end trusts the other.
Whatever the other writes into the memory or sends as a position, an end touches nothing outside its ring and
raises nothing but RingError. A record whose position never arrives is skipped by the next that does.
"""

from __future__ import annotations

import struct
from typing import Protocol

RING_CONTROL_BYTES = 4096

_POSITION = struct.Struct("<Q")


class RingError(Exception):
    """The other end broke the rules of the ring; nothing more can be said through it."""


class Memory(Protocol):
    """What a ring lives in: a Segment or a Mapping."""

    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> None: ...


def ring_bytes(size_bytes: int) -> int:
    """Return how much memory a ring takes that holds `size_bytes` of data."""
    return RING_CONTROL_BYTES + size_bytes


class Producer:
    """The writing end of a ring whose memory was zeros when it was made; `base`: where it begins."""

    __slots__ = ("_base", "_head", "_memory", "_seen", "_size_bytes", "_tail")

    def __init__(self, memory: Memory, base: int, size_bytes: int) -> None:
        self._memory = memory
        self._base = base
        self._size_bytes = size_bytes
        self._head = 0  # where the last record ends
        self._tail = 0  # where the first record begins that the consumer may still want
        self._seen = 0  # the consumer's position when last read: before _tail if an empty ring was skipped

    def put(self, data: bytes) -> int | None:
        """Copy a record into the ring and return its position; None: there is no room before the next take.

        Raises ValueError for a record that is empty or longer than the ring, RingError when the consumer's
        position is impossible, and what the memory raises; the ring is as it was then.
        """
        length, size = len(data), self._size_bytes
        if not 0 < length <= size:
            raise ValueError(f"a record of {length} bytes does not go into a ring of {size} bytes")
        self._look()
        position = self._head
        is_empty = self._tail == position
        if is_empty or position % size + length > size:
            position = _next_lap(position, size)
        if not is_empty and position + length > self._tail + size:
            return None
        self._memory.write(self._base + RING_CONTROL_BYTES + position % size, data)
        if is_empty:
            self._tail = position
        self._head = position + length
        return position

    def _look(self) -> None:
        """Find out how far the consumer is."""
        raw = self._memory.read(self._base, _POSITION.size)
        if raw != self._memory.read(self._base, _POSITION.size):
            return  # it may be half written; the older position only makes the ring look fuller
        (position,) = _POSITION.unpack(raw)
        if not self._seen <= position <= self._head:
            text = f"the consumer of a ring says position {position}, not {self._seen} to {self._head}"
            raise RingError(text)
        self._seen = position
        self._tail = max(self._tail, position)


class Consumer:
    """The reading end of a ring whose memory was zeros when it was made; `base`: where it begins."""

    __slots__ = ("_base", "_last", "_memory", "_size_bytes")

    def __init__(self, memory: Memory, base: int, size_bytes: int) -> None:
        self._memory = memory
        self._base = base
        self._size_bytes = size_bytes
        self._last = 0  # kept here: what the control page says is for the producer alone

    def take(self, position: int, length: int) -> bytes:
        """Return a copy of the record there, and give up the ring's bytes to its end.

        Raises RingError, the ring being as it was, where no producer can have put a record.
        """
        size = self._size_bytes
        start = position % size
        # A producer is never more than a lap ahead of what was released, or of where it skipped to when all
        # was released. Either way the record begins in the lap of the last one's end, or in the next.
        is_near = self._last <= position <= _next_lap(self._last, size) + start
        if length < 1 or start + length > size or not is_near:
            text = f"no record of {length} bytes can be at {position} of a ring of {size} bytes"
            raise RingError(f"{text} after {self._last}")
        data = self._memory.read(self._base + RING_CONTROL_BYTES + start, length)
        self._last = position + length
        self._memory.write(self._base, _POSITION.pack(self._last))
        return data


def _next_lap(position: int, size_bytes: int) -> int:
    """Return the first multiple of the size that is not before a position."""
    return -(-position // size_bytes) * size_bytes
