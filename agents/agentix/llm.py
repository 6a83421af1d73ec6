"""Generation: llm.generate as methods that wait, and the streams and pending requests that they give.

Who uses it: agent.py; aio.py has the same to await. What must hold: a request that nobody will read any more is
cancelled, by whatever way its reader went.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Unpack

from agentix import calls
from agentix.calls import Prompt, Reply, Sampling
from agentix.errors import TimedOut

if TYPE_CHECKING:
    from agentix.channel import Channel
    from agentix.client import Connection
    from agentix.mux import Inflight


class Llm:
    """Generation. `prompt` is a text, a list of tokens, or a list of messages {"role", "content"}."""

    def __init__(self, connection: Connection | Channel) -> None:
        self._connection = connection

    def generate(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[Sampling]
    ) -> Reply:
        """Generate text and wait for all of it. Raises PromptTooLong, TryAgain, TimedOut, ModelFailed."""
        return self._connection.call(calls.generate(prompt, options), timeout)

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        timeout: float | None = None,
        **options: Unpack[Sampling],
    ) -> Reply:
        """Generate the next message of a chat."""
        return self.generate(messages, timeout=timeout, **options)

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

    def cancel(self) -> bool:
        """End the request; result() then raises Cancelled. False when it had ended already."""
        if self._inflight.is_done:
            return False
        return self._connection.call(calls.cancel(self._inflight.id))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        inflight = self._inflight
        while True:
            while inflight.chunks:
                if text := inflight.chunks.popleft()["text"]:
                    return text
            if inflight.is_done:
                inflight.value()
                raise StopIteration
            self._wait_for_piece()

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
