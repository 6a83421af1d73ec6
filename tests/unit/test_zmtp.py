"""ZMTP from bytes: what libzmq's DEALER sends is understood, and nothing else is, however it is cut."""

from __future__ import annotations

import os
import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.abi.codec import MAX_FRAME_BYTES
from kernel.ipc.zmtp import (
    GREETING,
    GREETING_BYTES,
    MAX_COMMAND_BYTES,
    MAX_PING_CONTEXT_BYTES,
    READY,
    Command,
    Decoder,
    Violation,
    check_greeting,
    check_ready,
    error_command,
    message_head,
    pong,
)

DEADLINE_S = 10
NAME = f"agentix-test-zmtp-{os.getpid()}"
READ_BYTES = 64 << 10
SIZES_BYTES = (0, 1, 255, 256, 4096, MAX_FRAME_BYTES)
PROPERTY = b"\x0bSocket-Type\0\0\0\x06DEALER"


def frame(flags: int, data: bytes) -> bytes:
    """A frame as RFC 23 says it; flag 2 makes the length 8 bytes."""
    size = len(data).to_bytes(8, "big") if flags & 2 else bytes([len(data)])
    return bytes([flags]) + size + data


def command(name: bytes, data: bytes) -> bytes:
    return frame(4, bytes([len(name)]) + name + data)


def greeting(version: int = 3, mechanism: bytes = b"NULL") -> bytes:
    head = b"\xff" + bytes(7) + b"\1\x7f" + bytes([version, 1])
    return (head + mechanism.ljust(20, b"\0")).ljust(GREETING_BYTES, b"\0")


def drained(decoder: Decoder) -> list[bytes | Command]:
    found = []
    while (one := decoder.next()) is not None:
        found.append(one)
    assert not decoder.has_more
    return found


def decoded(wire: bytes, cuts: tuple[int, ...] = ()) -> list[bytes | Command]:
    """What comes out when the wire is read in pieces that end at `cuts`."""
    decoder, found = Decoder(), []
    for start, stop in zip((0, *cuts), (*cuts, len(wire)), strict=True):
        decoder.feed(wire[start:stop])
        found += drained(decoder)
    return found


def greeted() -> Decoder:
    decoder = Decoder()
    decoder.feed(greeting())
    drained(decoder)
    return decoder


def refusal(wire: bytes) -> str:
    with pytest.raises(Violation) as caught:
        decoded(greeting() + wire)
    return str(caught.value)


# -- a stock client ---------------------------------------------------------------------------


@contextmanager
def dealer(**options: int) -> Iterator[tuple[zmq.Socket[bytes], socket.socket]]:
    """A real DEALER, and the listener that it connects to."""
    context = zmq.Context()
    client = context.socket(zmq.DEALER)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(f"\0{NAME}")
        listener.listen()
        listener.settimeout(DEADLINE_S)
        for name, value in options.items():
            client.setsockopt(getattr(zmq, name), value)
        client.setsockopt(zmq.RCVTIMEO, DEADLINE_S * 1000)
        client.connect(f"ipc://@{NAME}")
        try:
            yield client, listener
        finally:
            client.close(linger=0)
            context.term()


def accepted(listener: socket.socket) -> socket.socket:
    peer, _ = listener.accept()
    peer.settimeout(DEADLINE_S)
    return peer


def read_until(peer: socket.socket, decoder: Decoder, count: int) -> tuple[bytes, list[bytes | Command]]:
    """Read until `count` more commands and messages have come; return the bytes too."""
    wire, found = b"", []
    while len(found) < count:
        data = peer.recv(READ_BYTES)
        assert data, "the client hung up"
        wire += data
        decoder.feed(data)
        found += drained(decoder)
    return wire, found


@pytest.fixture(scope="module")
def conversation() -> tuple[bytes, list[bytes]]:
    """All that a DEALER sends with a message of each size, and the messages."""
    messages = [os.urandom(size) for size in SIZES_BYTES]
    with dealer() as (client, listener):
        for message in messages:
            client.send(message)
        with accepted(listener) as peer:
            peer.sendall(GREETING + READY)
            wire, _ = read_until(peer, Decoder(), 2 + len(messages))
    return wire, messages


def test_what_a_dealer_sends_is_a_greeting_a_ready_and_its_messages(conversation):
    wire, messages = conversation
    first, ready, *found = decoded(wire)
    assert first == (b"GREETING", wire[:GREETING_BYTES])
    check_greeting(first.data)
    check_ready(ready)
    assert found == messages


def test_a_dealer_reads_what_goes_behind_a_message_head():
    with dealer() as (client, listener), accepted(listener) as peer:
        peer.sendall(GREETING + READY)
        read_until(peer, Decoder(), 2)
        for size in SIZES_BYTES:
            message = os.urandom(size)
            peer.sendall(message_head(size) + message)
            assert client.recv() == message


def test_a_dealer_that_pings_takes_the_answer_and_goes_on():
    options = {"HEARTBEAT_IVL": 10, "HEARTBEAT_TIMEOUT": DEADLINE_S * 1000}
    with dealer(**options) as (client, listener), accepted(listener) as peer:
        peer.sendall(GREETING + READY)
        decoder = Decoder()
        _, found = read_until(peer, decoder, 4)
        assert {one.name for one in found[2:]} == {b"PING"}
        for ping in found[2:]:
            peer.sendall(pong(ping))
        read_until(peer, decoder, 1)
        peer.sendall(message_head(1) + b"x")
        assert client.recv() == b"x"


def test_a_dealer_hangs_up_when_its_handshake_is_refused():
    with dealer() as (_, listener), accepted(listener) as peer:
        peer.sendall(GREETING)
        read_until(peer, Decoder(), 2)
        peer.sendall(error_command("no"))
        assert peer.recv(READ_BYTES) == b""


def test_an_error_command_holds_any_reason():
    for reason in ("", "no", "你" * 500, "x" * 5000):
        (found,) = decoded(GREETING + error_command(reason))[1:]
        assert found.name == b"ERROR"
        assert found.data[0] == len(found.data) - 1 <= 200
        assert reason.encode().startswith(found.data[1:])


# -- cuts -------------------------------------------------------------------------------------

pieces = st.lists(
    st.tuples(st.sampled_from([0, 2]), st.binary(max_size=255))
    | st.tuples(st.just(2), st.integers(0, 3000).map(bytes))
    | st.tuples(st.just(4), st.binary(max_size=200)),
    max_size=12,
)


@settings(deadline=None, max_examples=300)
@given(pieces=pieces, where=st.lists(st.floats(0, 1), max_size=40))
def test_however_a_stream_is_cut_the_same_comes_out(pieces, where):
    wire, wanted = greeting(), [Command(b"GREETING", greeting())]
    for flags, data in pieces:
        wire += command(b"X", data) if flags == 4 else frame(flags, data)
        wanted.append(Command(b"X", data) if flags == 4 else data)
    cuts = tuple(sorted(int(one * len(wire)) for one in where))
    assert decoded(wire, cuts) == wanted


def test_a_stream_read_byte_by_byte_is_the_same_stream(conversation):
    wire, _ = conversation
    wire = wire[:6000]
    assert decoded(wire, tuple(range(1, len(wire)))) == decoded(wire)


def test_a_message_and_a_half_leave_nothing_to_ask_for_until_the_other_half_comes():
    decoder = greeted()
    decoder.feed(frame(0, b"ab") + b"\0")
    assert decoder.has_more
    assert decoder.next() == b"ab"
    assert decoder.next() is None
    assert not decoder.has_more
    decoder.feed(b"\2c")
    assert (decoder.next(), decoder.has_more) == (None, False)
    decoder.feed(b"d" + frame(0, b"e"))
    assert decoder.has_more
    assert drained(decoder) == [b"cd", b"e"]


# -- lies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MAX_FRAME_BYTES + 1, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1])
def test_a_length_beyond_the_limit_is_refused_when_it_is_announced(size):
    assert f"a frame of {size} bytes" in refusal(b"\2" + size.to_bytes(8, "big"))


def test_a_length_at_the_limit_is_waited_for():
    decoder = greeted()
    decoder.feed(b"\2" + MAX_FRAME_BYTES.to_bytes(8, "big"))
    assert drained(decoder) == []
    decoder.feed(bytes(MAX_FRAME_BYTES))
    assert drained(decoder) == [bytes(MAX_FRAME_BYTES)]


def test_a_command_is_refused_by_its_length_too():
    assert "a command of 513 bytes" in refusal(b"\6" + (MAX_COMMAND_BYTES + 1).to_bytes(8, "big"))
    assert "a command of" in refusal(b"\6" + b"\xff" * 8)


@pytest.mark.parametrize("flags", [1, 3, 5, 7])
def test_a_message_of_more_than_one_frame_is_refused(flags):
    assert "more follow" in refusal(frame(flags, b"x"))


@pytest.mark.parametrize("flags", [8, 9, 0x10, 0x42, 0x80, 0xFF])
def test_a_reserved_flag_is_refused(flags):
    assert "reserved" in refusal(frame(flags, b"x"))


@pytest.mark.parametrize("body", [b"", b"\0", b"\0X", b"\2X", b"\xff" + b"X" * 100])
def test_a_command_whose_name_is_empty_or_ends_early_is_refused(body):
    assert "without a name" in refusal(frame(4, body))


def test_a_violation_stays_one_however_often_it_is_asked_for():
    decoder = greeted()
    decoder.feed(frame(1, b"x"))
    for _ in range(3):
        with pytest.raises(Violation):
            decoder.next()


# -- peers that speak something else ----------------------------------------------------------


TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
ZMTP_1 = b"\1\0"


@pytest.mark.parametrize("wire", [b"GET / HTTP/1.1\r\n", TLS, ZMTP_1, b"AGX2\x93\x01", bytes(64)])
def test_a_peer_that_speaks_no_zmtp_is_refused_at_its_first_byte(wire):
    for start in (wire[:1], wire):
        with pytest.raises(Violation, match="which is not ZMTP"):
            decoded(start)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_an_older_zmtp_is_refused_although_it_never_sends_a_whole_greeting(version):
    old = greeting(version)
    assert decoded(old[:10]) == []
    for wire in (old[:11], old[:13], old):
        with pytest.raises(Violation, match=f"ZMTP version {version}, wanted 3"):
            decoded(wire)


def test_a_newer_zmtp_is_welcome_since_it_answers_in_ours():
    check_greeting(decoded(greeting(4))[0].data)


@pytest.mark.parametrize("mechanism", [b"PLAIN", b"CURVE", b"GSSAPI", b"", b"NULLX", b"null", b"\0NULL"])
def test_a_security_mechanism_is_refused(mechanism):
    (found,) = decoded(greeting(mechanism=mechanism))
    with pytest.raises(Violation, match="wanted NULL"):
        check_greeting(found.data)


@pytest.mark.parametrize("secured", ["PLAIN_SERVER", "CURVE_SERVER"])
def test_a_dealer_that_asks_for_security_is_refused(secured):
    with dealer(**{secured: 1}) as (_, listener), accepted(listener) as peer:
        peer.sendall(GREETING[:12])  # no more, or it sees itself that the mechanisms differ
        _, (found,) = read_until(peer, Decoder(), 1)
        with pytest.raises(Violation, match=secured.partition("_")[0]):
            check_greeting(found.data)


def test_a_signature_without_its_last_byte_is_no_greeting():
    broken = greeting()[:9] + b"\x7e" + greeting()[10:]
    (found,) = decoded(broken)
    with pytest.raises(Violation, match="which is not ZMTP"):
        check_greeting(found.data)


# -- READY and PING ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metadata",
    [
        PROPERTY,
        PROPERTY + b"\x08Identity\0\0\0\0",
        b"\x08Identity\0\0\0\x03abc" + PROPERTY,
        PROPERTY.replace(b"Socket-Type", b"SOCKET-type"),
        b"\0\0\0\0\0" + PROPERTY,
        b"\x0bSocket-Type\0\0\0\x03REQ" + PROPERTY,  # the last one counts
    ],
)
def test_a_ready_says_dealer_among_whatever_else(metadata):
    check_ready(Command(b"READY", metadata))


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        (b"", "socket type b'', wanted DEALER"),
        (b"\x0bSocket-Type\0\0\0\x03REQ", "socket type b'REQ'"),
        (b"\x0bSocket-Type\0\0\0\x06dealer", "socket type b'dealer'"),
        (b"\x0bSocket-Type\0\0\0\x07DEALER\0", "socket type"),
        (PROPERTY + b"\x0bSocket-Type\0\0\0\x03SUB", "socket type b'SUB'"),
        (PROPERTY[:-1], "ends early"),
        (PROPERTY + b"\x01", "ends early"),
        (PROPERTY + b"\xff", "ends early"),
        (PROPERTY + b"\x01x\0\0", "ends early"),
        (PROPERTY + b"\x01x\0\0\0\x01", "ends early"),
        (PROPERTY + b"\x01x\xff\xff\xff\xff", "ends early"),
        (PROPERTY.replace(b"\0\0\0\x06", b"\xff\xff\xff\xff"), "ends early"),
    ],
)
def test_a_ready_that_lies_or_is_no_dealers_is_refused(metadata, text):
    with pytest.raises(Violation, match=text):
        check_ready(Command(b"READY", metadata))


def test_a_handshake_with_another_command_is_refused():
    for name in (b"PING", b"HELLO", b"INITIATE", b"ready", b"READYX"):
        with pytest.raises(Violation, match="wanted READY"):
            check_ready(Command(name, PROPERTY))


@pytest.mark.parametrize("context", [b"", b"x", bytes(MAX_PING_CONTEXT_BYTES)])
def test_a_ping_is_answered_with_its_context(context):
    answer = pong(Command(b"PING", b"\0\x0a" + context))
    assert decoded(greeting() + answer)[1:] == [Command(b"PONG", context)]


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\x0a" + bytes(MAX_PING_CONTEXT_BYTES + 1)])
def test_a_ping_of_a_wrong_length_is_refused(data):
    with pytest.raises(Violation, match="PING of"):
        pong(Command(b"PING", data))


# -- what is kept -----------------------------------------------------------------------------


@pytest.mark.parametrize("step_bytes", [2, 100, 5000, READ_BYTES - 1, READ_BYTES])
def test_no_more_is_kept_than_one_message_and_one_read(step_bytes):
    """In memory, whatever the size of the reads: 32,768 of two bytes each are no more than one of 64 KiB."""
    message = frame(2, bytes(MAX_FRAME_BYTES))
    wire = frame(0, b"x") * 20_000 + message * 2
    decoder, most = greeted(), 0
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for at in range(0, len(wire), step_bytes):
            decoder.feed(wire[at : at + step_bytes])
            while decoder.next() is not None:
                pass
            most = max(most, tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert most - before <= MAX_FRAME_BYTES + step_bytes + (8 << 10)
