"""The sockets say who sent a message, bound what a peer may make them keep, and never block."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from kernel.abi.address import endpoint, kernel_pid
from kernel.abi.codec import MAX_FRAME_BYTES
from kernel.effects import Send
from kernel.events import Message
from kernel.ipc import server as module
from kernel.ipc.server import AddressInUse, Server

DEADLINE_S = 10
NAME = f"t{os.getpid()}"


@pytest.fixture
def server() -> Iterator[Server]:
    before = len(os.listdir("/proc/self/fd"))
    made = Server(NAME)
    yield made
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert kernel_pid("agent", NAME) is None


@contextmanager
def peer(role: str = "agent", **options: int) -> Iterator[zmq.Socket[bytes]]:
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    for name, value in options.items():
        dealer.setsockopt(getattr(zmq, name), value)
    dealer.connect(endpoint(role, NAME))
    try:
        yield dealer
    finally:
        dealer.close(linger=0)
        context.term()


def next_message(server: Server) -> Message:
    until = time.monotonic() + DEADLINE_S
    while not server.has_input:
        left = until - time.monotonic()
        assert left > 0, "no message"
        select.select(server.fds, [], [], left)
    message = server.recv(7)
    assert message is not None
    return message


def test_a_message_says_what_linux_knows_of_its_sender(server: Server) -> None:
    with peer() as dealer:
        dealer.send_multipart([b"AGX1", b"h", b"b"])
        message = next_message(server)
    assert (message.pid, message.uid) == (os.getpid(), os.getuid())
    assert (message.now_ns, message.is_operator) == (7, False)
    assert message.frames == (b"AGX1", b"h", b"b")


def test_a_message_from_another_process_carries_its_pid(server: Server) -> None:
    script = (
        "import sys, zmq; s = zmq.Context().socket(zmq.DEALER); s.connect(sys.argv[1]);"
        "s.send(b'x'); s.recv()"
    )
    command = [sys.executable, "-c", script, endpoint("operator", NAME)]
    with subprocess.Popen(command) as child:
        message = next_message(server)
        assert (message.pid, message.is_operator) == (child.pid, True)
        assert server.send(Send(message.peer, True, (b"go",)))
        assert child.wait(DEADLINE_S) == 0


def test_a_peer_cannot_claim_to_be_another_process(server: Server) -> None:
    """Speaks ZMTP by hand: zmq itself would not send such a handshake."""

    def prop(name: bytes, value: bytes) -> bytes:
        return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value

    claims = prop(b"Socket-Type", b"DEALER") + prop(b"Identity", b"")
    claims += prop(b"Peer-Address", b"localhost:0:0:1")
    ready = b"\x05READY" + claims
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(DEADLINE_S)
        raw.connect("\0" + endpoint("agent", NAME).removeprefix("ipc://@"))
        raw.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
        raw.recv(64, socket.MSG_WAITALL)  # libzmq wants its greeting and the rest apart
        raw.sendall(b"\x04" + bytes([len(ready)]) + ready + b"\x00\x01x")
        message = next_message(server)
    assert message.frames == (b"x",)
    assert message.pid == os.getpid()


def test_an_answer_goes_back_on_the_socket_that_the_call_came_in_on(server: Server) -> None:
    for role in ("agent", "operator"):
        with peer(role, RCVTIMEO=DEADLINE_S * 1000) as dealer:
            dealer.send(b"x")
            message = next_message(server)
            server.send(Send(message.peer, message.is_operator, (b"1", b"2")))
            assert dealer.recv_multipart() == [b"1", b"2"]


def test_an_operator_is_heard_before_agents(server: Server) -> None:
    with peer() as agent, peer("operator") as operator:
        for _ in range(5):
            agent.send(b"a")
        first = next_message(server)
        operator.send(b"o")
        deadline = time.monotonic() + DEADLINE_S
        while not server._ports[1].has_input:
            assert time.monotonic() < deadline
            select.select([server.fds[1]], [], [], DEADLINE_S)
        assert (first.is_operator, next_message(server).is_operator) == (False, True)


def test_frames_beyond_the_eighth_are_thrown_away(server: Server) -> None:
    with peer() as dealer:
        dealer.send_multipart([b"x"] * 500)
        dealer.send(b"next")
        assert len(next_message(server).frames) == module.MAX_FRAMES
        assert next_message(server).frames == (b"next",)


def test_a_frame_over_the_limit_costs_its_sender_the_connection(server: Server) -> None:
    with peer() as large, peer() as other:
        large.send(bytes(MAX_FRAME_BYTES + 1))
        other.send(b"x")
        assert next_message(server).frames == (b"x",)


def test_a_message_to_a_peer_that_is_gone_is_dropped(server: Server) -> None:
    assert server.send(Send(b"nobody", False, (b"x",)))
    assert not server.has_overflow


def test_a_peer_that_does_not_read_is_kept_for_and_then_called_stalled_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OVERFLOW_MESSAGES", 50)
    with peer(RCVHWM=1) as dealer:
        dealer.send(b"x")
        to = next_message(server).peer
        payload = bytes(100_000)
        outcomes = [server.send(Send(to, False, (payload,))) for _ in range(4000)]
        assert outcomes.count(False) == 1
        assert not server.has_overflow  # what was kept for it is freed


def test_what_was_kept_arrives_in_order_when_the_peer_reads_again(server: Server) -> None:
    with peer(RCVHWM=1, RCVTIMEO=DEADLINE_S * 1000) as dealer:
        dealer.send(b"x")
        to = next_message(server).peer
        count = 0
        while not server.has_overflow or count % 100:
            assert server.send(Send(to, False, (b"%d" % count, bytes(10_000))))
            count += 1
        for number in range(count):
            assert dealer.recv_multipart()[0] == b"%d" % number
            server.retry()
        assert not server.has_overflow


def test_a_second_kernel_of_the_same_name_is_told_which_socket_is_taken(server: Server) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(AddressInUse) as caught:
        Server(NAME)
    assert caught.value.role == "agent"
    assert len(os.listdir("/proc/self/fd")) == before
    assert kernel_pid("agent", NAME) == os.getpid()


def test_closing_twice_is_harmless_and_frees_the_name() -> None:
    for _ in range(2):
        again = Server(NAME)
        again.close()
        again.close()
    assert not [line for line in Path("/proc/net/unix").read_text().splitlines() if f"/{NAME}/" in line]
