"""The null call against the least that two processes can do, and against a libzmq ROUTER that only answers.

Round trips with everything pinned to one CPU: (a) msgpack over a SEQPACKET pair to a forked child, (b) a
stock DEALER and a libzmq ROUTER that decodes and answers, (c) the same DEALER and the kernel, (d) the kernel
and a client that speaks ZMTP by hand, which shows what of (c) is libzmq's threads in the client. Rounds go a,
b, c, d, a, b, ..., and each figure is the median over rounds, of a round's ratio where it is a ratio. Then,
pinned to nothing, how many null calls eight agents with 100 in flight get answered, by the kernel and by (b)
in turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import Row, at_least, at_most, only, percentile, progress
from benchmarks.stand import ROOT, SCRIPTS, Stand
from kernel.abi.address import socket_name
from kernel.proc.launcher import NICE

ROUNDS, COUNT = 7, 3000
RATE_ROUNDS, RATE_S, AGENTS, WINDOW = 3, 4.0, 8, 100
PAIR_BAR, ROUTER_BAR, TAIL_BAR, RATE_BAR = 4, 1, 3, 50_000
LIMIT_S = 120


def run(quick: bool) -> list[Row]:
    rounds, count, rate_rounds, rate_s = (2, 100, 1, 0.5) if quick else (ROUNDS, COUNT, RATE_ROUNDS, RATE_S)
    with Stand(slots=2, window_tokens=512) as stand, _bare_router() as (router, name):
        pair, bare, ours, raw = _round_trips(stand, router, name, rounds, count)
        ours_rate, bare_rate = _rates(stand, name, rate_rounds, rate_s)
    to_pair = median(_p50(c) / _p50(a) for a, c in zip(pair, ours, strict=True))
    to_pair_raw = median(_p50(d) / _p50(a) for a, d in zip(pair, raw, strict=True))
    to_bare = median(_p50(c) / _p50(b) for b, c in zip(bare, ours, strict=True))
    tail = median(percentile(c, 0.99) / _p50(c) for c in ours)
    return [
        only("(a) SEQPACKET pair, p50, p99", _shown(pair)),
        only("(b) libzmq ROUTER that only answers, p50, p99", _shown(bare)),
        only("(c) the kernel, the same client, p50, p99", _shown(ours)),
        only("(d) the kernel, a client that speaks ZMTP by hand", _shown(raw)),
        at_most("kernel / pair", to_pair, PAIR_BAR, "x"),
        only("the same without libzmq's threads in the client", f"{to_pair_raw:.2f} x"),
        at_most("kernel / libzmq ROUTER", to_bare, ROUTER_BAR, "x"),
        at_most("p99 / p50 of the kernel", tail, TAIL_BAR, "x"),
        at_least(f"null calls of {AGENTS} agents, {WINDOW} in flight each", ours_rate, RATE_BAR, "calls/s"),
        only("the same from the libzmq ROUTER", f"{bare_rate:,.0f} calls/s"),
        only("kernel / libzmq ROUTER", f"{ours_rate / bare_rate:.2f} x"),
    ]


@contextmanager
def _bare_router() -> Iterator[tuple[int, str]]:
    """Yield (pid, abstract name) of a router."""
    name = f"agentix-bare-{os.getpid()}"
    command = [sys.executable, "-m", "benchmarks.bare", "router", name]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(f"the router ended with {process.wait()}")
            yield process.pid, name
        finally:
            process.kill()


def _round_trips(
    stand: Stand, router: int, name: str, rounds: int, count: int
) -> tuple[list[list[int]], ...]:
    """Return the round trips of the pair, the router, the kernel, and the kernel without libzmq, by round."""
    free = os.sched_getaffinity(0)
    cpu = max(free)
    pair, bare, ours, raw = [], [], [], []
    public = socket_name("agent", stand.name)
    for pid in (router, stand.kernel_pid):
        pin(pid, {cpu})
    for number in range(rounds):
        pair.append(_bare("pair", str(count), str(cpu)))
        for kept, socket in ((bare, name), (ours, public)):
            with _dealer(stand, {"socket": socket, "count": count, "cpu": cpu}) as process:
                kept.append(_record(stand, process)["ns"])
        raw.append(_bare("peer", str(count), str(cpu), public))
        shown = ", ".join(f"{_p50(one[-1]) / 1e3:.1f}" for one in (pair, bare, ours, raw))
        progress(f"round {number + 1} of {rounds}: pair, router, kernel, without libzmq: {shown} us")
    for pid in (router, stand.kernel_pid):
        pin(pid, free)
    return pair, bare, ours, raw


def _bare(*words: str) -> list[int]:
    command = [sys.executable, "-m", "benchmarks.bare", *words]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=LIMIT_S, check=True)
    return json.loads(done.stdout)


def _rates(stand: Stand, name: str, rounds: int, seconds: float) -> tuple[float, float]:
    """Return the median rates of the kernel and the router, taken in turn."""
    ours, bare = [], []
    for number in range(rounds):
        begin = stand.folder / f"kernel-{number}-begins"
        settings = {"window": WINDOW, "begin": str(begin)}
        pids = [stand.spawn("dealer.py", settings) for _ in range(AGENTS)]
        stand.wait_files(pids, "ready", LIMIT_S)
        _begin(begin, seconds)
        ours.append(sum(record["answers"] for record in stand.records(pids, LIMIT_S)) / seconds)
        begin = stand.folder / f"router-{number}-begins"
        settings = {"window": WINDOW, "begin": str(begin), "socket": name}
        processes = [_dealer(stand, settings, NICE) for _ in range(AGENTS)]
        try:
            stand.wait_files([process.pid for process in processes], "ready", LIMIT_S)
            _begin(begin, seconds)
            bare.append(sum(_record(stand, process)["answers"] for process in processes) / seconds)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        progress(f"round {number + 1} of {rounds}: kernel {ours[-1]:,.0f}, router {bare[-1]:,.0f} calls/s")
    return median(ours), median(bare)


def _dealer(stand: Stand, settings: Mapping[str, Any], nice: int = 0) -> subprocess.Popen[bytes]:
    """Start a client that the kernel did not launch, as nice as one that it did if told so."""
    argument = json.dumps({"folder": str(stand.folder), **settings})
    command = ["nice", "-n", str(nice), sys.executable, str(SCRIPTS / "dealer.py"), argument]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "agents"), str(ROOT)))}
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def _record(stand: Stand, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait for a client's end; return what it recorded."""
    if status := process.wait(LIMIT_S):
        raise RuntimeError(f"a client ended with {status}: its last words are above")
    return json.loads((stand.folder / f"{process.pid}.json").read_text())


def _begin(path: Path, seconds: float) -> None:
    """Let clients count from half a second from now on, when all have their calls in flight."""
    begin_ns = time.monotonic_ns() + 500_000_000
    staged = path.with_suffix(".part")
    staged.write_text(json.dumps([begin_ns, begin_ns + round(seconds * 1e9)]))
    staged.replace(path)


def pin(pid: int, cpus: set[int]) -> None:
    """Have every thread of a process run on these CPUs."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), cpus)


def _p50(times: Sequence[int]) -> float:
    return percentile(times, 0.5)


def _shown(rounds: list[list[int]]) -> str:
    p50s = [_p50(one) / 1e3 for one in rounds]
    p99s = [percentile(one, 0.99) / 1e3 for one in rounds]
    return f"{median(p50s):.1f}, {median(p99s):.1f} us (p50 of rounds {min(p50s):.1f} to {max(p50s):.1f})"
