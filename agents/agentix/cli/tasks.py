"""Commands about tasks: run, ps, kill, wait, logs.

Who uses it: __main__.py, with an operator's connection. What must hold: `run` shows all that an agent printed,
as it prints it, and ends as the agent ended.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from agentix import calls, schedcalls
from agentix.calls import Exit as TaskExit
from agentix.cli.exits import CommandError, Exit
from agentix.cli.table import show, size, span, table
from agentix.cli.topview import shown_bound, shown_group, waits
from agentix.client import Connection
from agentix.errors import AgentixError, NoSuchTask, TimedOut

ANSWER_S = 30.0  # for what the kernel answers at once
LOOK_S = 0.1  # how often a running agent's output is looked at
ZOMBIE_POLL_S = 0.01  # between the end of a process and the kernel's notice of it
KILL_AFTER_S = 5.0  # Ctrl-C, TERM, and then so long until KILL
SIGNAL_STATUS = 128  # added to a signal's number, as shells do
OVERLAP_CHARS = 400  # enough of a log's end to find it again after the log's start was cut off

PS_HEADINGS = (
    "PID", "PPID", "NAME", "STATE", "WAITS FOR", "CLASS", "NICE", "POLICY", "GROUP", "CPU%", "RSS", "REQ", "CONTEXT",
    "PROMPT", "GEN", "SWITCHES", "WAIT", "WAITS", "W", "TTFT", "AGE",
)  # fmt: skip


def run(connection: Connection, options: argparse.Namespace) -> int:
    """Spawn a script, show its output, end with its status."""
    if not os.path.isfile(options.script):
        raise CommandError(Exit.USAGE, f"run: no script {options.script!r}: give the path of a Python file")
    name = options.name or os.path.splitext(os.path.basename(options.script))[0]
    call = calls.spawn(
        connection.kernel, options.script, options.args, name, None, options.priority, options.allow,
        options.group,
    )  # fmt: skip
    pid = connection.call(call, ANSWER_S)
    if options.policy is not None or options.sched_class is not None:
        call = schedcalls.sched_set(pid=pid, policy=options.policy, sched_class=options.sched_class)
        try:
            connection.call(call, ANSWER_S)
        except AgentixError:
            end_task(connection, pid)
            raise
    if options.detach:
        print(pid)
        return Exit.OK
    try:
        follow(connection, pid, sys.stdout.write)
        end = connection.call(calls.wait(pid, None))
    except KeyboardInterrupt:
        end_task(connection, pid)
        raise
    return status_of(end)


def wait(connection: Connection, options: argparse.Namespace) -> int:
    """Wait for a task; end with its status."""
    return status_of(connection.call(calls.wait(options.pid, options.timeout)))


def ps(connection: Connection, options: argparse.Namespace) -> int:
    tasks = connection.call(calls.ps(), ANSWER_S)
    if options.json:
        print(json.dumps(tasks, indent=2))
    else:
        print(table(PS_HEADINGS, [ps_row(task) for task in tasks]))
    return Exit.OK


def ps_row(task: dict[str, Any]) -> list[object]:
    def of(name: str, kind: Callable = show) -> object:
        value = task.get(name)
        return None if value is None else kind(value)

    state = f"{of('state')}{' throttled' if task.get('throttled') else ''}"
    context = None if task.get("context_limit") is None else f"{of('context_tokens')}/{of('context_limit')}"
    return [
        of("pid"), of("ppid"), of("name"), state, of("waits_for"), of("sched_class"), of("priority"), of("policy"),
        shown_group(task.get("group", "")), of("cpu_percent", lambda value: f"{value:.0f}"), of("rss_bytes", size),
        of("requests"), context, of("prompt_tokens"), of("generated_tokens"), of("switches"), of("wait_s", span),
        waits(task.get("waits_now_s", 0.0), task.get("stage", "")), shown_bound(task.get("bound_s", 0.0)),
        of("ttft_s", span), of("age_s", span),
    ]  # fmt: skip


def kill(connection: Connection, options: argparse.Namespace) -> int:
    name = options.signal.upper().removeprefix("SIG")
    connection.call(calls.kill(options.pid, name), ANSWER_S)
    return Exit.OK


def logs(connection: Connection, options: argparse.Namespace) -> int:
    sys.stdout.write(log_text(connection, options.pid))
    return Exit.OK


def log_text(connection: Connection, pid: int) -> str:
    return connection.call(calls.plain("proc.logs", pid=pid), ANSWER_S)["text"]


def follow(connection: Connection, pid: int, write: Callable[[str], object]) -> None:
    """Write what a task prints until it has ended, and all of it: the kernel keeps it until the wait."""
    process = Process(pid)
    shown = ""
    try:
        while True:
            has_ended = process.wait(LOOK_S) and is_zombie(connection, pid)
            text = log_text(connection, pid)  # after the look at the state: then it is the whole
            write(news(shown, text))
            sys.stdout.flush()
            shown = text
            if has_ended:
                return
    except NoSuchTask:
        return  # somebody else waited for it
    finally:
        process.close()


def news(shown: str, text: str) -> str:
    """What `text`, a log's last bytes now, has after `shown`, its last bytes before."""
    if text.startswith(shown):
        return text[len(shown) :]
    end = shown[-OVERLAP_CHARS:]
    at = text.find(end)
    return text if at < 0 else text[at + len(end) :]


def is_zombie(connection: Connection, pid: int) -> bool:
    states = {task["pid"]: task["state"] for task in connection.call(calls.ps(), ANSWER_S)}
    if states.get(pid, "zombie") == "zombie":
        return True
    time.sleep(ZOMBIE_POLL_S)
    return False


def end_task(connection: Connection, pid: int) -> None:
    """End a task politely, then surely."""
    with suppress(AgentixError):
        connection.call(calls.kill(pid, "TERM"), ANSWER_S)
        try:
            connection.call(calls.wait(pid, KILL_AFTER_S), KILL_AFTER_S)
        except TimedOut:
            connection.call(calls.kill(pid, "KILL"), ANSWER_S)
            connection.call(calls.wait(pid, KILL_AFTER_S), KILL_AFTER_S)


def status_of(end: TaskExit) -> int:
    """A task's status as ours, as shells do; a failure is told on stderr."""
    if end.status == 0:
        return Exit.OK
    print(obituary(end), file=sys.stderr)
    if end.signal is not None:
        return SIGNAL_STATUS + signal_number(end.signal)
    return end.status if end.status is not None else Exit.FAILED


def obituary(end: TaskExit) -> str:
    """How a task died, and the last it said."""
    if end.signal is not None:
        how = f"signal {signal_name(end.signal)}"
    else:
        how = f"exit status {end.status}" if end.status is not None else "no exit status"
    if end.reason and end.reason not in how:
        how += f" ({end.reason})"
    tail = end.tail.rstrip("\n")
    head = f"agent {end.name} (pid {end.pid}) died: {how}"
    if not tail:
        return f"{head}; it printed nothing"
    return f"{head}; its last lines:\n" + "\n".join(f"  {line}" for line in tail.split("\n"))


def signal_number(value: int | str) -> int:
    if isinstance(value, int):
        return value
    name = value if value.startswith("SIG") else f"SIG{value}"
    return int(signal.Signals[name]) if name in signal.Signals.__members__ else 0


def signal_name(value: int | str) -> str:
    try:
        return signal.Signals(signal_number(value)).name
    except ValueError:
        return str(value)


class Process:
    """The end of a process that is not our child."""

    def __init__(self, pid: int) -> None:
        self._poll = select.poll()
        try:
            self._fd = os.pidfd_open(pid)
        except OSError:
            self._fd = -1
        else:
            self._poll.register(self._fd, select.POLLIN)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended, after waiting for that at most so long."""
        return self._fd < 0 or bool(self._poll.poll(timeout_s * 1000))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
