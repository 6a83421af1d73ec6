"""AsyncAgent: agent.py's methods for asyncio. Each does what its twin's docstring says.

Who uses it: agents with an event loop of their own. What must hold: one loop owns an AsyncAgent; names and
parameters agree with agent.py (a test compares them); cancelling a task that awaits a call gives the call up.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Unpack

from agentix import calls
from agentix.agent import HELLO_S, LEAVE_S, chosen_kernel, show_errors_in_one_line
from agentix.calls import (
    Call,
    Exit,
    Memory,
    Message,
    Policies,
    Prompt,
    Reply,
    Sampling,
    Schedule,
    Segment,
)
from agentix.errors import AgentixError, KernelGone, TimedOut
from agentix.mux import Inflight, Mux
from agentix.transport import Transport
from kernel.abi.codec import PROTOCOL_VERSION

GRACE_S = 1.0  # as in client.py


class AsyncConnection:
    """client.py's Connection for one event loop. Made, used and closed in it."""

    def __init__(self, role: str, kernel: str) -> None:
        self.kernel = kernel
        self._transport = Transport(role, kernel)
        self._mux = Mux()
        self._backlog: deque[list[bytes]] = deque()  # frames that the socket had no room for
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._is_closed = False
        for fd in (self._transport.fd, self._transport.pidfd):
            self._loop.add_reader(fd, self._pump)

    async def call(self, call: Call, timeout: float | None = None) -> Any:
        return await self.finish(self.submit(call, timeout), self.until(timeout))

    def submit(self, call: Call, timeout: float | None = None) -> Inflight:
        if os.getpid() != self._process:
            raise RuntimeError(f"this agent was made in process {self._process}, before a fork")
        inflight, frames = self._mux.start(call, calls.deadline_ms(call, timeout))
        inflight.waiter = asyncio.Event()
        self._backlog.append(frames)
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

    async def receive(self, timeout: float | None) -> Any:
        until_s = self.until(timeout)
        while True:
            adopted = self._mux.adopt()
            left = timeout if until_s is None else max(0.0, until_s - GRACE_S - self._loop.time())
            inflight = adopted or self.submit(calls.recv(left), left)
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
            cancel, frames = self._mux.start(calls.cancel(inflight.id))
            self._mux.forget(cancel)
            self._backlog.append(frames)
            self._loop.call_soon(self._pump)

    def close(self) -> None:
        if self._is_closed or os.getpid() != self._process:
            return
        self._is_closed = True
        for fd in (self._transport.fd, self._transport.pidfd):
            self._loop.remove_reader(fd)
        self._end(KernelGone("this connection was closed"))
        self._transport.close()

    def _pump(self) -> None:
        if self._is_closed:
            return
        is_dead = self._transport.is_kernel_dead()
        while self._backlog and self._transport.send(self._backlog[0]):
            self._backlog.popleft()
        for frames in self._transport.receive():
            moved = self._mux.feed(frames)
            if moved is not None and moved.waiter is not None:
                moved.waiter.set()
        if is_dead:
            self._loop.remove_reader(self._transport.pidfd)  # it stays readable for ever
            self._end(
                KernelGone(f"kernel {self.kernel!r} (pid {self._transport.kernel_pid}) has died")
            )

    def _end(self, error: AgentixError) -> None:
        for inflight in self._mux.end(error):
            if inflight.waiter is not None:
                inflight.waiter.set()


class AsyncAgent:
    """Agent for asyncio: `async with AsyncAgent("writer") as me: await me.llm.generate(...)`."""

    def __init__(self, name: str = "", *, kernel: str | None = None, timeout: float = HELLO_S) -> None:
        self.name = name
        self._kernel = kernel
        self._timeout = timeout

    async def __aenter__(self) -> AsyncAgent:
        show_errors_in_one_line()
        self._connection = AsyncConnection("agent", self._kernel or chosen_kernel())
        try:
            greeting = calls.hello(self.name, PROTOCOL_VERSION)
            hello = await self._connection.call(greeting, self._timeout)
        except BaseException:
            self._connection.close()
            raise
        self.pid: int = hello["pid"]
        self.model: str = hello["model"]
        self.window_tokens: int = hello["window_tokens"]
        self.llm = AsyncLlm(self._connection)
        self.mem = AsyncMem(self._connection)
        self.sched = AsyncSched(self._connection)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with suppress(AgentixError):
                await self._call(calls.leave(0), LEAVE_S)
        self.close()

    def close(self) -> None:
        self._connection.close()

    async def spawn(
        self,
        script: str | os.PathLike[str],
        *args: object,
        name: str = "",
        env: Mapping[str, str] | None = None,
        priority: int | None = None,
        timeout: float | None = None,
    ) -> AsyncChild:
        call = calls.spawn(self._connection.kernel, script, args, name, env, priority)
        return AsyncChild(self, await self._call(call, timeout), name)

    async def wait(self, pid: int = 0, *, timeout: float | None = None) -> Exit:
        return await self._call(calls.wait(pid, timeout), timeout)

    async def kill(self, pid: int, signal: str = "TERM", *, timeout: float | None = None) -> None:
        await self._call(calls.kill(pid, signal), timeout)

    async def send(self, to: int, data: Any, *, timeout: float | None = None) -> None:
        await self._call(calls.send(to, data, timeout), timeout)

    async def recv(self, *, timeout: float | None = None) -> Message:
        return await self._connection.receive(timeout)

    async def ps(self, *, timeout: float | None = None) -> list[dict[str, Any]]:
        return await self._call(calls.ps(), timeout)

    async def log(self, text: str, *, timeout: float | None = None) -> None:
        await self._call(calls.log(text), timeout)

    async def tokenize(
        self, text: str, *, with_special: bool = True, timeout: float | None = None
    ) -> list[int]:
        return await self._call(calls.tokenize(text, with_special), timeout)

    async def detokenize(self, tokens: Sequence[int], *, timeout: float | None = None) -> str:
        return await self._call(calls.detokenize(tokens), timeout)

    async def _call(self, call: Call, timeout: float | None) -> Any:
        return await self._connection.call(call, timeout)


class AsyncLlm:
    """Llm for asyncio; stream and submit return at once, as in agent.py, and need no await."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def generate(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[Sampling]
    ) -> Reply:
        return await self._connection.call(calls.generate(prompt, options), timeout)

    async def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        timeout: float | None = None,
        **options: Unpack[Sampling],
    ) -> Reply:
        return await self.generate(messages, timeout=timeout, **options)

    def stream(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[Sampling]
    ) -> AsyncStream:
        call = calls.generate(prompt, options, stream=True)
        return AsyncStream(self._connection, self._connection.submit(call, timeout), timeout)

    def submit(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[Sampling]
    ) -> AsyncPending:
        call = calls.generate(prompt, options, stream=True)
        return AsyncPending(self._connection, self._connection.submit(call, timeout), timeout)


class AsyncPending:
    """Pending for asyncio."""

    def __init__(self, connection: AsyncConnection, inflight: Inflight, timeout: float | None) -> None:
        self._connection = connection
        self._inflight = inflight
        self._until_s = connection.until(timeout)

    @property
    def is_done(self) -> bool:
        return self._inflight.is_done

    async def result(self, timeout: float | None = None) -> Reply:
        inflight = self._inflight
        if timeout is not None:
            until_s = self._connection.until(timeout)
            if not await self._connection.wait(inflight, lambda: inflight.is_done, until_s):
                raise TimedOut(f"llm.generate: no reply within {timeout:g} s")
        return await self._connection.finish(inflight, self._until_s)

    async def cancel(self) -> bool:
        if self._inflight.is_done:
            return False
        return await self._connection.call(calls.cancel(self._inflight.id))

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        inflight = self._inflight
        while True:
            while inflight.chunks:
                if text := inflight.chunks.popleft()["text"]:
                    return text
            if inflight.is_done:
                inflight.value()
                raise StopAsyncIteration
            await self._wait_for_piece()

    async def _wait_for_piece(self) -> None:
        inflight = self._inflight
        try:
            if not await self._connection.wait(
                inflight, lambda: bool(inflight.chunks) or inflight.is_done, self._until_s
            ):
                raise TimedOut("llm.generate: the kernel did not answer in time")
        except BaseException:
            self._connection.drop(inflight)
            raise


class AsyncStream(AsyncPending):
    """Stream for asyncio."""

    def close(self) -> None:
        if not self.is_done:
            self._connection.drop(self._inflight)

    def __del__(self) -> None:
        self.close()


class AsyncChild:
    """Child for asyncio."""

    def __init__(self, parent: AsyncAgent, pid: int, name: str) -> None:
        self._parent = parent
        self.pid = pid
        self.name = name

    async def wait(self, *, timeout: float | None = None) -> Exit:
        return await self._parent.wait(self.pid, timeout=timeout)

    async def kill(self, signal: str = "TERM", *, timeout: float | None = None) -> None:
        await self._parent.kill(self.pid, signal, timeout=timeout)

    async def send(self, data: Any, *, timeout: float | None = None) -> None:
        await self._parent.send(self.pid, data, timeout=timeout)


class AsyncMem:
    """Mem for asyncio."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(self, name: str, size_bytes: int, *, timeout: float | None = None) -> Segment:
        return await self._connection.call(calls.mem_create(name, size_bytes), timeout)

    async def stat(self, *, timeout: float | None = None) -> Memory:
        return await self._connection.call(calls.mem_stat(), timeout)

    async def unlink(self, name: str, *, timeout: float | None = None) -> None:
        await self._connection.call(calls.mem_unlink(name), timeout)


class AsyncSched:
    """Sched for asyncio."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def set(
        self,
        *,
        priority: int | None = None,
        policy: str | None = None,
        quantum_tokens: int | None = None,
        pid: int = 0,
        timeout: float | None = None,
    ) -> Schedule:
        call = calls.sched_set(pid=pid, priority=priority, policy=policy, quantum_tokens=quantum_tokens)
        return await self._connection.call(call, timeout)

    async def get(self, pid: int = 0, *, timeout: float | None = None) -> Schedule:
        return await self._connection.call(calls.sched_get(pid), timeout)

    async def policies(self, *, timeout: float | None = None) -> Policies:
        return await self._connection.call(calls.sched_policies(), timeout)
