"""Busy agents are held while the core works, get slices in turn, and are let go in the end."""

from __future__ import annotations

import signal

import pytest

from kernel.effects import SampleProcesses, Signal
from kernel.proc.governor import CALM_SAMPLES, PERIOD_NS, SAMPLE_NS, SLICE_NS, Governor

STOP, CONT = signal.SIGSTOP, signal.SIGCONT


class Bench:
    """A governor, a clock and processes that use a given share of a CPU whenever they may run."""

    def __init__(self) -> None:
        self.effects: list[object] = []
        self.untouchable: set[int] = set()
        self.governor = Governor(self.effects.append, lambda pid: pid not in self.untouchable)
        self.now_ns = 0
        self.used_s: dict[int, float] = {}

    def sample(self, **shares: float) -> None:
        """Half a second later, p1 has used this share of a CPU since the last sample."""
        self.now_ns += SAMPLE_NS
        for name, share in shares.items():
            pid = int(name[1:])
            self.used_s[pid] = self.used_s.get(pid, 0.0) + share * SAMPLE_NS / 1e9
        usage = tuple((pid, used, 0) for pid, used in self.used_s.items())
        self.governor.sampled(self.now_ns, usage)

    def tick(self) -> None:
        at = self.governor.next_timer_ns()
        assert at is not None
        self.now_ns = max(self.now_ns, at)
        self.governor.tick(self.now_ns, tuple(self.used_s))

    def signals(self) -> list[tuple[int, int]]:
        """Signals since the last call."""
        found = [(item.pid, item.number) for item in self.effects if isinstance(item, Signal)]
        self.effects.clear()
        return found


@pytest.fixture
def bench():
    bench = Bench()
    bench.governor.core_busy(0)
    return bench


def test_a_hog_is_held_at_the_second_sample(bench):
    bench.sample(p1=1.0, p2=0.1)
    assert bench.signals() == []
    bench.sample(p1=1.0, p2=0.1)
    assert bench.signals() == [(1, STOP)]
    assert bench.governor.is_held(1)
    assert not bench.governor.is_held(2)
    assert bench.governor.share(1) == pytest.approx(1.0)


def test_held_tasks_get_slices_in_turn(bench):
    bench.sample(p1=1.0, p2=1.0)
    bench.sample(p1=1.0, p2=1.0)
    assert bench.signals() == [(1, STOP), (2, STOP)]
    seen = []
    for _ in range(60):
        before = bench.now_ns
        bench.tick()
        seen += [(pid, number, bench.now_ns - before) for pid, number in bench.signals()]
    order = [(pid, number) for pid, number, _ in seen]
    turn = [(order[0][0], CONT), (order[0][0], STOP), (3 - order[0][0], CONT), (3 - order[0][0], STOP)]
    assert order[:8] == turn * 2
    assert SLICE_NS in [wait for _, number, wait in seen if number == STOP]


def test_a_held_task_runs_one_slice_in_a_period(bench):
    bench.sample(p1=1.0)
    bench.sample(p1=1.0)
    bench.signals()
    running_ns, since = 0, None
    end = bench.now_ns + 10 * PERIOD_NS + SLICE_NS
    while bench.now_ns < end:
        bench.tick()
        for _, number in bench.signals():
            if number == CONT:
                since = bench.now_ns
            elif since is not None:
                running_ns, since = running_ns + bench.now_ns - since, None
    assert running_ns == 10 * SLICE_NS


def test_a_task_that_calms_down_is_let_go(bench):
    bench.sample(p1=1.0)
    bench.sample(p1=1.0)
    bench.signals()
    for _ in range(CALM_SAMPLES):
        assert bench.governor.is_held(1)
        bench.sample(p1=0.001)
    assert not bench.governor.is_held(1)
    assert bench.signals() == [(1, CONT)]


def test_a_task_that_uses_up_its_slices_stays_held(bench):
    bench.sample(p1=1.0)
    bench.sample(p1=1.0)
    for _ in range(20):
        bench.sample(p1=SLICE_NS / PERIOD_NS)
        assert bench.governor.is_held(1)


def test_all_are_let_go_when_the_core_has_nothing_to_do(bench):
    bench.sample(p1=1.0, p2=1.0)
    bench.sample(p1=1.0, p2=1.0)
    bench.signals()
    bench.governor.core_idle()
    assert bench.signals() == [(1, CONT), (2, CONT)]
    while bench.governor.next_timer_ns() is not None:
        bench.tick()
    assert bench.signals() == []


def test_what_was_used_while_the_core_had_nothing_to_do_does_not_count(bench):
    bench.governor.core_idle()
    for _ in range(3):
        bench.sample(p1=1.0)
    bench.governor.core_busy(bench.now_ns)
    bench.sample(p1=0.0)
    bench.sample(p1=0.0)
    assert bench.signals() == []


def test_a_task_that_a_user_stopped_is_never_continued(bench):
    bench.sample(p1=1.0)
    bench.sample(p1=1.0)
    bench.signals()
    bench.governor.forget(1)
    bench.untouchable.add(1)
    for _ in range(20):
        bench.tick()
    bench.sample(p1=1.0)
    bench.sample(p1=1.0)
    bench.governor.core_idle()
    assert bench.signals() == []


def test_a_task_that_dies_in_its_slice_is_not_signalled_again(bench):
    bench.sample(p1=1.0)
    bench.sample(p1=1.0)
    while (1, CONT) not in bench.signals():
        bench.tick()
    bench.governor.forget(1)
    for _ in range(5):
        bench.tick()
    assert bench.signals() == []


def test_a_sample_that_comes_too_soon_judges_nobody(bench):
    bench.sample(p1=1.0)
    bench.governor.sampled(bench.now_ns + 50_000_000, ((1, bench.used_s[1] + 0.05, 0),))
    assert bench.signals() == []


def test_samples_are_asked_for_only_while_the_core_works(bench):
    bench.used_s = {1: 0.0}
    bench.tick()
    assert [item for item in bench.effects if isinstance(item, SampleProcesses)] == [SampleProcesses((1,))]
    bench.governor.core_idle()
    assert bench.governor.next_timer_ns() is None
