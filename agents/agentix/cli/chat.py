"""`chat`: a conversation with a model in the terminal, as an ordinary agent.

What must hold: Ctrl-C ends an answer and not the conversation, which Ctrl-D ends; an error loses nothing that was
said before; without a terminal it answers what comes on standard input and ends.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentix.agent import Agent
from agentix.chat.parts import Content, Reasoning
from agentix.cli.exits import CommandError, Exit
from agentix.errors import AgentixError

HELP = """/help            this
/reset           forget the conversation
/system TEXT     tell the model something first, from now on
/model NAME      go on with another model
/save FILE       write the conversation as JSON
/load FILE       go on with a saved one
/stats           what the last answer took
Ctrl-C           end an answer; Ctrl-D or /quit: end
A line that ends with \\ goes on in the next one."""
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Conversation:
    """The messages so far, and how the next answer is asked for."""

    def __init__(self, me: Agent, options: argparse.Namespace) -> None:
        self._me = me
        self.model: str = options.model
        self.system: str = options.system
        self._asked = {"temperature": options.temperature, "max_tokens": options.max_tokens}
        self.messages: list[dict[str, Any]] = []
        self.stats = "no answer yet"
        self._has_colours = sys.stdout.isatty()
        self._is_plain = False  # the model has no chat template

    def say(self, text: str) -> None:
        """Say something to the model and print what it answers. A failed turn leaves the conversation as it was."""
        before = list(self.messages)
        self.messages.append({"role": "user", "content": text})
        try:
            self._answer()
        except KeyboardInterrupt:
            print()
        except AgentixError as error:
            self.messages = before
            print(f"{error}", file=sys.stderr)

    def _answer(self) -> None:
        first = [{"role": "system", "content": self.system}] if self.system else []
        asked = {**self._asked, "model": self.model, "seed": time.monotonic_ns() % (1 << 62)}
        said: list[str] = []
        stream = self._me.llm.chat_stream([*first, *self.messages], **asked)
        is_thinking = False
        try:
            for delta in stream:
                if isinstance(delta, Reasoning | Content):
                    if self._has_colours and is_thinking != isinstance(delta, Reasoning):
                        is_thinking = not is_thinking
                        print(DIM if is_thinking else f"{PLAIN}\n", end="")
                    print(delta.text, end="", flush=True)
                if isinstance(delta, Content):
                    said.append(delta.text)
        finally:
            stream.close()
            if is_thinking:
                print(PLAIN, end="")
            print()
            if said:
                self.messages.append({"role": "assistant", "content": "".join(said)})
        reply = stream.reply
        if reply is not None:
            usage, timings = reply.usage, reply.raw.timings
            writing_s = max(1e-9, timings["total_s"] - timings["first_token_s"])
            self.stats = (
                f"{usage['prompt_tokens']} tokens read, {usage['cached_tokens']} of them known already; the first after"
                f" {timings['first_token_s']:.1f} s, then {usage['generated_tokens'] / writing_s:.1f} tokens/s"
            )
            if reply.finish_reason == "length":
                print("(cut off: --max-tokens allows more)", file=sys.stderr)
            elif reply.finish_reason == "quota":
                print("(cut off: a quota is used up)", file=sys.stderr)

    def command(self, line: str) -> bool:
        """Carry out a line that begins with a slash; False to end."""
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word in ("/quit", "/exit", "/bye"):
            return False
        if word == "/reset":
            self.messages.clear()
        elif word == "/system":
            self.system = rest
        elif word == "/model":
            names = [
                model["name"]
                for model in self._me.llm.models(timeout=10)
                if not model["is_embedding"]
            ]
            if rest in names:
                self.model = rest
            else:
                print(f"models are {', '.join(names)}")
        elif word == "/save" and rest:
            Path(rest).write_text(
                json.dumps({"system": self.system, "messages": self.messages}, indent=2)
            )
        elif word == "/load" and rest:
            saved = json.loads(Path(rest).read_text())
            self.system, self.messages = saved["system"], saved["messages"]
        elif word == "/stats":
            print(self.stats)
        else:
            print(HELP)
        return True


def chat(options: argparse.Namespace) -> int:
    with Agent("chat", kernel=options.kernel) as me:
        talk = Conversation(me, options)
        if not sys.stdin.isatty():
            text = sys.stdin.read().strip()
            if not text:
                raise CommandError(Exit.USAGE, "chat: nothing came on standard input")
            before = len(talk.messages)
            talk.say(text)
            return Exit.OK if len(talk.messages) > before else Exit.FAILED
        with suppress(ImportError):
            import readline  # noqa: F401 - input() edits lines and remembers them
        print(f"{options.model or Path(me.model).stem}; /help says what can be typed, Ctrl-D ends")
        while (line := _line()) is not None:
            try:
                if line.startswith("/"):
                    if not talk.command(line):
                        break
                elif line.strip():
                    talk.say(line)
            except (OSError, ValueError, KeyError, AgentixError) as error:
                print(f"{error}", file=sys.stderr)
    return Exit.OK


def _line() -> str | None:
    """What the user types, of several lines if they end with a backslash; None at the end."""
    lines = []
    while True:
        try:
            line = input("... " if lines else "> ")
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()
            lines.clear()
            continue
        lines.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            return "\n".join(lines)
