"""2,000 open connections, 200 of them active, against 200 open and 200 active, on one kernel.

A host forks 250 processes without libzmq; 200 of them have a connection that makes null calls as fast as they
are answered. The others, up to eight for each process, are opened before the crowded rounds and closed before
the sparse ones, so that the same processes call in both; the two alternate, and so does which is first. After
each round every connection makes a call, so that those counted are those that the kernel still serves.

    python -m benchmarks.connections2000 SOCKET PROCESSES ACTIVE        # the host: a line of JSON in, one out
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from benchmarks.rawpeer import RawPeer
from benchmarks.report import Row, at_most, must, only, percentile, progress
from benchmarks.stand import ROOT, Stand
from kernel.abi.address import socket_name

OPEN, ACTIVE, PROCESS_CONNECTIONS = 2000, 200, 8
ROUNDS, SECONDS = 4, 4.0
LOSS_BAR = 10.0  # percent
BEGIN_S = 0.5  # from an order to its begin: all have heard it by then
ANSWER_S = 30.0
MESSAGE_BYTES = 1 << 20
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl  # loaded here: a forked child must load nothing


def run(quick: bool) -> list[Row]:
    opened, active, rounds, seconds = (64, 8, 1, 0.5) if quick else (OPEN, ACTIVE, ROUNDS, SECONDS)
    processes = -(-opened // PROCESS_CONNECTIONS)
    crowded: list[list[float]] = []
    sparse: list[list[float]] = []
    served: set[int] = set()
    with Stand(slots=2, window_tokens=512) as stand, _host(stand, processes, active) as order:
        order("open", wanted=active)
        order("run", seconds=seconds)  # the first one warms up
        for number in range(rounds):
            both = [(active, sparse), (opened, crowded)]
            for wanted, kept in both if number % 2 else both[::-1]:
                order("open", wanted=wanted)
                kept.append(order("run", seconds=seconds)["times_us"])
                if wanted == opened:
                    served.add(order("check")["connections"])
            rates = [len(one[-1]) / seconds for one in (sparse, crowded)]
            progress(f"round {number + 1} of {rounds}: {rates[0]:,.0f} and {rates[1]:,.0f} calls/s")
    few, many = (fmean(len(one) / seconds for one in kept) for kept in (sparse, crowded))
    loss = 100 * (1 - many / few)
    return [
        must(f"connections of {processes} processes, served", max(served), f"{opened:,}", served == {opened}),
        only(f"{active} active of {active} open: rate, p50, p99", _shown(few, sparse)),
        only(f"{active} active of {opened:,} open", _shown(many, crowded)),
        at_most(f"rate that {opened - active:,} idle connections cost", loss, LOSS_BAR, "%"),
    ]


def _shown(rate: float, rounds: list[list[float]]) -> str:
    times = [time_us for one in rounds for time_us in one]
    return f"{rate:,.0f} calls/s, {percentile(times, 0.5) / 1e3:.2f}, {percentile(times, 0.99) / 1e3:.2f} ms"


@contextmanager
def _host(stand: Stand, processes: int, active: int) -> Iterator[Any]:
    """Yield a function that gives the host an order and returns its answer."""
    command = [sys.executable, "-m", "benchmarks.connections2000", socket_name("agent", stand.name)]
    with subprocess.Popen(
        [*command, str(processes), str(active)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as host:
        assert host.stdin is not None
        assert host.stdout is not None
        stdin, stdout = host.stdin, host.stdout

        def order(what: str, **fields: Any) -> dict[str, Any]:
            stdin.write(json.dumps({"what": what, **fields}) + "\n")
            stdin.flush()
            answer = json.loads(stdout.readline() or '{"error": "the host has ended"}')
            if answer.get("error"):
                raise RuntimeError(f"{what}: {answer['error']}")
            return answer

        try:
            yield order
        finally:
            host.kill()  # its children die with it


# -- the host -------------------------------------------------------------------------------------


def host(door: str, processes: int, active: int) -> None:
    """Fork the processes, then pass on orders from stdin until its end."""
    children = [_fork(door) for _ in range(processes)]
    for line in sys.stdin:
        order = json.loads(line)
        if order["what"] == "open":
            parts = _shared_out(order["wanted"], processes, active)
            answers = _told(children, [{"open": part} for part in parts])
        elif order["what"] == "check":
            answers = _told(children, [{"check": 1}] * processes)
        else:
            begin_ns = time.monotonic_ns() + round(BEGIN_S * 1e9)
            task = {"begin_ns": begin_ns, "end_ns": begin_ns + round(order["seconds"] * 1e9)}
            answers = _told(children[:active], [task] * active)
        errors = [answer["error"] for answer in answers if answer["error"]]
        times_us = [time_us for answer in answers for time_us in answer["times_us"]]
        connections = sum(answer["connections"] for answer in answers)
        whole = {"error": "; ".join(errors[:3]), "times_us": times_us, "connections": connections}
        print(json.dumps(whole), flush=True)


def _shared_out(wanted: int, processes: int, active: int) -> list[int]:
    """How many connections each process is to have: one each of the active first, then evenly."""
    parts = [int(number < active) for number in range(processes)]
    number = processes - 1
    for _ in range(wanted - active):
        while parts[number] >= PROCESS_CONNECTIONS:
            number -= 1
        parts[number] += 1
    return parts


def _told(children: list[socket.socket], orders: list[dict[str, int]]) -> list[dict[str, Any]]:
    for child, order in zip(children, orders, strict=True):
        child.send(json.dumps(order).encode())
    answers = []
    for child, _ in zip(children, orders, strict=True):
        raw = child.recv(MESSAGE_BYTES)
        if not raw:
            raise RuntimeError("a process of the crowd has ended: its last words are above")
        answers.append(json.loads(raw))
    return answers


def _fork(door: str) -> socket.socket:
    """Start a process; return the socket on which it takes orders."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
    parent = os.getpid()
    if os.fork():
        theirs.close()
        return ours
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() == parent:
        ours.close()
        _obey(theirs, door)
    os._exit(0)


def _obey(orders: socket.socket, door: str) -> None:
    """Open and close connections, and make null calls on the first of them, as told."""
    peers: list[RawPeer] = []
    while raw := orders.recv(MESSAGE_BYTES):
        order, error, times_us = json.loads(raw), "", []
        try:
            if "open" in order:
                while len(peers) > order["open"]:
                    peers.pop().close()
                while len(peers) < order["open"]:
                    peers.append(RawPeer(door, ANSWER_S))
                    peers[-1].hello("crowd")
            elif "check" in order:
                for peer in peers:
                    peer.call("sched.getattr")
            else:
                times_us = _calls(peers[0], order["begin_ns"], order["end_ns"])
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        answer = {"error": error, "times_us": times_us, "connections": len(peers)}
        orders.send(json.dumps(answer).encode())


def _calls(peer: RawPeer, begin_ns: int, end_ns: int) -> list[float]:
    """Return the microseconds of one null call after the other between two times."""
    time.sleep(max(0.0, (begin_ns - time.monotonic_ns()) / 1e9))
    times_us = []
    now_ns = time.monotonic_ns()
    while now_ns < end_ns:
        peer.call("sched.getattr")
        before_ns, now_ns = now_ns, time.monotonic_ns()
        times_us.append(round((now_ns - before_ns) / 1e3, 1))
    return times_us


if __name__ == "__main__":
    host(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
