"""A conversation laid out by the model's own chat template.

Who calls it: server.py, in children with limits of time and memory. What must hold: a template is a program of
somebody else's: it runs in jinja's sandbox; whatever is wrong with it or with the messages is an EngineError;
tools are never silently nothing.

The names that templates use beside jinja's own are those of Hugging Face's transformers.
"""

from __future__ import annotations

import json
import marshal
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from kernel.engine.base import EngineError
from kernel.engine.chatformat import detect, opens_reasoning, shows_tools
from kernel.engine.textside.vocabulary import Vocabulary

MAX_TEXT_CHARS = 8 << 20
MAX_CODE_BYTES = 8 << 20
_FOR_TOOLS = "tool_use"  # the name that models give to a template of its own
_PROBE = [{"role": "user", "content": "hello"}]
_PROBE_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "probe_tool",
            "description": "a tool",
            "parameters": {
                "type": "object",
                "properties": {"x": {"type": "string"}},
                "required": ["x"],
            },
        },
    }
]

Maps = Sequence[Mapping[str, Any]]


class _Refusal(Exception):
    """What a template's raise_exception said."""


class Templates:
    """The chat templates of one model: its main one, and one for tools if it has that apart."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._texts = vocabulary.templates
        self._environment = _make_environment()
        self._code: dict[str, bytes] = {}
        self._compiled: dict[str, jinja2.Template] = {}
        main = self._texts.get("", "")
        self.has_template = bool(main)
        self._tools_text = self._texts.get(_FOR_TOOLS, main)
        self.chat_format = detect(self._tools_text)

    def compile(self) -> dict[str, bytes]:
        """Return the code that jinja makes of each template that it can read, for `adopt`."""
        found = {}
        for name, source in self._texts.items():
            if name in ("", _FOR_TOOLS) and _is_jinja(source):
                try:
                    found[name] = marshal.dumps(self._environment.compile(source))
                except Exception:  # render says so
                    continue
        return {name: code for name, code in found.items() if len(code) <= MAX_CODE_BYTES}

    def adopt(self, compiled: dict[str, bytes]) -> None:
        """Take what compile returned, so that it need not be made again; nothing looks into it yet."""
        self._code = compiled

    def takes_tools(self) -> bool:
        """Return whether the template shows tools to the model, and its calls of them can be read."""
        if not shows_tools(self._tools_text):
            return False
        try:
            return self._render(_PROBE, _PROBE_TOOLS, None) != self._render_without(_PROBE, None)
        except EngineError:
            return False

    def render(self, messages: Maps, tools: Maps | None, thinking: bool | None) -> tuple[str, bool]:
        """Return the text, open for a reply, and whether it ends inside reasoning. Raises EngineError."""
        if not self.has_template:
            raise EngineError(
                "the model carries no chat template: send a prompt instead of messages"
            )
        text = self._render(messages, tools, thinking)
        if tools and text == self._render_without(messages, thinking):
            raise EngineError(
                "the model's chat template shows no tools to the model: leave tools out"
            )
        return text, opens_reasoning(self.chat_format, text)

    def _render_without(self, messages: Maps, thinking: bool | None) -> str | None:
        """Return what these messages are without tools; None from a template that is for tools alone."""
        try:
            return self._render(messages, None, thinking)
        except EngineError:
            return None

    def _render(self, messages: Maps, tools: Maps | None, thinking: bool | None) -> str:
        name = _FOR_TOOLS if tools and _FOR_TOOLS in self._texts else ""
        source = self._texts.get(name, "")
        if not _is_jinja(source):
            return self._render_by_name(source, messages)
        template = self._compile(name)
        given = {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
        try:
            parts = template.generate(
                messages=_copied(messages),
                tools=_copied(tools) or None,
                add_generation_prompt=True,
                bos_token=self._vocabulary.name(self._vocabulary.bos),
                eos_token=self._vocabulary.name(self._vocabulary.eos),
                **given,
            )
            return _joined(parts)
        except _Refusal as refusal:
            raise EngineError(f"the model's chat template refuses: {refusal}") from None
        except (EngineError, MemoryError):
            raise
        except Exception as error:  # a program of somebody else's may raise anything
            raise EngineError(
                f"the model's chat template fails with these messages: {_shown(error)}"
            ) from None

    def _compile(self, name: str) -> jinja2.Template:
        if name not in self._compiled:
            environment = self._environment
            try:
                if name in self._code:
                    code = marshal.loads(self._code[name])
                else:
                    code = environment.compile(self._texts[name])
                globals = environment.make_globals(None)
                self._compiled[name] = jinja2.Template.from_code(environment, code, globals)
            except MemoryError:
                raise
            except Exception as error:
                raise EngineError(
                    f"the model's chat template cannot be read: {_shown(error)}"
                ) from None
        return self._compiled[name]

    def _render_by_name(self, name: str, messages: Maps) -> str:
        """Lay messages out as llama.cpp does for a template that is only a name."""
        pairs = [(str(message["role"]), str(message.get("content") or "")) for message in messages]
        return self._vocabulary.render_builtin(name.strip(), pairs)


def _is_jinja(source: str) -> bool:
    return "{%" in source or "{{" in source


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _copied(value: Any) -> Any:
    """Return a value that a template may change, with lists where the link made tuples."""
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return (
        {name: _copied(item) for name, item in value.items()} if isinstance(value, dict) else value
    )


def _joined(parts: Iterator[str]) -> str:
    found, used = [], 0
    for part in parts:
        used += len(part)
        if used > MAX_TEXT_CHARS:
            raise EngineError(
                f"the model's chat template made more than {MAX_TEXT_CHARS} characters"
            )
        found.append(part)
    return "".join(found)


def _make_environment() -> jinja2.Environment:
    # lists may be changed, unlike in transformers: some templates do, and what they change is a copy
    environment = SandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks what an assistant said, for training: here its contents."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own protocol

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=list,  # what a filter makes is an iterator
    )


def _refuse(text: object) -> None:
    raise _Refusal(str(text)[:300])
