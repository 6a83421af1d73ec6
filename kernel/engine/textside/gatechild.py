"""One request's constraint: the process that runs its grammar, however the grammar is made.

Who calls it: gates.py, in a child of the text side's process; gate.py in the core is at the other end. What must
hold: a question is answered by one message, or this process ends; whatever a grammar does to time and memory, it
does here.

Messages are a socket's own (SOCK_SEQPACKET). Questions: an operation and a token. Answers: OK or FAILED, then what
was asked for or why not. The first message is an answer without a question: the grammar has been read.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable

from kernel.engine.base import Constraint, EngineError
from kernel.engine.textside.automaton import Automaton
from kernel.engine.textside.gbnf import parse
from kernel.engine.textside.lexicon import Lexicon
from kernel.engine.textside.plan import Plan
from kernel.engine.textside.process import limit
from kernel.engine.textside.schema import to_gbnf

ADMITS, ADMITTED, CLOSING, ACCEPT = range(4)
OK, FAILED = b"\0", b"\1"
QUESTION = struct.Struct("<Bi")
TOKEN = struct.Struct("<i")

BUILD_CPU_S = 1.0  # to read a grammar and to follow the tokens that came already
OPERATION_CPU_S = 0.15  # for one question; the core's step waits for it
SPARE_CPU_S = 0.5  # for all questions of a request, beyond ...
TOKEN_CPU_S = (
    0.02  # ... this for each token: a grammar that is slow all the time slows the steps of others
)
MEMORY_BYTES = 256 << 20


def make_plan(
    constraint: Constraint, max_tokens: int, lexicon: Lexicon, token_of: Callable[[str], int | None]
) -> Plan:
    """Return the plan of a text that follows a constraint. Raises EngineError with the reason in words."""
    if lexicon.end < 0:
        raise EngineError(
            "the model has no token that ends a text: no text of it can be constrained"
        )
    try:
        return Plan(Automaton(parse(_gbnf_of(constraint), token_of), lexicon), lexicon, max_tokens)
    except RecursionError:
        raise EngineError("the constraint is nested too deep") from None


def _gbnf_of(constraint: Constraint) -> str:
    if constraint.kind == "gbnf":
        return constraint.text
    if constraint.kind == "json_schema":
        return to_gbnf(constraint.text)
    before, after, schema = json.loads(constraint.text)
    return to_gbnf(schema, before, after)


def tokens_needed(
    constraint: Constraint, max_tokens: int, lexicon: Lexicon, token_of: Callable[[str], int | None]
) -> int:
    """Return how many tokens a shortest text takes; -1 where the vocabulary cannot write it.

    Raises EngineError for a constraint that cannot be followed, or only slowly: better now than when the model waits.
    """
    began_s = time.process_time()
    plan = make_plan(constraint, max_tokens, lexicon, token_of)
    built_s = time.process_time()
    plan.admitted()
    for what, took_s, most_s in (
        ("to be read", built_s - began_s, BUILD_CPU_S / 2),
        ("for its first token", time.process_time() - built_s, OPERATION_CPU_S / 2),
    ):
        if took_s > most_s:
            raise EngineError(
                f"the grammar takes {took_s:.2f} s of CPU {what}, the limit is {most_s:g} s"
            )
    return plan.needed


class Checker:
    """The process's work. `link` is its end of the socket to the core."""

    def __init__(
        self, link: socket.socket, lexicon: Lexicon, token_of: Callable[[str], int | None]
    ) -> None:
        self._link = link
        self._lexicon = lexicon
        self._token_of = token_of
        self._plan: Plan | None = None
        self._accepted = 0
        self._trouble: EngineError | None = (
            None  # with a token that was told, for the next question
        )

    def run(self, constraint: Constraint, max_tokens: int, generated: tuple[int, ...]) -> None:
        """Read the grammar, then answer until the core closes its end."""
        limit(MEMORY_BYTES)
        self._answer(BUILD_CPU_S, lambda: self._build(constraint, max_tokens, generated))
        built_s = time.process_time()
        while question := self._link.recv(QUESTION.size):
            operation, token = QUESTION.unpack(question)
            if operation == ACCEPT:
                self._timed(OPERATION_CPU_S, lambda token=token: self._accept(token))
            elif time.process_time() - built_s > SPARE_CPU_S + TOKEN_CPU_S * self._accepted:
                self._say(
                    FAILED + b"the grammar takes too long: more than %g s a token" % TOKEN_CPU_S
                )
            else:
                self._answer(OPERATION_CPU_S, lambda ask=(operation, token): self._ask(*ask))

    def _build(self, constraint: Constraint, max_tokens: int, generated: tuple[int, ...]) -> bytes:
        plan = make_plan(constraint, max_tokens, self._lexicon, self._token_of)
        for token in generated:
            plan.accept(token)
        self._plan = plan
        return b""

    def _accept(self, token: int) -> None:
        self._accepted += 1
        try:
            self._asked().accept(token)
        except EngineError as error:
            self._trouble = error

    def _ask(self, operation: int, token: int) -> bytes:
        plan = self._asked()
        if operation == ADMITS:
            return b"\1" if plan.admits(token) else b"\0"
        if operation == ADMITTED:
            return plan.admitted().tobytes()
        return TOKEN.pack(plan.closing())

    def _asked(self) -> Plan:
        if self._trouble is not None:
            raise self._trouble
        if self._plan is None:
            raise EngineError("the grammar could not be read")
        return self._plan

    def _answer(self, cpu_s: float, work: Callable[[], bytes]) -> None:
        try:
            answer = OK + self._timed(cpu_s, work)
        except EngineError as error:
            answer = FAILED + str(error).encode(errors="replace")[:4096]
        except MemoryError:
            answer = FAILED + b"the grammar needs more than %d MiB of memory" % (MEMORY_BYTES >> 20)
        self._say(answer)

    @staticmethod
    def _timed(cpu_s: float, work: Callable[[], object]):
        """Do something within a time of this process's own, or die of SIGPROF."""
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        try:
            return work()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def _say(self, answer: bytes) -> None:
        try:
            self._link.send(answer)
        except (BrokenPipeError, ConnectionResetError):  # the core has no more questions
            os._exit(0)
