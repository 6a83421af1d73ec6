"""A kernel with a gateway, for the tests of its APIs: real processes, real sockets, the default model.

What must hold: as in live.py: whatever a test does, nothing of either is left.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
from live import PATIENCE_S, ROOT, Live, live

SCRIPT = ROOT / "agents" / "agentix" / "gateway" / "__main__.py"
POLL_S = 0.01


class Gateway:
    """One gateway, of a kernel of its own."""

    def __init__(self, machine: Live, pid: int) -> None:
        self.machine = machine
        self.pid = pid
        line = self.until(lambda: self._line("gateway: "), "the gateway serves")
        assert line.startswith("gateway: http"), line
        self.url = line.removeprefix("gateway: ").removesuffix("/v1")
        self.port = int(self.url.rpartition(":")[2])

    def _line(self, start: str) -> str | None:
        text = self.machine.call("proc.logs", pid=self.pid)["text"]
        return next((line for line in text.splitlines() if line.startswith(start)), None)

    def until(self, look: Callable[[], Any], what: str) -> Any:
        """Return what `look` finds, once it finds something."""
        end_s = time.monotonic() + PATIENCE_S
        while not (found := look()):
            assert time.monotonic() < end_s, f"waited in vain until {what}"
            select.select([], [], [], POLL_S)
        return found

    def tasks(self) -> dict[str, dict[str, Any]]:
        """The tasks that the gateway holds, by name."""
        rows = self.machine.call("proc.ps")["tasks"]
        return {
            row["name"]: row for row in rows if row["ppid"] == self.pid and row["state"] != "zombie"
        }

    def in_flight(self) -> int:
        return sum(row["in_flight"] for row in self.tasks().values())

    def descriptors(self) -> int:
        return psutil.Process(self.pid).num_fds()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    def post(self, path: str, body: Any, **headers: str) -> socket.socket:
        """Send a request by hand; return the socket, for its answer is the test's."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = {
            "Host": "localhost",
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
        }
        head |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [
            f"POST {path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in head.items()),
            "",
            "",
        ]
        made = self.connect()
        made.sendall("\r\n".join(lines).encode() + data)
        return made


@contextmanager
def gateway(*arguments: str, engine: Sequence[str] = (), **config: Any) -> Iterator[Gateway]:
    with live(*engine, **config) as machine:
        if policy := config.get("policy"):  # of the callers, too
            attr = {"policy": policy, "gap": 0, "starve_ms": 60_000}
            machine.call("group.create", path="/http", attr=attr)
        given = ["--http", "127.0.0.1:0", *arguments]
        made = {
            "script": str(SCRIPT),
            "args": given,
            "name": "gateway",
            "priority": -20,
            "cwd": str(ROOT),
        }
        pid = machine.call("proc.spawn", **made, capabilities=["task.create", "sched.group"])["pid"]
        served = Gateway(machine, pid)
        yield served
        if machine.kernel.poll() is None and served.tasks() is not None and psutil.pid_exists(pid):
            machine.call("proc.kill", pid=pid, signal="TERM")
            machine.wait(pid)


def read_until(made: socket.socket, mark: bytes) -> bytes:
    """Read an answer up to a mark."""
    got = b""
    while mark not in got:
        part = made.recv(65536)
        assert part, f"the connection ended before {mark!r}: {got[-300:]!r}"
        got += part
    return got


def read_all(made: socket.socket) -> tuple[int, bytes]:
    """Return an answer's status and body, of a connection that is closed after it."""
    got = b""
    while part := made.recv(65536):
        got += part
    head, _, body = got.partition(b"\r\n\r\n")
    return int(head.split()[1]), body
