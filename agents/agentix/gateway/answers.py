"""HTTP answers to generations: as a stream of events, or whole. Written to ASGI directly, for each token counts.

Who uses it: the endpoints of every API, with a Shape that says how its bytes look. What must hold: an error before
the first byte has a status of its own; while a client waits in silence it is sent something now and then; a client
that hangs up ends its work at once; one that does not read is not waited for longer than SLOW_READER_S.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from math import ceil
from typing import Any, Protocol

from agentix.calls import Reply
from agentix.errors import AgentixError, PromptTooLong
from agentix.gateway.problems import Problem, problem_of
from agentix.gateway.work import Work

KEEP_ALIVE_S = 5.0  # of silence
PROGRESS_S = 1.0  # between reports of the place in the queue
SLOW_READER_S = 60.0
STATUS_S = 1.0

Message = MutableMapping[str, Any]
Items = list[tuple[int, dict[str, Any] | Reply]]
Prepare = Callable[[Items], Awaitable[None]]
Shorten = Callable[[PromptTooLong], Awaitable[Work | None]]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Shape(Protocol):
    """How one API's answer to one request looks. Its methods are called in this order."""

    media_type: str

    def begin(self) -> bytes:
        """What a stream starts with."""
        ...

    def pause(self, status: dict[str, Any] | None) -> bytes:
        """What says that there is nothing yet; status: what llm.status answered, if the client wants it."""
        ...

    def chunk(self, index: int, chunk: dict[str, Any]) -> bytes: ...

    def reply(self, index: int, reply: Reply) -> bytes:
        """The end of one generation."""
        ...

    def end(self) -> bytes: ...

    def failure(self, problem: Problem) -> bytes:
        """An error after the first byte; nothing follows it."""
        ...

    def whole(self, replies: Sequence[Reply]) -> bytes:
        """An answer that is no stream."""
        ...

    def refusal(self, problem: Problem) -> bytes:
        """The body of an error before the first byte."""
        ...


class Answer:
    """An ASGI response. `done` is called once with the replies (some may be missing) and the HTTP status.

    prepare: awaited with what has come before the shape is given it. shorten: given a PromptTooLong, begins the work
    again with less of the prompt, or returns None where nothing can be left out.
    """

    def __init__(
        self,
        work: Work,
        shape: Shape,
        *,
        is_stream: bool,
        wants_progress: bool = False,
        keep_alive_s: float = KEEP_ALIVE_S,
        prepare: Prepare | None = None,
        shorten: Shorten | None = None,
        headers: Sequence[tuple[str, str]] = (),
        done: Callable[[list[Reply], int], None] = lambda replies, status: None,
    ) -> None:
        self._work = work
        self._shape = shape
        self._is_stream = is_stream
        self._quiet_s = min(PROGRESS_S, keep_alive_s) if wants_progress else keep_alive_s
        self._wants_progress = wants_progress
        self._prepare = prepare
        self._shorten = shorten
        self._headers = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in headers
        ]
        self._done = done
        self._replies: list[Reply] = []
        self._status = 0  # of HTTP; 0: not sent

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        watcher = asyncio.ensure_future(self._watch(receive))
        try:
            if self._is_stream:
                await self._stream(send)
            else:
                await self._whole(send)
        finally:
            watcher.cancel()
            self._work.close()
            self._done(self._replies, 499 if self._work.has_hung_up else self._status)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._work.hang_up()

    async def _whole(self, send: Send) -> None:
        try:
            while True:
                try:
                    self._replies = await self._work.replies()
                    break
                except PromptTooLong as error:
                    await self._begin_shorter(error)
            if self._prepare is not None:
                await self._prepare(list(enumerate(self._replies)))
            body = self._shape.whole(self._replies)
        except AgentixError as error:
            if not self._work.has_hung_up:
                await self._refuse(send, problem_of(error))
            return
        except Problem as problem:
            await self._refuse(send, problem)
            return
        await self._start(send, 200, b"application/json", len(body))
        await _write(send, body, is_last=True)

    async def _stream(self, send: Send) -> None:
        try:
            while not (self._work.has_hung_up or (self._work.is_done and not self._has_more())):
                try:
                    body = await self._next_bytes()
                except PromptTooLong as error:
                    if self._status:
                        raise
                    await self._begin_shorter(error)
                    continue
                if body:
                    await self._send_piece(send, body)
            if not self._work.has_hung_up:
                await self._send_piece(send, self._shape.end(), is_last=True)
        except (AgentixError, Problem) as error:
            problem = error if isinstance(error, Problem) else problem_of(error)
            if self._work.has_hung_up:
                return
            if self._status:
                await _write(send, self._shape.failure(problem), is_last=True)
            else:
                await self._refuse(send, problem)

    async def _begin_shorter(self, error: PromptTooLong) -> None:
        """Begin the work again with less of the prompt. Raises the error where that is not wanted."""
        work = await self._shorten(error) if self._shorten is not None else None
        if work is None:
            raise error
        old, self._work = self._work, work
        if old.has_hung_up:
            work.hang_up()
        old.close()

    async def _next_bytes(self) -> bytes:
        """Wait for what comes next; return what to send of it. Raises AgentixError, Problem."""
        if not await self._work.wait(self._quiet_s):
            return self._shape.pause(await self._ask_status())
        if self._work.has_hung_up:
            return b""
        items = self._work.take()
        if self._prepare is not None:
            await self._prepare(items)
        pieces = []
        for index, item in items:
            if isinstance(item, Reply):
                self._replies.append(item)
                pieces.append(self._shape.reply(index, item))
            else:
                pieces.append(self._shape.chunk(index, item))
        return b"".join(pieces)

    def _has_more(self) -> bool:
        return any(
            inflight.chunks or inflight.waiter is not None for inflight in self._work.inflights
        )

    async def _ask_status(self) -> dict[str, Any] | None:
        if not self._wants_progress:
            return None
        with suppress(AgentixError):
            return await self._work.status(STATUS_S)
        return None

    async def _send_piece(self, send: Send, body: bytes, is_last: bool = False) -> None:
        if not self._status:
            await self._start(send, 200, self._shape.media_type.encode(), None)
            body = self._shape.begin() + body
        await _write(send, body, is_last)

    async def _refuse(self, send: Send, problem: Problem) -> None:
        body = self._shape.refusal(problem)
        self._headers += headers_of(problem)
        await self._start(send, problem.status, b"application/json", len(body))
        await _write(send, body, is_last=True)

    async def _start(self, send: Send, status: int, media_type: bytes, size: int | None) -> None:
        self._status = status
        headers = [(b"content-type", media_type), *self._headers]
        if size is None:
            headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        else:
            headers.append((b"content-length", str(size).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})


async def _write(send: Send, body: bytes, is_last: bool) -> None:
    """Send a part of the body. A client that does not read is given up: what is in flight for it ends."""
    try:
        async with asyncio.timeout(SLOW_READER_S):
            await send({"type": "http.response.body", "body": body, "more_body": not is_last})
    except TimeoutError:
        raise SlowReader from None


class SlowReader(Exception):
    """A client has not read for SLOW_READER_S: its connection is dropped."""


def headers_of(problem: Problem) -> list[tuple[bytes, bytes]]:
    """The headers of an error: when to try again, or that it is no use."""
    headers = []
    if problem.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, ceil(problem.retry_after_s))).encode()))
    if not problem.may_retry:
        headers.append((b"x-should-retry", b"false"))
    if problem.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers
