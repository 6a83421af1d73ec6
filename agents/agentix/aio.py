"""AsyncAgent: agent.py's methods for asyncio. Each does what its twin's docstring says.

Who uses it: agents with an event loop of their own. What must hold: one loop owns an AsyncAgent; names and
parameters agree with agent.py (a test compares them); cancelling a task that awaits a call gives the call up.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Unpack

from agentix import calls, memory
from agentix.agent import HELLO_S, LEAVE_S, chosen_kernel, show_errors_in_one_line
from agentix.aio_client import AsyncConnection
from agentix.aio_llm import AsyncLlm
from agentix.aio_sched import AsyncGroups, AsyncSched
from agentix.calls import Call, Exit, Memory, Message, Segment, Window
from agentix.channel import Channel
from agentix.errors import AgentixError, NoSuchChild, NoSuchTask

if TYPE_CHECKING:
    import mmap

    import numpy
    from numpy.typing import DTypeLike

    from agentix.aio_session import AsyncSession
    from agentix.chat.choice import Chatting
    from agentix.memory import Shape


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
            await self._connection.greet(self.name, self._timeout)
        except BaseException:
            self._connection.close()
            raise
        hello = self._connection.hello
        self.pid: int = hello["pid"]
        self.model: str = hello["model"]
        self.window_tokens: int = hello["window_tokens"]
        self.llm = AsyncLlm(self._connection)
        self.mem = AsyncMem(self._connection)
        self.sched = AsyncSched(self._connection)
        self.groups = AsyncGroups(self._connection)
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
        capabilities: Sequence[str] = (),
        group: str = "",
        timeout: float | None = None,
    ) -> AsyncChild:
        kernel = self._connection.kernel
        call = calls.spawn(kernel, script, args, name, env, priority, capabilities, group)
        return AsyncChild(self, await self._call(call, timeout), name)

    def task(
        self,
        name: str = "",
        priority: int | None = None,
        *,
        group: str = "",
        timeout: float | None = None,
    ) -> AsyncTask:
        return AsyncTask(self._connection, name, priority, group=group, timeout=timeout)

    def session(
        self,
        system: str = "",
        *,
        name: str = "",
        durable: bool = False,
        model: str = "",
        window: Window | None = None,
        keep_tokens: int | None = None,
        **options: Unpack[Chatting],
    ) -> AsyncSession:
        from agentix.aio_session import AsyncSession

        opening = calls.ctx_open(model, window, keep_tokens, name, durable)
        return AsyncSession(self._connection, system, opening, options, durable)

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
        self, text: str, *, with_special: bool = True, model: str = "", timeout: float | None = None
    ) -> list[int]:
        return await self._call(calls.tokenize(text, with_special, model), timeout)

    async def detokenize(
        self, tokens: Sequence[int], *, model: str = "", timeout: float | None = None
    ) -> str:
        return await self._call(calls.detokenize(tokens, model), timeout)

    async def _call(self, call: Call, timeout: float | None) -> Any:
        return await self._connection.call(call, timeout)


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


class AsyncTask:
    """Task for asyncio: `async with me.task("critic") as critic:` creates it."""

    def __init__(
        self,
        connection: AsyncConnection,
        name: str = "",
        priority: int | None = None,
        *,
        group: str = "",
        timeout: float | None = None,
    ) -> None:
        self.name = name
        self._holder = connection
        self._priority = priority
        self._group = group
        self._timeout = timeout
        self._is_closed = False

    async def __aenter__(self) -> AsyncTask:
        call = calls.task_create(self.name, self._priority, self._group)
        self.pid: int = await self._holder.call(call, self._timeout)
        self._channel = Channel(self._holder, self.pid)
        self.llm = AsyncLlm(self._channel)
        self.mem = AsyncMem(self._channel)
        self.sched = AsyncSched(self._channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(AgentixError):
            await self.close()

    async def close(self, *, timeout: float | None = LEAVE_S) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        with suppress(NoSuchTask):
            await self._channel.call(calls.leave(0), timeout)
        with suppress(NoSuchChild):
            await self._holder.call(calls.wait(self.pid, timeout), timeout)

    def session(
        self,
        system: str = "",
        *,
        name: str = "",
        durable: bool = False,
        model: str = "",
        window: Window | None = None,
        keep_tokens: int | None = None,
        **options: Unpack[Chatting],
    ) -> AsyncSession:
        from agentix.aio_session import AsyncSession

        opening = calls.ctx_open(model, window, keep_tokens, name, durable)
        return AsyncSession(self._channel, system, opening, options, durable)

    async def send(self, to: int, data: Any, *, timeout: float | None = None) -> None:
        await self._channel.call(calls.send(to, data, timeout), timeout)

    async def recv(self, *, timeout: float | None = None) -> Message:
        return await self._channel.receive(timeout)

    async def log(self, text: str, *, timeout: float | None = None) -> None:
        await self._channel.call(calls.log(text), timeout)


class AsyncMem:
    """Mem for asyncio."""

    def __init__(self, connection: AsyncConnection | Channel) -> None:
        self._connection = connection

    async def create(self, name: str, size_bytes: int, *, timeout: float | None = None) -> Segment:
        return await self._connection.call(calls.mem_create(name, size_bytes), timeout)

    async def stat(self, *, timeout: float | None = None) -> Memory:
        return await self._connection.call(calls.mem_stat(), timeout)

    async def unlink(self, name: str, *, timeout: float | None = None) -> None:
        await self._connection.call(calls.mem_unlink(name), timeout)

    async def map(
        self, name: str, *, writable: bool = True, timeout: float | None = None
    ) -> mmap.mmap:
        segment = memory.find(await self.stat(timeout=timeout), name)
        return await self._connection.map(*memory.request(segment, writable), timeout)

    async def array(
        self,
        name: str,
        shape: Shape | None = None,
        dtype: DTypeLike = "float32",
        *,
        writable: bool = True,
        timeout: float | None = None,
    ) -> numpy.ndarray:
        if shape is not None:
            size_bytes = memory.array_bytes(shape, dtype)
            segment = await self.create(name, size_bytes, timeout=timeout)
            try:
                mapped = await self._connection.map(*memory.request(segment, True), timeout)
                array = memory.place_array(mapped, shape, dtype)
            except BaseException:
                with suppress(AgentixError):
                    await self.unlink(name, timeout=timeout)
                raise
            if writable:
                return array
        return memory.find_array(await self.map(name, writable=writable, timeout=timeout), name)
