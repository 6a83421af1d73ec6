"""A connection that waits by blocking: any number of threads may call over it at once.

Who uses it: agent.py with the "agent" role, the command line with the "operator" role. What must hold: the lock
is held for whatever touches the socket or the mux, and given up only to sleep; of the threads that wait, one
(the leader) sleeps on the socket and reads for all, and whoever stops waiting wakes another to lead.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from agentix import calls
from agentix.calls import Call
from agentix.errors import AgentixError, KernelGone, TimedOut
from agentix.mux import Inflight, Mux
from agentix.transport import Transport
from kernel.abi.codec import PROTOCOL_VERSION

GRACE_S = 1.0  # the kernel ends a call at its deadline; its answer may take so much longer
SPIN_S = 150e-6
HAS_CPUS = len(os.sched_getaffinity(0)) > 1  # else the kernel could not answer while we look
FULL_S = 0.05  # how often a full queue is tried again at least


class Connection:
    """A greeted connection to the kernel called `kernel`."""

    def __init__(self, role: str, kernel: str, name: str, timeout: float | None) -> None:
        """Connect and say hello. Raises NoKernel, TimedOut, KernelGone, PermissionDenied, ProtocolMismatch."""
        self.kernel = kernel
        self._transport = Transport(role, kernel)
        self._mux = Mux()
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._is_lost = False  # seen by whoever slept on the socket
        self._is_led = False  # a thread sleeps on the socket, without the lock
        self._dropped: deque[Inflight] = deque()  # given up where the lock was not to be had
        self._process = os.getpid()
        self._is_closed = False
        try:
            self.hello = self.call(calls.hello(name, PROTOCOL_VERSION), timeout)
        except BaseException:
            self.close()
            raise

    @property
    def kernel_pid(self) -> int:
        return self._transport.kernel_pid

    def call(self, call: Call, timeout: float | None = None) -> Any:
        """Make a call and wait for its answer. Raises its error, TimedOut or KernelGone."""
        inflight = self.submit(call, timeout)
        self._spin(inflight)
        return self.finish(inflight, self.until(timeout))

    def map(self, kind: int, number: int, what: str, timeout: float | None = None) -> mmap.mmap:
        """Map memory of the kernel's: see SideChannel.map. Other threads go on meanwhile."""
        self._check_process()
        return self._transport.side_channel.map(kind, number, what, timeout)

    @staticmethod
    def until(timeout: float | None) -> float | None:
        """When to stop waiting for a call with this timeout, on the monotonic clock."""
        return None if timeout is None else time.monotonic() + timeout + GRACE_S

    def _spin(self, inflight: Inflight) -> None:
        """Look for the answer about as long as falling asleep and waking up takes: most have come by then."""
        if not HAS_CPUS:
            return
        end_s = time.perf_counter() + SPIN_S
        with self._lock:
            while not (inflight.is_done or self._is_led or time.perf_counter() > end_s):
                self._pump()

    def submit(self, call: Call, timeout: float | None = None) -> Inflight:
        """Send a call without waiting for its answer."""
        self._check_process()
        deadline_ms = calls.deadline_ms(call, timeout)
        with self._news:
            inflight, frame = self._mux.start(call, deadline_ms)
            try:
                if self._transport.needs_ring(frame):
                    self._transport.open_ring(self.hello["connection"], timeout)
                while not self._transport.send(frame):  # the kernel reads more slowly than we write
                    self._pump()
                    if inflight.error is not None:
                        raise inflight.error
                    self._sleep(FULL_S)
            except BaseException:
                self._mux.withdraw(inflight)
                raise
            finally:
                self._pump()
                self._news.notify()
        return inflight

    def finish(self, inflight: Inflight, until_s: float | None) -> Any:
        """Wait for a call's answer; give it up when the time passes or the wait is interrupted."""
        try:
            if not self.wait(lambda: inflight.is_done, until_s):
                raise TimedOut(f"{inflight.call.method}: the kernel did not answer in time")
        except BaseException:
            self.drop(inflight)
            raise
        return inflight.value()

    def receive(self, timeout: float | None, task: int | None = None) -> Any:
        """ipc.recv in a task's name, which first takes what came for a receive that was given up."""
        until_s = self.until(timeout)
        while True:
            with self._lock:
                adopted = self._mux.adopt(task)
            left = timeout if until_s is None else max(0.0, until_s - GRACE_S - time.monotonic())
            inflight = adopted or self.submit(calls.recv(left)._replace(task=task), left)
            try:
                return self.finish(inflight, until_s)
            except TimedOut:
                if adopted is None or left == 0:
                    raise  # else it was the time of the receive that was given up that passed

    def wait(self, is_ready: Callable[[], bool], until_s: float | None) -> bool:
        """Read for everybody until `is_ready`; False when the monotonic clock passes `until_s`."""
        self._check_process()
        with self._news:
            try:
                while True:
                    self._pump()
                    if is_ready():
                        return True
                    left = None if until_s is None else until_s - time.monotonic()
                    if left is not None and left <= 0:
                        return False
                    self._sleep(left)
            finally:
                self._news.notify()

    def drop(self, inflight: Inflight) -> None:
        """Give a call up; a generation is cancelled. Never raises, hardly waits: destructors call it."""
        if self._is_closed or os.getpid() != self._process:
            return
        self._dropped.append(inflight)
        if self._lock.acquire(timeout=FULL_S):  # not had when the collector runs inside _pump: see there
            try:
                self._cancel_dropped()
            finally:
                self._lock.release()

    def close(self) -> None:
        """End every call in flight and close the socket."""
        if self._is_closed or os.getpid() != self._process:
            return
        with self._news:
            self._is_closed = True
            self._mux.end(KernelGone("this connection was closed"))
            self._news.notify_all()
            while self._is_led:
                self._transport.wake()
                self._news.wait(FULL_S)
            self._transport.close()

    def _pump(self) -> None:
        """Take everything that has come."""
        if self._is_closed:
            return
        has_news = False
        for frame in self._transport.receive():
            has_news |= bool(self._mux.feed(frame))
        if self._is_lost and not self._mux.is_over:
            has_news |= bool(self._mux.end(self._transport.obituary()))
        if self._dropped:
            self._cancel_dropped()
        if has_news:
            self._news.notify_all()
            if self._is_led:
                self._transport.wake()

    def _sleep(self, timeout_s: float | None) -> None:
        if self._is_led:
            self._news.wait(timeout_s)
            return
        self._is_led = True
        self._lock.release()
        try:
            is_lost = self._transport.wait(timeout_s)
        finally:
            self._lock.acquire()
            self._is_led = False
        self._is_lost |= is_lost

    def _cancel_dropped(self) -> None:
        while self._dropped:
            inflight = self._dropped.popleft()
            if not self._mux.forget(inflight) or inflight.call.method != "llm.generate":
                continue
            try:
                cancel, frame = self._mux.start(calls.cancel(inflight.id, inflight.call.task))
            except AgentixError:
                return
            self._mux.forget(cancel)
            self._transport.send(frame)  # if the queue is full, the request runs to its own end

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                f"this agent was made in process {self._process} and this is {os.getpid()}: "
                "make an Agent after a fork, not before"
            )
