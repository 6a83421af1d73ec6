"""The core's end of the text side: starts its process, starts another when it dies, hands questions over.

Who calls it: worker.py for questions, llama.py for constraints. What must hold: every question is answered once;
nobody waits here for an answer: `reply` is called on this object's own thread. Constraints are the main thread's.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kernel.engine.base import EngineError, Opening
from kernel.engine.link import ANSWER, ASK, FATAL, READ_BYTES, READY, Unframer, frame
from kernel.engine.textside.gate import Gate
from kernel.engine.textside.gates import CLOSE_GATE, GATE_ENDED, OPEN_GATE

START_S = 120.0  # to read a large vocabulary from a slow disk
MAX_DEATHS = 2  # of text sides, that one question may be present at
MAX_FAILED_STARTS = 3  # in a row
MAX_CHECKERS = 64  # processes of constraints; that of the request which drew longest ago is made again if need be

Reply = Callable[[Any, str | None], None]  # an answer, or an error


@dataclass(frozen=True, slots=True)
class TextFacts:
    """What the text side says of the model."""

    chat_format: str
    takes_tools: bool
    has_template: bool
    vocab: int


@dataclass(slots=True)
class _Question:
    raw: bytes
    reply: Reply
    deaths: int = 0


class TextSide:
    """The text side of one model. Raises EngineError when it cannot be started."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._tickets = 0
        self._questions: dict[int, _Question] = {}
        self._gates: OrderedDict[int, Gate] = (
            OrderedDict()
        )  # by request, the one opened last at the end
        self._checkers: dict[int, int] = {}  # by number: which of the text sides is its parent
        self._ended: dict[int, tuple[int, int]] = {}  # signal and exit status of those that ended
        self._news = threading.Condition(self._lock)
        self._starts = 0
        self._is_closed = False
        self.facts = self._start()
        self._thread = threading.Thread(target=self._read, name="text", daemon=True)
        self._thread.start()

    def ask(self, what: str, value: Any, reply: Reply) -> None:
        """Put a question; see effects.AskCore. `reply` is called once, with the answer or with an error."""
        with self._lock:
            self._tickets += 1
            raw = frame((ASK, self._tickets, what, value))
            self._questions[self._tickets] = _Question(raw, reply)
            self._send(raw)

    def open_gate(self, opening: Opening) -> Gate:
        """Return the gate of a request that has a constraint, at the place that the opening says."""
        gate = self._gates.get(opening.request)
        if gate is None or not gate.fits(opening):
            self.close_request(opening.request)
            gate = self._gates[opening.request] = Gate(self, opening, self.facts.vocab)
        self._gates.move_to_end(opening.request)
        for one in list(self._gates.values())[:-MAX_CHECKERS]:
            one.park()
        return gate

    def close_request(self, request: int) -> None:
        """Forget a request's gate, if it has one."""
        gate = self._gates.pop(request, None)
        if gate is not None:
            gate.park()

    def close(self) -> None:
        """End the process; questions without an answer stay without one."""
        for request in list(self._gates):
            self.close_request(request)
        self._is_closed = True
        self._link.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._bury()

    # -- processes of constraints: see gate.Starter -------------------------------------------

    def start_checker(
        self, opening: Opening, generated: tuple[int, ...]
    ) -> tuple[int, socket.socket]:
        constraint = opening.constraint
        assert constraint is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._lock:
            self._tickets += 1
            number = self._tickets
            self._checkers[number] = self._starts
            asked = (
                OPEN_GATE,
                number,
                constraint.kind,
                constraint.text,
                opening.max_tokens,
                generated,
            )
            self._send(frame(asked), theirs.fileno())
        return number, ours

    def end_checker(self, number: int) -> None:
        with self._lock:
            if self._checkers.get(number) == self._starts and number not in self._ended:
                self._send(frame((CLOSE_GATE, number)))
            self._checkers.pop(number, None)
            self._ended.pop(number, None)

    def why_ended(self, number: int, wait_s: float) -> tuple[int, int] | None:
        with self._news:
            self._news.wait_for(
                lambda: number in self._ended or self._checkers[number] != self._starts, wait_s
            )
            del self._checkers[number]
            return self._ended.pop(number, None)

    # -- the process --------------------------------------------------------------------------

    def _start(self) -> TextFacts:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            command = [
                sys.executable,
                "-P",
                "-m",
                "kernel.engine.textside.server",
                "--model",
                self._path,
            ]
            self._child = subprocess.Popen(
                [*command, "--fd", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                },
            )
        self._link, self._unframer = ours, Unframer()
        self._starts += 1
        message = self._await_first()
        if message is None:
            self._bury()
            raise EngineError(f"the text side of model {self._path} does not start")
        if message[0] == FATAL:
            self._bury()
            raise EngineError(str(message[1]))
        return TextFacts(**message[1])

    def _await_first(self) -> tuple[Any, ...] | None:
        until = time.monotonic() + START_S
        while (left := until - time.monotonic()) > 0:
            if not select.select([self._link], [], [], left)[0]:
                break
            data = self._link.recv(READ_BYTES)
            if not data:
                break
            self._unframer.feed(data)
            for message in self._unframer.messages():
                assert message[0] in (READY, FATAL)
                return message
        return None

    def _bury(self) -> None:
        self._link.close()
        self._child.kill()
        self._child.wait()

    def _send(self, raw: bytes, descriptor: int = -1) -> None:
        with contextlib.suppress(
            OSError
        ):  # the reading thread sees the end of the link and asks again
            sent = socket.send_fds(self._link, [raw], [descriptor]) if descriptor >= 0 else 0
            self._link.sendall(memoryview(raw)[sent:])

    def _read(self) -> None:
        """Hand answers on; when the process dies, start another and ask it what is left."""
        while not self._is_closed:
            try:
                data = self._link.recv(READ_BYTES)
            except OSError:
                data = b""
            if data:
                self._unframer.feed(data)
                for message in self._unframer.messages():
                    self._take(message)
            elif not self._is_closed:
                self._restart()

    def _take(self, message: tuple[Any, ...]) -> None:
        if message[0] == GATE_ENDED:
            _, number, killer, status = message
            with self._news:
                if number in self._checkers:
                    self._ended[number] = (killer, status)
                    self._news.notify_all()
            return
        kind, ticket, value, error = message
        assert kind == ANSWER
        with self._lock:
            question = self._questions.pop(ticket, None)
        if question is not None:
            question.reply(value, error)

    def _restart(self) -> None:
        given_up: list[_Question] = []
        with self._lock:
            self._bury()
            for attempt in range(MAX_FAILED_STARTS):
                try:
                    self._start()
                    break
                except EngineError:
                    if attempt == MAX_FAILED_STARTS - 1:
                        os._exit(
                            1
                        )  # without it the core is of no use: the kernel starts another one
            for ticket, question in list(self._questions.items()):
                question.deaths += 1
                if question.deaths >= MAX_DEATHS:
                    given_up.append(self._questions.pop(ticket))
                else:
                    self._send(question.raw)
            self._news.notify_all()
        for question in given_up:
            question.reply(None, f"the text side died {MAX_DEATHS} times of this question")
