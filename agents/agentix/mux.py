"""Many calls over one connection: ids, who waits for what, chunks in order. No socket, no clock, no thread.

Who uses it: client.py and aio_client.py hand it what came and send what it makes. What must hold: a call ends
in exactly one outcome; an answer to an id that nobody waits for is dropped; after the end no call waits; a
message for one task never goes to another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from agentix.calls import Call
from agentix.errors import AgentixError, BadMessage, MessageTooLong, error_of
from kernel.abi import codec
from kernel.abi.errors import KernelError


class Inflight:
    """A call that was sent: the chunks not yet taken, and its outcome once it has one."""

    __slots__ = ("__weakref__", "body", "call", "chunks", "error", "id", "next_seq", "waiter")

    def __init__(self, call_id: int, call: Call) -> None:
        self.id = call_id
        self.call = call
        self.chunks: deque[dict[str, Any]] = deque()
        self.next_seq = 0
        self.body: dict[str, Any] | None = None
        self.error: AgentixError | None = None
        self.waiter: Any = None  # whatever the asynchronous side wakes

    @property
    def is_done(self) -> bool:
        return self.body is not None or self.error is not None

    def value(self) -> Any:
        """What the call answered, decoded. Raises its error. Only when done."""
        if self.error is not None:
            raise self.error.with_traceback(None)
        assert self.body is not None
        try:
            return self.call.decode(self.body)
        except (KeyError, TypeError) as error:
            text = f"{self.call.method}: the kernel's answer lacks {error}"
            raise BadMessage(text) from None


class Mux:
    """The calls in flight of one connection."""

    def __init__(self) -> None:
        self._calls: dict[int, Inflight] = {}
        self._last_id = 0
        self._end: AgentixError | None = None
        self._orphans: deque[Inflight] = deque()  # receives that were given up, in flight or answered

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def is_over(self) -> bool:
        return self._end is not None

    def start(self, call: Call, deadline_ms: int | None = None) -> tuple[Inflight, bytes]:
        """Return a new call and the message to send. Raises the connection's end, or MessageTooLong."""
        if self._end is not None:
            raise self._end.with_traceback(None)
        frame = codec.encode_call(self._last_id + 1, call.method, call.body, deadline_ms, call.task)
        if len(frame) > codec.MAX_MESSAGE_BYTES:
            text = f"{call.method}: message is {len(frame)} bytes, the limit is {codec.MAX_MESSAGE_BYTES}"
            raise MessageTooLong(text)
        self._last_id += 1
        inflight = Inflight(self._last_id, call)
        self._calls[inflight.id] = inflight
        return inflight, frame

    def feed(self, frame: bytes) -> Sequence[Inflight]:
        """Take a message that came; return the calls that it moved: none, one, or all of them.

        An error with id 0 is the reason why the kernel closes the connection.
        """
        try:
            answer = codec.decode_answer(frame)
        except KernelError:
            return ()
        inflight = self._calls.get(answer.id)
        if answer.kind == "error":
            number, text = answer.body.get("errno", 0), answer.body.get("text", "unknown error")
            method = inflight.call.method if inflight else ""
            error = error_of(number, str(text), method, answer.body.get("retry_after_ms"))
            if answer.id == 0:
                return self.end(error)
            if inflight is None:
                return ()
            self._finish(inflight, None, error)
        elif inflight is None:
            return ()
        elif answer.kind == "reply":
            self._finish(inflight, answer.body, None)
        elif answer.seq != inflight.next_seq:
            text = f"{inflight.call.method}: chunk {answer.seq} came, wanted {inflight.next_seq}"
            self._finish(inflight, None, BadMessage(text))
        else:
            inflight.next_seq += 1
            inflight.chunks.append(answer.body)
        return (inflight,)

    def forget(self, inflight: Inflight) -> bool:
        """Stop waiting for a call; say whether it was still in flight. Its answer will be dropped.

        But for a receive: the kernel hands it the next message all the same, or has done so, and it is
        kept for adopt().
        """
        if inflight.call.method == "ipc.recv":
            self._orphans.append(inflight)
            return False
        return self._calls.pop(inflight.id, None) is not None

    def withdraw(self, inflight: Inflight) -> None:
        """Undo start() for a call whose message was not sent."""
        self._calls.pop(inflight.id, None)

    def refuse(self, inflight: Inflight, error: AgentixError) -> None:
        """End a call whose message cannot be sent, for somebody who waits for it already."""
        self._finish(inflight, None, error)

    def adopt(self, task: int | None) -> Inflight | None:
        """A receive in this task's name that was given up and may yet have a message, or has one already."""
        self._orphans = deque(orphan for orphan in self._orphans if orphan.error is None)
        for inflight in self._orphans:
            if inflight.call.task == task:
                self._orphans.remove(inflight)
                return inflight
        return None

    def end(self, error: AgentixError) -> list[Inflight]:
        """End every call with `error`, and any later one; return those that were in flight."""
        if self._end is None:
            self._end = error
        ended = list(self._calls.values())
        for inflight in ended:
            self._finish(inflight, None, type(error)(error.text))
        return ended

    def _finish(
        self, inflight: Inflight, body: dict[str, Any] | None, error: AgentixError | None
    ) -> None:
        self._calls.pop(inflight.id, None)
        inflight.body, inflight.error = body, error
