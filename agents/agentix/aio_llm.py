"""Generation for asyncio: llm.py's classes with awaits. Each does what its twin's docstring says.

Who uses it: aio.py. What must hold: names and parameters agree with llm.py (a test compares them); a request that
nobody will read any more is cancelled, by whatever way its reader went.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from agentix import calls
from agentix.aio_client import AsyncConnection
from agentix.calls import Prompt, Reply, Sampling
from agentix.channel import Channel
from agentix.errors import TimedOut
from agentix.mux import Inflight

if TYPE_CHECKING:
    from agentix.chat.choice import Chatting
    from agentix.chat.stream import AsyncChatStream
    from agentix.chat.turn import ChatReply, Turn
    from agentix.vectors import Vectors


class AsyncLlm:
    """Llm for asyncio; stream and submit return at once, as in agent.py, and need no await; chat_stream
    does: `async for delta in await me.llm.chat_stream(...)`."""

    def __init__(self, connection: AsyncConnection | Channel) -> None:
        self._connection = connection

    async def generate(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[Sampling]
    ) -> Reply:
        return await self._connection.call(calls.generate(prompt, options), timeout)

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        timeout: float | None = None,
        **options: Unpack[Chatting],
    ) -> ChatReply:
        turn = await self._turn(messages, options, timeout)
        return turn.read(await self._connection.call(turn.call(stream=False), timeout))

    async def chat_stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        timeout: float | None = None,
        **options: Unpack[Chatting],
    ) -> AsyncChatStream:
        from agentix.chat.stream import AsyncChatStream

        turn = await self._turn(messages, options, timeout)
        inflight = self._connection.submit(turn.call(stream=True), timeout)
        return AsyncChatStream(AsyncStream(self._connection, inflight, timeout), turn)

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

    async def embed(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]],
        *,
        model: str = "",
        timeout: float | None = None,
    ) -> Vectors:
        from agentix.vectors import vectors_of

        end_s = None if timeout is None else time.monotonic() + timeout
        raw: list[bytes] = []
        for call in calls.embed(texts, model):
            left_s = None if end_s is None else max(0.0, end_s - time.monotonic())
            raw += await self._connection.call(call, left_s)
        return vectors_of(raw)

    async def models(self, *, timeout: float | None = None) -> list[dict[str, Any]]:
        return await self._connection.call(calls.models(), timeout)

    async def _turn(
        self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any], timeout: float | None
    ) -> Turn:
        from agentix.chat.turn import Turn

        turn = Turn(messages, options)
        if turn.wants_format:
            turn.force(await self._connection.call(calls.models(), timeout))
        return turn


class AsyncPending:
    """Pending for asyncio."""

    def __init__(
        self, connection: AsyncConnection | Channel, inflight: Inflight, timeout: float | None
    ) -> None:
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

    async def status(self) -> dict[str, Any]:
        return await self._connection.call(calls.status(self._inflight.id))

    async def cancel(self) -> bool:
        if self._inflight.is_done:
            return False
        return await self._connection.call(calls.cancel(self._inflight.id))

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        while (chunk := await self.next_chunk()) is not None:
            if chunk["text"]:
                return chunk["text"]
        raise StopAsyncIteration

    async def next_chunk(self) -> dict[str, Any] | None:
        inflight = self._inflight
        while not inflight.chunks:
            if inflight.is_done:
                inflight.value()
                return None
            await self._wait_for_piece()
        return inflight.chunks.popleft()

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
