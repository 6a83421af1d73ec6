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
from kernel.limits import MAX_CALLS, MAX_TASK_CALL_BYTES
from kernel.objects import Call, Owner, Task

_STALE_DEADLINES = 1024  # of answered calls, kept before the heap is made anew


class CallTable:
    """Unanswered calls by peer and id, and their deadlines."""

    def __init__(self, emit: Callable[[Effect], None]) -> None:
        self._emit = emit
        self._waiting: dict[int, dict[int, Call]] = {}
        self._count = 0
        self._deadlines: list[tuple[int, int, int]] = []  # heap; answered ones are skipped later

    def check(self, call: Call) -> None:
        """Raise KernelError when the connection or its task may not open this call now."""
        waiting = self._waiting.get(call.peer)
        if waiting and call.id in waiting:
            text = f"call id {call.id} is already in flight on this connection"
            raise KernelError(Errno.EINVAL, text)
        task = call.task
        if task is not None:
            if task.call_bytes + call.size_bytes > MAX_TASK_CALL_BYTES:
                raise _too_many_bytes(call, task)
            count = len(task.calls)
        else:
            count = len(waiting) if waiting else 0
            if count >= MAX_CALLS:  # those in the names of held tasks are theirs
                count = sum(one.task is None for one in waiting.values())
        if count >= MAX_CALLS:
            who = f"task {task.pid}" if task else "this connection"
            text = f"{MAX_CALLS} calls of {who} are in flight: wait for an answer first"
            raise KernelError(Errno.EAGAIN, text)

    def defer(self, call: Call, owner: Owner, deadline_ns: int | None = None) -> None:
        """Keep a call until it is answered; `owner` is told when it ends otherwise."""
        call.owner = owner
        if deadline_ns is not None:
            call.deadline_ns = min(deadline_ns, call.deadline_ns or deadline_ns)
        self._waiting.setdefault(call.peer, {})[call.id] = call
        self._count += 1
        if call.deadline_ns is not None:
            if len(self._deadlines) > 2 * self._count + _STALE_DEADLINES:
                self._forget_stale_deadlines()
            heapq.heappush(self._deadlines, (call.deadline_ns, call.peer, call.id))
        if call.task is not None:
            call.task.calls[call.key] = call
            call.task.call_bytes += call.size_bytes
            call.task.settle()

    def chunk(self, call: Call, body: dict[str, Any]) -> None:
        """Send a numbered part of a streamed answer."""
        frame = encode_answer(call.id, "chunk", body, call.next_seq)
        call.next_seq += 1
        self._emit(Send(call.peer, frame))

    def reply(self, call: Call, body: dict[str, Any]) -> None:
        """End a call well."""
        if call.owner is not None:
            self._close(call)
        self._emit(Send(call.peer, encode_answer(call.id, "reply", body)))

    def fail(self, call: Call, error: KernelError) -> None:
        """End a call with an error, whether it was deferred or not."""
        if call.owner is not None:
            self._close(call)
        self._emit(Send(call.peer, encode_error(call.id, error)))

    def abort(self, call: Call, error: KernelError, now_ns: int) -> None:
        """End a waiting call from outside: its owner forgets it, its caller gets the error.

        One that the end of another call has just answered is left alone."""
        if self._find(call.peer, call.id) is call and call.owner is not None:
            call.owner.withdraw(call, now_ns)
            self.fail(call, error)

    def of_peer(self, peer: int) -> list[Call]:
        """Return the waiting calls of one connection."""
        return list(self._waiting.get(peer, {}).values())

    def abort_peer(self, peer: int, error: KernelError, now_ns: int) -> None:
        for call in self.of_peer(peer):
            self.abort(call, error, now_ns)

    def abort_all(self, error: KernelError, now_ns: int) -> None:
        for peer in list(self._waiting):
            self.abort_peer(peer, error, now_ns)

    def expire(self, now_ns: int) -> None:
        """Fail every call whose deadline has passed with ETIMEDOUT."""
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            _, peer, call_id = heapq.heappop(self._deadlines)
            call = self._find(peer, call_id)
            if call and call.deadline_ns is not None and call.deadline_ns <= now_ns:
                text = f"{call.method}: the deadline passed"
                self.abort(call, KernelError(Errno.ETIMEDOUT, text), now_ns)

    def next_deadline_ns(self) -> int | None:
        while self._deadlines:
            at, peer, call_id = self._deadlines[0]
            call = self._find(peer, call_id)
            if call is not None and call.deadline_ns == at:
                return at
            heapq.heappop(self._deadlines)
        return None

    def _find(self, peer: int, call_id: int) -> Call | None:
        return self._waiting.get(peer, {}).get(call_id)

    def _forget_stale_deadlines(self) -> None:
        self._deadlines = [
            (call.deadline_ns, peer, call.id)
            for peer, waiting in self._waiting.items()
            for call in waiting.values()
            if call.deadline_ns is not None
        ]
        heapq.heapify(self._deadlines)

    def _close(self, call: Call) -> None:
        waiting = self._waiting.get(call.peer, {})
        if waiting.get(call.id) is not call:
            return
        del waiting[call.id]
        if not waiting:
            del self._waiting[call.peer]
        self._count -= 1
        if call.task is not None:
            del call.task.calls[call.key]
            call.task.call_bytes -= call.size_bytes
            call.task.settle()


def _too_many_bytes(call: Call, task: Task) -> KernelError:
    text = (
        f"{call.method}: {call.size_bytes} bytes more than the {task.call_bytes} of task {task.pid}'s calls"
        f" in flight pass the limit of {MAX_TASK_CALL_BYTES}: wait for an answer first"
    )
    return KernelError(Errno.EAGAIN, text)
