"""Runs set-up's commands: output to a log, a clear error when one fails, and no process left behind.

Used by build.py and install.py, and the only file of the two that starts processes. Standard library only.
Invariant: however `Runner.run` is left (success, failure, Ctrl-C, SIGTERM), the command's processes have ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from kernel.engine.buildlog import ADVICE, Exit, diagnose, last_meaningful

TICK_S = 1.0  # how often a silent command's progress is redrawn
GRACE_S = 5.0  # between asking a command to stop and killing it
POLL_S = 0.02  # between two looks at whether it has stopped
REMEMBERED_LINES = 3000  # of output, to find the cause of a failure in


class BuildError(Exception):
    """A step failed. The message is for the user and complete; `kind` is the exit status."""

    def __init__(self, kind: Exit, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def output_of(argv: Sequence[str]) -> str:
    """What a short command prints on standard output; raises OSError or SubprocessError when it fails."""
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


@contextlib.contextmanager
def locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the advisory lock of a file or directory; the system drops it when this process ends, however it ends."""
    fd = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another set-up is at work and holds {path}: waiting for it")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def die_tidily() -> None:
    """Make SIGTERM and SIGHUP unwind like Ctrl-C, so that what we started is stopped first."""

    def unwind(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signum)

    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, unwind)


class Runner:
    """Runs one command at a time; all output goes to `log_path`, which starts empty."""

    def __init__(self, log_path: Path, environment: Mapping[str, str]) -> None:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log_path.write_bytes(b"")
        self.log_path = log_path
        self._environment = dict(environment)

    def run(
        self,
        argv: Sequence[str],
        failure: str,
        on_line: Callable[[str], object] = lambda line: None,
        on_tick: Callable[[], object] = lambda: None,
    ) -> None:
        """Run `argv` to its end, or raise a BuildError that starts with `failure`."""
        recent: deque[str] = deque(maxlen=REMEMBERED_LINES)
        try:
            # its own session: Ctrl-C reaches us alone, and we stop the whole group
            process = subprocess.Popen(
                argv, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise BuildError(Exit.BUILD_FAILED, f"{failure}: cannot run {argv[0]}: {error.strerror}") from error
        assert process.stdout is not None
        try:
            with self.log_path.open("a") as log, process.stdout:
                print("$", *argv, file=log)
                start_s = time.monotonic()
                for line in lines_of(process.stdout.fileno(), on_tick):
                    print(f"{time.monotonic() - start_s:7.1f} {line}", file=log, flush=True)
                    recent.append(line)
                    on_line(line)
            status = process.wait()
        except BaseException:
            stop_session(process)
            raise
        if status != 0:
            raise self._error(failure, status, recent)

    def _error(self, failure: str, status: int, lines: Sequence[str] | deque[str]) -> BuildError:
        kind = diagnose(lines)
        ended = f"exit status {status}" if status >= 0 else f"killed by signal {-status}"
        tail = "\n".join(f"    {line}" for line in last_meaningful(lines))
        return BuildError(
            kind, f"{failure} ({ended}). Its last lines:\n{tail}\nThe whole log: {self.log_path}\n{ADVICE[kind]}"
        )


def lines_of(fd: int, on_tick: Callable[[], object]) -> Iterator[str]:
    """The lines that arrive on a pipe until it closes, calling `on_tick` after each batch or second of silence."""
    pending = b""
    while True:
        on_tick()
        if not select.select([fd], [], [], TICK_S)[0]:
            continue
        if not (chunk := os.read(fd, 1 << 16)):
            break
        *whole, pending = (pending + chunk).split(b"\n")
        yield from (line.decode(errors="replace").rstrip("\r") for line in whole)
    if pending:
        yield pending.decode(errors="replace")


def stop_session(process: subprocess.Popen[bytes]) -> None:
    """End a command that leads its own session, and all it started: politely first, then by force.

    The session and not the process group: ninja gives each compiler a group of its own.
    """
    for signum in (signal.SIGTERM, signal.SIGKILL):
        for pid in living_members(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        deadline_s = time.monotonic() + GRACE_S
        while process.poll() is None or living_members(process.pid):
            if time.monotonic() > deadline_s:
                break
            time.sleep(POLL_S)
        else:
            return


def living_members(session: int) -> list[int]:
    """The processes of a session that have not ended; one that nobody has waited for yet has ended."""
    members = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            if os.getsid(pid) == session and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                members.append(pid)
    return members


def stop_strays(scratch: Path) -> None:
    """End what is left of a build whose parent was killed outright: pip and ninja would go on for minutes.

    They are known by the scratch directory in their environment, which no other process was ever given.
    """
    mark = b"TMPDIR=" + os.fsencode(scratch)
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)
