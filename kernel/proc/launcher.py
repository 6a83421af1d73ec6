"""Starts, signals and buries the processes of agents.

Who calls it: the loop. What must hold: a launched process leads a session of its own and cannot
outlive the kernel; it is reaped only here, so its pid is its own for as long as this table holds it;
when it ends, what it left running in its session ends too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kernel.abi.address import NAME_VARIABLE, SOCKET_VARIABLE
from kernel.identity import birth_of
from kernel.proc.usage import read_stat, scan

NICE = 10  # a spinning agent at the kernel's own priority takes two thirds of everyone's tokens
READ_BYTES = 64 << 10  # of a process's output at a time
DRAIN_BYTES = 1 << 20  # most that is read after its end, from whoever still writes into the pipe

_ROOT = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl  # loaded here: the child of a fork must not load libraries


class LaunchError(Exception):
    """A process that could not be started; the text is for the person who asked."""


class Launcher:
    """Every process that is a task, launched or adopted, by pid."""

    def __init__(self, kernel_name: str) -> None:
        self._kernel_name = kernel_name
        self._known: dict[int, Process] = {}
        self._open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    def set_child_open_files(self, soft: int) -> None:
        """Give children this limit of descriptors: the kernel has raised its own."""
        self._open_files = soft

    def launch(
        self, argv: tuple[str, ...], env: Mapping[str, str], cwd: str | None, own_socket: str
    ) -> Process:
        """Start a Python script, telling it the name of its socket. Raises LaunchError."""
        output, their_end = -1, -1
        try:
            output, their_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.set_blocking(their_end, True)
            child = subprocess.Popen(
                (sys.executable, *argv),
                stdin=subprocess.DEVNULL,
                stdout=their_end,
                stderr=their_end,
                cwd=cwd,
                env=self._environment(env) | {SOCKET_VARIABLE: own_socket},
                start_new_session=True,
                preexec_fn=_before_exec(os.getpid(), self._open_files),  # noqa: PLW1509 - see there
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            if output >= 0:
                os.close(output)
            raise LaunchError(_in_words(argv, cwd, error)) from None
        finally:
            if their_end >= 0:
                os.close(their_end)
        try:
            pidfd = os.pidfd_open(child.pid)
        except OSError as error:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            os.close(output)
            raise LaunchError(_in_words(argv, cwd, error)) from None
        # From here and not in the child, which the kernel waits for until it has become the script.
        nice = min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, child.pid, nice)
        birth = birth_of(child.pid) or 0  # there is one until it is reaped
        process = self._known[child.pid] = Process(child.pid, birth, pidfd, output, child)
        return process

    def watch(self, pid: int, birth: int) -> Process | None:
        """Adopt a process that is no child of ours. None when it is known already.

        Raises LaunchError when it is gone, or cannot be watched.
        """
        if pid in self._known:
            return None
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise LaunchError(f"process {pid}: {error.strerror}") from None
        if birth_of(pid) != birth:
            os.close(pidfd)
            raise LaunchError(f"process {pid}: it is another by now")
        process = self._known[pid] = Process(pid, birth, pidfd, -1, None)
        return process

    def signal(self, pid: int, number: int) -> None:
        """Signal a task's process; with its group when it was launched. Unknown pids are ignored."""
        process = self._known.get(pid)
        if process is None:
            return
        try:
            if process.child is not None:
                os.killpg(pid, number)
            else:
                signal.pidfd_send_signal(process.pidfd, number)
        except ProcessLookupError:
            pass
        except PermissionError:  # a group with a member of another user: ours at least
            signal.pidfd_send_signal(process.pidfd, number)

    def bury(self, process: Process) -> tuple[int | None, int | None]:
        """Reap a process that has ended: return (exit status, signal), both None for an adopted one.

        Its group is killed before it is reaped: until then the group's number is nobody else's.
        """
        del self._known[process.pid]
        os.close(process.pidfd)
        if process.child is None:
            return None, None
        _kill_group(process.pid)
        code = process.child.wait()
        return (code, None) if code >= 0 else (None, -code)

    def sweep(self, sessions: set[int]) -> None:
        """Kill what is left in the sessions of processes that were buried, whatever its group.

        A session's number stays taken while it has a member; a known pid is a new process's.
        """
        _kill_members(sessions - self._known.keys())

    def close(self) -> None:
        """Kill and reap all that was launched."""
        launched = [process for process in self._known.values() if process.child is not None]
        for process in launched:
            _kill_group(process.pid)
        _kill_members({process.pid for process in launched})
        for process in list(self._known.values()):
            process.close_output()
            self.bury(process)

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        env = {**os.environ, **extra}
        paths = [str(_ROOT / "agents"), str(_ROOT), *filter(None, [env.get("PYTHONPATH")])]
        return env | {
            NAME_VARIABLE: self._kernel_name,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
        }


class Process:
    """A task's process: `output` is the pipe of all that it prints, -1 when there is none."""

    __slots__ = ("birth", "child", "output", "pid", "pidfd")

    def __init__(
        self, pid: int, birth: int, pidfd: int, output: int, child: subprocess.Popen[bytes] | None
    ) -> None:
        self.pid = pid
        self.birth = birth
        self.pidfd = pidfd
        self.output = output
        self.child = child

    def read(self) -> bytes | None:
        """Return some output, b"" at its end, None when there is none now."""
        try:
            return os.read(self.output, READ_BYTES)
        except BlockingIOError:
            return None

    def close_output(self) -> None:
        output, self.output = self.output, -1
        if output >= 0:
            os.close(output)

    def drain(self) -> Iterator[bytes]:
        """Yield what is left in the pipe of a process that has ended."""
        left = DRAIN_BYTES
        while self.output >= 0 and left > 0:
            data = self.read()
            if not data:
                return
            left -= len(data)
            yield data


def _before_exec(kernel_pid: int, open_files: int) -> Callable[[], None]:
    """Return what the child does between fork and exec.

    Safe: the kernel has no other thread, and the library called is loaded already.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = (min(open_files, most) if most >= 0 else open_files, most)

    def prepare() -> None:
        _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != kernel_pid:  # it died before the line above
            os._exit(1)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    return prepare


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        _kill(pid, pid)


def _kill_members(sessions: set[int]) -> None:
    """Kill all processes of these sessions but their leaders."""
    for stat in scan() if sessions else ():
        if stat.session in sessions and stat.pid != stat.session and stat.state not in "ZX":
            _kill(stat.pid, stat.session)


def _kill(pid: int, session: int) -> None:
    """Kill one process, if the pid still names a member of the session."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        stat = read_stat(pid)
        if stat is not None and stat.session == session:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(pidfd)


def _in_words(argv: tuple[str, ...], cwd: str | None, error: Exception) -> str:
    what = f"cannot start {argv[0] if argv else 'python'!r}"
    if isinstance(error, OSError) and error.strerror:
        where = f" in {cwd!r}" if cwd is not None and error.filename == cwd else ""
        return f"{what}{where}: {error.strerror}"
    return f"{what}: {error}"
