"""The calls that wait for an answer, and the one way to answer any call.

Who calls it: every manager. What must hold: a call ends in exactly one reply or error; one that waits
is in its task's `calls` until then.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from kernel.abi.codec import encode_answer, encode_error
from kernel.abi.errors import Errno, KernelError
from kernel.effects import Effect, Send
from kernel.limits import MAX_CALLS
from kernel.objects import Call, Owner


class CallTable:
    """Unanswered calls by (peer, id), and their deadlines."""

    def __init__(self, emit: Callable[[Effect], None]) -> None:
        self._emit = emit
        self._waiting: dict[tuple[bytes, int], Call] = {}
        self._by_peer: dict[bytes, int] = {}
        self._deadlines: list[tuple[int, bytes, int]] = []  # heap; answered ones are skipped later

    def check(self, call: Call) -> None:
        """Raise KernelError when the connection may not open this call now."""
        if call.key in self._waiting:
            text = f"call id {call.id} is already in flight on this connection"
            raise KernelError(Errno.EINVAL, text)
        if self._by_peer.get(call.peer, 0) >= MAX_CALLS:
            text = f"{MAX_CALLS} calls of this connection are in flight: wait for an answer first"
            raise KernelError(Errno.EAGAIN, text)

    def defer(self, call: Call, owner: Owner, deadline_ns: int | None = None) -> None:
        """Keep a call until it is answered; `owner` is told when it ends otherwise."""
        call.owner = owner
        if deadline_ns is not None:
            call.deadline_ns = min(deadline_ns, call.deadline_ns or deadline_ns)
        self._waiting[call.key] = call
        self._by_peer[call.peer] = self._by_peer.get(call.peer, 0) + 1
        if call.deadline_ns is not None:
            heapq.heappush(self._deadlines, (call.deadline_ns, call.peer, call.id))
        if call.task is not None:
            call.task.calls[call.key] = call
            call.task.settle()

    def find(self, peer: bytes, call_id: int) -> Call | None:
        return self._waiting.get((peer, call_id))

    def chunk(self, call: Call, body: dict[str, Any]) -> None:
        """Send a numbered part of a streamed answer."""
        frames = encode_answer(call.id, "chunk", body, call.next_seq)
        call.next_seq += 1
        self._emit(Send(call.peer, call.is_operator, tuple(frames)))

    def reply(self, call: Call, body: dict[str, Any]) -> None:
        """End a call well."""
        self._close(call)
        self._emit(Send(call.peer, call.is_operator, tuple(encode_answer(call.id, "reply", body))))

    def fail(self, call: Call, error: KernelError) -> None:
        """End a call with an error, whether it was deferred or not."""
        self._close(call)
        self._emit(Send(call.peer, call.is_operator, tuple(encode_error(call.id, error))))

    def abort(self, call: Call, error: KernelError, now_ns: int) -> None:
        """End a waiting call from outside: its owner forgets it, its caller gets the error."""
        if call.owner is not None:
            call.owner.withdraw(call, now_ns)
        self.fail(call, error)

    def of_peer(self, peer: bytes) -> list[Call]:
        """Return the waiting calls of one connection."""
        return [call for call in self._waiting.values() if call.peer == peer]

    def abort_peer(self, peer: bytes, error: KernelError, now_ns: int) -> None:
        for call in self.of_peer(peer):
            self.abort(call, error, now_ns)

    def abort_all(self, error: KernelError, now_ns: int) -> None:
        for call in list(self._waiting.values()):
            self.abort(call, error, now_ns)

    def expire(self, now_ns: int) -> None:
        """Fail every call whose deadline has passed with ETIMEDOUT."""
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            _, peer, call_id = heapq.heappop(self._deadlines)
            call = self._waiting.get((peer, call_id))
            if call and call.deadline_ns is not None and call.deadline_ns <= now_ns:
                text = f"{call.method}: the deadline passed"
                self.abort(call, KernelError(Errno.ETIMEDOUT, text), now_ns)

    def next_deadline_ns(self) -> int | None:
        while self._deadlines:
            at, peer, call_id = self._deadlines[0]
            call = self._waiting.get((peer, call_id))
            if call is not None and call.deadline_ns == at:
                return at
            heapq.heappop(self._deadlines)
        return None

    def _close(self, call: Call) -> None:
        if self._waiting.get(call.key) is not call:  # never deferred
            return
        del self._waiting[call.key]
        left = self._by_peer[call.peer] - 1
        if left:
            self._by_peer[call.peer] = left
        else:
            del self._by_peer[call.peer]
        if call.task is not None:
            del call.task.calls[call.key]
            call.task.settle()
