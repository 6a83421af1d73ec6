"""A tool call written as a JSON object: {"name": ..., "arguments": {...}} and its relatives.

Who uses it: the grammars of the formats that write calls so. What must hold: keys may come in any order,
others are read over; arguments are handed on as they come once the name is known; each call is whole or
Broken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container

from agentix.chat.jsontext import is_json
from agentix.chat.prose import NoCall
from agentix.chat.reader import Broken, Reader, Reading
from agentix.chat.writer import Writer

ARGUMENTS = ("arguments", "parameters")
HALF_PAIR = re.compile("[\ud800-\udfff]")  # JSON may escape one, UTF-8 has none
KEYS = ("name", "id", "type", "function", *ARGUMENTS)


class CallObjects:
    """Reads calls of one text. With `known`, only objects that name one of these functions are calls."""

    def __init__(
        self, reader: Reader, writer: Writer, known: Container[str] | None = None, id_is_last: bool = False
    ) -> None:
        self._reader, self._writer, self._known = reader, writer, known
        self._id_is_last = id_is_last  # nothing can be handed on before the object ends

    def read(self, is_open: bool = False) -> Reading[None]:
        """Read one call; `is_open`: its brace is read. Raises Broken; NoCall for what is no call at all."""
        call = _Call()
        try:
            if not is_open:
                yield from self._reader.choice("{")
            yield from self._members(call)
            if not call.name:
                raise Broken("it has no name")
            if self._known is not None and not call.has_arguments:
                raise NoCall("it has no arguments")
        except Broken as fault:
            if self._known is not None and not call.name:
                raise NoCall(str(fault)) from None
            raise
        if not call.has_begun:
            self._writer.begin_call(call.name, call.id)
            self._writer.arguments("".join(call.kept) or "{}")
        self._writer.end_call()
        self._reader.record()

    def read_list(self) -> Reading[None]:
        """Read the calls of a list whose bracket is read."""
        while True:
            yield from self._reader.space()
            yield from self.read()
            yield from self._reader.space()
            if (yield from self._reader.choice(",", "]")) == "]":
                return

    def _members(self, call: _Call) -> Reading[None]:
        reader = self._reader
        yield from reader.space()
        if (yield from reader.peek()) == "}":
            yield from reader.choice("}")
            return
        while True:
            key = yield from self._string()
            yield from reader.space()
            yield from reader.choice(":")
            yield from reader.space()
            yield from self._member(call, key)
            yield from reader.space()
            if (yield from reader.choice(",", "}")) == "}":
                return
            yield from reader.space()

    def _member(self, call: _Call, key: str) -> Reading[None]:
        first = yield from self._reader.peek()
        if key == "name" or (key == "function" and first == '"'):
            if call.name:
                raise Broken("it has two names")
            name = yield from self._string()
            if self._known is not None and name not in self._known:
                raise NoCall(f"{name[:40]!a} is no tool")
            call.name = name
        elif key == "id" and first == '"':
            call.id = yield from self._string()
        elif key in ARGUMENTS:
            yield from self._arguments(call, first)
        elif key == "function" and first == "{" and not call.is_inner:
            call.is_inner = True
            yield from self._reader.choice("{")
            yield from self._members(call)
        elif self._known is not None and not call.name and key not in KEYS:
            raise NoCall(f"a call has no {key[:40]!a}")
        else:
            yield from self._reader.value(lambda _: None)

    def _arguments(self, call: _Call, first: str) -> Reading[None]:
        if call.has_arguments:
            raise Broken("it has arguments twice")
        call.has_arguments = True
        if first == '"':  # an object written as a string
            text = yield from self._string()
            if not (text.lstrip().startswith("{") and is_json(text)) or HALF_PAIR.search(text):
                raise Broken("its arguments are no object")
            call.kept.append(text)
        elif first == "n":
            yield from self._reader.choice("null")
        elif first == "{" and call.name and not self._id_is_last:
            self._writer.begin_call(call.name, call.id)
            call.has_begun = True
            yield from self._reader.value(self._writer.arguments)
        elif first == "{":
            yield from self._reader.value(call.kept.append)
        else:
            raise Broken("its arguments are no object")

    def _string(self) -> Reading[str]:
        first = yield from self._reader.peek()
        if first != '"':
            raise Broken(f"{first!a} came, wanted a JSON string" if first else "it is cut off")
        raw: list[str] = []
        yield from self._reader.value(raw.append)
        return json.loads("".join(raw))


class _Call:
    """What is known of the call being read."""

    __slots__ = ("has_arguments", "has_begun", "id", "is_inner", "kept", "name")

    def __init__(self) -> None:
        self.name = ""
        self.id = ""
        self.kept: list[str] = []  # arguments that came before the name
        self.has_arguments = False
        self.has_begun = False
        self.is_inner = False
