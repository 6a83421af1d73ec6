"""What a constraint lets come next in one request's text, asked of the process that runs its grammar.

Who calls it: the sampler, in the LLM core, by way of base.Gate; client.py makes these. What must hold: every wait
has an end; a grammar that is at fault fails its request and nothing else; a process that was lost without fault
is made again, and goes on as the lost one would have.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from typing import Protocol

import numpy as np

from kernel.engine.base import EngineError, Opening
from kernel.engine.textside.gatechild import (
    ACCEPT,
    ADMITS,
    ADMITTED,
    BUILD_CPU_S,
    CLOSING,
    OK,
    OPERATION_CPU_S,
    QUESTION,
    TOKEN,
)

BUILD_S = 60.0  # a net for a process that stands still: gatechild.py limits what it may use of the CPU
ANSWER_S = 30.0
CAUSE_S = 1.0  # between the end of a process and its server's word about it
_MAX_ANSWER_BYTES = 1 << 20


class Starter(Protocol):
    """Who has the processes: client.TextSide."""

    def start_checker(
        self, opening: Opening, generated: tuple[int, ...]
    ) -> tuple[int, socket.socket]:
        """Start a process; return its number and the socket to it. Raises EngineError."""
        ...

    def end_checker(self, number: int) -> None: ...

    def why_ended(self, number: int, wait_s: float) -> tuple[int, int] | None:
        """Return (signal, exit status) of a process that ended; None: nobody knows, for the server ended too."""
        ...


class Gate:
    """See base.Gate. The process starts at once and is waited for when it is first asked."""

    def __init__(self, starter: Starter, opening: Opening, vocab: int) -> None:
        self.opening = opening
        self._starter = starter
        self._vocab = vocab
        first = len(opening.tokens) - opening.generated
        self.accepted = list(opening.tokens[first:])
        self._trouble: EngineError | None = None
        self._is_built = False
        self._number, self._link = self._start()

    def admits(self, token: int) -> bool:
        return self._ask(ADMITS, token) == b"\1"

    def admitted(self) -> np.ndarray:
        bits = np.frombuffer(self._ask(ADMITTED), dtype=np.uint8)
        return np.unpackbits(bits, count=self._vocab).view(np.bool_)

    def closing(self) -> int:
        return int(TOKEN.unpack(self._ask(CLOSING))[0])

    def accept(self, token: int) -> None:
        self.accepted.append(token)
        with contextlib.suppress(OSError):  # the next question finds out
            if self._link is not None:
                self._link.send(QUESTION.pack(ACCEPT, token))

    def park(self) -> None:
        """End the process; the next question starts another."""
        if self._link is not None:
            self._link.close()
            self._link = None
            self._starter.end_checker(self._number)

    def fits(self, opening: Opening) -> bool:
        """Whether this gate is at the place where an opening of the same request goes on."""
        first = len(opening.tokens) - opening.generated
        return self._trouble is None and self.accepted == list(opening.tokens[first:])

    def _start(self) -> tuple[int, socket.socket | None]:
        self._is_built = False
        return self._starter.start_checker(self.opening, tuple(self.accepted))

    def _ask(self, operation: int, token: int = 0) -> bytes:
        """Return the answer to a question. Raises EngineError, from then on always the same."""
        if self._trouble is None:
            for _ in range(2):
                try:
                    return self._try_ask(operation, token)
                except ConnectionError:
                    self._link = None
                except EngineError as error:
                    self._trouble = error
                    self.park()
                    break
        raise self._trouble or EngineError("the text side died twice while a grammar was asked")

    def _try_ask(self, operation: int, token: int) -> bytes:
        """Raises ConnectionError when the process was lost through no fault of the grammar."""
        if self._link is None:
            self._number, self._link = self._start()
        if not self._is_built:
            self._receive(BUILD_S)
            self._is_built = True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # _receive says why
            self._link.send(QUESTION.pack(operation, token))
        return self._receive(ANSWER_S)

    def _receive(self, wait_s: float) -> bytes:
        assert self._link is not None
        poller = select.poll()
        poller.register(self._link, select.POLLIN)
        if not poller.poll(wait_s * 1000):
            raise EngineError(f"the grammar did not answer within {wait_s:g} s")
        try:
            answer = self._link.recv(_MAX_ANSWER_BYTES)
        except ConnectionResetError:
            answer = b""
        if not answer:
            raise self._cause()
        if answer[:1] != OK:
            raise EngineError(answer[1:].decode(errors="replace"))
        return answer[1:]

    def _cause(self) -> Exception:
        """Return why the process ended."""
        self._link.close()
        ended = self._starter.why_ended(self._number, CAUSE_S)
        if ended is None:
            return ConnectionError()
        killer, status = ended
        if killer in (signal.SIGPROF, signal.SIGXCPU):
            limit_s, what = (
                (OPERATION_CPU_S, "for one token")
                if self._is_built
                else (BUILD_CPU_S, "to be read")
            )
            return EngineError(f"the grammar takes more than {limit_s:g} s of CPU {what}")
        if killer:
            return EngineError(
                f"the grammar killed its checker: signal {signal.Signals(killer).name}"
            )
        return EngineError(f"the grammar ended its checker with status {status}")
