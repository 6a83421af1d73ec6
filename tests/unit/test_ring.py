"""Records come out of a ring whole and in order, and neither end can be led outside it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shm.ring import RING_CONTROL_BYTES, Consumer, Producer, RingError, ring_bytes
from shm.segment import Mapping, Segment

SIZE = 100  # so small that every corner is met; nothing in a ring asks for pages but its control page
BASE = 64  # with memory of others on both sides
EVERYTHING = BASE + ring_bytes(SIZE) + 64
DEADLINE_S = 20.0


@contextmanager
def a_segment(size_bytes: int = EVERYTHING) -> Iterator[Segment]:
    segment = Segment.create("test", size_bytes)
    try:
        yield segment
    finally:
        segment.close()


def record(number: int, length: int) -> bytes:
    """Bytes that tell which record they are from and where in it."""
    return bytes((number * 7 + at) % 251 for at in range(length))


class Traffic(RuleBasedStateMachine):
    """Any order of puts and takes, with positions that never arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.segment = Segment.create("test", EVERYTHING)
        self.mapping = Mapping(self.segment.map())
        for offset in (0, EVERYTHING - 64):
            self.segment.write(offset, b"\xee" * 64)
        self.producer = Producer(self.segment, BASE, SIZE)
        self.consumer = Consumer(self.mapping, BASE, SIZE)
        self.under_way: list[tuple[int, bytes]] = []
        self.numbers = 0
        self.put_end = self.taken_end = 0  # positions after the last record put, and the last taken

    def put(self, length: int) -> tuple[int | None, bytes]:
        self.numbers += 1
        data = record(self.numbers, length)
        position = self.producer.put(data)
        if position is None:
            assert self.put_end != self.taken_end, "no room in a ring that holds nothing"
        else:
            self.put_end = position + length
        return position, data

    @rule(length=st.integers(1, SIZE) | st.integers(1, 10))
    def a_record_is_put_and_its_position_sent(self, length: int) -> None:
        position, data = self.put(length)
        if position is not None:
            self.under_way.append((position, data))

    @rule(length=st.integers(1, SIZE) | st.integers(1, 10))
    def a_record_is_put_and_its_position_lost(self, length: int) -> None:
        self.put(length)

    @precondition(lambda self: self.under_way)
    @rule()
    def the_next_record_is_taken(self) -> None:
        position, data = self.under_way.pop(0)
        assert self.consumer.take(position, len(data)) == data
        self.taken_end = position + len(data)

    @invariant()
    def nothing_beside_the_ring_is_touched(self) -> None:
        for offset in (0, EVERYTHING - 64):
            assert self.segment.read(offset, 64) == b"\xee" * 64

    def teardown(self) -> None:
        self.mapping.close()
        self.segment.close()


Traffic.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestTraffic = Traffic.TestCase


def test_a_ring_holds_as_much_as_it_is_large_and_then_nothing_until_a_take() -> None:
    with a_segment() as segment:
        producer, consumer = Producer(segment, BASE, SIZE), Consumer(segment, BASE, SIZE)
        positions = [producer.put(record(number, 25)) for number in range(5)]
        assert positions == [0, 25, 50, 75, None]
        assert consumer.take(0, 25) == record(0, 25)
        assert producer.put(record(4, 26)) is None
        assert producer.put(record(4, 25)) == 100
        assert [consumer.take(25 * number, 25) for number in (1, 2, 3, 4)] == [
            record(number, 25) for number in (1, 2, 3, 4)
        ]


def test_a_record_is_never_cut_at_the_end_of_the_ring() -> None:
    with a_segment() as segment:
        producer, consumer = Producer(segment, BASE, SIZE), Consumer(segment, BASE, SIZE)
        assert [producer.put(record(number, 40)) for number in range(3)] == [0, 40, None]
        consumer.take(0, 40)
        assert producer.put(record(2, 40)) == 100
        assert consumer.take(40, 40) == record(1, 40)
        assert consumer.take(100, 40) == record(2, 40)


@pytest.mark.parametrize("first", range(1, SIZE))
def test_an_empty_ring_takes_the_longest_record_wherever_the_last_one_ended(first: int) -> None:
    with a_segment() as segment:
        producer, consumer = Producer(segment, BASE, SIZE), Consumer(segment, BASE, SIZE)
        consumer.take(producer.put(record(0, first)), first)
        position = producer.put(record(1, SIZE))
        assert position == SIZE
        assert producer.put(b"x") is None
        assert consumer.take(position, SIZE) == record(1, SIZE)


def test_what_an_empty_ring_skipped_is_room_for_the_records_that_follow() -> None:
    with a_segment() as segment:
        producer, consumer = Producer(segment, BASE, SIZE), Consumer(segment, BASE, SIZE)
        consumer.take(producer.put(record(0, 60)), 60)
        assert [producer.put(record(1, 80)), producer.put(record(2, 20))] == [100, 180]
        assert consumer.take(100, 80) == record(1, 80)
        assert consumer.take(180, 20) == record(2, 20)


def test_one_record_at_a_time_takes_the_pages_of_the_longest() -> None:
    size = 1 << 20
    with a_segment(ring_bytes(size)) as segment:
        producer, consumer = Producer(segment, 0, size), Consumer(segment, 0, size)
        for number in range(300):
            consumer.take(producer.put(record(number, 8192)), 8192)
        assert os.fstat(segment.fd).st_blocks * 512 == RING_CONTROL_BYTES + 8192


def test_a_record_that_never_fits_is_an_error_and_no_wait() -> None:
    with a_segment() as segment:
        producer = Producer(segment, BASE, SIZE)
        for length in (0, SIZE + 1):
            with pytest.raises(ValueError, match=f"record of {length} bytes"):
                producer.put(bytes(length))
        assert producer.put(bytes(SIZE)) == 0


def test_two_rings_in_one_segment_know_nothing_of_each_other() -> None:
    with a_segment(2 * ring_bytes(SIZE)) as segment:
        ends = [
            (Producer(segment, base, SIZE), Consumer(segment, base, SIZE)) for base in (0, ring_bytes(SIZE))
        ]
        for producer, _ in ends:
            assert producer.put(record(id(producer), SIZE)) == 0
        for producer, consumer in ends:
            assert consumer.take(0, SIZE) == record(id(producer), SIZE)


def says(segment: Segment, position: int) -> None:
    """Write a consumer's position, as any process that holds the segment can."""
    segment.write(BASE, position.to_bytes(8, "little"))


@pytest.mark.parametrize("position", [39, 91, 0, (1 << 64) - 1])
def test_a_consumer_that_goes_back_or_ahead_is_not_believed(position: int) -> None:
    with a_segment() as segment:
        producer = Producer(segment, BASE, SIZE)
        for number in range(2):
            assert producer.put(record(number, 40)) is not None
        says(segment, 40)
        assert producer.put(record(2, 10)) == 80
        says(segment, position)
        with pytest.raises(RingError, match=f"position {position}, not 40 to 90"):
            producer.put(b"x")


def test_a_position_that_is_seen_half_written_waits_for_the_next_look() -> None:
    class Changing:
        """Memory in which the consumer's position changes between two reads."""

        def __init__(self) -> None:
            self.positions = [0x0100.to_bytes(8, "little"), 0x01FF.to_bytes(8, "little")]

        def read(self, offset: int, length: int) -> bytes:
            return self.positions.pop(0) if self.positions else bytes(length)

        def write(self, offset: int, data: bytes) -> None:
            assert offset == RING_CONTROL_BYTES

    assert Producer(Changing(), 0, SIZE).put(b"x") == 0


POSITIONS = st.integers(0, 4 * SIZE) | st.integers(0, (1 << 64) - 1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, SIZE), POSITIONS)))
def test_no_consumer_makes_a_producer_write_outside_its_ring(steps: list[tuple[int, int]]) -> None:
    with a_segment() as segment:
        segment.write(0, b"\xee" * EVERYTHING)
        says(segment, 0)
        producer = Producer(segment, BASE, SIZE)
        for length, position in steps:
            try:
                at = producer.put(b"\x11" * length)
            except RingError:
                at = None
            assert at is None or at % SIZE + length <= SIZE
            says(segment, position)
        before, after = BASE + 8, BASE + ring_bytes(SIZE)
        assert segment.read(0, BASE) == b"\xee" * BASE
        assert segment.read(before, RING_CONTROL_BYTES - 8) == b"\xee" * (RING_CONTROL_BYTES - 8)
        assert segment.read(after, EVERYTHING - after) == b"\xee" * (EVERYTHING - after)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            POSITIONS,
            st.integers(-1, 2 * SIZE) | st.integers(0, (1 << 64) - 1),
        )
    )
)
def test_no_reference_makes_a_consumer_read_outside_its_ring(steps: list[tuple[int, int]]) -> None:
    with a_segment() as segment:
        segment.write(0, b"\xee" * EVERYTHING)
        segment.write(BASE + RING_CONTROL_BYTES, b"\x11" * SIZE)
        consumer = Consumer(segment, BASE, SIZE)
        last = 0
        for position, length in steps:
            try:
                data = consumer.take(position, length)
            except RingError:
                continue
            assert data == b"\x11" * length
            assert last <= position, "the ring went back"
            last = position + length
            assert segment.read(BASE, 8) == last.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("position", "length"),
    [
        (39, 10),  # before the end of the last record
        (60, 41),  # across the end of the ring
        (100, 101),  # longer than the ring
        (200, 1),  # a lap too far
        (40, 0),
        (40, -1),
        ((1 << 64) - 1, 1),
    ],
)
def test_a_reference_that_no_producer_sends_changes_nothing(position: int, length: int) -> None:
    with a_segment() as segment:
        producer, consumer = Producer(segment, BASE, SIZE), Consumer(segment, BASE, SIZE)
        consumer.take(producer.put(record(0, 40)), 40)
        with pytest.raises(RingError, match=f"{length} bytes can be at {position} "):
            consumer.take(position, length)
        assert segment.read(BASE, 8) == (40).to_bytes(8, "little")
        assert consumer.take(producer.put(record(1, 60)), 60) == record(1, 60)


def test_what_another_writes_into_the_control_page_does_not_mislead_the_consumer() -> None:
    with a_segment() as segment:
        producer, consumer = Producer(segment, BASE, SIZE), Consumer(segment, BASE, SIZE)
        position = producer.put(record(0, 40))
        segment.write(BASE, b"\xff" * RING_CONTROL_BYTES)
        assert consumer.take(position, 40) == record(0, 40)


TWO_SIZE = 64 << 10
TAKEN = b"taken"  # there may be room in the second ring
LENGTHS = [(number * 7919) % TWO_SIZE + 1 for number in range(300)]


def echo(fd: int, line: socket.socket) -> None:
    """The other process: takes each record from the first ring and puts its reverse into the second."""
    memory = Mapping(Segment.attach(fd).map())
    taking = Consumer(memory, 0, TWO_SIZE)
    putting = Producer(memory, ring_bytes(TWO_SIZE), TWO_SIZE)
    waiting: list[bytes] = []
    while message := line.recv(32):
        if message != TAKEN:
            waiting.append(taking.take(*numbers(message))[::-1])
        while waiting and (position := putting.put(waiting[0])) is not None:
            line.send(as_bytes(position, len(waiting.pop(0))))
    assert not waiting


def numbers(reference: bytes) -> tuple[int, int]:
    return int.from_bytes(reference[:8], "little"), int.from_bytes(reference[8:], "little")


def as_bytes(position: int, length: int) -> bytes:
    return position.to_bytes(8, "little") + length.to_bytes(8, "little")


def test_records_cross_between_two_processes_and_back_whole_and_in_order() -> None:
    with a_segment(2 * ring_bytes(TWO_SIZE)) as segment:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                ours.close()
                theirs.settimeout(DEADLINE_S)
                echo(segment.fd, theirs)
                status = 0
            finally:
                os._exit(status)
        theirs.close()
        with ours:
            ours.settimeout(DEADLINE_S)
            putting = Producer(segment, 0, TWO_SIZE)
            taking = Consumer(segment, ring_bytes(TWO_SIZE), TWO_SIZE)
            sent: list[bytes] = []

            def take_one() -> None:
                assert taking.take(*numbers(ours.recv(32))) == sent.pop(0)[::-1]
                ours.send(TAKEN)

            for number, length in enumerate(LENGTHS):
                data = record(number, length)
                while (position := putting.put(data)) is None:
                    take_one()
                ours.send(as_bytes(position, length))
                sent.append(data)
            while sent:
                take_one()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
