"""Agent: the kernel's calls as methods that wait. aio.py has the same ones to await.

Who uses it: agents. What must hold: a public method here has its twin of the same name and parameters in aio.py
(a test compares them); every one takes `timeout=` in seconds and raises TimedOut when it passes.

Each method may also raise KernelGone, and the error of the kernel's answer: see kernel/abi/calls.py for which.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Unpack

from agentix import calls
from agentix.calls import Call, Exit, Message, Window
from agentix.channel import Channel
from agentix.errors import AgentixError, KernelGone, NoSuchChild, NoSuchTask, error_of
from agentix.llm import Llm
from agentix.memory import Mem
from agentix.sched import Groups, Sched
from kernel.abi.address import kernel_name
from kernel.abi.errors import KernelError

if TYPE_CHECKING:
    from agentix.chat.choice import Chatting
    from agentix.client import Connection
    from agentix.session import Session

HELLO_S = 30.0
LEAVE_S = 1.0  # how long leaving politely may take
EXIT_KERNEL_GONE = 75  # sysexits.h: a temporary failure


class Agent:
    """A task of the kernel: this process.

        with Agent("writer") as me:
            print(me.llm.generate("Write a line:", max_tokens=40).text)

    Several threads may use one Agent at once.
    """

    def __init__(self, name: str = "", *, kernel: str | None = None, timeout: float = HELLO_S) -> None:
        """Greet the kernel called `kernel` ($AGENTIX_KERNEL, or "main"). Raises NoKernel, TimedOut."""
        from agentix.client import Connection  # it imports zmq

        self.name = name
        show_errors_in_one_line()
        self._connection: Connection = Connection("agent", kernel or chosen_kernel(), name, timeout)
        hello = self._connection.hello
        self.pid: int = hello["pid"]
        self.model: str = hello["model"]
        self.window_tokens: int = hello["window_tokens"]
        self.llm = Llm(self._connection)
        self.mem = Mem(self._connection)
        self.sched = Sched(self._connection)
        self.groups = Groups(self._connection)

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with suppress(AgentixError):
                self._call(calls.leave(0), LEAVE_S)
        self.close()

    def close(self) -> None:
        """Close the connection; calls that other threads wait for end with KernelGone."""
        self._connection.close()

    def spawn(
        self,
        script: str | os.PathLike[str],
        *args: object,
        name: str = "",
        env: Mapping[str, str] | None = None,
        priority: int | None = None,
        capabilities: Sequence[str] = (),
        group: str = "",
        timeout: float | None = None,
    ) -> Child:
        """Start a Python script as a child task, in this process's folder.

        `capabilities` are what it may do beyond the usual, such as "task.create": among our own. `group`: of
        Groups, our own if left out. Raises InvalidValue, PermissionDenied, NoSuchGroup, TryAgain.
        """
        kernel = self._connection.kernel
        call = calls.spawn(kernel, script, args, name, env, priority, capabilities, group)
        return Child(self, self._call(call, timeout), name)

    def task(
        self,
        name: str = "",
        priority: int | None = None,
        *,
        group: str = "",
        timeout: float | None = None,
    ) -> Task:
        """Create a task without a process, for a `with` block. `group`: of Groups, our own if left out.

        Raises PermissionDenied, NoSuchGroup, TryAgain.
        """
        return Task(self._connection, name, priority, group=group, timeout=timeout)

    def session(
        self,
        system: str = "",
        *,
        name: str = "",
        durable: bool = False,
        model: str = "",
        window: Window | None = None,
        keep_tokens: int | None = None,
        **options: Unpack[Chatting],
    ) -> Session:
        """A conversation whose context the kernel keeps, for a `with` block.

            with me.session(system="Answer in one sentence.", max_tokens=60) as talk:
                print(talk.say("What is a page fault?").content)
                print(talk.say("And who handles it?").content)

        `options` are those of every turn. `model`: one of llm.models(); the first that generates, if left out.
        `durable`: an agent of this name in this group that opens the session called `name` again goes on where it was
        left, whatever happened to either or to the kernel; its messages, then, are those that it has.
        `window`: what becomes of a turn that does not fit the model's window: "refuse" (if left out) raises
        PromptTooLong; "drop" goes on without the oldest turns; "shift", for generate(), without tokens that follow the
        first `keep_tokens`. An answer's dropped_turns and dropped_tokens say what went.
        """
        from agentix.session import Session

        opening = calls.ctx_open(model, window, keep_tokens, name, durable)
        return Session(self._connection, system, opening, options, durable)

    def wait(self, pid: int = 0, *, timeout: float | None = None) -> Exit:
        """Wait for a child (0: any) to end and reap it. Raises NoSuchChild, TimedOut."""
        return self._call(calls.wait(pid, timeout), timeout)

    def kill(self, pid: int, signal: str = "TERM", *, timeout: float | None = None) -> None:
        """Signal oneself or a child: TERM, KILL, INT, STOP, CONT, USR1, USR2. Raises NoSuchTask."""
        self._call(calls.kill(pid, signal), timeout)

    def send(self, to: int, data: Any, *, timeout: float | None = None) -> None:
        """Send plain data (at most 64 KiB packed) to a task, waiting while its mailbox is full.

        Raises NoSuchTask, MessageTooLong, TimedOut, BrokenPipe, and TypeError for data that is not plain.
        """
        self._call(calls.send(to, data, timeout), timeout)

    def recv(self, *, timeout: float | None = None) -> Message:
        """Take the oldest message sent to this task, waiting for one. Raises TimedOut, BadMessage."""
        return self._connection.receive(timeout)

    def ps(self, *, timeout: float | None = None) -> list[dict[str, Any]]:
        """Every task with its state and usage."""
        return self._call(calls.ps(), timeout)

    def log(self, text: str, *, timeout: float | None = None) -> None:
        """Append a line to this task's log, beside what it prints."""
        self._call(calls.log(text), timeout)

    def tokenize(
        self, text: str, *, with_special: bool = True, model: str = "", timeout: float | None = None
    ) -> list[int]:
        """The model's tokens of a text; `with_special` adds its opening token and reads control tokens.

        `model`: one of llm.models(); the first, if left out. Raises NoSuchModel, ModelFailed.
        """
        return self._call(calls.tokenize(text, with_special, model), timeout)

    def detokenize(self, tokens: Sequence[int], *, model: str = "", timeout: float | None = None) -> str:
        """The text of tokens. Raises InvalidValue for a token outside the vocabulary, NoSuchModel, ModelFailed."""
        return self._call(calls.detokenize(tokens, model), timeout)

    def _call(self, call: Call, timeout: float | None) -> Any:
        return self._connection.call(call, timeout)


class Child:
    """A task that this one spawned."""

    def __init__(self, parent: Agent, pid: int, name: str) -> None:
        self._parent = parent
        self.pid = pid
        self.name = name

    def wait(self, *, timeout: float | None = None) -> Exit:
        """Wait for it to end and reap it. Raises TimedOut."""
        return self._parent.wait(self.pid, timeout=timeout)

    def kill(self, signal: str = "TERM", *, timeout: float | None = None) -> None:
        """Signal it. Raises NoSuchTask."""
        self._parent.kill(self.pid, signal, timeout=timeout)

    def send(self, data: Any, *, timeout: float | None = None) -> None:
        """Send it a message: see Agent.send."""
        self._parent.send(self.pid, data, timeout=timeout)


class Task:
    """A task without a process: an agent that this process thinks for, one of as many as it likes.

        with me.task("critic", priority=10) as critic:
            print(critic.llm.generate("What is wrong with it?", max_tokens=40).text)

    It is scheduled, accounted and limited on its own, has a mailbox and memory of its own, and ends with the
    block, with `close`, or with its holder. An operator holds tasks too: Task(connection, "critic").
    """

    def __init__(
        self,
        connection: Connection,
        name: str = "",
        priority: int | None = None,
        *,
        group: str = "",
        timeout: float | None = None,
    ) -> None:
        """Create it, held by whoever greeted the kernel on this connection. See Agent.task."""
        self.name = name
        self._holder = connection
        self._is_closed = False
        self.pid: int = connection.call(calls.task_create(name, priority, group), timeout)
        self._channel = Channel(connection, self.pid)
        self.llm = Llm(self._channel)
        self.mem = Mem(self._channel)
        self.sched = Sched(self._channel)

    def __enter__(self) -> Task:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(AgentixError):
            self.close()

    def close(self, *, timeout: float | None = LEAVE_S) -> None:
        """End it and reap it: its requests are cancelled, its memory goes. Raises TimedOut."""
        if self._is_closed:
            return
        self._is_closed = True
        with suppress(NoSuchTask):  # it was killed
            self._channel.call(calls.leave(0), timeout)
        with suppress(NoSuchChild):  # somebody waited for it already
            self._holder.call(calls.wait(self.pid, timeout), timeout)

    def session(
        self,
        system: str = "",
        *,
        name: str = "",
        durable: bool = False,
        model: str = "",
        window: Window | None = None,
        keep_tokens: int | None = None,
        **options: Unpack[Chatting],
    ) -> Session:
        """A conversation of this task: see Agent.session."""
        from agentix.session import Session

        opening = calls.ctx_open(model, window, keep_tokens, name, durable)
        return Session(self._channel, system, opening, options, durable)

    def send(self, to: int, data: Any, *, timeout: float | None = None) -> None:
        """Send plain data as this task: see Agent.send."""
        self._channel.call(calls.send(to, data, timeout), timeout)

    def recv(self, *, timeout: float | None = None) -> Message:
        """Take the oldest message sent to this task: see Agent.recv."""
        return self._channel.receive(timeout)

    def log(self, text: str, *, timeout: float | None = None) -> None:
        """Append a line to this task's log."""
        self._channel.call(calls.log(text), timeout)


def chosen_kernel() -> str:
    """The kernel's name from the environment. Raises InvalidValue for a wrong one."""
    try:
        return kernel_name()
    except KernelError as error:
        raise error_of(int(error.number), error.text) from None


def show_errors_in_one_line() -> None:
    """Have an AgentixError that no agent code caught end the process with a sentence, not a traceback.

    Other exceptions go where they went before. A dead kernel ends the process quietly with status 75.
    """
    previous = sys.excepthook
    if getattr(previous, "is_agentix", False):
        return

    def show(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        if isinstance(error, KernelGone):
            sys.exit(EXIT_KERNEL_GONE)
        if isinstance(error, AgentixError):
            script = os.path.basename(sys.argv[0]) or "agent"
            print(f"{script}: {error} ({kind.__name__})", file=sys.stderr)
            sys.exit(1)
        previous(kind, error, traceback)

    show.is_agentix = True  # type: ignore[attr-defined]
    sys.excepthook = show
