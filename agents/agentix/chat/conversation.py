"""What a session has said so far, and a turn of it as a call. No I/O.

Who uses it: session.py and aio_session.py. What must hold: the kernel is told each message once; a turn that fails
leaves the conversation as it was, here as in the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentix import calls
from agentix.calls import Call, Prompt, Reply
from agentix.chat.parts import Delta
from agentix.chat.turn import Turn
from agentix.errors import InvalidValue

Said = str | Mapping[str, Any] | Sequence[Mapping[str, Any]]  # what a user says, a message, or several


class Conversation:
    """The messages of one session; `options` are those of every turn."""

    def __init__(self, system: str, options: Mapping[str, Any]) -> None:
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self._options = dict(options)
        self._told = 0  # how many of them the kernel knows
        self.turns = 0  # that ended well

    def fork(self) -> Conversation:
        """Return another one that goes on from here."""
        other = Conversation("", self._options)
        other.become(self)
        return other

    def become(self, other: Conversation) -> None:
        """Forget what was said here, and go on from where another is."""
        self.messages, self._told, self.turns = list(other.messages), other._told, other.turns

    def resume(self, turns: int, messages: Sequence[Mapping[str, Any]], answer: Mapping[str, Any] | None) -> None:
        """Go on from what the kernel has kept: what it knows, and what it answered last. Raises InvalidValue."""
        self.turns = turns
        if messages:
            self.messages, self._told = [dict(message) for message in messages], len(messages)
        if answer is not None:
            chat = (answer["chat_format"], answer["opens_reasoning"])
            said = Turn(self.messages, self._options).read(Reply(answer["text"], (), "stop", {}, {}, *chat))
            self.messages.append(said.as_message())

    def turn(self, session: int, said: Said, options: Mapping[str, Any]) -> Turn:
        """Return the turn in which this is said. Raises InvalidValue."""
        if isinstance(said, str):
            new: list[Mapping[str, Any]] = [{"role": "user", "content": said}]
        else:
            new = [said] if isinstance(said, Mapping) else list(said)
        if not new:
            raise InvalidValue("there is nothing to say: wanted a text, a message or a list of messages")
        return _Turn(self, [*self.messages, *new], self._options | dict(options) | {"session": session}, self._told)

    def raw(self, session: int, prompt: Prompt, options: Mapping[str, Any]) -> Call:
        """Return the call that goes on with a text or tokens. Raises InvalidValue for messages."""
        if not isinstance(prompt, str) and len(prompt) and isinstance(prompt[0], Mapping):
            raise InvalidValue("prompt is a list of messages, wanted a text or tokens: messages are for say()")
        return calls.generate(prompt, self._options | dict(options) | {"session": session})

    def take(self, messages: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> None:
        """A turn ended well."""
        self.turns += 1
        self._told = len(messages)
        self.messages = [*map(dict, messages), dict(answer)]


class _Turn(Turn):
    def __init__(
        self,
        conversation: Conversation,
        messages: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
        told: int,
    ) -> None:
        super().__init__(messages, options, told)
        self._conversation = conversation
        self._said = messages

    def finish(self, raw: Reply) -> list[Delta]:
        deltas = super().finish(raw)
        assert self.reply is not None
        self._conversation.take(self._said, self.reply.as_message())
        return deltas
