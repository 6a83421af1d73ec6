"""The socket between the kernel and the LLM core: messages of both ends, and the kernel's end of it.

Who calls it: the loop owns a CoreProcess, worker.py the other end. What must hold: messages arrive in
the order in which they were sent, descriptors with the message that they belong to; nothing here
blocks the kernel; whatever a broken core sends, the kernel gets a CoreLost and no exception.

A message is a 4-byte length and a msgpack array: a kind, then its fields by position.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from kernel.abi.codec import pack, unpack
from kernel.engine.base import (
    Bank,
    Base,
    Constraint,
    EngineInfo,
    Opening,
    Restore,
    Row,
    Sampled,
    Sampling,
    Save,
    StepPlan,
    StepResult,
)
from kernel.events import CoreAnswer, CoreLost, CoreReady, Event, StepDone

PLAN, ASK, ATTACH, DETACH = range(4)  # down
READY, FATAL, DONE, ANSWER = range(4)  # up
MAX_MESSAGE_BYTES = 256 << 20  # the tokens of the longest text fit many times
READ_BYTES = 256 << 10
MAX_READS = 4  # in one turn of the loop
MAX_DESCRIPTORS = 8  # in one message; one is sent
STDERR_BYTES = 4096  # kept of what a core says last
END_MS = 500  # between the end of a core's link and the end of the core

_LENGTH = struct.Struct("<I")


class LinkError(Exception):
    """What came over the link is no message of ours."""


# -- messages ---------------------------------------------------------------------------------


def _fields_of(kind: type) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function from an object of a dataclass with slots to its fields by position."""
    return attrgetter(*kind.__slots__)  # type: ignore[attr-defined]


_of_save, _of_restore, _of_base, _of_row = _fields_of(Save), _fields_of(Restore), _fields_of(Base), _fields_of(Row)
_of_opening, _of_sampling, _of_constraint = _fields_of(Opening), _fields_of(Sampling), _fields_of(Constraint)
_of_sampled, _of_result = _fields_of(Sampled), _fields_of(StepResult)
_of_info, _of_bank = _fields_of(EngineInfo), _fields_of(Bank)


def frame(message: tuple[Any, ...]) -> bytes:
    """Return a message with its length before it."""
    body = pack(message)
    return _LENGTH.pack(len(body)) + body


def plan_message(plan: StepPlan) -> tuple[Any, ...]:
    return (
        PLAN,
        plan.number,
        plan.closes,
        [_of_save(save) for save in plan.saves],
        plan.clears,
        plan.banks,
        [_restore_fields(back) for back in plan.restores],
        [_opening_fields(opening) for opening in plan.openings],
        [_of_row(row) for row in plan.decodes],
        [_of_row(row) for row in plan.chunks],
    )


def read_plan(fields: tuple[Any, ...]) -> StepPlan:
    """The inverse of plan_message, less its kind."""
    number, closes, saves, clears, banks, restores, openings, decodes, chunks = fields
    return StepPlan(
        number,
        closes,
        tuple([Save(*save) for save in saves]),
        clears,
        banks,
        tuple([_restore(*back) for back in restores]),
        tuple([_opening(*opening) for opening in openings]),
        tuple([Row(*row) for row in decodes]),
        tuple([Row(*row) for row in chunks]),
    )


def _restore_fields(back: Restore) -> tuple[Any, ...]:
    *fields, base = _of_restore(back)
    return (*fields, None if base is None else _of_base(base))


def _restore(*fields: Any) -> Restore:
    *rest, base = fields
    return Restore(*rest, None if base is None else Base(*base))


def result_message(result: StepResult) -> tuple[Any, ...]:
    number, sampled, *rest = _of_result(result)
    return (DONE, number, [_of_sampled(one) for one in sampled], *rest)


def read_result(fields: tuple[Any, ...]) -> StepResult:
    """The inverse of result_message, less its kind."""
    number, sampled, *rest = fields
    return StepResult(number, tuple([Sampled(*one) for one in sampled]), *rest)


def ready_message(info: EngineInfo) -> tuple[Any, ...]:
    banks = [_of_bank(bank) for bank in info.banks]
    return (READY, *(banks if value is info.banks else value for value in _of_info(info)))


def read_info(fields: tuple[Any, ...]) -> EngineInfo:
    """The inverse of ready_message, less its kind."""
    info = EngineInfo(*fields)
    return replace(info, banks=tuple([Bank(*bank) for bank in info.banks]))  # type: ignore[misc]


def _opening_fields(opening: Opening) -> tuple[Any, ...]:
    request, slot, sampling, constraint, *rest = _of_opening(opening)
    rule = None if constraint is None else _of_constraint(constraint)
    return (request, slot, _of_sampling(sampling), rule, *rest)


def _opening(
    request: int, slot: int, sampling: tuple[Any, ...], rule: tuple[Any, ...] | None, *rest: Any
) -> Opening:
    constraint = None if rule is None else Constraint(*rule)
    return Opening(request, slot, Sampling(*sampling), constraint, *rest)


class Unframer:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def messages(self) -> Iterator[tuple[Any, ...]]:
        """Yield the whole messages. Raises LinkError for what is none."""
        used = 0
        try:
            while len(self._buffer) - used >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer, used)
                if length > MAX_MESSAGE_BYTES:
                    raise LinkError(f"a message of {length} bytes")
                start = used + _LENGTH.size
                if len(self._buffer) < start + length:
                    return
                used = start + length
                yield _unpack_message(bytes(self._buffer[start:used]))
        finally:
            del self._buffer[:used]


def _unpack_message(raw: bytes) -> tuple[Any, ...]:
    try:
        message = unpack(raw)
    except Exception as error:  # msgpack raises half a dozen unrelated classes
        raise LinkError(f"no msgpack: {error}") from None
    if not isinstance(message, tuple) or not message:
        raise LinkError(f"a {type(message).__name__} for a message")
    return message


# -- the kernel's end -------------------------------------------------------------------------


class CoreProcess:
    """A running LLM core. Raises OSError from the constructor when it cannot be started.

    The command gets `--fd N` appended. Events carry `core`, the place of its model among the kernel's. After read
    has returned a CoreLost the object is closed.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None, core: int = 0) -> None:
        self.core = core
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.stderr_fd, their_stderr = -1, -1
        try:
            self._link.setblocking(False)
            self.stderr_fd, their_stderr = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self.stderr_fd, False)
            self._child = subprocess.Popen(
                (*command, "--fd", str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=their_stderr,
                stderr=their_stderr,
                env=None if env is None else dict(env),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # the terminal's Ctrl-C is for the kernel
            )
        except OSError:
            self._link.close()
            if self.stderr_fd >= 0:
                os.close(self.stderr_fd)
            raise
        finally:
            theirs.close()
            if their_stderr >= 0:
                os.close(their_stderr)
        self.pid = self._child.pid
        self._is_ready = False
        self._is_closed = False
        self._unsent: deque[tuple[memoryview, int]] = deque()  # bytes, and a descriptor or -1
        self._unframer = Unframer()
        self._stderr = b""

    @property
    def link_fd(self) -> int:
        return self._link.fileno()

    @property
    def is_sending(self) -> bool:
        """Whether flush is to be called when the link takes more."""
        return bool(self._unsent)

    def send(self, message: tuple[Any, ...], descriptor: int = -1) -> None:
        """Send or keep a message; the descriptor stays the caller's. Raises what msgpack raises."""
        raw = memoryview(frame(message))
        if self._unsent:
            self._keep(raw, descriptor)
        else:
            sent = self._try_send(raw, descriptor)
            if sent < len(raw):
                self._keep(raw[sent:], -1 if sent else descriptor)

    def flush(self) -> None:
        """Send what was kept, as far as it goes."""
        while self._unsent:
            raw, descriptor = self._unsent[0]
            sent = self._try_send(raw, descriptor)
            if sent and descriptor >= 0:
                os.close(descriptor)
                descriptor = -1
            if sent < len(raw):
                self._unsent[0] = raw[sent:], descriptor
                return
            self._unsent.popleft()

    def read(self, now_ns: int) -> list[Event]:
        """Return what the core has said; a CoreLost is the last of it."""
        events: list[Event] = []
        trouble = ""
        for _ in range(MAX_READS):
            try:
                data = self._link.recv(READ_BYTES)
            except BlockingIOError:
                return events
            except OSError:  # ECONNRESET: it died with our messages unread
                data = b""
            if not data:
                return [*events, self._lost(now_ns, trouble)]
            try:
                self._unframer.feed(data)
                for message in self._unframer.messages():
                    event = self._event(now_ns, message)
                    events.append(event)
                    if isinstance(event, CoreLost):
                        return events
            except Exception as error:  # any shape of nonsense: its sender is done for
                self.kill()
                shown = ascii(str(error))[1:-1][:200]
                return [*events, self._lost(now_ns, f"it sent what is no message: {shown}")]
            if len(data) < READ_BYTES:
                return events
        return events

    def read_stderr(self) -> bytes:
        """Return what the core printed since; b"" when there is nothing or it is closed."""
        if self.stderr_fd < 0:
            return b""
        try:
            data = os.read(self.stderr_fd, READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            os.close(self.stderr_fd)
            self.stderr_fd = -1
        self._stderr = (self._stderr + data)[-STDERR_BYTES:]
        return data

    def kill(self) -> None:
        self._child.kill()

    def close(self) -> None:
        """End the core and give back all that was held for it. Closing twice is harmless."""
        if self._is_closed:
            return
        self._is_closed = True
        self._child.kill()
        self._child.wait()
        self._link.close()
        if self.stderr_fd >= 0:
            os.close(self.stderr_fd)
            self.stderr_fd = -1
        for _, descriptor in self._unsent:
            if descriptor >= 0:
                os.close(descriptor)
        self._unsent.clear()

    def _keep(self, raw: memoryview, descriptor: int) -> None:
        kept = os.dup(descriptor) if descriptor >= 0 else -1  # the caller may close its own before
        self._unsent.append((raw, kept))

    def _try_send(self, raw: memoryview, descriptor: int) -> int:
        """Return how many bytes went; all, as far as anybody cares, to a core that is gone."""
        try:
            if descriptor < 0:
                return self._link.send(raw)
            return socket.send_fds(self._link, [raw], [descriptor])
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ConnectionResetError):
            return len(raw)  # read reports it

    def _event(self, now_ns: int, message: tuple[Any, ...]) -> Event:
        kind, *fields = message
        if kind == DONE:
            return StepDone(now_ns, read_result(tuple(fields)), self.core)
        if kind == ANSWER:
            ticket, value, error = fields
            return CoreAnswer(now_ns, ticket, value, error)
        if kind == READY:
            self._is_ready = True
            return CoreReady(now_ns, self.pid, read_info(tuple(fields)), self.core)
        if kind == FATAL:
            reason, is_memory = fields
            self.close()
            return CoreLost(now_ns, str(reason), False, True, bool(is_memory), self.core)
        raise LinkError(f"kind {kind!r}")

    def _lost(self, now_ns: int, trouble: str) -> CoreLost:
        self._await_end()
        code = self._child.wait()
        while self.read_stderr():
            pass
        said = self._stderr.decode(errors="replace").strip().splitlines()
        reason = trouble or f"exit status {code}"
        if code < 0 and not trouble:
            reason = f"signal {_signal_name(-code)}"
        if said and not trouble:
            reason += f": {said[-1][:300]}"
        self.close()
        return CoreLost(now_ns, reason, self._is_ready, False, core=self.core)

    def _await_end(self) -> None:
        """Let a core that closed its link end by itself, so that its own status is told; or kill it."""
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(self.pid)
            try:
                if not select.select([pidfd], [], [], END_MS / 1000)[0]:
                    self.kill()
            finally:
                os.close(pidfd)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
