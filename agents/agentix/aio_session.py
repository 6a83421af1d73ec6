"""AsyncSession: session.py's class for asyncio. Each method does what its twin's docstring says.

Who uses it: aio.py makes them. What must hold: as in aio.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Unpack

from agentix import calls
from agentix.aio_llm import AsyncStream
from agentix.calls import Call, Prompt, Reply, Sampling
from agentix.chat.conversation import Conversation, Said
from agentix.chat.turn import Turn
from agentix.errors import AgentixError
from agentix.session import CLOSE_S, check_fork, check_open

if TYPE_CHECKING:
    from agentix.aio_client import AsyncConnection
    from agentix.channel import Channel
    from agentix.chat.choice import Chatting
    from agentix.chat.stream import AsyncChatStream
    from agentix.chat.turn import ChatReply


class AsyncSession:
    """Session for asyncio: `async with me.session() as s: await s.say(...)`; stream needs an await as well."""

    def __init__(
        self,
        connection: AsyncConnection | Channel,
        system: str,
        opening: Call,
        options: Mapping[str, Any],
        durable: bool = False,
    ) -> None:
        self._connection = connection
        self._opening = opening
        self._durable = durable
        self._conversation = Conversation(system, options)
        self._number = 0
        self._parent: AsyncSession | None = None

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [dict(message) for message in self._conversation.messages]

    @property
    def turns(self) -> int:
        return self._conversation.turns

    async def say(
        self, said: Said, *, timeout: float | None = None, **options: Unpack[Chatting]
    ) -> ChatReply:
        turn = await self._turn(said, options, timeout)
        return turn.read(await self._connection.call(turn.call(stream=False), timeout))

    async def stream(
        self, said: Said, *, timeout: float | None = None, **options: Unpack[Chatting]
    ) -> AsyncChatStream:
        from agentix.chat.stream import AsyncChatStream

        turn = await self._turn(said, options, timeout)
        inflight = self._connection.submit(turn.call(stream=True), timeout)
        return AsyncChatStream(AsyncStream(self._connection, inflight, timeout), turn)

    async def generate(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[Sampling]
    ) -> Reply:
        call = self._conversation.raw(await self._open(timeout), prompt, options)
        reply = await self._connection.call(call, timeout)
        self._conversation.turns += 1
        return reply

    async def fork(self, count: int, *, timeout: float | None = None) -> list[AsyncSession]:
        numbers = await self._connection.call(calls.ctx_fork(await self._open(timeout), count), timeout)
        return [self._child(number) for number in numbers]

    async def commit(self, *, timeout: float | None = None) -> AsyncSession:
        check_fork(self._parent)
        assert self._parent is not None
        await self._connection.call(calls.ctx_commit(await self._open(timeout)), timeout)
        self._number = -1
        self._parent._conversation.become(self._conversation)
        return self._parent

    async def close(self, *, forget: bool = False, timeout: float | None = CLOSE_S) -> None:
        number = await self._open(timeout) if forget else self._number
        self._number = -1
        if number > 0:
            await self._connection.call(calls.ctx_close(number, forget), timeout)

    async def __aenter__(self) -> AsyncSession:
        if self._durable:
            await self._open(None)
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(AgentixError):
            await self.close()

    def _child(self, number: int) -> AsyncSession:
        child = AsyncSession(self._connection, "", self._opening, {})
        child._conversation, child._number, child._parent = self._conversation.fork(), number, self
        return child

    async def _open(self, timeout: float | None) -> int:
        check_open(self._number)
        if not self._number:
            found = await self._connection.call(self._opening, timeout)
            self._number = found["session"]
            if self._durable:
                await self._resume(found["turns"], timeout)
        return self._number

    async def _resume(self, turns: int, timeout: float | None) -> None:
        said: list[dict[str, Any]] = []
        page: dict[str, Any] = {"more": turns > 0, "answer": None}
        while page["more"]:
            page = await self._connection.call(calls.ctx_messages(self._number, len(said)), timeout)
            said += page["messages"]
        self._conversation.resume(turns, said, page["answer"])

    async def _turn(self, said: Said, options: Mapping[str, Any], timeout: float | None) -> Turn:
        turn = self._conversation.turn(await self._open(timeout), said, options)
        if turn.wants_format:
            turn.force(await self._connection.call(calls.models(), timeout))
        return turn
