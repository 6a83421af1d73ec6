"""Durable sessions: those that outlive their task, the kernel and the machine.

What survives is what was said and the tokens, with the cuts at which they were fed: the next turn computes its KV from
these and goes on with the same token. A turn is answered when its record is on disk, so that whoever has an answer
finds it there again.

Who uses it: ctxcalls.py to open, close and commit; requests.py for turns that ended; core.py with what the disk has
done. What must hold: a call is answered once, whatever a disk does; a session is one task's at a time; a disk that
fails costs durability and never an answer. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kernel.abi.codec import pack
from kernel.abi.errors import Errno, KernelError
from kernel.calls import CallTable
from kernel.context.record import (
    SEAL_BYTES,
    Answer,
    Damaged,
    Key,
    Record,
    check_vocabulary,
    decode,
    encode,
)
from kernel.context.sessions import Session, Sessions, Terms
from kernel.effects import Effect, LoadRecord, RemoveRecord, Say, SetAsideRecord, StoreRecord
from kernel.events import RecordDone
from kernel.limits import MAX_RECORD_BYTES
from kernel.objects import Call

if TYPE_CHECKING:
    from kernel.cores import Core, Cores
    from kernel.sched.asks import Asks


@dataclass(slots=True, eq=False)
class _Open:
    """A ctx.open that waits for the disk."""

    call: Call
    key: Key
    core: Core
    terms: Terms
    fault: str = ""  # of its record, which is being set aside


@dataclass(slots=True, eq=False)
class _Store:
    """A turn, or a commit, whose answer waits for the disk."""

    call: Call | None  # None: nobody waits any more
    session: Session
    body: dict[str, Any]  # of the answer


@dataclass(slots=True, eq=False)
class _Remove:
    """A ctx.close that waits for the disk."""

    call: Call
    key: Key


class DurableSessions:
    """What is asked of the disk. Handlers raise KernelError as the calls' docstrings say."""

    def __init__(
        self, sessions: Sessions, calls: CallTable, cores: Cores, asks: Asks, emit: Callable[[Effect], None]
    ) -> None:
        self._sessions = sessions
        self._calls = calls
        self._cores = cores
        self._asks = asks
        self._emit = emit
        self._tickets = 0
        self._opens: dict[int, _Open] = {}  # by ticket; by the last one while the model is waited for
        self._stores: dict[int, _Store] = {}
        self._removes: dict[int, _Remove] = {}

    # -- what calls ask for -------------------------------------------------------------------

    def open(self, call: Call, core: Core, terms: Terms) -> None:
        """Open a session of the caller's, new or as it was left."""
        task = call.needs_task()
        if task.name in (f"pid-{task.pid}", f"task-{task.pid}"):
            text = f"task {task.pid} has no name of its own, under which session {terms.name!a} could be found again"
            raise KernelError(Errno.EINVAL, f"ctx.open: {text}")
        key = Key(task.sched.group, task.name, terms.name)
        self._sessions.take(key, task)
        self._calls.defer(call, self)
        ticket = self._next()
        self._opens[ticket] = _Open(call, key, core, terms)
        self._emit(LoadRecord(ticket, key.file_name))

    def store(self, session: Session, call: Call, body: dict[str, Any]) -> None:
        """Answer a call with `body` once what its session is now is on disk.

        Its deadline is over: what it asked for is done, and cannot be taken back.
        """
        assert session.key is not None
        if call.owner is None:
            self._calls.defer(call, self)
        call.owner, call.deadline_ns = self, None
        store = _Store(call, session, body)
        record = encode(self._record(session, session.key))
        if len(record) + SEAL_BYTES > MAX_RECORD_BYTES:
            self._stored(store, f"a record of {len(record)} bytes exceeds the limit of {MAX_RECORD_BYTES}", "")
            return
        session.is_storing = True
        ticket = self._next()
        self._stores[ticket] = store
        self._emit(StoreRecord(ticket, session.key.file_name, record))

    def remove(self, key: Key, call: Call) -> None:
        """Delete the record of a session that was just closed."""
        self._calls.defer(call, self)
        ticket = self._next()
        self._removes[ticket] = _Remove(call, key)
        self._emit(RemoveRecord(ticket, key.file_name))

    def withdraw(self, call: Call, now_ns: int) -> None:
        """Forget a call that ends from outside; what it asked the disk for is done all the same."""
        for ticket, opening in self._opens.items():
            if opening.call is call:
                self._asks.forget(call)
                self._sessions.release(opening.key)
                del self._opens[ticket]
                return
        for store in self._stores.values():
            if store.call is call:
                store.call = None
        self._removes = {ticket: one for ticket, one in self._removes.items() if one.call is not call}

    # -- what the disk has done ---------------------------------------------------------------

    def done(self, event: RecordDone) -> None:
        """The answer to an effect; one to a call that has ended is dropped."""
        if store := self._stores.pop(event.ticket, None):
            store.session.is_storing = False
            self._stored(store, event.error, event.path)
        elif remove := self._removes.pop(event.ticket, None):
            self._removed(remove, event)
        elif opening := self._opens.get(event.ticket):
            if opening.fault:
                self._set_aside(event.ticket, opening, event)
            else:
                self._loaded(event.ticket, opening, event)

    def _stored(self, store: _Store, error: str, path: str) -> None:
        if error:
            what = f"session {store.session.key} was not written" + f" to {path}" * bool(path)
            self._emit(Say(f"{what}: {error}: it goes on in memory, and is written after its next turn"))
        if store.call is not None:
            self._calls.reply(store.call, store.body | {"durable": not error})

    def _removed(self, remove: _Remove, event: RecordDone) -> None:
        if event.error:
            text = f"ctx.close: session {remove.key} is closed, and {event.path} could not be deleted: {event.error}"
            self._calls.fail(remove.call, KernelError(Errno.EIO, text))
        else:
            self._calls.reply(remove.call, {})

    def _loaded(self, ticket: int, opening: _Open, event: RecordDone) -> None:
        """A record has come, or there is none, or it cannot be used."""
        if event.is_damaged:
            self._refuse_damaged(ticket, opening, event.error)
            return
        if event.error:
            text = f"{event.path} could not be read, and is left as it is: {event.error}"
            self._fail(ticket, KernelError(Errno.EIO, f"ctx.open: session {opening.key}: {text}"))
            return
        if event.body is None:
            self._enter(ticket, None, event.now_ns)
            return
        try:
            record = decode(event.body, opening.key)
        except Damaged as fault:
            self._refuse_damaged(ticket, opening, str(fault))
            return
        if problem := _other_model(record, opening.core, event.path):
            self._fail(ticket, KernelError(Errno.EINVAL, f"ctx.open: session {opening.key} {problem}"))
        elif opening.core.info is not None:
            self._enter(ticket, record, event.now_ns)
        else:
            self._wait_for_model(ticket, opening, record)

    def _wait_for_model(self, ticket: int, opening: _Open, record: Record) -> None:
        """Its vocabulary is not known yet."""
        core, call = opening.core, opening.call
        try:
            self._cores.find(call.method, core.model.name)
        except KernelError as error:  # it could not be loaded, meanwhile
            self._fail(ticket, error)
            return
        self._cores.want(core)
        self._asks.when_ready(core.number, call, lambda now_ns: self._enter(ticket, record, now_ns))

    def _enter(self, ticket: int, record: Record | None, now_ns: int) -> None:
        """Nothing is wrong with a record, and its model is known; None: the session is new."""
        opening = self._opens[ticket]
        core, key = opening.core, opening.key
        size_bytes = 0
        if record is not None:
            assert core.info is not None
            try:
                check_vocabulary(record, core.info.vocab)
            except Damaged as fault:
                self._refuse_damaged(ticket, opening, str(fault))
                return
            size_bytes = len(pack(record.messages or ()))
        try:
            session = self._sessions.open(opening.call.needs_task(), opening.terms, now_ns, key, size_bytes)
        except KernelError as error:
            self._fail(ticket, error)
            return
        if record is not None:
            session.turns, session.tokens, session.messages = record.turns, record.tokens, record.messages
            session.dropped_turns, session.dropped_tokens = record.dropped_turns, record.dropped_tokens
            if record.answer is not None:
                text, chat_format, opens_reasoning = record.answer
                session.answer = text
                session.chat = {"chat_format": chat_format, "opens_reasoning": opens_reasoning}
            core.scheduler.kept.take_up(session, record.contexts)
        del self._opens[ticket]
        self._calls.reply(opening.call, session.summary())

    def _refuse_damaged(self, ticket: int, opening: _Open, fault: str) -> None:
        """Have a record put where nobody looks for it; the call ends when that is done."""
        opening.fault = fault
        self._emit(Say(f"session {opening.key} is damaged on disk: {fault}: it is moved aside"))
        del self._opens[ticket]
        ticket = self._next()
        self._opens[ticket] = opening
        self._emit(SetAsideRecord(ticket, opening.key.file_name))

    def _set_aside(self, ticket: int, opening: _Open, event: RecordDone) -> None:
        text = f"ctx.open: session {opening.key}: {event.path} is damaged: {opening.fault}"
        if event.error:
            text += f"; it could not be moved aside: {event.error}"
        else:
            text += f"; it was moved to {event.path}.bad, and the next ctx.open begins anew"
        self._fail(ticket, KernelError(Errno.EIO, text))

    # -- inside -------------------------------------------------------------------------------

    def _next(self) -> int:
        self._tickets += 1
        return self._tickets

    def _fail(self, ticket: int, error: KernelError) -> None:
        opening = self._opens.pop(ticket)
        self._sessions.release(opening.key)
        self._calls.fail(opening.call, error)

    def _record(self, session: Session, key: Key) -> Record:
        core = self._cores[session.core]
        answer = None
        if session.answer is not None:
            answer = Answer(session.answer, session.chat["chat_format"], session.chat["opens_reasoning"])
        return Record(
            key=key,
            model=session.model,
            fingerprint=core.model.fingerprint,
            turns=session.turns,
            dropped_turns=session.dropped_turns,
            dropped_tokens=session.dropped_tokens,
            tokens=session.tokens,
            messages=session.messages,
            answer=answer,
            contexts=core.scheduler.kept.contexts_of(session),
        )


def _other_model(record: Record, core: Core, path: str) -> str:
    """Say what is wrong if a session was made with another model than it is opened with."""
    if record.model != core.model.name:
        return f"is of model {record.model!a}, not {core.model.name!a}: {path}"
    if record.fingerprint != core.model.fingerprint:
        was, found = record.fingerprint, core.model.fingerprint
        return f"was made with another file of model {record.model!a}: {was}, not {found}: {path}"
    return ""
