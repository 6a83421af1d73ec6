"""How a model writes tool calls and reasoning, told by the text of its chat template.

Who calls it: the LLM core once a model is loaded, and whoever renders a prompt. What must hold: a function of
the template's text alone, so that a model has one format wherever it runs; the SDK has a parser for every
name here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Format:
    name: str
    marks: tuple[str, ...]  # that all are in the template
    foreign: tuple[str, ...] = ()  # none of which is: they belong to a format that is not known here
    thoughts: tuple[str, ...] = ()  # that open reasoning
    has_calls: bool = True
    needs_special: bool = True


_THINK = ("<think>",)
_THINK_MISTRAL = ("[THINK]",)
_NO_HERMES = ("<arg_key>", "<tool_calls>", "]<]minimax[>[")
_NO_JSON = (
    "<tool_call",
    "<function=",
    "<TOOLCALL>",
    "_ACTION|>",
    "functools[",
    "role_sep|>",
    ":function_calls>",
)

# From the most telling marks to the least; the first that fits is the format.
_FORMATS = (
    _Format("harmony", ("<|channel|>", "<|message|>"), thoughts=("<|channel|>analysis<|message|>",)),
    _Format("gemma4", ("<|tool_call>", "<|channel>"), thoughts=("<|channel>thought",)),
    _Format("mistral-args", ("[TOOL_CALLS]", "[ARGS]"), thoughts=_THINK_MISTRAL),
    _Format("mistral", ("[TOOL_CALLS]",), thoughts=_THINK_MISTRAL),
    _Format("deepseek", ("<｜tool▁calls▁begin｜>",), thoughts=_THINK),
    _Format("qwen-xml", ("<tool_call>", "<function=", "<parameter="), thoughts=_THINK),
    _Format("hermes", ("<tool_call>", "name", "arguments", "{"), _NO_HERMES, _THINK),
    _Format("llama3", ("<|start_header_id|>", '"parameters": ', "tool_calls"), ("<function=",)),
    _Format("think", ("</think>",), thoughts=_THINK, has_calls=False),
    _Format("gemma", ("<start_of_turn>",), needs_special=False),
    _Format("json", ("tool_calls", '{"name": "'), _NO_JSON, needs_special=False),
    _Format("content", (), has_calls=False, needs_special=False),
    _Format("", (), has_calls=False, needs_special=False),
)
_BY_NAME = {form.name: form for form in _FORMATS}
NAMES = tuple(_BY_NAME)


def detect(template: str) -> str:
    """Return the name of the format that a chat template is written for, one of NAMES.

    "" for no template; "content" where neither tool calls nor reasoning are in a known form, "think" where
    only reasoning is.
    """
    if not template:
        return ""
    for form in _FORMATS:
        if all(mark in template for mark in form.marks) and not any(
            mark in template for mark in form.foreign
        ):
            return form.name
    return ""


def shows_tools(template: str) -> bool:
    """Whether a template shows tools to the model, and what the model then writes can be read."""
    return "tools" in template and _BY_NAME[detect(template)].has_calls


def needs_special(format: str) -> bool:
    """Whether the names of control tokens must be in the generated text for it to be read."""
    return _BY_NAME[format].needs_special


def opens_reasoning(format: str, prompt: str) -> bool:
    """Whether a prompt of this format ends inside reasoning, so that the text goes on there."""
    end = prompt.rstrip()
    return any(end.endswith(thought) for thought in _BY_NAME[format].thoughts)
