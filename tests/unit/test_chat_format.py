"""The format of a model's answers, told by its chat template; the marks are facts of real templates."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentix.chat import FORMATS
from kernel.engine.chatformat import NAMES, detect, needs_special, opens_reasoning, shows_tools

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
TOOLS = "{% if tools %}{{ tools }}{% endif %}"
THINK = "{{ content.split('</think>') }}"
HERMES = TOOLS + r"<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>"
LLAMA = TOOLS + '<|start_header_id|>ipython<|end_header_id|>{% if \'tool_calls\' in message %}{"name": "", '

TEMPLATES = [  # format, whether tools are shown and calls can be read, template
    ("", False, ""),
    ("content", False, CHATML),
    ("content", False, CHATML + TOOLS),
    ("think", False, CHATML + THINK),
    ("think", False, CHATML + THINK + TOOLS + "<tool_call>{{ tc.name }}\n<arg_key>{{ k }}</arg_key>"),
    (
        "content",
        False,
        TOOLS + '<tool_calls>[{"name": "{{ name }}", "arguments": {}}]</tool_calls>{{ tool_calls }}',
    ),
    ("hermes", True, CHATML + HERMES),
    ("hermes", True, CHATML + THINK + HERMES),
    ("qwen-xml", True, CHATML + THINK + TOOLS + "<tool_call>\n<function=f>\n<parameter=p>"),
    ("llama3", True, LLAMA + '"parameters": {{ arguments }}}'),
    ("content", False, LLAMA + '"parameters": {{ arguments }}}<function={{ name }}>'),
    ("mistral", True, TOOLS + "[TOOL_CALLS][{{ calls }}]"),
    ("mistral-args", True, TOOLS + "[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}"),
    ("gemma", False, "<start_of_turn>model\n"),
    ("gemma4", True, TOOLS + "<|channel>thought\n<channel|><|tool_call>call:{{ name }}"),
    ("harmony", True, TOOLS + "<|start|>assistant<|channel|>analysis<|message|>"),
    ("deepseek", True, TOOLS + THINK + "<｜tool▁calls▁begin｜>"),
    ("deepseek", False, THINK + "<｜tool▁calls▁begin｜>"),
    ("json", True, TOOLS + '{{ message.tool_calls }}{"name": "{{ name }}", "arguments": {{ arguments }}}'),
]


@pytest.mark.parametrize(("format", "has_tools", "template"), TEMPLATES)
def test_a_template_has_the_format_of_its_marks(format, has_tools, template):
    assert (detect(template), shows_tools(template)) == (format, has_tools)


def test_kernel_and_sdk_know_the_same_formats():
    assert set(NAMES) == set(FORMATS)
    for format in NAMES:
        template = next(text for name, _, text in TEMPLATES if name == format)
        assert shows_tools(template + TOOLS) == FORMATS[format].takes_tools


def test_formats_with_marks_need_the_names_of_control_tokens():
    assert {name for name in NAMES if not needs_special(name)} == {"", "content", "json", "gemma"}


@pytest.mark.parametrize(
    ("format", "prompt", "is_open"),
    [
        ("hermes", "<|im_start|>assistant\n<think>\n", True),
        ("hermes", "<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("deepseek", "<｜Assistant｜><think>", True),
        ("mistral-args", "[/INST][THINK]", True),
        ("gemma4", "<|turn>model\n<|channel>thought\n", True),
        ("gemma4", "<|turn>model\n<|channel>thought\n<channel|>", False),
        ("harmony", "<|start|>assistant", False),
        ("harmony", "<|start|>assistant<|channel|>analysis<|message|>", True),
        ("content", "<think>", False),
    ],
)
def test_a_prompt_that_ends_inside_reasoning_says_so(format, prompt, is_open):
    assert opens_reasoning(format, prompt) is is_open


def test_the_page_about_chat_lists_every_format():
    page = (Path(__file__).resolve().parents[2] / "docs" / "chat.md").read_text()
    for name, form in FORMATS.items():
        assert f"\n- `{name or '(none)'}`: {form.doc}\n" in page, name
