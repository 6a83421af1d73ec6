"""Sessions: conversations that outlive the calls they are made of.

A session is what was said, the tokens that came of it, and, as long as there is memory for it, their KV (kept.py). A
turn adds to it when it ends well and leaves it as it was when it does not.

Who uses it: requests.py for turns, ctxcalls.py for ctx.*, core.py when a task ends. What must hold: a session serves
its task alone, one turn at a time; what a turn computes follows from the turns before it, never from memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from kernel.abi.calls import LlmGenerate
from kernel.abi.codec import pack
from kernel.abi.errors import Errno, KernelError
from kernel.context.record import Key
from kernel.limits import MAX_SESSION_BYTES, MAX_SESSIONS
from kernel.objects import Request, Task

_BECOMES = ("tokens", "messages", "answer", "chat", "size_bytes", "turns", "dropped_turns", "dropped_tokens")


class Terms(NamedTuple):
    """What a session is opened with; see the fields of the same names below."""

    core: int
    model: str
    name: str
    window: str
    keep_tokens: int


@dataclass(slots=True, eq=False)
class Session:
    """One conversation of a task with a model."""

    number: int
    task: Task
    core: int
    model: str
    used_ns: int  # when it was opened, or a turn of it began or ended
    window: str = "refuse"  # what becomes of a turn that does not fit the model's: one of ctxcalls.WINDOWS
    keep_tokens: int = 0  # the first, that "shift" leaves where they are
    name: str = ""
    key: Key | None = None  # under which it is on disk; None: it is not durable
    tokens: list[int] = field(default_factory=list)  # of all turns, answers included
    messages: list[dict[str, Any]] | None = None  # None: no turn has ended, or it is made of texts and not of messages
    answer: str | None = None  # of the last turn, which nobody has repeated yet
    chat: dict[str, Any] = field(default_factory=dict)  # what must be known to read it
    size_bytes: int = 0  # of the messages' frames
    turns: int = 0  # that ended well
    dropped_turns: int = 0  # of its messages, that it goes on without
    dropped_tokens: int = 0  # that prompts were shorter for these, or for what was shifted out
    parent: int = 0  # that it was forked from; 0: none
    parent_turns: int = 0  # that the parent had then
    turn: Request | None = None  # under way
    said: list[dict[str, Any]] | None = None  # its messages, when that has ended
    is_storing: bool = False  # what the last turn left is being written

    def summary(self) -> dict[str, int]:
        """Return what ctx.open and ctx.list tell of it."""
        return {
            "session": self.number,
            "turns": self.turns,
            "messages": len(self.messages or ()),
            "tokens": len(self.tokens),
        }

    def hear(self, new: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return all messages with what a turn adds; the last answer comes before it, unless it is repeated."""
        said = list(self.messages or ())
        if self.answer is not None and new[0]["role"] != "assistant":
            said.append({"role": "assistant", "content": self.answer})
        return said + new


class Sessions:
    """Those of all tasks."""

    def __init__(self) -> None:
        self._by_task: dict[int, dict[int, Session]] = {}
        self._taken: dict[Key, int] = {}  # by what is open of durable ones, or about to be: the task that has it
        self._opened = 0

    def open(
        self, task: Task, terms: Terms, now_ns: int, key: Key | None = None, size_bytes: int = 0
    ) -> Session:
        """Open one; size_bytes: of the messages that it begins with. Raises KernelError EAGAIN, ENOMEM."""
        self._check_room("ctx.open", task, 1)
        self._check_bytes("ctx.open", task, size_bytes)
        return self._add(Session(self._next(), task, **terms._asdict(), used_ns=now_ns, key=key, size_bytes=size_bytes))

    def take(self, key: Key, task: Task) -> None:
        """Have a durable session be one task's until it is closed or released. Raises KernelError EBUSY."""
        if key in self._taken:
            raise KernelError(Errno.EBUSY, f"ctx.open: session {key} is open in task {self._taken[key]}")
        self._taken[key] = task.pid

    def release(self, key: Key) -> None:
        """Nobody has a durable session open."""
        del self._taken[key]

    def fork(self, session: Session, count: int, now_ns: int) -> list[Session]:
        """Return new sessions that go on from where this one is. Raises KernelError EBUSY, EAGAIN, ENOMEM."""
        _check_idle("ctx.fork", session)
        self._check_room("ctx.fork", session.task, count)
        self._check_bytes("ctx.fork", session.task, count * session.size_bytes)
        turns = session.turns
        children = [
            replace(session, number=self._next(), used_ns=now_ns, parent=session.number, parent_turns=turns, key=None)
            for _ in range(count)
        ]
        return [self._add(child) for child in children]

    def commit(self, child: Session, now_ns: int) -> Session:
        """Make a fork's parent what the fork has become, and close the fork; return the parent.

        Raises KernelError EINVAL, EBUSY.
        """
        name = f"ctx.commit: session {child.number}"
        if not child.parent:
            raise KernelError(Errno.EINVAL, f"{name} is no fork")
        parent = self._by_task[child.task.pid].get(child.parent)
        if parent is None:
            raise KernelError(Errno.EINVAL, f"{name}: session {child.parent}, its parent, is closed")
        if parent.turns != child.parent_turns:
            text = f"session {child.parent}, its parent, has had other turns since the fork"
            raise KernelError(Errno.EINVAL, f"{name}: {text}")
        for one in (child, parent):
            _check_idle("ctx.commit", one)
        for field_name in _BECOMES:
            setattr(parent, field_name, getattr(child, field_name))
        parent.used_ns = now_ns
        self.close(child)
        return parent

    def find(self, method: str, task: Task, number: int) -> Session:
        """Return a task's own session. Raises KernelError ENOENT."""
        session = self._by_task.get(task.pid, {}).get(number)
        if session is None:
            raise KernelError(Errno.ENOENT, f"{method}: task {task.pid} has no session {number}")
        return session

    def close(self, session: Session) -> None:
        own = self._by_task[session.task.pid]
        del own[session.number]
        if session.key is not None:
            self.release(session.key)
        if not own:
            del self._by_task[session.task.pid]

    def of(self, pid: int, after: int = 0) -> Iterator[Session]:
        """Those of a task with higher numbers, in their order; of all for 0."""
        owners = [self._by_task.get(pid, {})] if pid else self._by_task.values()
        found = [one for own in owners for number, one in own.items() if number > after]
        return iter(sorted(found, key=lambda one: one.number))

    # -- turns --------------------------------------------------------------------------------

    def for_turn(self, task: Task, options: LlmGenerate, size_bytes: int) -> Session:
        """Return the session that a call would add to. Raises KernelError ENOENT, EBUSY, EINVAL, ENOMEM."""
        session = self.find("llm.generate", task, options.session)
        name = f"llm.generate: session {session.number}"
        _check_idle("llm.generate", session)
        if options.model not in ("", session.model):
            raise KernelError(Errno.EINVAL, f"{name} is of model {session.model}, not {options.model!a}")
        if session.turns and (options.messages is None) != (session.messages is None):
            kinds = ("prompt or tokens", "messages")
            wanted, given = kinds if session.messages is None else kinds[::-1]
            raise KernelError(Errno.EINVAL, f"{name} is made of {wanted}, not of {given}")
        takes_messages = {"drop": True, "shift": False}.get(session.window)
        if takes_messages is not None and takes_messages != (options.messages is not None):
            kind = "messages" if takes_messages else "prompt or tokens"
            raise KernelError(Errno.EINVAL, f"{name} has the window {session.window!r}, which is for turns of {kind}")
        if options.messages is not None:
            self._check_bytes("llm.generate", task, size_bytes)
        return session

    @staticmethod
    def begin(session: Session, request: Request, messages: list[dict[str, Any]] | None, now_ns: int) -> None:
        session.turn = request
        session.said = session.hear(messages) if messages is not None else None
        session.used_ns = now_ns

    @staticmethod
    def end(request: Request, is_well: bool, now_ns: int) -> None:
        """A turn is over: it is part of the session if it ended well."""
        session = request.session
        assert session is not None
        if is_well:
            session.tokens = request.tokens
            session.messages = session.said
            session.answer = None if session.said is None else request.text.text
            session.chat = request.chat
            if request.dropped_turns:
                session.size_bytes = len(pack(session.said))
            elif session.said is not None:
                session.size_bytes += request.call.size_bytes
            session.turns += 1
            session.dropped_turns += request.dropped_turns
            session.dropped_tokens += request.dropped_tokens
        session.turn = session.said = None
        session.used_ns = now_ns

    def forget(self, pid: int) -> list[Session]:
        """A task ended; return what it had."""
        found = list(self._by_task.pop(pid, {}).values())
        for session in found:
            if session.key is not None:
                self.release(session.key)
        return found

    # -- inside -------------------------------------------------------------------------------

    def _next(self) -> int:
        self._opened += 1
        return self._opened

    def _add(self, session: Session) -> Session:
        self._by_task.setdefault(session.task.pid, {})[session.number] = session
        return session

    def _check_room(self, method: str, task: Task, count: int) -> None:
        used = len(self._by_task.get(task.pid, ()))
        if used + count > MAX_SESSIONS:
            text = f"task {task.pid} has {used} sessions open, {count} more exceed the limit of {MAX_SESSIONS}"
            raise KernelError(Errno.EAGAIN, f"{method}: {text}")

    def _check_bytes(self, method: str, task: Task, size_bytes: int) -> None:
        held = sum(one.size_bytes for one in self._by_task.get(task.pid, {}).values())
        if held + size_bytes > MAX_SESSION_BYTES:
            text = f"the messages of task {task.pid}'s sessions come to {held} bytes, {size_bytes} more"
            raise KernelError(Errno.ENOMEM, f"{method}: {text} exceed the limit of {MAX_SESSION_BYTES}")


def _check_idle(method: str, session: Session) -> None:
    if session.turn is not None:
        text = f"{method}: session {session.number} has a turn under way: one at a time"
        raise KernelError(Errno.EBUSY, text)
    if session.is_storing:
        raise KernelError(Errno.EBUSY, f"{method}: session {session.number} is being written: wait for the answer")
