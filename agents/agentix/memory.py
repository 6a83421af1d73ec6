"""Segments of a task's, and arrays in them, in this process's own memory.

Who uses it: agent.py; aio.py takes the functions below, which it has to wait for otherwise. What must hold:
memory stays mapped as long as anything looks at it; importing this loads neither numpy nor shm.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from agentix import calls
from agentix.calls import Memory, Segment
from agentix.errors import AgentixError, InvalidValue, NoSuchSegment
from kernel.abi.descriptors import READ_ONLY, WRITABLE

if TYPE_CHECKING:
    import mmap

    import numpy
    from numpy.typing import DTypeLike

    from agentix.channel import Channel
    from agentix.client import Connection

    Shape = int | tuple[int, ...]


class Mem:
    """Shared-memory segments of this task."""

    def __init__(self, connection: Connection | Channel) -> None:
        self._connection = connection

    def create(self, name: str, size_bytes: int, *, timeout: float | None = None) -> Segment:
        """Make a zeroed segment. Raises AlreadyExists, OutOfMemory."""
        return self._connection.call(calls.mem_create(name, size_bytes), timeout)

    def stat(self, *, timeout: float | None = None) -> Memory:
        """This task's segments, what they use and what it may use."""
        return self._connection.call(calls.mem_stat(), timeout)

    def unlink(self, name: str, *, timeout: float | None = None) -> None:
        """Remove a segment; what is mapped of it stays until it is closed. Raises NoSuchSegment."""
        self._connection.call(calls.mem_unlink(name), timeout)

    def map(self, name: str, *, writable: bool = True, timeout: float | None = None) -> mmap.mmap:
        """Map a segment: its bytes, to be indexed, sliced, or looked at through a memoryview.

        Changes are seen by whoever else maps it, at once. Closing it gives the memory up; the collector does so
        too. Raises NoSuchSegment.
        """
        segment = find(self.stat(timeout=timeout), name)
        return self._connection.map(*request(segment, writable), timeout)

    def array(
        self,
        name: str,
        shape: Shape | None = None,
        dtype: DTypeLike = "float32",
        *,
        writable: bool = True,
        timeout: float | None = None,
    ) -> numpy.ndarray:
        """Make a segment that holds an array of zeros, or, without `shape`, look at the array in a segment.

        The memory stays mapped as long as the array or a view of it lives. Raises AlreadyExists, OutOfMemory,
        NoSuchSegment, and InvalidValue for a type that is no number or boolean, and for a segment without an
        array.
        """
        if shape is not None:
            segment = self.create(name, array_bytes(shape, dtype), timeout=timeout)
            try:
                memory = self._connection.map(*request(segment, True), timeout)
                array = place_array(memory, shape, dtype)
            except BaseException:
                with suppress(AgentixError):
                    self.unlink(name, timeout=timeout)
                raise
            if writable:
                return array
        return find_array(self.map(name, writable=writable, timeout=timeout), name)


def find(memory: Memory, name: str) -> Segment:
    """Return the segment of this name. Raises NoSuchSegment."""
    for segment in memory.segments:
        if segment.name == name:
            return segment
    raise NoSuchSegment(f"no segment {name!r}")


def request(segment: Segment, is_writable: bool) -> tuple[int, int, str]:
    """What to ask the side channel for, and how to speak of it."""
    return WRITABLE if is_writable else READ_ONLY, segment.segment, f"segment {segment.name!r}"


def array_bytes(shape: Shape, dtype: DTypeLike) -> int:
    """How large a segment must be for an array. Raises InvalidValue."""
    from shm import layout

    try:
        return layout.array_bytes(dtype, _dimensions(shape))
    except (TypeError, ValueError) as error:
        raise InvalidValue(f"mem.array: {error}") from None


def place_array(memory: mmap.mmap, shape: Shape, dtype: DTypeLike) -> numpy.ndarray:
    """Put an array into a new segment of the size that array_bytes says."""
    from shm import layout

    return layout.place_array(memory, dtype, _dimensions(shape))


def find_array(memory: mmap.mmap, name: str) -> numpy.ndarray:
    """The array that somebody put into a segment. Raises InvalidValue."""
    from shm import layout

    try:
        return layout.find_array(memory)
    except ValueError as error:
        raise InvalidValue(f"mem.array: segment {name!r}: {error}") from None


def _dimensions(shape: Any) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)
