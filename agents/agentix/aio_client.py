"""A connection for asyncio: client.py's Connection, awaited instead of waited for.

Who uses it: aio.py. What must hold: one event loop makes, uses and closes it; nothing here blocks the loop; calls
leave in the order in which they were made.

The side channel alone blocks, so it is used in the loop's executor: asyncio's streams carry no descriptors, and a
second implementation of its few lines would be one more to get wrong.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from agentix import calls
from agentix.calls import Call
from agentix.errors import AgentixError, KernelGone, TimedOut
from agentix.mux import Inflight, Mux
from agentix.transport import DYING_S, Transport
from kernel.abi.codec import PROTOCOL_VERSION

GRACE_S = 1.0  # as in client.py
FULL_S = 0.05  # how often a full queue is tried again at least


class AsyncConnection:
    """A connection to the kernel called `kernel`, to be greeted before anything else."""

    def __init__(self, role: str, kernel: str) -> None:
        self.kernel = kernel
        self._transport = Transport(role, kernel)
        self._mux = Mux()
        self._backlog: deque[tuple[Inflight, bytes]] = deque()  # not sent yet
        self._retry: asyncio.TimerHandle | None = None  # of the backlog
        self._opening: asyncio.Future[None] | None = None  # the payload ring is being fetched
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._is_closed = False
        self._has_sign = False  # that the connection is at its end
        for fd, callback in (
            (self._transport.fd, self._pump),
            (self._transport.loss_fd, self._on_loss),
            (self._transport.pidfd, self._on_death),
        ):
            self._loop.add_reader(fd, callback)

    async def greet(self, name: str, timeout: float | None) -> None:
        """Say hello; `hello` is the answer."""
        self.hello = await self.call(calls.hello(name, PROTOCOL_VERSION), timeout)

    async def call(self, call: Call, timeout: float | None = None) -> Any:
        return await self.finish(self.submit(call, timeout), self.until(timeout))

    async def map(self, kind: int, number: int, what: str, timeout: float | None = None) -> mmap.mmap:
        self._check_process()
        side_channel = self._transport.side_channel
        return await self._loop.run_in_executor(None, side_channel.map, kind, number, what, timeout)

    def submit(self, call: Call, timeout: float | None = None) -> Inflight:
        self._check_process()
        inflight, frame = self._mux.start(call, calls.deadline_ms(call, timeout))
        inflight.waiter = asyncio.Event()
        self._backlog.append((inflight, frame))
        self._pump()
        return inflight

    async def finish(self, inflight: Inflight, until_s: float | None) -> Any:
        try:
            if not await self.wait(inflight, lambda: inflight.is_done, until_s):
                raise TimedOut(f"{inflight.call.method}: the kernel did not answer in time")
        except BaseException:
            self.drop(inflight)
            raise
        return inflight.value()

    async def receive(self, timeout: float | None, task: int | None = None) -> Any:
        until_s = self.until(timeout)
        while True:
            adopted = self._mux.adopt(task)
            left = timeout if until_s is None else max(0.0, until_s - GRACE_S - self._loop.time())
            inflight = adopted or self.submit(calls.recv(left)._replace(task=task), left)
            try:
                return await self.finish(inflight, until_s)
            except TimedOut:
                if adopted is None or left == 0:
                    raise

    async def wait(
        self, inflight: Inflight, is_ready: Callable[[], bool], until_s: float | None
    ) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                while not is_ready():
                    inflight.waiter.clear()
                    await inflight.waiter.wait()
        return is_ready()

    def until(self, timeout: float | None) -> float | None:
        return None if timeout is None else self._loop.time() + timeout + GRACE_S

    def drop(self, inflight: Inflight) -> None:
        if self._is_closed or os.getpid() != self._process:
            return
        if not self._mux.forget(inflight) or inflight.call.method != "llm.generate":
            return
        with suppress(AgentixError, RuntimeError):  # the loop may be closed: a destructor comes at any time
            cancel, frame = self._mux.start(calls.cancel(inflight.id, inflight.call.task))
            self._mux.forget(cancel)
            self._backlog.append((cancel, frame))
            self._loop.call_soon(self._pump)

    def close(self) -> None:
        if self._is_closed or os.getpid() != self._process:
            return
        self._is_closed = True
        for fd in (self._transport.fd, self._transport.loss_fd, self._transport.pidfd):
            self._loop.remove_reader(fd)
        if self._retry is not None:
            self._retry.cancel()
        self._end(KernelGone("this connection was closed"))
        self._transport.close()

    def _pump(self) -> None:
        """Send what waits, as far as it goes, and take everything that has come."""
        if self._is_closed or self._opening is not None:
            return
        while self._backlog:
            _, frame = self._backlog[0]
            if self._transport.needs_ring(frame):
                self._open_ring()
                return
            if not self._transport.send(frame):
                self._try_again()
                break
            self._backlog.popleft()
        for frame in self._transport.receive():
            _tell(self._mux.feed(frame))

    def _try_again(self) -> None:
        """The room may come without news: the kernel reads the payload ring in silence."""
        if self._retry is None:
            self._retry = self._loop.call_later(FULL_S, self._on_retry)

    def _on_retry(self) -> None:
        self._retry = None
        self._pump()

    def _open_ring(self) -> None:
        """Fetch the payload ring for the first message that waits; nothing comes or goes meanwhile."""
        number = self.hello["connection"]
        self._opening = self._loop.run_in_executor(None, self._transport.open_ring, number, None)
        self._opening.add_done_callback(self._on_ring)

    def _on_ring(self, opening: asyncio.Future[None]) -> None:
        self._opening = None
        error = opening.exception()
        if error is not None and self._backlog:
            inflight, _ = self._backlog.popleft()
            self._mux.refuse(inflight, error)
            _tell((inflight,))
        self._pump()

    def _on_loss(self) -> None:
        if self._transport.is_lost():
            self._loop.remove_reader(self._transport.loss_fd)
            self._wane()

    def _on_death(self) -> None:
        self._loop.remove_reader(self._transport.pidfd)  # it stays readable for ever
        self._wane()

    def _wane(self) -> None:
        """Of a kernel that dies there come two signs, in either order: the last messages before the second."""
        self._loop.call_later(0 if self._has_sign else DYING_S, self._on_end)
        self._has_sign = True

    def _on_end(self) -> None:
        self._pump()
        if not self._is_closed:
            self._end(self._transport.obituary())

    def _end(self, error: AgentixError) -> None:
        _tell(self._mux.end(error))

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(f"this agent was made in process {self._process}, before a fork")


def _tell(moved: Iterable[Inflight]) -> None:
    """Wake whoever awaits one of these calls."""
    for inflight in moved:
        if inflight.waiter is not None:
            inflight.waiter.set()
