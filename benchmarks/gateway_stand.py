"""A kernel with a gateway on it, and what the two hold: descriptors, tasks, memory.

Who uses it: gateway_cost.py, gateway_drops.py, gateway_attack.py. What must hold: the gateway runs as
`agentix up --http` runs it; it ends with its kernel.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentix.cli.up import PRIORITY, SCRIPT
from agentix.gateway import rundir
from benchmarks.httpstream import Address
from benchmarks.rss import own_bytes
from benchmarks.stand import Stand, StandError

SERVE_S, LOOK_S = 30.0, 0.1


@dataclass(frozen=True, slots=True)
class Held:
    """What a gateway and its kernel hold at one time."""

    tasks: int
    requests: int  # in flight
    lent_bytes: int  # of segments that hold parked contexts
    segments: int  # lent, or free for the next who parks
    descriptors: dict[str, int]  # by process: gateway, kernel, core; without those of segments
    own_bytes: dict[str, int]


class GatewayStand(Stand):
    """Stand with a gateway on a free port. `script` is the program that is run as the gateway."""

    def __init__(self, model: str | Path | None = None, *, script: Path = SCRIPT, **config: Any) -> None:
        super().__init__(model, **config)
        self._script = script
        self.gateway_pid = 0
        self.address: Address = ("127.0.0.1", 0)
        self.secret = ""  # with which keys are made

    def __enter__(self) -> GatewayStand:
        super().__enter__()
        try:
            self._serve()
        except BaseException:
            self.close()
            raise
        return self

    def _serve(self) -> None:
        """Start a gateway and wait until it serves. Raises StandError."""
        self.gateway_pid = self.spawn(
            self._script,
            args=["--http", "127.0.0.1:0"],
            name="gateway",
            priority=PRIORITY,
            capabilities=["task.create", "sched.group"],
            env={"BENCH_CHUNKS": str(self.folder / "chunks.json")},  # for agents/gateway_timed.py
        )
        end_s = time.monotonic() + SERVE_S
        while True:
            try:
                door = rundir.find(self.name)
                if door.pid == self.gateway_pid:
                    break
            except (OSError, ValueError):
                pass
            if time.monotonic() > end_s:
                text = self.call("proc.logs", pid=self.gateway_pid)["text"]
                raise StandError(f"the gateway does not serve after {SERVE_S:g} s; it printed {text!r}")
            time.sleep(LOOK_S)
        host, _, port = door.url.removeprefix("http://").rpartition(":")
        self.address, self.secret = (host, int(port)), door.secret

    def held(self) -> Held:
        info, rows = self.info(), self.tasks().values()
        pids = {"gateway": self.gateway_pid, "kernel": info["kernel_pid"], "core": info["core_pid"]}
        links = {name: _are_segments(pid) for name, pid in pids.items()}
        return Held(
            tasks=len(rows),
            # a gateway always waits for a message, and that is no request
            requests=sum(row["in_flight"] for row in rows if row["pid"] != self.gateway_pid),
            lent_bytes=self.stat()["snapshot_bytes"],
            segments=links["kernel"].count(True),
            descriptors={name: found.count(False) for name, found in links.items()},
            own_bytes={name: own_bytes(pid) for name, pid in pids.items()},
        )


def _are_segments(pid: int) -> list[bool]:
    """For each descriptor of a process, whether it is a segment's."""
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed since we looked
            found.append(os.readlink(f"/proc/{pid}/fd/{number}").startswith("/memfd:"))
    return found
