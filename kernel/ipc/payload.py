"""Payload rings: how messages too long for a socket's frame come and go without anybody noticing.

Who uses it: server.py. What must hold: what an agent can write is read once, with pread, into memory of the
kernel's own; a reference to anything but the connection's own ring is a violation.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernel.abi.codec import MAX_MESSAGE_BYTES
from kernel.abi.descriptors import RING_BYTES, read_reference, reference
from kernel.ipc.zmtp import Violation
from shm.ring import Consumer, Producer, RingError, ring_bytes
from shm.segment import Segment


@dataclass(slots=True, eq=False)
class PayloadRing:
    """The two rings of a connection: from the peer, then to it."""

    segment: Segment
    _from_peer: Consumer
    _to_peer: Producer

    @classmethod
    def create(cls, connection: int) -> PayloadRing:
        """Raises OSError."""
        each = ring_bytes(RING_BYTES)
        segment = Segment.create(f"agentix-ring-{connection}", 2 * each)
        return cls(segment, Consumer(segment, 0, RING_BYTES), Producer(segment, each, RING_BYTES))

    def take(self, position: int, length: int) -> bytes:
        """Return a message of the peer's. Raises Violation."""
        try:
            return self._from_peer.take(position, length)
        except (RingError, OSError) as error:  # of the latter ENOSPC: no memory for the page of the position
            raise Violation(str(error)) from None

    def put(self, frame: bytes) -> bytes:
        """Return what to send in a message's place: a reference, or itself when there is no room."""
        try:
            position = self._to_peer.put(frame)
        except (RingError, ValueError, OSError):  # nonsense of the peer's, longer than any ring, no memory
            return frame
        return frame if position is None else reference(position, len(frame))

    def close(self) -> None:
        self.segment.close()


def resolve(frame: bytes, ring: PayloadRing | None) -> bytes:
    """Return the message that a frame is or stands for. Raises Violation."""
    found = read_reference(frame)
    if found is None:
        return frame
    position, length = found
    if ring is None:
        raise Violation("a reference to a payload ring, which this connection does not have")
    if length > MAX_MESSAGE_BYTES:
        raise Violation(f"a message of {length} bytes, the limit is {MAX_MESSAGE_BYTES}")
    return ring.take(position, length)
