"""A kernel for the tests of user space: a real ROUTER that answers from a script. And tests of itself.

The other test_sdk_*.py and test_cli_*.py files import it. It answers on the agents' and the operators' endpoint
of a name of its own; a test says what each method answers, or takes calls one by one and answers by hand.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import zmq

from agentix import Agent
from kernel.abi import address, codec
from kernel.abi.calls import SCHEMAS, validate
from kernel.abi.errors import Errno, KernelError

NUMBERS = itertools.count()
PATIENCE_S = 20  # a deadline for what takes milliseconds

HELLO = {"version": 1, "pid": 77, "kernel_pid": 1, "model": "m.gguf", "window_tokens": 2048, "policy": "rr"}
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

    def __init__(self, kernel: FakeKernel, peer: tuple[zmq.Socket, bytes], call: codec.Call) -> None:
        self._kernel, self._peer = kernel, peer
        self.id, self.method, self.body = call.id, call.method, call.body
        self.deadline_ms = call.deadline_ms

    def chunk(self, seq: int, text: str) -> None:
        self._send(codec.encode_answer(self.id, "chunk", {"text": text, "tokens": [1]}, seq))

    def reply(self, body: dict[str, Any]) -> None:
        self._send(codec.encode_answer(self.id, "reply", body))

    def fail(self, number: Errno, text: str) -> None:
        self._send(codec.encode_error(self.id, KernelError(number, text)))

    def _send(self, frames: list[bytes]) -> None:
        socket, peer = self._peer
        self._kernel.later(lambda: socket.send_multipart([peer, *frames]))


class FakeKernel:
    """`on[method]` is a function of a Call; calls of other methods queue up for take()."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name or f"fake-{os.getpid()}-{next(NUMBERS)}"
        self.on: dict[str, Callable[[Call], None]] = {
            "sys.hello": lambda call: call.reply(HELLO),
            "proc.exit": lambda call: call.reply({}),
            "llm.cancel": lambda call: call.reply({"cancelled": True}),
        }
        self.seen: list[Call] = []
        self._news = threading.Condition()
        self._untaken: list[Call] = []
        self._todo: list[Callable[[], None]] = []
        self._context = zmq.Context()
        self._sockets = []
        for role in ("agent", "operator"):
            socket = self._context.socket(zmq.ROUTER)
            socket.bind(address.endpoint(role, self.name))
            self._sockets.append(socket)
        self._wake_fd = os.eventfd(0)
        self._is_over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def later(self, action: Callable[[], None]) -> None:
        with self._news:
            self._todo.append(action)
        os.eventfd_write(self._wake_fd, 1)

    def take(self, method: str) -> Call:
        """The oldest unanswered call of a method, waiting for it."""
        with self._news:
            assert self._news.wait_for(
                lambda: any(call.method == method for call in self._untaken), PATIENCE_S
            ), f"no {method} came"
            call = next(call for call in self._untaken if call.method == method)
            self._untaken.remove(call)
            return call

    def wait_seen(self, method: str) -> Call:
        """The first call of a method that has come, answered or not, waiting for it."""
        with self._news:
            assert self._news.wait_for(
                lambda: any(call.method == method for call in self.seen), PATIENCE_S
            ), f"no {method} came"
            return next(call for call in self.seen if call.method == method)

    def close(self) -> None:
        self.later(lambda: setattr(self, "_is_over", True))
        self._thread.join()
        for socket in self._sockets:
            socket.close(0)
        self._context.term()
        os.close(self._wake_fd)

    def _run(self) -> None:
        poller = zmq.Poller()
        for socket in (*self._sockets, self._wake_fd):
            poller.register(socket, zmq.POLLIN)
        while not self._is_over:
            for ready, _ in poller.poll():
                if ready == self._wake_fd:
                    os.eventfd_read(self._wake_fd)
                else:
                    self._take_in(ready)
            with self._news:
                todo, self._todo = self._todo, []
            for action in todo:
                action()

    def _take_in(self, socket: zmq.Socket) -> None:
        peer, *frames = socket.recv_multipart()
        call = Call(self, (socket, peer), codec.decode_call(frames))
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
