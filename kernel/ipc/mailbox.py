"""ipc.send and ipc.recv: a bounded mailbox for each task, and an allowance for each sender.

Who calls it: dispatch.py, and core.py when a task ends. What must hold: messages arrive once, and one
sender's reach a receiver in the order in which they were sent; a full mailbox makes its senders wait, an
allowance that is used up makes one sender wait, and nothing makes the kernel wait; whoever receives gets
what waits for it, whatever its sender has under way elsewhere.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from kernel.abi.calls import IpcRecv, IpcSend
from kernel.abi.errors import Errno, KernelError
from kernel.calls import CallTable
from kernel.limits import MAX_MAILS, MAX_SENT_BYTES
from kernel.objects import Call

MAIL_BYTES = 128  # what keeping a message takes beside its data


@dataclass(slots=True, eq=False)
class Mail:
    sender: Mailbox
    to: Mailbox
    data: bytes
    call: Call | None = None  # its sender's, which waits until the message is in the mailbox

    @property
    def size_bytes(self) -> int:
        """What it takes of its sender's allowance."""
        return len(self.data) + MAIL_BYTES


@dataclass(slots=True, eq=False)
class Mailbox:
    """What was sent to a task, and what the task has under way to others."""

    pid: int
    mails: deque[Mail] = field(default_factory=deque)  # at most MAX_MAILS
    queue: dict[Call, Mail] = field(default_factory=dict)  # wait for room in `mails`
    held_back: dict[Call, Mail] = field(default_factory=dict)  # wait for their senders' allowances
    receivers: deque[Call] = field(default_factory=deque)  # wait for mail: there is none of the above
    sent_bytes: int = 0  # of its own messages in others' `mails` and `queue`
    unsent: dict[Call, Mail] = field(default_factory=dict)  # of its own, held back, the oldest first

    def allows(self, mail: Mail) -> bool:
        """Whether its owner may have one more message under way."""
        return self.sent_bytes + mail.size_bytes <= MAX_SENT_BYTES


class PostOffice:
    """All mailboxes, by pid."""

    def __init__(self, calls: CallTable) -> None:
        self._calls = calls
        self._boxes: dict[int, Mailbox] = {}
        self._operators = Mailbox(0)  # they only send
        self._waiting: dict[Call, Mail] = {}  # by the sender's call

    def open(self, pid: int) -> None:
        self._boxes[pid] = Mailbox(pid)

    def send(self, call: Call, options: IpcSend, now_ns: int) -> dict[str, Any] | None:
        """Deliver, keep, or make the sender wait (None). Raises KernelError ESRCH or ETIMEDOUT."""
        box = self._boxes.get(options.to)
        if box is None:
            raise KernelError(Errno.ESRCH, f"ipc.send: no task {options.to}")
        sender = self._boxes[call.task.pid] if call.task else self._operators
        mail = Mail(sender, box, options.data)
        if box.receivers:
            self._calls.reply(box.receivers.popleft(), _body(mail))
            return {}
        is_allowed = not sender.unsent and sender.allows(mail)
        if is_allowed and len(box.mails) < MAX_MAILS:
            box.mails.append(mail)
            sender.sent_bytes += mail.size_bytes
            return {}
        if options.timeout_ms == 0:
            text = f"ipc.send: the mailbox of task {box.pid} is full ({len(box.mails)} messages)"
            if not is_allowed:
                text = f"ipc.send: {sender.sent_bytes} bytes that the caller sent were not received yet"
            raise KernelError(Errno.ETIMEDOUT, text)
        mail.call = call
        self._waiting[call] = mail
        self._calls.defer(call, self, _deadline(options.timeout_ms, now_ns))
        if is_allowed:
            box.queue[call] = mail
            sender.sent_bytes += mail.size_bytes
        else:
            box.held_back[call] = sender.unsent[call] = mail
        return None

    def receive(self, call: Call, options: IpcRecv, now_ns: int) -> dict[str, Any] | None:
        """Answer with the oldest message, or wait for one (None). Raises KernelError EPERM, ETIMEDOUT."""
        if call.task is None:
            raise KernelError(Errno.EPERM, "ipc.recv: an operator has no mailbox")
        box = self._boxes[call.task.pid]
        if box.mails:
            mail = box.mails.popleft()
            self._let_in(box)
            self._give_back(mail)
            return _body(mail)
        if box.held_back:
            mail = next(iter(box.held_back.values()))
            self._forget(mail)
            self._calls.reply(mail.call, {})
            self._let_go(mail.sender)
            return _body(mail)
        if options.timeout_ms == 0:
            raise KernelError(Errno.ETIMEDOUT, f"ipc.recv: no message for task {call.task.pid}")
        box.receivers.append(call)
        self._calls.defer(call, self, _deadline(options.timeout_ms, now_ns))
        return None

    def close(self, pid: int) -> None:
        """A task ended: its mail is lost, and who waits to send to it is told."""
        box = self._boxes.pop(pid)
        lost = [*box.queue.values(), *box.held_back.values()]
        for mail in lost:
            self._forget(mail)
            self._calls.fail(mail.call, KernelError(Errno.EPIPE, f"ipc.send: task {pid} ended"))
        while box.mails:
            self._give_back(box.mails.popleft())
        for mail in lost:
            self._let_go(mail.sender)

    def withdraw(self, call: Call, now_ns: int) -> None:
        """Forget a waiting send or recv."""
        mail = self._waiting.get(call)
        if mail is None:
            self._boxes[call.task.pid].receivers.remove(call)
        else:
            self._forget(mail)
            self._let_go(mail.sender)

    def _give_back(self, mail: Mail) -> None:
        """A message left its mailbox: its sender may send so much more."""
        mail.sender.sent_bytes -= mail.size_bytes
        self._let_go(mail.sender)

    def _let_go(self, sender: Mailbox) -> None:
        """Send on what a sender's allowance held back, as far as it reaches now."""
        while sender.unsent:
            mail = next(iter(sender.unsent.values()))
            if not sender.allows(mail):
                return
            del sender.unsent[mail.call], mail.to.held_back[mail.call]
            sender.sent_bytes += mail.size_bytes
            mail.to.queue[mail.call] = mail
            self._let_in(mail.to)

    def _let_in(self, box: Mailbox) -> None:
        """Fill a mailbox from its queue, as far as there is room: those senders have waited enough."""
        while box.queue and len(box.mails) < MAX_MAILS:
            call = next(iter(box.queue))
            mail = box.queue.pop(call)
            mail.call = None
            box.mails.append(mail)
            del self._waiting[call]
            self._calls.reply(call, {})

    def _forget(self, mail: Mail) -> None:
        """Take out a message that waits."""
        del self._waiting[mail.call]
        if mail.to.queue.pop(mail.call, None) is not None:
            mail.sender.sent_bytes -= mail.size_bytes
        else:
            del mail.to.held_back[mail.call], mail.sender.unsent[mail.call]


def _body(mail: Mail) -> dict[str, Any]:
    return {"sender": mail.sender.pid, "data": mail.data}


def _deadline(timeout_ms: int | None, now_ns: int) -> int | None:
    return None if timeout_ms is None else now_ns + timeout_ms * 1_000_000
