"""The formats in which chat models write, by the names that kernel/engine/chatformat.py gives them.

Who uses it: parser.py and the SDK's chat(). What must hold: every format that the kernel can detect is here
(a test compares).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from agentix.chat import bare, deepseek, gemma, harmony, hermes, llama, mistral, qwen_xml
from agentix.chat.prose import Asked
from agentix.chat.reader import Reader, Reading
from agentix.chat.writer import Writer

Grammar = Callable[[Reader, Writer, Asked], Reading[None]]


class Format(NamedTuple):
    grammar: Grammar
    doc: str  # the models, and how they write
    takes_tools: bool = True
    arguments_key: str = ""  # of a call that is an object, so that a JSON schema can force one
    around: tuple[str, str] = ("", "")  # what stands before and after the one object of such an answer
    id_pattern: str = ""  # what the id of a call looks like, where the model writes it


FORMATS: dict[str, Format] = {
    "": Format(bare.content, "text alone: a model without a chat template", takes_tools=False),
    "content": Format(bare.content, "text alone", takes_tools=False),
    "think": Format(
        bare.think, "text, and reasoning in `<think>`; tools in no form known here", takes_tools=False
    ),
    "json": Format(
        bare.json_answer,
        'the answer is `{"name", "arguments"}`, or a list of them',
        arguments_key="arguments",
    ),
    "hermes": Format(
        hermes.hermes,
        'Hermes, Qwen 2.5, QwQ, Qwen 3, Granite 4: `<tool_call>{"name", "arguments"}</tool_call>`',
        arguments_key="arguments",
        around=("<tool_call>\n", "\n</tool_call>"),
    ),
    "qwen-xml": Format(
        qwen_xml.qwen_xml,
        "Qwen 3 Coder, Qwen 3.5, Nemotron 3: `<tool_call><function=f><parameter=p>v</parameter>...`",
    ),
    "llama3": Format(
        llama.llama3,
        'Llama 3.x: the answer is `{"name", "parameters"}`, or a call follows `<|python_tag|>`',
        arguments_key="parameters",
    ),
    "mistral": Format(
        mistral.mistral,
        'Mistral Nemo: `[TOOL_CALLS][{"name", "arguments", "id"}]`',
        arguments_key="arguments",
        around=("[TOOL_CALLS][", "]"),
        id_pattern="^[a-zA-Z0-9]{9}$",
    ),
    "mistral-args": Format(
        mistral.mistral, "later Mistral: `[TOOL_CALLS]f[ARGS]{...}`; reasoning in `[THINK]`"
    ),
    "gemma": Format(
        gemma.gemma, 'Gemma 2, 3: `{"name", "parameters"}`, or Python in a fence called `tool_code`'
    ),
    "gemma4": Format(
        gemma.gemma4, "Gemma 4: `<|tool_call>call:f{...}<tool_call|>`; reasoning in its thought channel"
    ),
    "harmony": Format(harmony.harmony, "gpt-oss: channels; a call is a message `to=functions.f`"),
    "deepseek": Format(
        deepseek.deepseek, "DeepSeek R1, V3: `<｜tool▁calls▁begin｜>...`; reasoning in `<think>`"
    ),
}
