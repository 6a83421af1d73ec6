"""Questions about text, answered by children that may be killed: quick ones by one child, slow ones by others.

Who calls it: server.py. What must hold: every job ends in one answer or one error that says which limit it met; a
child's death is its job's alone; senders take turns, and a slow job keeps nobody from the quick child for longer
than QUICK_S.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kernel.engine.base import EngineError
from kernel.engine.link import READ_BYTES, Unframer, frame
from kernel.engine.textside.process import become_private, keep_only, limit

QUICK_S = 0.05  # that a job may keep the quick child; beyond it is slow
SLOW_AT_ONCE = 2
CPU_S = 5  # of one job
WALL_S = 30.0  # the same, on a busy machine
MEMORY_BYTES = 1 << 30
_NICE, _SLOW_NICE = 10, 19  # of children: the model's threads go first, for a step waits for the last of them
_SUBJECTS = {
    "tokenize": "the tokenizer",
    "detokenize": "the tokenizer",
    "pieces": "the tokenizer",
    "chat": "the chat template",
    "facts": "the chat template",
    "constraint": "the constraint",
}


class Job(NamedTuple):
    ticket: int
    what: str
    value: dict[str, Any]

    @property
    def subject(self) -> str:
        return _SUBJECTS.get(self.what, "the question")


Ended = tuple[int, Any, str | None]  # ticket, answer, error


@dataclass(slots=True)
class _Child:
    pid: int
    link: socket.socket
    job: Job | None = None
    began_s: float = 0.0
    unframer: Unframer = field(default_factory=Unframer)


class Turns:
    """Jobs that wait, by sender: each sender's next one comes when every other has had one."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[Job]] = {}  # the order of keys is the order of turns

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, job: Job) -> None:
        self._waiting.setdefault(job.value.get("sender", 0), deque()).append(job)

    def take(self) -> Job:
        sender = next(iter(self._waiting))
        jobs = self._waiting.pop(sender)
        job = jobs.popleft()
        if jobs:
            self._waiting[sender] = jobs
        return job


class Jobs:
    """`answer` does a job, in a child."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], Any]) -> None:
        self._answer = answer
        self._waiting = Turns()
        self._slow_waiting = Turns()  # that were found to be slow while others were
        self._quick: _Child | None = None
        self._slow: list[_Child] = []

    def add(self, ticket: int, what: str, value: dict[str, Any]) -> None:
        self._waiting.put(Job(ticket, what, value))
        self._go_on()

    def close(self) -> None:
        """End all children; jobs without an answer stay without one."""
        for child in [*self._slow, *([self._quick] if self._quick else [])]:
            self._bury(child)

    def renew(self) -> None:
        """Have the next job done by a child that has all that this process has by now; none is under way."""
        if self._quick is not None:
            self._bury(self._quick)
        self._quick = self._fork()

    def fds(self) -> list[int]:
        """Descriptors that serve wants to know of when they are readable."""
        return [child.link.fileno() for child in self._busy()]

    def timeout_s(self) -> float | None:
        """Until serve must be called whatever is readable."""
        ends = [child.began_s + WALL_S for child in self._slow]
        if self._quick is not None and self._quick.job is not None:
            ends.append(self._quick.began_s + QUICK_S)
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def serve(self, ready: Iterable[int]) -> Iterator[Ended]:
        """Read from children; yield what ended; look after those that take long."""
        readable = set(ready)
        for child in [one for one in self._busy() if one.link.fileno() in readable]:
            ended = self._read(child)
            if ended is not None:
                yield ended
        now_s = time.monotonic()
        for child in [one for one in self._slow if now_s >= one.began_s + WALL_S]:
            self._slow.remove(child)
            self._bury(child)
            assert child.job is not None
            yield child.job.ticket, None, f"{child.job.subject} did not finish within {WALL_S:g} s"
        quick = self._quick
        if quick is not None and quick.job is not None and now_s >= quick.began_s + QUICK_S:
            self._make_slow(quick)
        self._go_on()

    def _busy(self) -> list[_Child]:
        quick = [self._quick] if self._quick is not None and self._quick.job is not None else []
        return quick + self._slow

    def _go_on(self) -> None:
        """Give jobs to the children that are free."""
        while self._slow_waiting and len(self._slow) < SLOW_AT_ONCE:
            self._slow.append(self._fork())
            os.setpriority(os.PRIO_PROCESS, self._slow[-1].pid, _SLOW_NICE)
            self._give(self._slow[-1], self._slow_waiting.take())
        if self._waiting and (self._quick is None or self._quick.job is None):
            self._quick = self._quick or self._fork()
            self._give(self._quick, self._waiting.take())

    def _give(self, child: _Child, job: Job) -> None:
        child.job, child.began_s = job, time.monotonic()
        try:
            child.link.sendall(frame((job.what, job.value)))
        except OSError:
            return  # it is dead: its end of the link is readable

    def _make_slow(self, child: _Child) -> None:
        """The quick child's job is slow: let it go on as such, or begin again when there is room."""
        self._quick = None
        if len(self._slow) < SLOW_AT_ONCE:
            os.setpriority(os.PRIO_PROCESS, child.pid, _SLOW_NICE)
            self._slow.append(child)
        else:
            assert child.job is not None
            self._slow_waiting.put(child.job)
            self._bury(child)

    def _read(self, child: _Child) -> Ended | None:
        """Take what a child has sent; return its job's end when that is all there."""
        assert child.job is not None
        ticket = child.job.ticket
        try:
            data = child.link.recv(READ_BYTES)
        except OSError:
            data = b""
        if not data:
            error = f"{child.job.subject} {self._drop(child)}"
            return ticket, None, error
        child.unframer.feed(data)
        for value, error in child.unframer.messages():
            child.job = None
            if child is not self._quick:
                self._drop(child)
            return ticket, value, error
        return None

    def _drop(self, child: _Child) -> str:
        """End a child for good; return what it died of, in words that follow its job's subject."""
        if child is self._quick:
            self._quick = None
        else:
            self._slow.remove(child)
        return _cause(self._bury(child))

    @staticmethod
    def _bury(child: _Child) -> int:
        """Return the status of a child that is taken down, as waitpid has it."""
        child.link.close()
        found, status = os.waitpid(child.pid, os.WNOHANG)
        if not found:
            os.kill(child.pid, signal.SIGKILL)
            _, status = os.waitpid(child.pid, 0)
        return status

    # -- in the child -------------------------------------------------------------------------

    def _fork(self) -> _Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        pid = os.fork()
        if pid == 0:
            self._be_child(theirs)
        theirs.close()
        return _Child(pid, ours)

    def _be_child(self, link: socket.socket) -> None:
        """Do jobs until the server closes its end; nothing of the server's own work goes on."""
        try:
            become_private(b"agentix-text-job")
            os.nice(_NICE)
            keep_only(link.fileno())
            limit(MEMORY_BYTES)
            unframer = Unframer()
            while data := link.recv(READ_BYTES):
                unframer.feed(data)
                for what, value in unframer.messages():
                    link.sendall(frame(self._do(what, value)))
            os._exit(0)
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _do(self, what: str, value: dict[str, Any]) -> tuple[Any, str | None]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = int(used.ru_utime + used.ru_stime) + CPU_S
        resource.setrlimit(
            resource.RLIMIT_CPU, (cpu_s, resource.RLIM_INFINITY)
        )  # the end of it: SIGXCPU
        try:
            return self._answer(what, value), None
        except EngineError as error:
            return None, str(error)
        except MemoryError:
            return (
                None,
                f"{Job(0, what, value).subject} needs more than {MEMORY_BYTES >> 20} MiB of memory",
            )


def _cause(status: int) -> str:
    if not os.WIFSIGNALED(status):
        return f"ended its process with status {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    if number == signal.SIGXCPU:
        return f"did not finish within {CPU_S} s of CPU"
    return f"killed its process: signal {signal.Signals(number).name}"
