"""Llama 3.x: {"name": ..., "parameters": {...}} as the answer, or <|python_tag|> before a call or code.

Who uses it: the registry in formats.py. What must hold: see prose.py and bare.py. Sources: the templates of
these models; Meta's page on the prompt format of Llama 3.1 for the built-in tools, written
name.call(key="value").
"""

from __future__ import annotations

import json

from agentix.chat import pythonic
from agentix.chat.bare import read_bare
from agentix.chat.callobject import CallObjects
from agentix.chat.prose import Asked, Marks, Prose
from agentix.chat.reader import Broken, Markers, Reader, Reading
from agentix.chat.writer import Writer

PYTHON = "<|python_tag|>"
ENDS = ("<|eom_id|>", "<|eot_id|>")
MARKS = Marks(calls=(PYTHON,), bare=("{",), control=(PYTHON, *ENDS))
INTERPRETERS = ("code_interpreter", "python", "ipython")
CODE_END = Markers(*ENDS)


def llama3(reader: Reader, writer: Writer, asked: Asked) -> Reading[None]:
    bare = CallObjects(reader, writer, asked.tools)
    tagged = CallObjects(reader, writer)
    interpreter = next((name for name in INTERPRETERS if name in asked.tools), "")

    def read(mark: str) -> Reading[None]:
        if mark != PYTHON:
            yield from read_bare(reader, bare, mark)
            return
        yield from reader.space()
        if (yield from reader.peek()) == "{":
            yield from read_bare(reader, tagged, (yield from reader.choice("{")))
            return
        for name in asked.tools:
            if (yield from reader.starts(f"{name}.call(")):
                yield from reader.choice(f"{name}.call")
                writer.begin_call(name)
                yield from pythonic.arguments(reader, writer.arguments)
                writer.end_call()
                return
        if not interpreter:
            raise Broken("it is code, and no tool runs code")
        code: list[str] = []
        yield from reader.until(CODE_END, code.append)
        writer.begin_call(interpreter)
        writer.arguments(json.dumps({"code": "".join(code)}, ensure_ascii=False))
        writer.end_call()

    yield from Prose(reader, writer, asked, MARKS).read_calls(read)
