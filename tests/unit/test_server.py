"""The server says who sent a message, bounds what a peer may make it keep, never blocks, and says why it cuts off.

The server runs in the test's own thread, a turn at a time; peers are stock libzmq DEALERs, or sockets that
speak ZMTP by hand (benchmarks/rawpeer.py), which libzmq would not let misbehave.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from benchmarks.rawpeer import COMMAND, GREETING, MORE, READY, Incoming, framed, head
from kernel import identity
from kernel.abi.address import endpoint, kernel_pid, socket_name
from kernel.abi.codec import MAX_FRAME_BYTES, decode_answer
from kernel.abi.errors import Errno, KernelError
from kernel.clock import now_ns
from kernel.effects import Disconnect, Send
from kernel.events import Event, Message, PeerGone, PeerStalled
from kernel.identity import Process, birth_of
from kernel.ipc import account, doors
from kernel.ipc.doors import AddressInUse
from kernel.ipc.server import BATCH, Server
from kernel.ipc.sidechannel import Owned
from kernel.limits import (
    CONNECT_BURST,
    DOOR_PAUSE_NS,
    HANDSHAKE_NS,
    HEAVY_NS,
    LAST_WORDS_NS,
    MAX_LAST_CALLS,
    MAX_PROCESS_CONNECTIONS,
    UNREAD_HARD_BYTES,
    UNREAD_SOFT_BYTES,
)

DEADLINE_S = 10
NAME = f"t{os.getpid()}"
DOOR = socket_name("agent", NAME)
OPERATORS = socket_name("operator", NAME)
Where = Callable[[], bool]


class Rig:
    """A server with the part of the loop played by the test."""

    def __init__(self, owned: Owned = lambda process, number: None) -> None:
        self.epoll = select.epoll()
        self.server = Server(NAME, self.epoll, owned)
        self.events: list[Event] = []
        self.late_ns = 0  # how much later than it is the server is told it is

    def turn(self, limit: int = 1000) -> None:
        now = now_ns() + self.late_ns
        for fd, mask in self.epoll.poll(0.01):
            assert self.server.ready(fd, mask, now), "a descriptor that the server does not know"
        self.server.tick(now)
        for _ in range(limit):
            event = self.server.recv(now)
            if event is None:
                break
            self.events.append(event)
        self.server.end_batch()
        self.server.flush()

    def until(self, is_true: Where) -> None:
        end = time.monotonic() + DEADLINE_S
        while not is_true():
            assert time.monotonic() < end, f"not within {DEADLINE_S} s: {self.events}"
            self.turn()

    def messages(self) -> list[Message]:
        return [event for event in self.events if isinstance(event, Message)]

    def frames(self) -> list[bytes]:
        return [message.frame for message in self.messages()]

    def message(self) -> Message:
        """The next message: what came before is forgotten."""
        self.events.clear()
        self.until(lambda: bool(self.messages()))
        return self.messages()[0]

    def gone(self) -> list[int]:
        return [event.peer for event in self.events if isinstance(event, PeerGone)]

    def send(self, peer: int, frame: bytes) -> None:
        self.server.send(Send(peer, frame))


@pytest.fixture
def rig() -> Iterator[Rig]:
    before = sorted(os.listdir("/proc/self/fd"))
    made = Rig()
    yield made
    made.server.close()
    made.epoll.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert not made.server.doors.accounts
    assert kernel_pid("agent", NAME) is None


class Raw:
    """A socket that speaks ZMTP by hand and never blocks."""

    def __init__(self, rig: Rig, name: str = DOOR, first: bytes = GREETING + READY) -> None:
        self.rig = rig
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect("\0" + name)
        self.socket.setblocking(False)
        self.incoming = Incoming()
        self.raw = b""
        self.frames: list[bytes] = []
        self.reasons: list[str] = []
        self.is_over = False
        self.socket.sendall(first)

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(framed(frame) for frame in frames))

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while not self.is_over:
                try:
                    data = self.socket.recv(1 << 16)
                except ConnectionResetError:
                    data = b""
                self.is_over = not data
                self.raw += data
                for frame in self.incoming.feed(data):
                    self.frames.append(frame.body)
                    reason = frame.reason()
                    if reason is not None:
                        self.reasons.append(reason)

    def end(self) -> str:
        """The reason that came before the end."""

        def is_over() -> bool:
            self.read()
            return self.is_over

        self.rig.until(is_over)
        return self.reasons[-1] if self.reasons else ""


@pytest.fixture
def raw(rig: Rig) -> Iterator[Callable[..., Raw]]:
    made: list[Raw] = []

    def make(*arguments: object, **options: object) -> Raw:
        made.append(Raw(rig, *arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.socket.close()


@pytest.fixture
def dealer() -> Iterator[Callable[..., zmq.Socket[bytes]]]:
    context = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def make(name: str = DOOR, **options: object) -> zmq.Socket[bytes]:
        made.append(context.socket(zmq.DEALER))
        made[-1].setsockopt(zmq.RCVTIMEO, DEADLINE_S * 1000)
        made[-1].setsockopt(zmq.RECONNECT_IVL, -1)
        for option, value in options.items():
            made[-1].setsockopt(getattr(zmq, option), value)
        made[-1].connect(endpoint(name))
        return made[-1]

    yield make
    for one in made:
        one.close(linger=0)
    context.term()


# -- who it is ------------------------------------------------------------------------------------


def test_a_message_says_what_linux_knows_of_its_sender(rig, dealer):
    dealer().send(b"x")
    message = rig.message()
    assert (message.pid, message.birth) == (os.getpid(), birth_of(os.getpid()))
    assert (message.is_operator, message.frame) == (False, b"x")


def test_an_operator_is_who_came_in_by_the_operators_door(rig, dealer):
    dealer(OPERATORS).send(b"x")
    assert rig.message().is_operator


def test_a_message_from_another_process_carries_its_pid_whatever_it_claims(rig):
    script = (
        "import sys, zmq; s = zmq.Context().socket(zmq.DEALER); s.setsockopt(zmq.IDENTITY, b'1');"
        "s.connect(sys.argv[1]); s.send(b'x'); s.recv()"
    )
    with subprocess.Popen([sys.executable, "-c", script, endpoint(DOOR)]) as child:
        message = rig.message()
        assert message.pid == child.pid
        rig.send(message.peer, b"go")
        rig.server.flush()
        assert child.wait(DEADLINE_S) == 0


def test_two_peers_that_claim_one_routing_id_get_each_its_own_answers(rig, dealer):
    first, second = dealer(IDENTITY=b"same"), dealer(IDENTITY=b"same")
    for one in (first, second):
        one.send(b"x")
    rig.until(lambda: len(rig.messages()) == 2)
    for message in rig.messages():
        rig.send(message.peer, b"%d" % message.peer)
    rig.server.flush()
    assert {first.recv(), second.recv()} == {b"%d" % message.peer for message in rig.messages()}


def test_a_user_id_or_peer_address_in_the_handshake_changes_nothing(rig, raw):
    def named(name: bytes, value: bytes) -> bytes:
        return bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value

    body = b"\5READY" + named(b"Socket-Type", b"DEALER") + named(b"Peer-Address", b"localhost:0:0:1")
    ready = framed(body + named(b"User-Id", b"1") + named(b"Identity", b"1"), COMMAND)
    raw(first=GREETING + ready + framed(b"x"))
    assert rig.message().pid == os.getpid()


def test_a_connection_that_a_dead_process_made_is_nobodys_whoever_holds_it(rig, monkeypatch):
    """The pid of a dead process comes round again: whoever got its socket would be taken for its successor."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    child = os.fork()
    if not child:
        made = socket.socket(socket.AF_UNIX)
        made.connect("\0" + DOOR)
        made.sendall(GREETING + READY + framed(b"x"))
        socket.send_fds(theirs, [b"x"], [made.fileno()])
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    _, (stolen,), _, _ = socket.recv_fds(ours, 1, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    monkeypatch.setattr(identity, "process_of", lambda pid: Process(pid, 1))  # the pid is taken again
    thief = socket.socket(fileno=stolen)
    thief.settimeout(0.01)
    said = b""

    def is_over() -> bool:
        nonlocal said
        try:
            data = thief.recv(4096)
        except TimeoutError:
            return False
        except ConnectionResetError:  # its own words were not read
            return True
        said += data
        return not data

    rig.until(is_over)
    assert b"is dead" in said
    assert not rig.messages()
    for one in (ours, theirs, thief):
        one.close()


def test_an_own_door_serves_its_owner_and_tells_others_whose_it_is(rig, raw):
    door = rig.server.doors.open_own()
    door.owner = os.getpid()
    raw(door.name).send(b"mine")
    assert rig.message().frame == b"mine"
    door.owner = 1
    assert "this socket is task 1's" in raw(door.name).end()
    rig.server.doors.close(door)
    with pytest.raises(ConnectionRefusedError):
        raw(door.name)


def test_another_user_is_told_that_it_is_not_served(rig, raw, monkeypatch):
    monkeypatch.setattr(rig.server.doors, "_uid", os.getuid() + 1)
    assert f"is of user {os.getuid()}" in raw().end()


# -- stock clients --------------------------------------------------------------------------------


def test_a_stock_dealer_sends_and_gets_messages_of_any_length_up_to_the_limit(rig, dealer):
    client = dealer()
    for size in (0, 1, 255, 256, 257, 8192, MAX_FRAME_BYTES):
        client.send(bytes(size))
        message = rig.message()
        assert message.frame == bytes(size)
        rig.send(message.peer, b"a" * size)
        rig.server.flush()
        assert client.recv() == b"a" * size


def test_a_stock_dealer_with_heartbeats_stays_connected(rig, dealer):
    client = dealer(HEARTBEAT_IVL=20, HEARTBEAT_TIMEOUT=2000, HEARTBEAT_TTL=2000)
    client.send(b"x")
    peer = rig.message().peer
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        rig.turn()
    client.send(b"y")
    assert rig.message().peer == peer


def test_bytes_that_come_one_at_a_time_are_a_message_all_the_same(rig, raw):
    peer = raw(first=b"")
    for byte in GREETING + READY + framed(b"slow"):
        peer.socket.sendall(bytes([byte]))
        rig.turn()
    assert rig.frames() == [b"slow"]


def test_a_message_that_came_before_the_peer_left_is_served(rig, raw):
    peer = raw()
    peer.send(b"last", b"words")
    peer.socket.close()
    rig.until(lambda: bool(rig.gone()))
    assert rig.frames() == [b"last", b"words"]
    assert isinstance(rig.events[-1], PeerGone)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "which is not ZMTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "which is not ZMTP"),
        (b"\x01\x00", "which is not ZMTP"),
        (b"\xff" + bytes(8) + b"\x7f\x01\x05", "ZMTP version 1, wanted 3"),
        (GREETING[:12] + b"PLAIN".ljust(20, b"\0") + bytes(32), "security mechanism b'PLAIN', wanted NULL"),
        (GREETING[:12] + b"CURVE".ljust(20, b"\0") + bytes(32), "security mechanism b'CURVE', wanted NULL"),
        (GREETING + READY.replace(b"DEALER", b"ROUTER"), "socket type b'ROUTER', wanted DEALER"),
        (GREETING + framed(b"x"), "a message came before the handshake was done"),
        (GREETING + framed(b"\5HELLO", COMMAND), "command is b'HELLO', wanted READY"),
    ],
)
def test_what_does_not_speak_as_it_should_is_told_why_before_it_is_closed(rig, raw, first, reason):
    peer = raw(first=first)
    assert reason in peer.end()
    assert peer.raw[:10] == GREETING[:10]
    assert not rig.messages()


def test_a_stock_client_with_another_mechanism_or_type_is_not_kept_waiting(rig, dealer):
    """libzmq itself sees the mismatch in the greeting, and its monitor says so."""
    client = dealer(PLAIN_USERNAME=b"a", PLAIN_PASSWORD=b"b")
    monitor = client.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
    rig.until(lambda: bool(monitor.poll(0)))
    client.disable_monitor()


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MAX_FRAME_BYTES + 1, 1 << 33, (1 << 63) - 1, (1 << 64) - 1])
def test_a_length_beyond_the_limit_is_refused_when_it_is_announced(rig, raw, size):
    peer = raw()
    peer.socket.sendall(head(size) + b"only this")
    assert peer.end() == f"EBADMSG: a frame of {size} bytes, the limit is {MAX_FRAME_BYTES}"


def test_a_message_of_several_frames_is_refused_at_the_first(rig, raw):
    peer = raw()
    peer.socket.sendall(framed(b"a", MORE) * 1000)
    assert "a message of this protocol has one frame" in peer.end()
    rig.turn()
    assert [type(event) for event in rig.events] == [PeerGone]
    assert rig.events[0].was_cut


def test_a_process_has_so_many_connections_and_gets_a_place_back_when_one_closes(rig, raw):
    peers = [raw() for _ in range(MAX_PROCESS_CONNECTIONS)]
    rig.until(lambda: len(rig.server._by_number) == len(peers))
    assert f"has {MAX_PROCESS_CONNECTIONS} connections, the limit" in raw().end()
    peers[0].socket.close()
    rig.until(lambda: bool(rig.gone()))
    raw().send(b"again")
    assert rig.message().frame == b"again"


def test_who_connects_too_often_is_turned_away_and_may_come_back_later(rig, raw, monkeypatch):
    monkeypatch.setattr(account, "CONNECTS_PER_S", 0.01)
    for _ in range(CONNECT_BURST):
        peer = raw()
        rig.until(lambda: bool(rig.server.doors.accounts))
        peer.socket.close()
        rig.until(lambda: not rig.server.doors.accounts)
    assert "connects too often" in raw().end()
    pace = rig.server.doors._paces[os.getpid()]
    pace.at_ns -= 100 * 10**9
    raw().send(b"later")
    assert rig.message().frame == b"later"


def test_who_only_asks_who_listens_and_leaves_costs_nobody_a_place(rig, raw):
    for _ in range(3 * CONNECT_BURST):
        raw(first=b"").socket.close()
    for _ in range(40):
        rig.turn()
    assert rig.server.doors.refused == 0
    raw().send(b"and stays")
    assert rig.message().frame == b"and stays"


def test_an_own_door_at_which_its_owner_knocks_too_often_is_shut_for_a_while(rig, raw, monkeypatch):
    monkeypatch.setattr(account, "CONNECTS_PER_S", 0.01)
    door = rig.server.doors.open_own()
    door.owner = os.getpid()
    rig.server.doors._pace(os.getpid()).left = 0
    assert "connects too often" in raw(door.name).end()
    patient = raw(door.name)
    for _ in range(3):
        rig.turn()
    patient.read()
    assert not patient.raw
    rig.server.doors._pace(os.getpid()).left = 5
    rig.late_ns = DOOR_PAUSE_NS + 1
    patient.send(b"after")
    assert rig.message().frame == b"after"


def test_of_many_refusals_only_the_first_come_with_a_reason(rig, raw, monkeypatch):
    monkeypatch.setattr(account, "CONNECTS_PER_S", 0.01)
    rig.server.doors._pace(os.getpid()).left = 0
    told = ["connects too often" in raw().end() for _ in range(doors.TOLD_WHY + 3)]
    assert told == [True] * doors.TOLD_WHY + [False] * 3


def test_of_a_peer_that_left_only_its_last_calls_are_served(rig, raw):
    peer = raw()
    peer.send(*[b"x"] * 1000)
    while not rig.messages():
        rig.turn(limit=1)
    peer.socket.close()
    rig.send(rig.messages()[0].peer, b"answer")
    rig.until(lambda: bool(rig.gone()))
    assert 1 <= len(rig.messages()) <= MAX_LAST_CALLS + BATCH


def test_a_handshake_that_takes_too_long_is_ended(rig, raw):
    silent, halfway = raw(first=b""), raw(first=GREETING)
    rig.until(lambda: len(rig.server._by_number) == 1)
    rig.late_ns = HANDSHAKE_NS + 1
    assert silent.end() == ""
    assert "the handshake was not done in time" in halfway.end()


def test_an_open_connection_and_a_side_channel_may_be_silent_for_ever(rig, raw):
    peer, channel = raw(), raw(first=b"AGXF")
    peer.send(b"x")
    rig.message()
    rig.turn()
    rig.late_ns = 10 * HANDSHAKE_NS
    rig.turn()
    peer.read()
    channel.read()
    assert not peer.is_over
    assert not channel.is_over
    assert rig.server.next_timer_ns is None


def test_out_of_descriptors_the_server_turns_away_and_goes_on(rig, raw):
    served = raw()
    served.send(b"before")
    rig.message()
    late = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    plugs = []
    try:
        with contextlib.suppress(OSError):
            while True:
                plugs.append(os.open(os.devnull, os.O_RDONLY))
        for one in late:
            one.connect("\0" + DOOR)
        refused = rig.server.doors.refused
        rig.until(lambda: rig.server.doors.refused == refused + len(late))
        served.send(b"during")
        assert rig.message().frame == b"during"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in plugs:
            os.close(fd)
        for one in late:
            one.close()
    raw().send(b"after")
    assert rig.message().frame == b"after"


def test_half_of_the_descriptors_are_kept_for_all_else(rig, raw, monkeypatch):
    monkeypatch.setattr(doors.resource, "getrlimit", lambda which: (4, 4))
    peers = [raw() for _ in range(3)]
    assert "the kernel has no connection left" in peers[2].end()


def test_a_peer_that_does_not_read_is_not_read_from_until_it_does(rig, raw):
    peer = raw()
    peer.send(b"first")
    number = rig.message().peer
    while rig.server._by_number[number].unread_bytes <= UNREAD_SOFT_BYTES:
        rig.send(number, bytes(60_000))
        rig.server.flush()
    peer.send(b"second")
    rig.events.clear()
    for _ in range(5):
        rig.turn()
    assert not rig.messages()

    def has_come() -> bool:
        peer.read()
        return bool(rig.messages())

    rig.until(has_come)
    assert rig.frames() == [b"second"]


def test_a_peer_that_lets_too_much_pile_up_is_called_stalled_once_and_cut_off(rig, raw):
    peer = raw()
    peer.send(b"first")
    number = rig.message().peer
    for _ in range(4 * UNREAD_HARD_BYTES // 60_000):
        rig.send(number, bytes(60_000))
        rig.server.flush()
    rig.turn()
    assert [event for event in rig.events if isinstance(event, PeerStalled)] == [
        PeerStalled(rig.events[-1].now_ns, number)
    ]
    assert number in rig.server._by_number  # it is given a moment to read why
    rig.late_ns = LAST_WORDS_NS + 1
    rig.until(lambda: bool(rig.gone()))
    assert number not in rig.server._by_number


def test_a_single_answer_may_be_longer_than_what_may_pile_up(rig, raw):
    peer = raw()
    peer.send(b"first")
    number = rig.message().peer
    rig.send(number, bytes(2 * UNREAD_HARD_BYTES))
    rig.server.flush()

    def has_come() -> bool:
        peer.read()
        return any(len(frame) == 2 * UNREAD_HARD_BYTES for frame in peer.frames)

    rig.until(has_come)


def test_what_was_kept_arrives_whole_and_in_order(rig, raw):
    peer = raw()
    peer.send(b"first")
    number = rig.message().peer
    sent = [b"%d" % index + bytes(index * 37 % 9000) for index in range(100)]
    for frame in sent:
        rig.send(number, frame)
    rig.server.flush()

    def has_come() -> bool:
        peer.read()
        return len(peer.frames) == len(sent) + 1

    rig.until(has_come)
    assert peer.frames[1:] == sent


# -- turns ----------------------------------------------------------------------------------------


def test_a_peer_that_waited_goes_before_one_that_pipelines(rig, raw):
    flood, quiet = raw(), raw()
    rig.until(lambda: len(rig.server._by_number) == 2)
    flood.send(*[b"f"] * 100)
    rig.turn(limit=BATCH)
    assert rig.frames() == [b"f"] * BATCH
    quiet.send(b"q")
    rig.events.clear()
    rig.turn(limit=1)
    assert rig.frames() == [b"q"]
    rig.until(lambda: len(rig.messages()) == 101 - BATCH)


def test_peers_that_pipeline_take_turns(rig, raw):
    peers = [raw() for _ in range(3)]
    rig.until(lambda: len(rig.server._by_number) == 3)
    for index, peer in enumerate(peers):
        peer.send(*[b"%d" % index] * 3 * BATCH)
    rig.until(lambda: len(rig.messages()) == 9 * BATCH)
    turns = [rig.frames()[at] for at in range(0, 9 * BATCH, BATCH)]
    assert turns[:3] == turns[3:6] == turns[6:]
    assert len(set(turns[:3])) == 3


def test_a_burst_counts_messages_without_a_pause(rig, raw):
    peer = raw()
    peer.send(*[b"x"] * 20)
    rig.until(lambda: len(rig.messages()) == 20)
    assert [message.burst for message in rig.messages()] == list(range(1, 21))
    peer.send(b"x")
    assert rig.message().burst == 1


def test_a_process_whose_message_was_heavy_waits_in_proportion(rig, raw):
    heavy = raw()
    heavy.send(b"heavy", b"next")
    while not rig.messages():
        rig.turn(limit=1)
    rig.server.spent(rig.messages()[0].peer, 10**9, now_ns())
    for _ in range(5):
        rig.turn()
    assert rig.frames() == [b"heavy"]
    assert rig.server.next_timer_ns is not None
    rig.late_ns = 4 * 10**9
    rig.until(lambda: rig.frames() == [b"heavy", b"next"])
    rig.server.spent(rig.messages()[1].peer, HEAVY_NS, now_ns() + rig.late_ns)
    heavy.send(b"light")
    assert rig.message().frame == b"light"


# -- the end --------------------------------------------------------------------------------------


def test_a_peer_that_is_closed_reads_why_and_no_more_is_taken_from_it(rig, raw):
    peer = raw()
    peer.send(b"x")
    number = rig.message().peer
    rig.events.clear()
    peer.send(b"y")
    error = KernelError(Errno.EBADMSG, "enough")
    rig.server.disconnect(Disconnect(number, error))
    assert peer.end() == "EBADMSG: enough"
    rig.turn()
    assert rig.gone() == [number]
    assert not rig.messages()
    assert decode_answer(peer.frames[-1]).id == 0


def test_a_message_to_a_peer_that_is_gone_is_dropped(rig):
    rig.send(12345, b"x")
    rig.server.disconnect(Disconnect(12345, KernelError(Errno.EPIPE, "x")))
    rig.server.flush()
    assert not rig.events


def test_the_last_answers_leave_before_the_server_closes(rig, raw):
    peer = raw()
    peer.send(b"x")
    rig.send(rig.message().peer, b"last")
    rig.server.close()
    peer.read()
    assert peer.frames[-1] == b"last"


def test_a_second_kernel_of_the_same_name_is_told_which_socket_is_taken(rig):
    before = len(os.listdir("/proc/self/fd"))
    with select.epoll() as epoll, pytest.raises(AddressInUse) as caught:
        Server(NAME, epoll, lambda process, number: None)
    assert caught.value.role == "agent"
    assert len(os.listdir("/proc/self/fd")) == before
    assert kernel_pid("agent", NAME) == os.getpid()


def test_closing_twice_is_harmless_and_frees_the_name():
    for _ in range(2):
        again = Rig()
        again.server.close()
        again.server.close()
        again.epoll.close()
    assert not [line for line in Path("/proc/net/unix").read_text().splitlines() if f"/{NAME}/" in line]
