"""The text side: questions answered by real processes, whatever template and text they are about."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.vocabulary import CHAT_TEMPLATE, byte_pair_vocabulary
from kernel.engine.base import EngineError
from kernel.engine.textside.client import TextSide
from tests.engine.vocabularies import write_vocabulary

DEADLINE_S = 60
HERMES = """{% if tools %}{{ '<|im_start|>system\\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}
{{ 'Answer with <tool_call>{"name": ..., "arguments": {}}</tool_call><|im_end|>' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{% endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}{% if enable_thinking %}{{ '<think>\\n' }}{% endif %}"""
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
HELLO = [{"role": "user", "content": "hello"}]
PLAIN = (  # without tools
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


class Asker:
    """A text side under test, asked as if one waited for it."""

    def __init__(self, side: TextSide) -> None:
        self.side = side

    def begin(
        self, what: str, **value: Any
    ) -> tuple[threading.Event, list[tuple[Any, str | None]]]:
        is_there, answers = threading.Event(), []

        def reply(answer: Any, error: str | None) -> None:
            answers.append((answer, error))
            is_there.set()

        self.side.ask(what, value, reply)
        return is_there, answers

    def ask(self, what: str, **value: Any) -> Any:
        """Return the answer, or raise EngineError with the error."""
        is_there, answers = self.begin(what, **value)
        assert is_there.wait(DEADLINE_S), f"no answer to {what}"
        ((answer, error),) = answers
        if error is not None:
            raise EngineError(error)
        return answer

    def chat(
        self, messages: Any, tools: Any = None, thinking: bool | None = None
    ) -> tuple[str, bool]:
        """Return what the conversation looks like in tokens, by their names, and whether it opens reasoning."""
        answer = self.ask("chat", messages=messages, tools=tools, thinking=thinking)
        names = {1: "<s>", 3: "<|im_start|>", 4: "<|im_end|>"}
        text = b""
        for token in answer["tokens"]:
            text += (
                names[token].encode() if token in names else self.ask("detokenize", tokens=[token])
            )
        return text.decode(), answer["opens_reasoning"]


@contextmanager
def asker(path: str) -> Iterator[Asker]:
    before = set(os.listdir("/proc/self/fd"))
    with closing(TextSide(path)) as side:
        server = psutil.Process(side._child.pid)
        yield Asker(side)
        processes = [server, *(server.children() if server.is_running() else [])]
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    folder = tmp_path_factory.mktemp("models")
    with asker(write_vocabulary(folder / "hermes.gguf", HERMES)) as one:
        yield one


def with_template(folder: Path, template: str | None, **others: str) -> str:
    return write_vocabulary(folder / "model.gguf", template, **others)


# -- questions ---------------------------------------------------------------------------------


def test_a_text_becomes_tokens_and_the_same_text_again(chatty: Asker) -> None:
    text = "to be or not to be, \u4f60\u597d <|im_end|>"
    for with_special in (True, False):
        tokens = chatty.ask("tokenize", text=text, with_special=with_special)
        assert (4 in tokens, tokens[0] == 1) == (with_special, with_special)
    assert chatty.ask("detokenize", tokens=tokens).decode() == text


@pytest.mark.parametrize("token", [-1, 2048, 1 << 40])
def test_a_token_that_there_is_not_is_refused(chatty: Asker, token: int) -> None:
    with pytest.raises(EngineError, match=f"token {token} is not in the vocabulary of 2048"):
        chatty.ask("detokenize", tokens=[5, token])


def test_an_unknown_question_is_refused(chatty: Asker) -> None:
    with pytest.raises(EngineError, match="'guess' is not one of tokenize"):
        chatty.ask("guess")


def test_long_texts_are_tokenized_beside_short_ones(chatty: Asker) -> None:
    is_there, answers = chatty.begin(
        "tokenize", text="to be " * 200_000, with_special=False, sender=1
    )
    assert chatty.ask("tokenize", text="a", with_special=False, sender=2)
    assert not answers, "the long one was first"
    assert is_there.wait(DEADLINE_S)
    assert len(answers[0][0]) > 200_000


def test_a_run_of_equal_signs_is_no_death_of_a_tokenizer_that_goes_deeper_with_each(
    tmp_path: Path,
) -> None:
    path = write_vocabulary(tmp_path / "pairs.gguf", None, byte_pair_vocabulary(3000))
    with asker(path) as one:
        assert one.ask("tokenize", text="1" * 300_000, with_special=False)


def test_a_file_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(EngineError, match="cannot load its vocabulary"):
        TextSide(str(path))


def test_the_tokens_that_a_constraint_takes_are_told_before_any_is_drawn(chatty: Asker) -> None:
    asked = {"kind": "json_schema", "text": json.dumps({"enum": [None]}), "max_tokens": 9}
    assert chatty.ask("constraint", **asked) == 3
    with pytest.raises(EngineError, match="takes 3 tokens, max_tokens is 2"):
        chatty.ask("constraint", **(asked | {"max_tokens": 2}))
    with pytest.raises(EngineError, match="json_schema: not cannot be held"):
        chatty.ask("constraint", **(asked | {"text": '{"not": {}}'}))
    with pytest.raises(EngineError, match="line 1, column 10: rule x is not defined"):
        chatty.ask("constraint", kind="gbnf", text="root ::= x", max_tokens=9)


# -- templates ---------------------------------------------------------------------------------


def test_a_conversation_with_tools_is_laid_out_by_the_models_template(chatty: Asker) -> None:
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "look", "arguments": {"at": "\u00e9<"}},
    }
    messages = [
        {"role": "system", "content": "be kind"},
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "a wall"},
    ]
    text, opens = chatty.chat(messages, TOOLS)
    assert not opens
    assert text == (
        '<s><|im_start|>system\n{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}'
        'Answer with <tool_call>{"name": ..., "arguments": {}}</tool_call><|im_end|>'
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
        '<tool_call>{"name": "look", "arguments": {"at": "\u00e9<"}}</tool_call><|im_end|>\n'
        "<|im_start|>tool\na wall<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chatty.side.facts.chat_format == "hermes"
    assert chatty.side.facts.takes_tools


def test_a_conversation_goes_on_with_the_tokens_that_are_known_of_it(chatty: Asker) -> None:
    def of(messages: Any, known: Any = ()) -> list[int]:
        return list(chatty.ask("chat", messages=messages, tools=None, thinking=None, known=list(known))["tokens"])

    asked = of(HELLO)
    said = list(chatty.ask("tokenize", text="to", with_special=False)) + [
        token for char in " be" for token in chatty.ask("tokenize", text=char, with_special=False)
    ]
    assert said != chatty.ask("tokenize", text="to be", with_special=False)
    messages = [*HELLO, {"role": "assistant", "content": "to be"}, {"role": "user", "content": "or not"}]
    found = of(messages, asked + said)
    assert found[: len(asked + said)] == asked + said
    plain = of(messages)
    assert plain[: len(asked) + 1] == found[: len(asked) + 1]
    assert b"".join(chatty.ask("pieces", tokens=found)) == b"".join(chatty.ask("pieces", tokens=plain))
    assert found[len(asked + said)] == 4  # the end of the answer
    other = [*HELLO, {"role": "assistant", "content": "to see"}, {"role": "user", "content": "or not"}]
    assert of(other, asked + said) == of(other)  # not how it begins
    longer = [*HELLO, {"role": "assistant", "content": "to bees"}, {"role": "user", "content": "or not"}]
    assert of(longer, asked + said) == of(longer)  # no control token stands there


def test_an_answer_that_ends_within_a_character_is_known_as_well(chatty: Asker) -> None:
    asked = chatty.ask("chat", messages=HELLO, tools=None, thinking=None)["tokens"]
    cut = chatty.ask("tokenize", text="to \u4f60", with_special=False)[:-1]
    text = b"".join(chatty.ask("pieces", tokens=cut)).decode(errors="replace")
    assert text.endswith("\ufffd")
    messages = [*HELLO, {"role": "assistant", "content": text}, {"role": "user", "content": "or not"}]
    known = [*asked, *cut]
    found = chatty.ask("chat", messages=messages, tools=None, thinking=None, known=known)["tokens"]
    assert list(found[: len(known)]) == known


def test_a_text_that_goes_on_has_no_opening_token(chatty: Asker) -> None:
    opened = chatty.ask("tokenize", text="to be <|im_end|>", with_special=True)
    assert [1, *chatty.ask("tokenize", text="to be <|im_end|>", with_special=True, goes_on=True)] == list(opened)


def test_a_prompt_that_ends_inside_reasoning_says_so(chatty: Asker) -> None:
    assert [chatty.chat(HELLO, None, thinking)[1] for thinking in (None, True, False)] == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("template", [PLAIN, "{{ bos_token }}" + PLAIN])
def test_the_models_opening_token_comes_once_whoever_writes_it(
    tmp_path: Path, template: str
) -> None:
    with asker(with_template(tmp_path, template)) as one:
        assert one.chat(HELLO)[0] == "<s><|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
        assert not one.side.facts.takes_tools


def test_tools_that_a_template_does_not_show_are_an_error(tmp_path: Path) -> None:
    with (
        asker(with_template(tmp_path, PLAIN)) as one,
        pytest.raises(EngineError, match="shows no tools"),
    ):
        one.chat(HELLO, TOOLS)


def test_a_template_for_tools_of_its_own_is_used_with_tools(tmp_path: Path) -> None:
    for_tools = (
        "{% for tool in tools %}{{ tool.function.name }}{% endfor %}{{ messages[0].content }}"
    )
    with asker(with_template(tmp_path, PLAIN, tool_use=for_tools)) as one:
        assert one.chat(HELLO, TOOLS)[0] == "<s>lookhello"
        assert one.chat(HELLO)[0].startswith("<s><|im_start|>user")


def test_a_template_that_is_only_a_name_is_llama_cpps(tmp_path: Path) -> None:
    with asker(with_template(tmp_path, "chatml")) as one:
        assert one.chat(HELLO)[0] == "<s><|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    with (
        asker(with_template(tmp_path, "no such layout")) as one,
        pytest.raises(EngineError, match="does not know"),
    ):
        one.chat(HELLO)


def test_without_a_template_a_prompt_is_asked_for(tmp_path: Path) -> None:
    with asker(with_template(tmp_path, None)) as one:
        assert not one.side.facts.has_template
        with pytest.raises(EngineError, match="carries no chat template: send a prompt instead"):
            one.chat(HELLO)


def test_templates_have_the_names_that_transformers_gives_them(tmp_path: Path) -> None:
    template = (
        "{% set parts = [1] %}{% set _ = parts.append('\u00e9&') %}"
        "{% for x in parts %}{% if x == 3 %}{% break %}{% endif %}"
        "{{ x | tojson }}{% endfor %}{{ {'b': 1, 'a': [1]} | tojson(indent=1) }}{{ strftime_now('%Y')[:2] }}"
        "{% generation %}{{ eos_token }}{% endgeneration %}{{ (messages + [1]) | length }}{{ add_generation_prompt }}"
    )
    with asker(with_template(tmp_path, template)) as one:
        tokens = one.ask("chat", messages=HELLO, tools=None, thinking=None)["tokens"]
        shown = one.ask("detokenize", tokens=tokens).decode()
        assert shown == '1"\u00e9&"{\n "b": 1,\n "a": [\n  1\n ]\n}202True'
        assert 2 in tokens


# -- hostile templates -------------------------------------------------------------------------


HOSTILE = {
    "{{ raise_exception('only ' + messages[0].role + ' is not enough') }}": "refuses: only user is not enough",
    "{% for x in range(10**9) %}{% endfor %}": "OverflowError: Range too big",
    "{{ (messages[0].content | length) * 10**30 * 'x' }}": "OverflowError",
    "{{ 'x' * 10**10 }}": "the chat template needs more than 1024 MiB of memory",
    "{% set x = 'x' * 10**6 %}{% for i in range(99) %}{{ x }}{% endfor %}": "more than 8388608 characters",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}": "RecursionError",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "SecurityError",
    "{{ messages.__init__.__globals__ }}": "SecurityError",
    "{{ messages[0].content.nothing.at_all }}": "UndefinedError",
    "{% include '/etc/passwd' %}": "TypeError: no loader",
    "{{ messages[9].role }}": "UndefinedError",
}


def test_what_a_template_must_not_do_is_an_error_and_the_next_question_is_answered(
    tmp_path: Path,
) -> None:
    cases = "".join(
        f"{{% if messages[0].content == '{number}' %}}{part}{{% endif %}}"
        for number, part in enumerate(HOSTILE)
    )
    with asker(with_template(tmp_path, cases + CHAT_TEMPLATE)) as one:
        for number, (part, reason) in enumerate(HOSTILE.items()):
            with pytest.raises(EngineError) as raised:
                one.chat([{"role": "user", "content": str(number)}])
            assert reason in str(raised.value), part
        assert one.chat(HELLO)


def test_a_template_that_cannot_be_read_is_told_of_when_it_is_asked(tmp_path: Path) -> None:
    with asker(with_template(tmp_path, "{% if %}")) as one:
        assert one.ask("tokenize", text="a", with_special=False)
        with pytest.raises(EngineError, match="cannot be read: TemplateSyntaxError"):
            one.chat(HELLO)


def test_endless_templates_keep_nobody_else_waiting(tmp_path: Path) -> None:
    """Only messages of one sender make it endless, and so only that sender waits for long."""
    template = "{% if messages[0].content == 'loop' %}" + ENDLESS + "{% endif %}" + CHAT_TEMPLATE
    with asker(with_template(tmp_path, template)) as one:
        loop = {"messages": [{"role": "user", "content": "loop"}], "tools": None, "thinking": None}
        hostile = [one.begin("chat", sender=1, **loop) for _ in range(3)]
        took = []
        for _ in range(20):
            began = time.monotonic()
            one.ask("chat", messages=HELLO, tools=None, thinking=None, sender=2)
            took.append(time.monotonic() - began)
        assert sorted(took)[15] < 0.5, took
        assert [answers for _, answers in hostile] == [[], [], []]


def test_a_template_that_nothing_can_interrupt_is_no_reason_not_to_start(tmp_path: Path) -> None:
    """jinja works out the constant when it reads the template, in a call of C that takes hours."""
    with asker(with_template(tmp_path, "{{ 10**10**9 }}")) as one:
        assert one.side.facts.has_template
        assert one.ask("tokenize", text="a", with_special=False)


# -- deaths ------------------------------------------------------------------------------------


def test_a_question_survives_one_death_of_the_text_side_and_not_two(tmp_path: Path) -> None:
    template = "{% if messages[0].content == 'loop' %}" + ENDLESS + "{% endif %}x"
    with asker(with_template(tmp_path, template)) as one:
        is_there, answers = one.begin(
            "chat", messages=[{"role": "user", "content": "loop"}], tools=None, thinking=None
        )
        os.kill(one.side._child.pid, signal.SIGKILL)
        assert one.ask("tokenize", text="a", with_special=False)
        assert not answers
        os.kill(one.side._child.pid, signal.SIGKILL)
        assert is_there.wait(DEADLINE_S)
        assert answers == [(None, "the text side died 2 times of this question")]
        assert one.ask("tokenize", text="a", with_special=False)


def test_nothing_is_left_when_the_core_is_killed(chatty: Asker, tmp_path: Path) -> None:
    path = with_template(tmp_path, CHAT_TEMPLATE)
    script = (
        "import sys, time\n"
        "from kernel.engine.textside.client import TextSide\n"
        "side = TextSide(sys.argv[1])\n"
        "told = lambda *answer: print(*answer, flush=True)\n"
        "side.ask('tokenize', {'text': 'a', 'with_special': False}, told)\n"
        "print(side._child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True
    ) as core:
        assert core.stdout is not None
        lines = [core.stdout.readline(), core.stdout.readline()]
        server = psutil.Process(int(next(line for line in lines if line.strip().isdigit())))
        processes = [server, *server.children()]
        core.kill()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive


def test_the_text_side_is_named_ignores_ctrl_c_and_hides_its_memory(chatty: Asker) -> None:
    chatty.ask("tokenize", text="a", with_special=False)
    server = psutil.Process(chatty.side._child.pid)
    names = {"agentix-text", "agentix-text-jo"}
    for process in (server, *server.children()):
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert status["Name"] in names
        assert int(status["SigIgn"], 16) & 2
        assert os.stat(f"/proc/{process.pid}/environ").st_uid == 0
