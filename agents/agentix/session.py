"""Session: a conversation whose context stays with the model, so that a turn computes what is new in it.

Who uses it: Agent.session() and Task.session() make one. What must hold: as in agent.py; the twin is in
aio_session.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Unpack

from agentix import calls
from agentix.calls import Call, Prompt, Reply, Sampling
from agentix.chat.conversation import Conversation, Said
from agentix.chat.turn import Turn
from agentix.errors import AgentixError, InvalidValue
from agentix.llm import Stream

if TYPE_CHECKING:
    from agentix.channel import Channel
    from agentix.chat.choice import Chatting
    from agentix.chat.stream import ChatStream
    from agentix.chat.turn import ChatReply
    from agentix.client import Connection

CLOSE_S = 1.0


class Session:
    """A conversation with one model, for a `with` block; one turn at a time.

    Its context goes with close(), with the block or with the task. Where memory for contexts is short the kernel
    computes it again: slower, with the same tokens. What was said in a durable one stays on disk until it is forgotten.
    """

    def __init__(
        self,
        connection: Connection | Channel,
        system: str,
        opening: Call,
        options: Mapping[str, Any],
        durable: bool = False,
    ) -> None:
        self._connection = connection
        self._opening = opening
        self._durable = durable
        self._conversation = Conversation(system, options)
        self._number = 0  # it is opened by its first turn, a durable one by its block
        self._parent: Session | None = None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All that was said, the answers as well: a copy. Turns that were dropped are among it."""
        return [dict(message) for message in self._conversation.messages]

    @property
    def turns(self) -> int:
        """How many ended well; in a durable one those of before as well, once it is open."""
        return self._conversation.turns

    def say(self, said: Said, *, timeout: float | None = None, **options: Unpack[Chatting]) -> ChatReply:
        """Say something and wait for the answer.

        `said`: a user's text, a message, or a list of messages, such as the results of tool calls. A turn that fails
        leaves the session as it was. Raises InvalidValue and what Llm.generate() raises, and Busy while another turn
        is under way.
        """
        turn = self._turn(said, options, timeout)
        return turn.read(self._connection.call(turn.call(stream=False), timeout))

    def stream(self, said: Said, *, timeout: float | None = None, **options: Unpack[Chatting]) -> ChatStream:
        """say() delta by delta; leaving the loop early cancels the rest, and the session is as it was."""
        from agentix.chat.stream import ChatStream

        turn = self._turn(said, options, timeout)
        inflight = self._connection.submit(turn.call(stream=True), timeout)
        return ChatStream(Stream(self._connection, inflight, timeout), turn)

    def generate(self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[Sampling]) -> Reply:
        """Go on with a text or tokens in place of messages, for a model without a chat template.

        Raises what Llm.generate() raises, InvalidValue in a session that has messages or for a list of them, and Busy.
        """
        call = self._conversation.raw(self._open(timeout), prompt, options)
        reply = self._connection.call(call, timeout)
        self._conversation.turns += 1
        return reply

    def fork(self, count: int, *, timeout: float | None = None) -> list[Session]:
        """Sessions that go on from here, each its own way; what was computed so far is shared.

        Raises Busy while a turn is under way, TryAgain beyond the limit of sessions.
        """
        numbers = self._connection.call(calls.ctx_fork(self._open(timeout), count), timeout)
        return [self._child(number) for number in numbers]

    def commit(self, *, timeout: float | None = None) -> Session:
        """Let the session that this one was forked from be what this one has become; this one is closed.

        Returns that one. Raises InvalidValue for a session that is no fork, or whose parent is closed or has gone on by
        itself, Busy while a turn of either is under way.
        """
        check_fork(self._parent)
        assert self._parent is not None
        self._connection.call(calls.ctx_commit(self._open(timeout)), timeout)
        self._number = -1
        self._parent._conversation.become(self._conversation)
        return self._parent

    def close(self, *, forget: bool = False, timeout: float | None = CLOSE_S) -> None:
        """End it: a turn under way is cancelled. Closing twice is harmless. `forget`: delete a durable one's record
        too.

        Raises TimedOut; with `forget`, InvalidValue for a session that is not durable or is closed.
        """
        number, self._number = self._open(timeout) if forget else self._number, -1
        if number > 0:
            self._connection.call(calls.ctx_close(number, forget), timeout)

    def __enter__(self) -> Session:
        """Raises, for a durable one, what opening it raises: Busy, InvalidValue, SessionUnavailable."""
        if self._durable:
            self._open(None)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(AgentixError):
            self.close()

    def _child(self, number: int) -> Session:
        child = Session(self._connection, "", self._opening, {})
        child._conversation, child._number, child._parent = self._conversation.fork(), number, self
        return child

    def _open(self, timeout: float | None) -> int:
        check_open(self._number)
        if not self._number:
            found = self._connection.call(self._opening, timeout)
            self._number = found["session"]
            if self._durable:
                self._resume(found["turns"], timeout)
        return self._number

    def _resume(self, turns: int, timeout: float | None) -> None:
        """Read what was said before."""
        said: list[dict[str, Any]] = []
        page: dict[str, Any] = {"more": turns > 0, "answer": None}
        while page["more"]:
            page = self._connection.call(calls.ctx_messages(self._number, len(said)), timeout)
            said += page["messages"]
        self._conversation.resume(turns, said, page["answer"])

    def _turn(self, said: Said, options: Mapping[str, Any], timeout: float | None) -> Turn:
        turn = self._conversation.turn(self._open(timeout), said, options)
        if turn.wants_format:
            turn.force(self._connection.call(calls.models(), timeout))
        return turn


def check_open(number: int) -> None:
    """Raise InvalidValue for the number that a closed session has."""
    if number < 0:
        raise InvalidValue("the session is closed")


def check_fork(parent: object) -> None:
    """Raise InvalidValue where there is no session that one was forked from."""
    if parent is None:
        raise InvalidValue("the session is no fork")
