"""A kernel for the tests of user space: the real sockets, and answers from a script. And tests of itself.

The other test_sdk_*.py and test_cli_*.py files import it. It answers on the agents' and the operators' socket of
a name of its own; a test says what each method answers, or takes calls one by one and answers by hand.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentix import Agent
from agentix.transport import Transport
from kernel.abi import codec
from kernel.abi.calls import SCHEMAS, validate
from kernel.abi.errors import Errno, KernelError
from kernel.clock import now_ns
from kernel.effects import Disconnect, Send
from kernel.events import Message, PeerGone
from kernel.ipc.server import Server
from shm.segment import Segment

NUMBERS = itertools.count()
PATIENCE_S = 20  # a deadline for what takes milliseconds

HELLO = {"version": 2, "pid": 77, "kernel_pid": 1, "model": "m.gguf", "window_tokens": 2048, "policy": "rr"}
TIMINGS = {"queued_s": 0.0, "first_token_s": 0.1, "wait_s": 0.0, "total_s": 0.2, "core_s": 0.1}


def reply_of(text: str) -> dict[str, Any]:
    usage = {"prompt_tokens": 3, "generated_tokens": len(text)}
    return {
        "text": text,
        "tokens": [ord(char) for char in text],
        "finish_reason": "stop",
        "usage": usage,
        "timings": TIMINGS,
    }


class Call:
    """A call that reached the fake kernel, answered when the test likes."""

    def __init__(self, kernel: FakeKernel, peer: int, call: codec.Call) -> None:
        self._kernel, self.peer = kernel, peer
        self.id, self.method, self.body, self.deadline_ms, self.task = call

    def chunk(self, seq: int, text: str, **fields: Any) -> None:
        self._send(codec.encode_answer(self.id, "chunk", {"text": text, "tokens": [1]} | fields, seq))

    def reply(self, body: dict[str, Any]) -> None:
        self._send(codec.encode_answer(self.id, "reply", body))

    def fail(self, number: Errno, text: str) -> None:
        self._send(codec.encode_error(self.id, KernelError(number, text)))

    def close(self, number: Errno, text: str) -> None:
        """Close the connection that the call came on, saying why."""
        effect = Disconnect(self.peer, KernelError(number, text))
        self._kernel.later(lambda: self._kernel.server.disconnect(effect))

    def _send(self, frame: bytes) -> None:
        send = Send(self.peer, frame)
        self._kernel.later(lambda: self._kernel.server.send(send))


class FakeKernel:
    """`on[method]` is a function of a Call; calls of other methods queue up for take().

    `segments` are handed out on the side channel, by number, to whoever asks.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name or f"fake-{os.getpid()}-{next(NUMBERS)}"
        self.on: dict[str, Callable[[Call], None]] = {
            "sys.hello": lambda call: call.reply(HELLO | {"connection": call.peer}),
            "proc.exit": lambda call: call.reply({}),
            "llm.cancel": lambda call: call.reply({"cancelled": True}),
        }
        self.seen: list[Call] = []
        self.segments: dict[int, Segment] = {}
        self._gone: set[int] = set()
        self._news = threading.Condition()
        self._untaken: list[Call] = []
        self._todo: list[Callable[[], None]] = []
        self._epoll = select.epoll()
        self.server = Server(self.name, self._epoll, lambda _, number: self.segments.get(number))
        self._wake_fd = os.eventfd(0)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._is_over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def later(self, action: Callable[[], None]) -> None:
        with self._news:
            self._todo.append(action)
        os.eventfd_write(self._wake_fd, 1)

    def halt(self) -> threading.Event:
        """Do nothing more, not even read, until the returned event is set."""
        halted, go_on = threading.Event(), threading.Event()
        self.later(lambda: halted.set() or go_on.wait(PATIENCE_S))
        assert halted.wait(PATIENCE_S)
        return go_on

    def take(self, method: str) -> Call:
        """The oldest unanswered call of a method, waiting for it."""
        with self._news:
            assert self._news.wait_for(
                lambda: any(call.method == method for call in self._untaken), PATIENCE_S
            ), f"no {method} came"
            call = next(call for call in self._untaken if call.method == method)
            self._untaken.remove(call)
            return call

    def wait_seen(self, method: str, count: int = 1) -> Call:
        """The first call of a method that has come, answered or not, waiting until `count` have."""

        def found() -> list[Call]:
            return [call for call in self.seen if call.method == method]

        with self._news:
            assert self._news.wait_for(lambda: len(found()) >= count, PATIENCE_S), f"no {method} came"
            return found()[0]

    def wait_gone(self, agent: Agent) -> None:
        """Wait until the kernel has noticed that an agent closed its connection."""
        peer = agent._connection.hello["connection"]
        with self._news:
            assert self._news.wait_for(lambda: peer in self._gone, PATIENCE_S), f"{peer} did not leave"

    def close(self) -> None:
        """End it, and every connection without a word; twice is harmless."""
        if self._is_over:
            return
        self.later(lambda: setattr(self, "_is_over", True))
        self._thread.join()
        self.server.close()
        self._epoll.close()
        os.close(self._wake_fd)
        for segment in self.segments.values():
            segment.close()

    def _run(self) -> None:
        while not self._is_over:
            for fd, mask in self._epoll.poll(0 if self.server.has_work else self._left_s()):
                if fd == self._wake_fd:
                    os.eventfd_read(fd)
                else:
                    self.server.ready(fd, mask, now_ns())
            self.server.tick(now_ns())
            while (event := self.server.recv(now_ns())) is not None:
                if isinstance(event, Message):
                    self._take_in(event)
                elif isinstance(event, PeerGone):
                    with self._news:
                        self._gone.add(event.peer)
                        self._news.notify_all()
            with self._news:
                todo, self._todo = self._todo, []
            for action in todo:
                action()
            self.server.flush()

    def _left_s(self) -> float | None:
        timer_ns = self.server.next_timer_ns
        return None if timer_ns is None else max(0, timer_ns - now_ns()) / 1e9

    def _take_in(self, message: Message) -> None:
        call = Call(self, message.peer, codec.decode_call(message.frame))
        try:
            validate(call.method, call.body)
        except KernelError as error:
            call.fail(error.number, error.text)
            return
        with self._news:
            self.seen.append(call)
            if call.method not in self.on:
                self._untaken.append(call)
            self._news.notify_all()
        if call.method in self.on:
            self.on[call.method](call)


def watch_full(monkeypatch: pytest.MonkeyPatch, size_bytes: int = 0, times: int = 1) -> threading.Event:
    """An event that is set when messages of at least this size found no room so many times."""
    is_full, send, refused = threading.Event(), Transport.send, []

    def watched(transport: Transport, frame: bytes) -> bool:
        has_room = send(transport, frame)
        if not has_room and len(frame) >= size_bytes:
            refused.append(frame)
            if len(refused) >= times:
                is_full.set()
        return has_room

    monkeypatch.setattr(Transport, "send", watched)
    return is_full


@contextlib.contextmanager
def running_kernel() -> Iterator[FakeKernel]:
    """A fake kernel; afterwards no descriptor and no thread may be left of it or of what talked to it."""
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    kernel = FakeKernel()
    try:
        yield kernel
    finally:
        kernel.close()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == fds


def test_a_scripted_kernel_answers_an_agent_and_leaves_nothing_behind():
    with running_kernel() as kernel, Agent("writer", kernel=kernel.name) as me:
        assert (me.pid, me.model, me.window_tokens) == (77, "m.gguf", 2048)
    assert [call.method for call in kernel.seen] == ["sys.hello", "proc.exit"]
    assert set(HELLO) >= {"version", "pid"}
    assert "llm.generate" in SCHEMAS
