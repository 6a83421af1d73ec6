"""Descriptors go to those whom they belong to; long messages travel through the payload ring."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from test_server import DOOR, NAME, Raw, Rig

from kernel.abi.address import kernel_pid
from kernel.abi.codec import MAX_INLINE_BYTES, MAX_MESSAGE_BYTES
from kernel.abi.descriptors import (
    ANSWER,
    HELLO,
    READ_ONLY,
    REQUEST,
    RING,
    RING_BYTES,
    WRITABLE,
    read_reference,
    reference,
)
from kernel.abi.errors import Errno
from kernel.effects import MakeSegment
from kernel.identity import birth_of
from kernel.limits import MAX_PROCESS_RINGS
from kernel.segments import Segments
from shm.ring import Consumer, Producer, ring_bytes
from shm.segment import Segment

ME = (os.getpid(), birth_of(os.getpid()) or 0)


@pytest.fixture
def segments() -> Iterator[Segments]:
    made = Segments()
    made.make(MakeSegment(1, 8192, is_for_core=False, owner=ME))
    made.make(MakeSegment(2, 8192, is_for_core=False, owner=(ME[0], ME[1] + 1)))  # the pid's former process
    made.make(MakeSegment(3, 8192, is_for_core=True))
    yield made
    made.close()


@pytest.fixture
def rig(segments: Segments) -> Iterator[Rig]:
    before = sorted(os.listdir("/proc/self/fd"))
    made = Rig(segments.owned)
    yield made
    made.server.close()
    made.epoll.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert not made.server.doors.accounts
    assert kernel_pid("agent", NAME) is None


class Channel:
    """The agent's end."""

    def __init__(self, rig: Rig, first: bytes = HELLO) -> None:
        self.rig = rig
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect("\0" + DOOR)
        self.socket.setblocking(False)
        self.socket.sendall(first)

    def ask(self, kind: int, number: int) -> tuple[int, int, int]:
        """Return (errno, size, descriptor or -1)."""
        self.socket.sendall(REQUEST.pack(kind, number))
        return self.answer()

    def answer(self) -> tuple[int, int, int]:
        got: list[tuple[bytes, list[int]]] = []

        def has_come() -> bool:
            with contextlib.suppress(BlockingIOError):
                record, fds, _, _ = socket.recv_fds(self.socket, ANSWER.size, 1)
                got.append((record, fds))
            return bool(got)

        self.rig.until(has_come)
        ((record, fds),) = got
        assert len(record) == ANSWER.size, "the channel was closed"
        number, size = ANSWER.unpack(record)
        return number, size, fds[0] if fds else -1


@pytest.fixture
def channel(rig: Rig) -> Iterator[Callable[..., Channel]]:
    made: list[Channel] = []

    def make(**options: bytes) -> Channel:
        made.append(Channel(rig, **options))
        return made[-1]

    yield make
    for one in made:
        one.socket.close()


@pytest.fixture
def raw(rig: Rig) -> Iterator[Callable[[], Raw]]:
    made: list[Raw] = []

    def make() -> Raw:
        made.append(Raw(rig))
        return made[-1]

    yield make
    for one in made:
        one.socket.close()


def test_the_owner_gets_a_descriptor_and_both_see_the_same_bytes(channel, segments):
    error, size, fd = channel().ask(WRITABLE, 1)
    assert (error, size) == (0, 8192)
    theirs = Segment.attach(fd)
    theirs.write(100, b"hello")
    ours = segments.owned(ME, 1)
    assert ours is not None
    assert ours.read(100, 5) == b"hello"
    theirs.close()


def test_a_read_only_descriptor_cannot_be_written(channel):
    error, _, fd = channel().ask(READ_ONLY, 1)
    assert error == 0
    theirs = Segment.attach(fd)
    assert theirs.read(0, 4) == bytes(4)
    with pytest.raises(OSError, match="Bad file"):
        theirs.write(0, b"x")
    with pytest.raises(PermissionError):
        theirs.map()
    theirs.close()


@pytest.mark.parametrize("number", [2, 3, 4, 0, (1 << 64) - 1])
def test_what_is_foreign_parked_gone_or_was_never_there_is_one_error(channel, number):
    assert channel().ask(WRITABLE, number) == (Errno.ENOENT, 0, -1)
    assert channel().ask(READ_ONLY, number) == (Errno.ENOENT, 0, -1)


def test_an_unknown_kind_is_refused_and_the_channel_goes_on(channel):
    one = channel()
    assert one.ask(9, 1) == (Errno.EINVAL, 0, -1)
    error, _, fd = one.ask(WRITABLE, 1)
    assert error == 0
    os.close(fd)


def test_requests_that_come_in_pieces_or_many_at_once_are_answered_in_order(channel):
    one = channel(first=b"")
    for byte in HELLO + REQUEST.pack(9, 1):
        one.socket.sendall(bytes([byte]))
        one.rig.turn()
    assert one.answer()[0] == Errno.EINVAL
    one.socket.sendall(REQUEST.pack(9, 1) + REQUEST.pack(WRITABLE, 99) * 5)
    assert [one.answer()[0] for _ in range(6)] == [Errno.EINVAL] + [Errno.ENOENT] * 5


def test_who_does_not_take_its_descriptors_is_closed_before_many_are_under_way(rig, channel):
    one = channel()
    for _ in range(1000):
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            one.socket.sendall(REQUEST.pack(WRITABLE, 1) * 10)
    rig.until(lambda: bool(rig.server._by_fd))
    rig.until(lambda: not rig.server._by_fd)
    taken = 0
    while True:
        try:
            record, fds, _, _ = socket.recv_fds(one.socket, ANSWER.size, 1)
        except ConnectionResetError:
            break
        if not record:
            break
        taken += len(fds)
        for fd in fds:
            os.close(fd)
    assert taken < 64


def test_a_channel_that_starts_wrong_is_no_channel(channel):
    one = channel(first=b"AGXG" + REQUEST.pack(WRITABLE, 1))
    said = b""

    def is_over() -> bool:
        nonlocal said
        try:
            data = one.socket.recv(4096)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        said += data
        return not data

    one.rig.until(is_over)
    assert b"which is not ZMTP" in said


# -- the payload ring -----------------------------------------------------------------------------


class Ringed:
    """A peer with its payload ring."""

    def __init__(self, rig: Rig, peer: Raw, channel: Channel) -> None:
        self.rig, self.peer = rig, peer
        peer.send(b"hello")
        self.number = rig.message().peer
        error, size, fd = channel.ask(RING, self.number)
        assert (error, size) == (0, 2 * ring_bytes(RING_BYTES))
        self.segment = Segment.attach(fd)
        self.out = Producer(self.segment, 0, RING_BYTES)
        self.back = Consumer(self.segment, ring_bytes(RING_BYTES), RING_BYTES)


@pytest.fixture
def ringed(rig, raw, channel) -> Iterator[Ringed]:
    made = Ringed(rig, raw(), channel())
    yield made
    made.segment.close()


@pytest.mark.parametrize("size", [MAX_INLINE_BYTES + 1, MAX_MESSAGE_BYTES])
def test_a_long_message_comes_through_the_ring(rig, ringed, size):
    for fill in (b"a", b"b", b"c"):
        position = ringed.out.put(fill * size)
        ringed.peer.send(reference(position, size))
        assert rig.message().frame == fill * size


def test_a_long_answer_goes_through_the_ring_and_a_short_one_does_not(rig, ringed):
    answers = [b"s" * MAX_INLINE_BYTES, b"l" * (MAX_INLINE_BYTES + 1), b"m" * MAX_MESSAGE_BYTES]
    for answer in answers:
        rig.send(ringed.number, answer)
        rig.server.flush()

    def has_come() -> bool:
        ringed.peer.read()
        return len(ringed.peer.frames) == 1 + len(answers)

    rig.until(has_come)
    short, *references = ringed.peer.frames[1:]
    assert short == answers[0]
    found = [read_reference(frame) for frame in references]
    assert [ringed.back.take(*one) for one in found if one] == answers[1:]


def test_an_answer_that_finds_no_room_in_the_ring_goes_as_it_is(rig, ringed):
    longest = bytes(MAX_MESSAGE_BYTES)
    for _ in range(RING_BYTES // MAX_MESSAGE_BYTES):
        rig.send(ringed.number, longest)
    rig.send(ringed.number, b"x" * (MAX_INLINE_BYTES + 1))
    rig.server.flush()

    def has_come() -> bool:
        ringed.peer.read()
        return len(ringed.peer.frames) == 2 + RING_BYTES // MAX_MESSAGE_BYTES

    rig.until(has_come)
    assert ringed.peer.frames[-1] == b"x" * (MAX_INLINE_BYTES + 1)


@pytest.mark.parametrize(
    ("position", "length"),
    [(0, MAX_MESSAGE_BYTES + 1), (0, (1 << 64) - 1), ((1 << 64) - 1, 8), (RING_BYTES - 4, 8), (0, 0)],
)
def test_a_reference_to_what_is_no_record_costs_the_connection(rig, ringed, position, length):
    ringed.peer.send(reference(position, length))
    assert ringed.peer.end().startswith("EBADMSG: ")
    assert rig.frames() == [b"hello"] or not rig.frames()


def test_nonsense_in_the_ring_makes_answers_go_as_they_are(rig, ringed):
    ringed.segment.write(ring_bytes(RING_BYTES), b"\xff" * 4096)
    rig.send(ringed.number, b"x" * (MAX_INLINE_BYTES + 1))
    rig.server.flush()

    def has_come() -> bool:
        ringed.peer.read()
        return len(ringed.peer.frames) == 2

    rig.until(has_come)
    assert ringed.peer.frames[-1] == b"x" * (MAX_INLINE_BYTES + 1)


def test_a_reference_without_a_ring_costs_the_connection(rig, raw):
    peer = raw()
    peer.send(reference(0, 100))
    assert "which this connection does not have" in peer.end()


def test_a_ring_is_its_connections_and_comes_again_when_asked_again(rig, ringed, channel):
    one = channel()
    error, _, fd = one.ask(RING, ringed.number)
    assert error == 0
    again = Segment.attach(fd)
    ringed.segment.write(5000, b"same")
    assert again.read(5000, 4) == b"same"
    again.close()
    assert one.ask(RING, ringed.number + 1000) == (Errno.ENOENT, 0, -1)


def test_another_process_does_not_get_the_ring(rig, ringed):
    """The asker is a child of this process: same user, same socket, and not the process of the connection."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        status = 1
        with socket.socket(socket.AF_UNIX) as asker:
            asker.connect("\0" + DOOR)
            asker.sendall(HELLO + REQUEST.pack(RING, ringed.number))
            asker.settimeout(10)
            record, fds, _, _ = socket.recv_fds(asker, ANSWER.size, 1)
            status = 0 if (ANSWER.unpack(record), fds) == ((Errno.ENOENT, 0), []) else 2
        os._exit(status)
    pidfd = os.pidfd_open(child)
    rig.until(lambda: bool(select.select([pidfd], [], [], 0)[0]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for one in (ours, theirs):
        one.close()
    os.close(pidfd)


def test_a_process_has_so_many_rings_and_they_go_with_their_connections(rig, raw, channel):
    one = channel()
    peers = [raw() for _ in range(MAX_PROCESS_RINGS + 1)]
    for peer in peers:
        peer.send(b"hello")
    rig.until(lambda: len(rig.messages()) == len(peers))
    numbers = [message.peer for message in rig.messages()]
    answers = [one.ask(RING, number) for number in numbers]
    assert [error for error, _, _ in answers] == [0] * MAX_PROCESS_RINGS + [Errno.EAGAIN]
    for _, _, fd in answers[:-1]:
        os.close(fd)
    first = next(peer for peer in peers if rig.messages()[0].peer == numbers[0])
    first.socket.close()
    rig.until(lambda: bool(rig.gone()))
    left = next(number for number in reversed(numbers) if number not in rig.gone())
    error, _, fd = one.ask(RING, left)
    assert error == 0
    os.close(fd)
    assert threading.active_count() == 1
