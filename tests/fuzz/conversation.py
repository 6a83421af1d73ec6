"""A whole conversation with the real server and the real core, in this process; no model, no children.

Who uses it: targets.py. What must hold: one input is one kernel, from its sockets' birth to their end, on a
clock that only a conversation moves: what broke once breaks again. Of a process's end the kernel hears when
its conversation is over.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kernel.abi.address import socket_name
from kernel.abi.codec import Answer, decode_answer, encode_call
from kernel.abi.descriptors import ANSWER, HELLO
from kernel.config import Config, ModelConfig
from kernel.core import Kernel
from kernel.effects import (
    Disconnect,
    DropSegment,
    Effect,
    Launch,
    MakeSegment,
    Refuse,
    SampleProcesses,
    Say,
    Send,
    SetTimer,
    Signal,
    Watch,
)
from kernel.events import Event, ProcessEnded, ProcessSample, SpawnFailed, TimerFired
from kernel.ipc.server import Server
from kernel.ipc.zmtp import Decoder, message_head
from kernel.limits import HANDSHAKE_NS, LAST_WORDS_NS
from kernel.segments import Segments
from tests.fuzz.pieces import GREETING, READY

NAME = f"fuzz-{os.getpid()}"
IS_OPERATOR, READS = 0x80, 0x40  # bits of an input's first byte; the others: how the rest is cut
MESSAGES_PER_TURN = 8
READ_BYTES = 1 << 20
START_NS = 1_000_000_000
MAX_TURNS = 100_000  # far more than the longest input has messages


def converse(data: bytes) -> None:
    """Say all of `data` to a kernel, leave, and see that nothing is left and a neighbour is served."""
    start = data[0] if data else 0
    before = _descriptors()
    world = _World()
    try:
        alone = _descriptors()
        neighbour = _Neighbour(world)
        neighbour.ask()
        peer = world.connect("operator" if start & IS_OPERATOR else "agent")
        _say(world, peer, data[1:], start & 0x3F, bool(start & READS))
        neighbour.ask()
        peer.close()
        world.settle()
        world.pass_time(HANDSHAKE_NS + LAST_WORDS_NS)
        world.end_processes()
        neighbour.ask()
        neighbour.close()
        world.settle()
        world.check_empty()
        assert _descriptors() == alone, "who came and went left descriptors"
    finally:
        world.close()
    assert _descriptors() == before, "a kernel that was closed left descriptors"


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _say(world: _World, peer: socket.socket, stream: bytes, step: int, reads: bool) -> None:
    heard = _Heard(is_side_channel=HELLO.startswith(stream[: len(HELLO)]))
    at = 0
    while at < len(stream):
        piece = stream[at : at + step] if step else stream[at:]
        step = (step * 5 + 1) & 0x3F or 1 if step else 0
        try:
            sent = peer.send(piece, socket.MSG_NOSIGNAL)
        except BlockingIOError:  # it is not read from, and that for good
            return
        except OSError:  # it was cut off
            break
        at += sent
        world.settle()
        if reads:
            heard.read(peer)
    if reads:
        heard.read(peer)


class _Heard:
    """What a peer is told: a handshake and answers, all of them well-formed."""

    def __init__(self, is_side_channel: bool = False) -> None:
        self._is_side_channel = is_side_channel
        self._decoder = Decoder()
        self.answers: list[Answer] = []

    def read(self, peer: socket.socket) -> None:
        while True:
            try:
                data = peer.recv(READ_BYTES)
            except OSError:
                return
            if not data:
                return
            if self._is_side_channel:
                assert len(data) % ANSWER.size == 0, "a part of a record"
                continue
            self._decoder.feed(data)
            while (one := self._decoder.next()) is not None:
                if isinstance(one, bytes):
                    self.answers.append(decode_answer(one))


class _Neighbour:
    """An operator with a question, and a right to its answer."""

    def __init__(self, world: _World) -> None:
        self._world = world
        self._peer = world.connect("operator")
        self._peer.sendall(GREETING + READY)
        self._heard = _Heard()
        self._asked = 0

    def ask(self) -> None:
        self._asked += 1
        frame = encode_call(self._asked, "sched.getpolicies", {})
        self._peer.sendall(message_head(len(frame)) + frame)
        self._world.settle()
        self._heard.read(self._peer)
        ends = [(answer.id, answer.kind) for answer in self._heard.answers]
        wanted = [(number, "reply") for number in range(1, self._asked + 1)]
        assert ends == wanted, "no answer for a neighbour"

    def close(self) -> None:
        self._peer.close()


class _World:
    """The loop's part, without processes: what the kernel wants is done at once or told to have failed."""

    def __init__(self) -> None:
        self.now_ns = START_NS
        self._timer_ns: int | None = None
        self._watched: set[int] = set()
        self._epoll = select.epoll()
        self._segments = Segments()
        self._server = Server(NAME, self._epoll, self._segments.owned)
        config = Config((ModelConfig("none", "none"),), NAME, snapshot_bytes=1 << 20)
        self._kernel = Kernel(config, os.getpid())
        self._kernel.start(self.now_ns)
        self._pending: list[Event] = []
        self._peers: list[socket.socket] = []

    def connect(self, role: str) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._peers.append(peer)
        peer.connect("\0" + socket_name(role, NAME))
        peer.setblocking(False)
        return peer

    def settle(self) -> None:
        """Turn the loop until nothing happens any more."""
        for _ in range(MAX_TURNS):
            ready = self._epoll.poll(0)
            for fd, mask in ready:
                assert self._server.ready(fd, mask, self.now_ns), "epoll watches what nobody knows"
            for _ in range(MESSAGES_PER_TURN):
                event = self._server.recv(self.now_ns)
                if event is None:
                    break
                self._tell(event)
            self._server.end_batch()
            self._server.flush()
            if not ready and not self._server.has_work:
                return
        raise AssertionError("the server never comes to rest")

    def pass_time(self, span_ns: int) -> None:
        self.now_ns += span_ns
        if self._timer_ns is not None and self._timer_ns <= self.now_ns:
            self._timer_ns = None
            self._tell(TimerFired(self.now_ns))
        self._server.tick(self.now_ns)
        self.settle()

    def end_processes(self) -> None:
        for pid in sorted(self._watched):
            self._tell(ProcessEnded(self.now_ns, pid, 0, None))
        self._watched.clear()
        self.settle()

    def check_empty(self) -> None:
        assert not self._server.doors.accounts, "who left still counts"

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
        self._server.close()
        self._segments.close()
        self._epoll.close()

    def _tell(self, event: Event) -> None:
        self._pending.append(event)
        while self._pending:
            for effect in self._kernel.handle(self._pending.pop(0)):
                self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        do = _EFFECTS.get(type(effect))
        if do is not None:
            do(self, effect)

    # -- effects --------------------------------------------------------------------------------

    def _send(self, effect: Send) -> None:
        decode_answer(effect.frame)
        self._server.send(effect)

    def _refuse(self, effect: Refuse) -> None:
        decode_answer(effect.frame)
        self._server.send_refusal(effect)

    def _disconnect(self, effect: Disconnect) -> None:
        self._server.disconnect(effect)

    def _say(self, effect: Say) -> None:
        assert "bug" not in effect.text, effect.text

    def _set_timer(self, effect: SetTimer) -> None:
        self._timer_ns = effect.at_ns

    def _watch(self, effect: Watch) -> None:
        self._watched.add(effect.pid)

    def _signal(self, effect: Signal) -> None:
        if effect.pid in self._watched:
            self._watched.discard(effect.pid)
            self._pending.append(ProcessEnded(self.now_ns, effect.pid, None, effect.number))

    def _launch(self, effect: Launch) -> None:
        self._pending.append(SpawnFailed(self.now_ns, effect.ticket, "no processes here"))

    def _sample(self, effect: SampleProcesses) -> None:
        self._pending.append(ProcessSample(self.now_ns, tuple((pid, 0.0, 0) for pid in effect.pids)))

    def _make_segment(self, effect: MakeSegment) -> None:
        with suppress(OSError):
            self._segments.make(effect)

    def _drop_segment(self, effect: DropSegment) -> None:
        self._segments.drop(effect.segment)


_EFFECTS: dict[type, Callable[[_World, Any], None]] = {
    Send: _World._send,
    Refuse: _World._refuse,
    Disconnect: _World._disconnect,
    Say: _World._say,
    SetTimer: _World._set_timer,
    Watch: _World._watch,
    Signal: _World._signal,
    Launch: _World._launch,
    SampleProcesses: _World._sample,
    MakeSegment: _World._make_segment,
    DropSegment: _World._drop_segment,
}
