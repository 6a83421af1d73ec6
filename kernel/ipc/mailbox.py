"""ipc.send and ipc.recv: one bounded mailbox for each task.

Who calls it: dispatch.py, and core.py when a task ends. What must hold: messages arrive once, in the
order in which the sends were made; a full mailbox makes its senders wait, never the kernel.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from kernel.abi.calls import IpcRecv, IpcSend
from kernel.abi.errors import Errno, KernelError
from kernel.calls import CallTable
from kernel.limits import MAX_MAILS
from kernel.objects import Call


@dataclass(slots=True)
class Mailbox:
    mails: deque[tuple[int, bytes]] = field(default_factory=deque)  # (sender's pid, data)
    senders: deque[tuple[Call, int, bytes]] = field(default_factory=deque)  # wait for room
    receivers: deque[Call] = field(default_factory=deque)  # wait for mail


class PostOffice:
    """All mailboxes, by pid."""

    def __init__(self, calls: CallTable) -> None:
        self._calls = calls
        self._boxes: dict[int, Mailbox] = {}
        self._box_of: dict[tuple[bytes, int], Mailbox] = {}  # by waiting call

    def open(self, pid: int) -> None:
        self._boxes[pid] = Mailbox()

    def send(self, call: Call, options: IpcSend, now_ns: int) -> dict[str, Any] | None:
        """Deliver, queue, or make the sender wait (None). Raises KernelError ESRCH."""
        box = self._boxes.get(options.to)
        if box is None:
            raise KernelError(Errno.ESRCH, f"ipc.send: no task {options.to}")
        sender = call.task.pid if call.task else 0
        if box.receivers:
            self._hand_over(box, box.receivers.popleft(), sender, options.data)
            return {}
        if len(box.mails) < MAX_MAILS:
            box.mails.append((sender, options.data))
            return {}
        if options.timeout_ms == 0:
            text = f"ipc.send: the mailbox of task {options.to} is full ({MAX_MAILS} messages)"
            raise KernelError(Errno.ETIMEDOUT, text)
        box.senders.append((call, sender, options.data))
        self._box_of[call.key] = box
        self._calls.defer(call, self, _deadline(options.timeout_ms, now_ns))
        return None

    def receive(self, call: Call, options: IpcRecv, now_ns: int) -> dict[str, Any] | None:
        """Answer with the oldest message, or wait for one (None). Raises KernelError EPERM, ETIMEDOUT."""
        if call.task is None:
            raise KernelError(Errno.EPERM, "ipc.recv: an operator has no mailbox")
        box = self._boxes[call.task.pid]
        if box.mails:
            sender, data = box.mails.popleft()
            if box.senders:
                waiting, pid, next_data = box.senders.popleft()
                del self._box_of[waiting.key]
                box.mails.append((pid, next_data))
                self._calls.reply(waiting, {})
            return {"sender": sender, "data": data}
        if options.timeout_ms == 0:
            raise KernelError(Errno.ETIMEDOUT, f"ipc.recv: no message for task {call.task.pid}")
        box.receivers.append(call)
        self._box_of[call.key] = box
        self._calls.defer(call, self, _deadline(options.timeout_ms, now_ns))
        return None

    def close(self, pid: int) -> None:
        """A task ended: its mail is lost, and who waits to send to it is told."""
        box = self._boxes.pop(pid, None)
        for call, _, _ in box.senders if box else ():
            del self._box_of[call.key]
            self._calls.fail(call, KernelError(Errno.EPIPE, f"ipc.send: task {pid} ended"))

    def withdraw(self, call: Call, now_ns: int) -> None:
        """Forget a waiting send or recv."""
        box = self._box_of.pop(call.key)
        if call in box.receivers:
            box.receivers.remove(call)
        else:
            box.senders = deque(entry for entry in box.senders if entry[0] is not call)

    def _hand_over(self, box: Mailbox, receiver: Call, sender: int, data: bytes) -> None:
        del self._box_of[receiver.key]
        self._calls.reply(receiver, {"sender": sender, "data": data})


def _deadline(timeout_ms: int | None, now_ns: int) -> int | None:
    return None if timeout_ms is None else now_ns + timeout_ms * 1_000_000
