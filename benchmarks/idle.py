"""A kernel with 100 idle agents: the CPU that its processes use while nothing happens.

The sum over a process's threads of the scheduler's own run time in nanoseconds (schedstat), over 10 s
in which the stand asks nothing.
"""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.report import Row, at_most, only
from benchmarks.stand import Stand

AGENTS, SECONDS, BAR_PERCENT = 100, 10.0, 0.5


def run(quick: bool) -> list[Row]:
    agents, seconds = (5, 2.0) if quick else (AGENTS, SECONDS)
    with Stand(slots=4, window_tokens=512) as stand:
        pids = stand.crowd("idler.py", [{}] * agents)
        core = stand.info()["core_pid"]
        time.sleep(2.0)
        watched = {"kernel": [stand.kernel_pid], "core": [core], "agents": pids}
        before = {name: sum(map(run_ns, group)) for name, group in watched.items()}
        began = time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - began
        percent = {
            name: (sum(map(run_ns, group)) - before[name]) / passed / 1e7
            for name, group in watched.items()
        }
    return [
        at_most(f"kernel with {agents} idle agents", percent["kernel"], BAR_PERCENT, "% of a core"),
        only("LLM core", f"{percent['core']:.3f} % of a core"),
        only(f"{agents} agents together", f"{percent['agents']:.3f} % of a core"),
    ]


def run_ns(pid: int) -> int:
    """Return the nanoseconds that all threads of a process have run."""
    return sum(
        int((task / "schedstat").read_text().split()[0])
        for task in Path(f"/proc/{pid}/task").iterdir()
    )
