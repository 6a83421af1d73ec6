"""A test stand: a real kernel process, agents spawned through it, and what they recorded.

Who calls it: every benchmark. What must hold: whatever happens here, no process of ours stays: the
kernel is asked to go, then killed by its pid, and its agents and core die with it.

Agents write their records as files into the stand's folder instead of sending them: a hundred
timestamps of each of 500 agents are no load that a benchmark wants on the kernel it measures.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from agentix import calls
from agentix.client import Connection
from agentix.errors import AgentixError, NoKernel
from benchmarks.models import model_path
from benchmarks.report import progress
from kernel.abi.codec import pack

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(__file__).resolve().parent / "agents"
BOOT_S = 180.0
CALL_S = 60.0
LOOK_S = 0.2  # between looks for records
SAY_S = 10.0  # between lines of progress
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl  # loaded here: a forked child must load nothing
_boots = 0


class StandError(Exception):
    """The kernel did not boot, or agents did not finish; the text names which and shows last lines."""


class Stand:
    """Boots a kernel in __enter__, ends it in __exit__. `config` is that of kernel.config.Config."""

    module = "kernel"  # what is run

    def __init__(self, model: str | Path | None = None, **config: Any) -> None:
        global _boots
        _boots += 1
        self.name = f"bench-{os.getpid()}-{_boots}"
        self.model = str(model or model_path())
        self.config = {"models": [{"path": self.model}], "name": self.name, **config}
        self.folder = Path(tempfile.mkdtemp(prefix="agentix-bench-"))
        self.log = self.folder / "kernel.log"
        self.operator: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Stand:
        try:
            self._boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the kernel and remove the folder."""
        process, operator = self._process, self.operator
        if operator is not None:
            with contextlib.suppress(AgentixError, OSError):
                operator.call(calls.plain("sys.shutdown"), 2.0)
            operator.close()
            self.operator = None
        if process is not None:
            if operator is None:
                process.terminate()
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()  # its core and agents die of it
                process.wait()
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- the kernel ---------------------------------------------------------------------------

    @property
    def kernel_pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def call(self, method: str, timeout: float = CALL_S, **fields: Any) -> dict[str, Any]:
        """Make an operator's call. Raises what the SDK raises."""
        assert self.operator is not None
        return self.operator.call(calls.plain(method, **fields), timeout)

    def info(self) -> dict[str, Any]:
        return self.call("sys.info")

    def stat(self) -> dict[str, Any]:
        return self.call("sys.stat")

    def tasks(self) -> dict[int, dict[str, Any]]:
        return {row["pid"]: row for row in self.call("proc.ps")["tasks"]}

    def last_lines(self, count: int = 12) -> str:
        """What the kernel printed last."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])
        except OSError:
            return "(no output)"

    def kill_core(self) -> None:
        """kill -9 the LLM core and return at once."""
        os.kill(self.info()["core_pid"], signal.SIGKILL)

    def wait_core(self, seconds: float = BOOT_S) -> None:
        """Wait until a core serves."""
        self._until(lambda: bool(self.info()["is_ready"]), seconds, "the LLM core to be ready")

    # -- agents -------------------------------------------------------------------------------

    def spawn(self, script: str | Path, settings: Mapping[str, Any] | None = None, **more: Any) -> int:
        """Start a script of benchmarks/agents (or a path) with one JSON argument; return its pid."""
        path = SCRIPTS / script if isinstance(script, str) else script
        args = [] if settings is None else [json.dumps({"folder": str(self.folder), **settings})]
        given = {"args": args, "cwd": str(ROOT), **more}
        return self.call("proc.spawn", script=str(path), **given)["pid"]

    def crowd(self, script: str, settings: Iterable[Mapping[str, Any]]) -> list[int]:
        """Spawn one agent for each of the settings and wait until all are ready to go."""
        pids = [self.spawn(script, each) for each in settings]
        self.wait_files(pids, "ready", 60.0 + len(pids))
        return pids

    def send(self, pid: int, data: Any) -> None:
        """Put a message into an agent's mailbox."""
        self.call("ipc.send", to=pid, data=pack(data))

    def go(self, pids: Iterable[int]) -> int:
        """Let agents that wait begin; return the monotonic time at which the first was told, in ns."""
        began = time.monotonic_ns()
        for pid in pids:
            self.send(pid, "go")
        return began

    def run_crowd(
        self, script: str, settings: Iterable[Mapping[str, Any]], seconds: float
    ) -> list[dict[str, Any]]:
        """Spawn agents, start them together, return their records in order. Raises StandError."""
        pids = self.crowd(script, settings)
        self.go(pids)
        return self.records(pids, seconds)

    def records(self, pids: list[int], seconds: float) -> list[dict[str, Any]]:
        """Wait for agents' records, in order. Raises StandError naming an agent that left none."""
        self.wait_files(pids, "json", seconds)
        return [json.loads((self.folder / f"{pid}.json").read_text()) for pid in pids]

    def is_ready(self, pid: int, kind: str = "ready") -> bool:
        return (self.folder / f"{pid}.{kind}").exists()

    def wait_files(self, pids: list[int], kind: str, seconds: float) -> None:
        """Wait until every agent has written its file of a kind, saying now and then how many have."""
        left = list(pids)

        def look() -> bool:
            left[:] = [pid for pid in left if not self.is_ready(pid, kind)]
            return not left

        def said() -> str:
            return f"{len(pids) - len(left)} of {len(pids)} agents {kind}"

        try:
            self._until(look, seconds, f"agents' {kind} files", said)
        except StandError as error:
            shown = self._agent_words(left[0])
            raise StandError(f"{error}; {len(left)} are missing, agent {left[0]}: {shown}") from None

    def _until(
        self,
        is_true: Callable[[], bool],
        seconds: float,
        what: str,
        said: Callable[[], str] | None = None,
    ) -> None:
        end = time.monotonic() + seconds
        say_at = time.monotonic() + SAY_S
        while not is_true():
            now = time.monotonic()
            if self._process is None or self._process.poll() is not None:
                status = self._process.returncode if self._process else None
                text = f"kernel {self.name} ended with {status} while waiting for {what}"
                raise StandError(f"{text}:\n{self.last_lines()}")
            if now >= end:
                raise StandError(f"waited {seconds:.0f} s for {what} in vain:\n{self.last_lines()}")
            if said is not None and now >= say_at:
                say_at = now + SAY_S
                progress(f"{said()}, at most {end - now:.0f} s left")
            time.sleep(LOOK_S)

    def _agent_words(self, pid: int) -> str:
        try:
            row = self.tasks().get(pid, {})
            text = self.call("proc.logs", pid=pid)["text"]
        except AgentixError as error:
            return str(error)
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        return f"state {row.get('state')}, status {row.get('status')}, printed {text[-600:]!r}"

    # -- booting ------------------------------------------------------------------------------

    def _boot(self) -> None:
        command = [sys.executable, "-m", self.module, "--config-json", json.dumps(self.config)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours to pass on
                preexec_fn=dying_with_us(),  # noqa: PLW1509 - one prctl, before any thread of ours matters
            )
        self._until(self._connect, BOOT_S, "the kernel to answer")
        self.wait_core()

    def _connect(self) -> bool:
        with contextlib.suppress(NoKernel):
            self.operator = Connection("operator", self.name, "", 10.0)
        return self.operator is not None


def dying_with_us() -> Callable[[], None]:
    """Return what a child does before it begins: a benchmark killed with -9 takes its servers along."""
    parent = os.getpid()

    def prepare() -> None:
        _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def end_on_term() -> None:
    """Have SIGTERM unwind this process as an exception, so that stands are closed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
