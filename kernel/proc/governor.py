"""Keeps busy agents off the LLM core's CPUs, with nothing but SIGSTOP and SIGCONT.

ggml's threads meet at a barrier many times a step, so one agent in a busy loop slows every agent's
tokens. While the core works, a process that used more than its share of a CPU since the last sample is
held: stopped, and let run for one short slice at a time, in turn with others that are held. It is let
go when it no longer uses its slices, or when the core has nothing to do. This needs no privilege, and
unlike SCHED_IDLE or a higher nice value it can be taken back.

Who calls it: core.py, on timers and samples. What must hold: whoever is held is let go in the end; a
task that a user stopped is never continued from here.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from kernel.effects import Effect, SampleProcesses, Signal

SAMPLE_NS = 500_000_000  # between samples while the core works
BUSY_SHARE = 0.25  # of one CPU between two samples: more is a hog
PERIOD_NS = 100_000_000  # one slice in each, for all that are held together
SLICE_NS = 5_000_000
CALM_SAMPLES = 2  # in a row with most of its slices unused: let go
CALM_SHARE = 0.4  # of what its slices allowed


@dataclass(slots=True)
class _Account:
    cpu_s: float
    at_ns: int
    share: float = 0.0  # of one CPU, between the last two samples
    calm: int = 0


class Governor:
    """Decides who is held; `emit` takes the signals, `may_signal` says whether a pid is ours to touch."""

    def __init__(
        self, emit: Callable[[Effect], None], may_signal: Callable[[int], bool]
    ) -> None:
        self._emit = emit
        self._may_signal = may_signal
        self._accounts: dict[int, _Account] = {}
        self._held: deque[int] = deque()  # next to get a slice first
        self._in_slice: int | None = None
        self._next_sample_ns: int | None = None  # None: the core idles
        self._next_turn_ns: int | None = None  # None: nobody is held
        self.throttled_ever = 0
        self.is_watching = False  # the core works, or has just stopped: core_idle is still to come

    def core_busy(self, now_ns: int) -> None:
        """The core was given a step: keep sampling."""
        if self._next_sample_ns is None:
            self.is_watching = True
            self._next_sample_ns = now_ns + SAMPLE_NS
            self._accounts.clear()  # what was used while nobody minded does not count

    def core_idle(self) -> None:
        """The core has nothing to do: whoever is held may use the CPU."""
        self.is_watching = False
        self._next_sample_ns = None
        while self._held:
            self._let_go(self._held[0])

    def is_held(self, pid: int) -> bool:
        return pid in self._held

    def share(self, pid: int) -> float:
        """Return the part of one CPU that a task used between the last two samples."""
        account = self._accounts.get(pid)
        return account.share if account else 0.0

    def forget(self, pid: int) -> None:
        """A task ended."""
        self._accounts.pop(pid, None)
        if pid in self._held:
            self._held.remove(pid)
        if self._in_slice == pid:
            self._in_slice = None

    def next_timer_ns(self) -> int | None:
        sample_ns, turn_ns = self._next_sample_ns, self._next_turn_ns
        if sample_ns is None or turn_ns is None:
            return turn_ns if sample_ns is None else sample_ns
        return min(sample_ns, turn_ns)

    def tick(self, now_ns: int, pids: tuple[int, ...]) -> None:
        """Do what is due: ask for a sample of `pids`, end a slice, begin the next one."""
        if self._next_sample_ns is not None and now_ns >= self._next_sample_ns:
            self._next_sample_ns = now_ns + SAMPLE_NS
            if pids:
                self._emit(SampleProcesses(pids))
        if self._next_turn_ns is None or now_ns < self._next_turn_ns:
            return
        if self._in_slice is not None:
            self._signal(self._in_slice, signal.SIGSTOP)
            self._in_slice = None
            self._next_turn_ns = now_ns + PERIOD_NS - SLICE_NS
        elif self._held:
            self._held.rotate(-1)
            self._in_slice = self._held[-1]
            self._signal(self._in_slice, signal.SIGCONT)
            self._next_turn_ns = now_ns + SLICE_NS
        else:
            self._next_turn_ns = None

    def sampled(self, now_ns: int, usage: tuple[tuple[int, float, int], ...]) -> None:
        """Judge each task by what it used since the last sample."""
        for pid, cpu_s, _ in usage:
            account = self._accounts.get(pid)
            if account is None:
                self._accounts[pid] = _Account(cpu_s, now_ns)
                continue
            passed_s = (now_ns - account.at_ns) / 1e9
            if passed_s < 0.1:  # asked for by ps: too short to judge by
                continue
            account.share = max(0.0, cpu_s - account.cpu_s) / passed_s
            account.cpu_s, account.at_ns = cpu_s, now_ns
            if self._next_sample_ns is None:
                continue
            if pid in self._held:
                self._judge_held(pid, account)
            elif account.share > BUSY_SHARE and self._may_signal(pid):
                self._hold(pid, now_ns)

    def _judge_held(self, pid: int, account: _Account) -> None:
        allowed = SLICE_NS / PERIOD_NS / len(self._held)
        account.calm = account.calm + 1 if account.share < allowed * CALM_SHARE else 0
        if account.calm >= CALM_SAMPLES:
            self._let_go(pid)

    def _hold(self, pid: int, now_ns: int) -> None:
        self._accounts[pid].calm = 0
        self._held.append(pid)
        self.throttled_ever += 1
        self._signal(pid, signal.SIGSTOP)
        if self._next_turn_ns is None:
            self._next_turn_ns = now_ns + PERIOD_NS

    def _let_go(self, pid: int) -> None:
        self._held.remove(pid)
        if self._in_slice == pid:
            self._in_slice = None
        self._signal(pid, signal.SIGCONT)

    def _signal(self, pid: int, number: int) -> None:
        if self._may_signal(pid):
            self._emit(Signal(pid, number))
