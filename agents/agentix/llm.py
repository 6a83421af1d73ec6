"""Generation: llm.generate as methods that wait, and the streams and pending requests that they give.

Who uses it: agent.py; aio.py has the same to await. What must hold: a request that nobody will read any more is
cancelled, by whatever way its reader went.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from agentix import calls
from agentix.calls import Prompt, Reply, Sampling
from agentix.errors import TimedOut

if TYPE_CHECKING:
    from agentix.channel import Channel
    from agentix.chat.choice import Chatting
    from agentix.chat.stream import ChatStream
    from agentix.chat.turn import ChatReply, Turn
    from agentix.client import Connection
    from agentix.mux import Inflight
    from agentix.vectors import Vectors


class Llm:
    """Generation. `prompt` is a text, a list of tokens, or a list of messages {"role", "content"}."""

    def __init__(self, connection: Connection | Channel) -> None:
        self._connection = connection

    def generate(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[Sampling]
    ) -> Reply:
        """Generate text and wait for all of it.

        Raises NoSuchModel, InvalidValue, PromptTooLong, TryAgain, TimedOut, ModelFailed.
        """
        return self._connection.call(calls.generate(prompt, options), timeout)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        timeout: float | None = None,
        **options: Unpack[Chatting],
    ) -> ChatReply:
        """Generate the next message of a chat, read into content, reasoning and tool calls.

        Messages, tools and tool_choice are as in OpenAI's API. Raises InvalidValue and what generate() raises.
        """
        turn = self._turn(messages, options, timeout)
        return turn.read(self._connection.call(turn.call(stream=False), timeout))

    def chat_stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        timeout: float | None = None,
        **options: Unpack[Chatting],
    ) -> ChatStream:
        """chat() delta by delta; leaving the loop early cancels the rest."""
        from agentix.chat.stream import ChatStream

        turn = self._turn(messages, options, timeout)
        inflight = self._connection.submit(turn.call(stream=True), timeout)
        return ChatStream(Stream(self._connection, inflight, timeout), turn)

    def stream(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[Sampling]
    ) -> Stream:
        """Generate text piece by piece; leaving the loop early cancels the rest."""
        call = calls.generate(prompt, options, stream=True)
        return Stream(self._connection, self._connection.submit(call, timeout), timeout)

    def submit(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[Sampling]
    ) -> Pending:
        """Start generating and return at once: an agent may have several requests in flight."""
        call = calls.generate(prompt, options, stream=True)
        return Pending(self._connection, self._connection.submit(call, timeout), timeout)

    def embed(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]],
        *,
        model: str = "",
        timeout: float | None = None,
    ) -> Vectors:
        """The vectors of texts, or of tokens: shape (texts, width), float32, each of length 1.

        A numpy array, or lists of floats where numpy is not installed. `model`: one of models(); the first for
        embeddings, if left out. Raises NoSuchModel, InvalidValue, PromptTooLong, ModelFailed, TimedOut.
        """
        from agentix.vectors import vectors_of

        end_s = None if timeout is None else time.monotonic() + timeout
        raw: list[bytes] = []
        for call in calls.embed(texts, model):
            left_s = None if end_s is None else max(0.0, end_s - time.monotonic())
            raw += self._connection.call(call, left_s)
        return vectors_of(raw)

    def models(self, *, timeout: float | None = None) -> list[dict[str, Any]]:
        """The models that this kernel serves, the first one first: name, path, state, window_tokens, ..."""
        return self._connection.call(calls.models(), timeout)

    def _turn(
        self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any], timeout: float | None
    ) -> Turn:
        from agentix.chat.turn import Turn  # agents that do not chat start sooner

        turn = Turn(messages, options)
        if turn.wants_format:
            turn.force(self._connection.call(calls.models(), timeout))
        return turn


class Pending:
    """A generation in flight. Iterate it for its pieces, or take its result, or both."""

    def __init__(self, connection: Connection | Channel, inflight: Inflight, timeout: float | None) -> None:
        self._connection = connection
        self._inflight = inflight
        self._until_s = connection.until(timeout)

    @property
    def is_done(self) -> bool:
        """Whether result() would return or raise at once, as far as has been read."""
        return self._inflight.is_done

    def result(self, timeout: float | None = None) -> Reply:
        """Wait for the reply. Raises TimedOut after `timeout` seconds; the request then goes on."""
        if timeout is not None:
            until_s = self._connection.until(timeout)
            if not self._connection.wait(lambda: self._inflight.is_done, until_s):
                raise TimedOut(f"llm.generate: no reply within {timeout:g} s")
        return self._connection.finish(self._inflight, self._until_s)

    def status(self) -> dict[str, Any]:
        """Where it stands: state, position, expected_wait_s and more; see llm.status in docs/protocol.md."""
        return self._connection.call(calls.status(self._inflight.id))

    def cancel(self) -> bool:
        """End the request; result() then raises Cancelled. False when it had ended already."""
        if self._inflight.is_done:
            return False
        return self._connection.call(calls.cancel(self._inflight.id))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while (chunk := self.next_chunk()) is not None:
            if chunk["text"]:
                return chunk["text"]
        raise StopIteration

    def next_chunk(self) -> dict[str, Any] | None:
        """Wait for the kernel's next chunk as it is, None after the last; raises the request's error."""
        inflight = self._inflight
        while not inflight.chunks:
            if inflight.is_done:
                inflight.value()
                return None
            self._wait_for_piece()
        return inflight.chunks.popleft()

    def _wait_for_piece(self) -> None:
        inflight = self._inflight
        try:
            if not self._connection.wait(lambda: bool(inflight.chunks) or inflight.is_done, self._until_s):
                raise TimedOut("llm.generate: the kernel did not answer in time")
        except BaseException:
            self._connection.drop(inflight)
            raise


class Stream(Pending):
    """The pieces of a generation; closing it, or dropping it unfinished, cancels the request."""

    def close(self) -> None:
        """Cancel what has not come yet."""
        if not self.is_done:
            self._connection.drop(self._inflight)

    def __del__(self) -> None:
        self.close()
