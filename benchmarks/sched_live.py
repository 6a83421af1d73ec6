"""Plays a load on a real kernel and returns what happened: requests as an agent saw them, the kernel's own counters.

Who uses it: sched_throughput.py and the bars. What must hold: every run has a kernel of its own, which has made some
steps before the load begins; looking at it costs it little: a table twice a second, and a few tasks' lags.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from agentix.errors import AgentixError
from benchmarks import stand as stands
from benchmarks.models import model_path
from benchmarks.report import progress
from benchmarks.stand import Stand, StandError
from benchmarks.workloads import Load

POLICIES = ("eevdf", "plas", "hrrn", "srpt", "mlfq", "prio", "rr", "fcfs")
NEVER_MS = 3_600_000  # starve_ms of those that know no rescue
LOOK_S = 0.5
LAGS = 6  # tasks whose lag is asked for at each look
CAPABILITIES = ("task.create", "sched.raise", "sched.realtime", "sched.group")


@dataclass(frozen=True, slots=True)
class Bench:
    """What all runs have in common."""

    model: str
    slots: int = 16
    window_tokens: int = 1024
    limit_s: float = 120.0  # after a load's end, for what is in flight then

    @classmethod
    def quick(cls) -> Bench:
        return cls(str(model_path("default")), slots=4, window_tokens=512, limit_s=30.0)

    @classmethod
    def full(cls, **changes: Any) -> Bench:
        return replace(cls(str(model_path("smollm2-135m"))), **changes)


@dataclass(frozen=True, slots=True)
class Setup:
    """A scheduler: the kernel's configuration, and whether it is another system's."""

    name: str
    config: Mapping[str, Any]
    root: Mapping[str, Any] = field(default_factory=dict)  # attributes of the group "/"
    is_baseline: bool = False


def setups(bench: Bench) -> dict[str, Setup]:
    """Return all of them by name: the kernel's policies, then the baselines.

    fcfs-vllm's pool holds half of what the slots can: vLLM is run with more sequences than fit at their longest.
    """
    found = {name: Setup(name, {"policy": name}) for name in POLICIES}
    bare = {"starve_ms": NEVER_MS, "gap": 0.0, "prefill_tokens": 2048}
    pool = {"policy": "fcfs-vllm", "params": {"pool_tokens": bench.slots * bench.window_tokens // 2}}
    for name, root in (("fcfs-llama-server", {}), ("fcfs-aios", {}), ("fcfs-vllm", pool)):
        found[name] = Setup(name, {"policy": name, **bare}, root, is_baseline=True)
    return found


@dataclass(frozen=True, slots=True)
class Look:
    """The tasks in the middle of a run, by pid: core time had, how long they wait now, their bounds; lags of a few."""

    at_ns: int
    attained_s: Mapping[int, float]
    waits_s: Mapping[int, float]
    bounds_s: Mapping[int, float]
    lags_s: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Played:
    """A run. Requests are those of sched_driver.py; `before` and `after` are sys.stat."""

    load: Load
    setup: Setup
    go_ns: int
    is_whole: bool  # everything ended in time
    jobs: tuple[Mapping[str, Any], ...]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    looks: tuple[Look, ...]

    def of_kind(self, *kinds: str) -> list[Mapping[str, Any]]:
        """The requests of jobs of these kinds that ended well."""
        pairs = zip(self.load.jobs, self.jobs, strict=True)
        found = [request for job, record in pairs if job.kind in kinds for request in record["requests"]]
        return [request for request in found if request["ended_ns"] and not request["error"]]

    def pids(self, *kinds: str) -> list[int]:
        pairs = zip(self.load.jobs, self.jobs, strict=True)
        return [record["pid"] for job, record in pairs if job.kind in kinds]

    def grew(self, name: str) -> float:
        """By how much a counter of sys.stat grew."""
        return self.after[name] - self.before[name]


class BaselineStand(Stand):
    """A kernel that has other systems' schedulers as well: see baselines.py."""

    module = "benchmarks.baselines"


Meddle = Callable[[Stand, float], None]  # at each look, with the seconds since the load began


def play(bench: Bench, setup: Setup, load: Load, look_s: float = LOOK_S, meddle: Meddle | None = None) -> Played:
    """Boot a kernel, play the load, end the kernel. Raises StandError."""
    kind = BaselineStand if setup.is_baseline else Stand
    config = {"slots": bench.slots, "slot_tokens": bench.window_tokens, **setup.config}
    with kind(bench.model, window_tokens=bench.window_tokens, **config) as stand:
        if setup.root:
            stand.call("group.setattr", path="/", attr=dict(setup.root))
        return play_on(stand, bench, setup, load, look_s, meddle)


def play_on(
    stand: Stand, bench: Bench, setup: Setup, load: Load, look_s: float = LOOK_S, meddle: Meddle | None = None
) -> Played:
    """Play a load on a kernel that runs; its groups must be new. Raises StandError."""
    told = load.plain() if setup.is_baseline else load
    for path, attr in told.groups.items():
        stand.call("group.create", path=path, attr=dict(attr))
    file = stand.folder / f"load-{time.monotonic_ns()}.json"
    file.write_text(json.dumps(told.described()))
    settings = {"load": str(file), "limit_s": bench.limit_s, "warm": 2 * bench.slots}
    driver = stand.spawn("sched_driver.py", settings, capabilities=list(CAPABILITIES))
    stand.wait_files([driver], "ready", 240)
    before = stand.stat()
    stand.go([driver])
    looks = _watch(stand, driver, load.seconds + bench.limit_s, look_s, meddle)
    after = stand.stat()
    (record,) = stand.records([driver], 60)
    if not any(request["ended_ns"] for job in record["jobs"] for request in job["requests"]):
        raise StandError(f"{setup.name}, {load.name}: no request of {len(load.jobs)} jobs ended")
    return Played(
        load, setup, record["go_ns"], record["is_whole"], tuple(record["jobs"]), before, after, tuple(looks)
    )


def _watch(stand: Stand, driver: int, most_s: float, look_s: float, meddle: Meddle | None) -> list[Look]:
    """Look at the tasks until the driver has left its record."""
    looks: list[Look] = []
    begin_s = said_s = time.monotonic()
    turn = 0
    while not stand.is_ready(driver, "json"):
        now_s = time.monotonic()
        if now_s > begin_s + most_s + stands.SAY_S:
            break
        if now_s > said_s + stands.SAY_S:
            said_s = now_s
            progress(f"{now_s - begin_s:.0f} s of {most_s:.0f} at most")
        with suppress(AgentixError):
            looks.append(_look(stand, driver, turn))
        turn += 1
        if meddle is not None:
            meddle(stand, time.monotonic() - begin_s)
        time.sleep(max(0.0, now_s + look_s - time.monotonic()))
    return looks


def _look(stand: Stand, driver: int, turn: int) -> Look:
    tasks = stand.tasks()
    if tasks[driver]["state"] == "zombie" and not stand.is_ready(driver, "json"):
        raise StandError(f"the load's driver ended: {stand.call('proc.logs', pid=driver)['text'][-600:]!r}")
    rows = [row for row in tasks.values() if row["ppid"] == driver]
    at_ns = time.monotonic_ns()
    wanting = [row["pid"] for row in rows if row["in_flight"]]
    lags: dict[int, float] = {}
    for pid in _some(wanting, turn):
        with suppress(AgentixError):  # it ended meanwhile
            lags[pid] = stand.call("sched.stat", pid=pid)["lag_s"]
    return Look(
        at_ns,
        {row["pid"]: row["attained_s"] for row in rows},
        {row["pid"]: row["waits_now_s"] for row in rows},
        {row["pid"]: row["bound_s"] for row in rows if row["in_flight"]},
        lags,
    )


def _some(pids: list[int], turn: int) -> Iterable[int]:
    """Others each time, until all were looked at."""
    if not pids:
        return []
    first = turn * LAGS % len(pids)
    return (pids[first:] + pids[:first])[:LAGS]
