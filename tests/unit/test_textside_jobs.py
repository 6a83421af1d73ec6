"""Jobs in children: whose turn it is, and what ends each of them."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Any

import pytest

from kernel.engine.base import EngineError
from kernel.engine.textside import jobs
from kernel.engine.textside.jobs import Job, Jobs, Turns

DEADLINE_S = 30


def run(pending: Jobs, count: int) -> dict[int, tuple[Any, str | None]]:
    """Serve until so many jobs have ended; return answer and error by ticket, in the order in which they ended."""
    ended: dict[int, tuple[Any, str | None]] = {}
    until = time.monotonic() + DEADLINE_S
    while len(ended) < count:
        assert time.monotonic() < until, f"only {ended}"
        ready, _, _ = select.select(pending.fds(), [], [], pending.timeout_s())
        for ticket, value, error in pending.serve(ready):
            ended[ticket] = (value, error)
    return ended


def do(what: str, value: dict[str, Any]) -> Any:
    if what == "spin":
        while True:
            pass
    if what == "die":
        os.kill(os.getpid(), value["signal"])
    if what == "refuse":
        raise EngineError("no such thing")
    if what == "grow":
        return bytes(1 << 40)
    if what == "fail":
        raise ZeroDivisionError
    return os.getpid() if what == "pid" else value["x"]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_senders_take_turns() -> None:
    turns = Turns()
    for ticket, sender in enumerate([1, 1, 1, 2, 3, 2]):
        turns.put(Job(ticket, "x", {"sender": sender}))
    order = []
    while turns:
        order.append(turns.take().ticket)
    assert order == [0, 3, 4, 1, 5, 2]


def test_quick_jobs_are_done_by_one_child_in_turn() -> None:
    pending = Jobs(do)
    for ticket in range(1, 5):
        pending.add(ticket, "pid", {"sender": ticket})
    pids = {value for value, _ in run(pending, 4).values()}
    assert len(pids) == 1
    assert os.getpid() not in pids
    pending.close()


@pytest.mark.parametrize(
    ("what", "value", "error"),
    [
        ("refuse", {}, "no such thing"),
        ("grow", {}, "the question needs more than 1024 MiB of memory"),
        ("die", {"signal": signal.SIGSEGV}, "the question killed its process: signal SIGSEGV"),
        ("die", {"signal": signal.SIGXCPU}, "the question did not finish within 5 s of CPU"),
        ("fail", {}, "the question ended its process with status 1"),
    ],
)
def test_a_job_that_goes_wrong_is_told_so_and_the_next_is_done(
    what: str, value: dict[str, Any], error: str
) -> None:
    pending = Jobs(do)
    pending.add(1, what, value)
    pending.add(2, "echo", {"x": "fine"})
    assert run(pending, 2) == {1: (None, error), 2: ("fine", None)}
    pending.close()


def test_slow_jobs_keep_quick_ones_waiting_no_longer_than_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "WALL_S", 1.0)
    pending = Jobs(do)
    for ticket in range(1, 5):  # more than may be slow at once
        pending.add(ticket, "spin", {"sender": 1})
    for ticket in range(5, 9):
        pending.add(ticket, "echo", {"x": ticket, "sender": 2})
    ended = run(pending, 8)
    assert list(ended)[:4] == [5, 6, 7, 8]
    assert {ended[ticket] for ticket in range(1, 5)} == {
        (None, "the question did not finish within 1 s")
    }
    pending.close()


def test_a_job_has_so_much_cpu_and_no_more_whatever_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "CPU_S", 1)
    pending = Jobs(do)
    pending.add(1, "spin", {})
    pending.add(2, "pid", {})
    ended = run(pending, 2)
    assert ended[1] == (None, "the question did not finish within 1 s of CPU")
    pending.close()
