"""A chat's answer as deltas while it comes.

Who uses it: llm.py and aio.py's chat_stream(). What must hold: leaving the loop early cancels the rest, as in
the streams that these are made of; `reply` is there once the loop has ended by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from agentix.chat.parts import Delta
from agentix.chat.turn import ChatReply, Turn

if TYPE_CHECKING:
    from agentix.aio_llm import AsyncStream
    from agentix.llm import Stream


class ChatStream:
    """Iterate it for deltas; `reply` is the whole afterwards. Closed or dropped, it cancels the request."""

    def __init__(self, stream: Stream, turn: Turn) -> None:
        self._stream, self._turn = stream, turn
        self._deltas: deque[Delta] = deque()

    @property
    def reply(self) -> ChatReply | None:
        """The whole answer, None before its end."""
        return self._turn.reply

    def close(self) -> None:
        """Cancel what has not come yet."""
        self._stream.close()

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        while not self._deltas:
            if self._turn.reply is not None:
                raise StopIteration
            chunk = self._stream.next_chunk()
            if chunk is None:
                self._deltas.extend(self._turn.finish(self._stream.result()))
            else:
                self._deltas.extend(self._turn.feed(chunk))
        return self._deltas.popleft()


class AsyncChatStream:
    """ChatStream for asyncio."""

    def __init__(self, stream: AsyncStream, turn: Turn) -> None:
        self._stream, self._turn = stream, turn
        self._deltas: deque[Delta] = deque()

    @property
    def reply(self) -> ChatReply | None:
        return self._turn.reply

    def close(self) -> None:
        self._stream.close()

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        while not self._deltas:
            if self._turn.reply is not None:
                raise StopAsyncIteration
            chunk = await self._stream.next_chunk()
            if chunk is None:
                self._deltas.extend(self._turn.finish(await self._stream.result()))
            else:
                self._deltas.extend(self._turn.feed(chunk))
        return self._deltas.popleft()
