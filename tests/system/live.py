"""A live kernel for the system tests: real processes, real sockets, the real llama.cpp core.

What must hold: whatever a test does, when it ends none of the processes that it started is left, and
nothing is waited for without a deadline.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from agentix import calls
from agentix.client import Connection
from benchmarks.models import model_path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0


class Live:
    """One kernel process and an operator's connection to it."""

    def __init__(self, *arguments: str, is_whole: bool = True, **config: Any) -> None:
        """is_whole: every model can be served, and is waited for; else only one."""
        fresh = f"test-{os.getpid()}-{time.monotonic_ns() % 1_000_000}"
        self.name = config.get("name", fresh)
        models = [{"path": str(model_path())}]
        fields = {"models": models, "name": self.name, "slots": 2, "window_tokens": 512}
        self.kernel = subprocess.Popen(
            [sys.executable, "-m", "kernel", "--config-json", json.dumps(fields | config), *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self.read_until(", loaded in ", count=len(config.get("models", models)) if is_whole else 1)
        self.operator = Connection("operator", self.name, "", PATIENCE_S)

    def read_until(self, text: str, count: int = 1) -> str:
        """Return the count-th line of the kernel that holds `text`."""
        assert self.kernel.stdout is not None
        while count:
            ready, _, _ = select.select([self.kernel.stdout], [], [], PATIENCE_S)
            line = self.kernel.stdout.readline() if ready else ""
            assert line, f"no {text!r} in {self.lines}"
            self.lines.append(line)
            count -= text in line
        return line

    def call(self, method: str, **body: Any) -> dict[str, Any]:
        return self.operator.call(calls.plain(method, **body), PATIENCE_S)

    def spawn(self, script: Path, *args: str) -> int:
        return self.call("proc.spawn", script=str(script), args=list(args))["pid"]

    def wait(self, pid: int) -> dict[str, Any]:
        return self.call("proc.wait", pid=pid, timeout_ms=int(PATIENCE_S * 1000))

    def processes(self) -> list[psutil.Process]:
        """The kernel and all that descends from it."""
        kernel = psutil.Process(self.kernel.pid)
        return [kernel, *kernel.children(recursive=True)]

    def core_pid(self) -> int:
        return self.call("sys.info")["core_pid"]


@contextmanager
def live(*arguments: str, is_whole: bool = True, **config: Any) -> Iterator[Live]:
    """Boot a kernel, and see that nothing of it is left at the end."""
    machine = Live(*arguments, is_whole=is_whole, **config)
    processes = machine.processes()
    try:
        yield machine
        if machine.kernel.poll() is None:
            processes = machine.processes()
    finally:
        machine.operator.close()
        if machine.kernel.poll() is None:
            machine.kernel.send_signal(signal.SIGTERM)
        try:
            machine.kernel.wait(PATIENCE_S)
        finally:
            machine.kernel.kill()
            machine.kernel.wait()
            assert machine.kernel.stdout is not None
            machine.kernel.stdout.close()
    assert_gone(processes)


def assert_gone(processes: list[psutil.Process]) -> None:
    """Wait for processes to end, with a deadline."""
    _, left = psutil.wait_procs(processes, timeout=PATIENCE_S)
    left = [process for process in left if process.is_running() and process.status() != "zombie"]
    assert not left, f"left behind: {left}"
