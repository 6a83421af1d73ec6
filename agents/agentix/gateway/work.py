"""One request at work in the kernel: the n generations of its prompt, in the name of its caller's task.

Who uses it: answers.py. What must hold: whatever ends it (an answer, an error, a client that hung up), nothing of
it is left in flight and the seat is given back once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from agentix import calls
from agentix.calls import Call, Reply
from agentix.errors import AgentixError, BrokenPipe, NoSuchTask
from agentix.mux import Inflight

if TYPE_CHECKING:
    from agentix.aio_client import AsyncConnection
    from agentix.gateway.tasks import Seat, TaskTable


class Work:
    """Made once the calls may be sent. `close` must be called; it may be called twice."""

    def __init__(
        self,
        connection: AsyncConnection,
        table: TaskTable,
        seat: Seat,
        made: Sequence[Call],
        timeout_s: float | None,
    ) -> None:
        self._connection = connection
        self._table = table
        self.seat = seat
        self._news = asyncio.Event()
        self._is_closed = False
        self.has_hung_up = False
        self.inflights: list[Inflight] = []
        try:
            for call in made:
                inflight = connection.submit(call._replace(task=seat.pid), timeout_s)
                inflight.waiter = self._news
                self.inflights.append(inflight)
        except BaseException:
            self.close()
            raise

    @property
    def is_done(self) -> bool:
        return all(inflight.is_done for inflight in self.inflights)

    async def wait(self, timeout_s: float | None) -> bool:
        """Wait for news: a chunk, an end, or that the client hung up; say whether there are any."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        has_news = self._news.is_set()
        self._news.clear()
        return has_news

    def take(self) -> list[tuple[int, dict[str, Any] | Reply]]:
        """Return what has come since, as (which generation, a chunk or its reply). Raises AgentixError."""
        come: list[tuple[int, dict[str, Any] | Reply]] = []
        for index, inflight in enumerate(self.inflights):
            while inflight.chunks:
                come.append((index, inflight.chunks.popleft()))
            if inflight.is_done and inflight.waiter is not None:
                inflight.waiter = None  # told once
                come.append((index, _reply(inflight)))
        return come

    async def replies(self) -> list[Reply]:
        """Wait for all replies. Raises AgentixError, or HungUp."""
        while not self.is_done:
            for inflight in self.inflights:
                if inflight.error:
                    inflight.value()  # raises it: the others may be at work still
            await self.wait(None)
            if self.has_hung_up:
                raise HungUp
        return [_reply(inflight) for inflight in self.inflights]

    async def status(self, timeout_s: float) -> dict[str, Any]:
        """Where the first generation that is in flight stands; see llm.status."""
        for inflight in self.inflights:
            if not inflight.is_done:
                return await self._connection.call(calls.status(inflight.id, self.seat.pid), timeout_s)
        return {}

    def hang_up(self) -> None:
        """The client is gone: nobody wants the rest."""
        self.has_hung_up = True
        self._news.set()
        self.close()

    def close(self) -> None:
        """Cancel what is in flight, give the seat back."""
        if self._is_closed:
            return
        self._is_closed = True
        for inflight in self.inflights:
            if not inflight.is_done:
                self._connection.drop(inflight)
        self._table.give_back(
            self.seat, is_dead=any(isinstance(one.error, NoSuchTask | BrokenPipe) for one in self.inflights)
        )


def _reply(inflight: Inflight) -> Reply:
    """A generation's reply. Clients know "length" as the end at a limit, and no quotas. Raises AgentixError."""
    reply = inflight.value()
    return reply._replace(finish_reason="length") if reply.finish_reason == "quota" else reply


class HungUp(AgentixError):
    """The client dropped its connection."""

    def __init__(self) -> None:
        super().__init__("the client dropped its connection")
