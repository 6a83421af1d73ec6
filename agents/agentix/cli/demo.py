"""`agentix demo`: many agents of several kinds on a kernel of their own. `make run` is this.

Who uses it: __main__.py. What must hold: it leaves no kernel and no agent behind however it ends, and its status
is 0 only if every agent finished with status 0.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from agentix import calls
from agentix.calls import Exit as TaskExit
from agentix.cli.boot import CHECKOUT, ChildKernel
from agentix.cli.exits import CommandError, Exit
from agentix.cli.figures import agents_of, report_json, report_text, totals_of
from agentix.cli.table import span
from agentix.cli.tasks import ANSWER_S, obituary
from agentix.client import Connection
from agentix.errors import AgentixError, KernelGone
from agentix.mux import Inflight

KINDS = ("chat", "react", "planner")  # in turn, as often as there are agents
WORKERS = 2  # of each planner; they count as agents
MOST_WAITS = 128  # in flight at once: the kernel bounds the calls of one connection
REDRAW_S = 0.25  # of the progress line on a terminal
LINE_S = 2.0  # between progress lines elsewhere
CLEAR_LINE = "\r\x1b[K"


class Launch(NamedTuple):
    """One script to spawn."""

    kind: str
    name: str
    args: tuple[int, ...]


def launches(agents: int, seed: int, turns: int, tokens: int) -> Iterator[Launch]:
    """Scripts that make `agents` tasks, planners' workers included, each with a seed of its own."""
    left, number = agents, 0
    while left > 0:
        kind = KINDS[number % len(KINDS)]
        if kind == "planner" and left == 1:
            kind = "chat"  # no room for a worker
        number += 1
        args: tuple[int, ...] = (seed + 1000 * number, turns, tokens)
        if kind == "planner":
            workers = min(WORKERS, left - 1)
            args = (*args, workers)
            left -= workers
        left -= 1
        yield Launch(kind, f"{kind}-{number}", args)


def demo(options: argparse.Namespace) -> int:
    check(options)
    with exit_on_term(), ChildKernel(options, f"demo-{os.getpid()}") as kernel:
        print(f"booting a kernel named {kernel.name}", flush=True)
        connection = kernel.connect()
        try:
            return Demo(connection, options).run()
        except KernelGone as error:
            raise kernel.failure(error) from None
        finally:
            with suppress(AgentixError):
                connection.call(calls.plain("sys.shutdown"), ANSWER_S)
            connection.close()


@contextmanager
def exit_on_term() -> Iterator[None]:
    """Have SIGTERM leave by way of every `with`, as Ctrl-C does."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def check(options: argparse.Namespace) -> None:
    """Refuse wrong numbers before anything is started."""
    for name in ("agents", "turns", "tokens"):
        if getattr(options, name) < 1:
            text = f"--{name} is {getattr(options, name)}, wanted at least 1"
            raise CommandError(Exit.USAGE, text)
    if not (CHECKOUT / "agents" / "chat.py").exists():
        raise CommandError(Exit.USAGE, f"the demonstration's agents are not in {CHECKOUT}/agents")
    if options.report:
        folder = Path(options.report).absolute().parent
        if not folder.is_dir():
            raise CommandError(Exit.USAGE, f"--report {options.report!r}: no folder {str(folder)!r}")


class Demo:
    """One run on a booted kernel."""

    def __init__(self, connection: Connection, options: argparse.Namespace) -> None:
        self._connection = connection
        self._options = options
        self._is_terminal = sys.stdout.isatty()
        self._start_s = 0.0
        self._next_line_s = 0.0
        self._ends: dict[int, TaskExit] = {}  # by pid

    def run(self) -> int:
        options = self._options
        info = self._connection.call(calls.plain("sys.info"), ANSWER_S)
        print(
            f"{options.agents} agents of {options.turns} turns on {info['slots']} slots of"
            f" {os.path.basename(info['model'])}, policy {info['policy']}",
            flush=True,
        )
        self._start_s = self._next_line_s = time.monotonic()
        pids = [self._spawn(launch) for launch in self._launches()]
        self._wait_for(pids)
        wall_s = time.monotonic() - self._start_s
        stat = self._stat()
        self._progress(len(pids), stat, is_last=True)
        agents = [figures for pid in pids for figures in agents_of(self._ends[pid])]
        totals = totals_of(agents, stat, wall_s, options.turns, options.tokens)
        for end in self._ends.values():
            if end.status != 0:
                print(obituary(end), file=sys.stderr)
        print(f"\n{report_text(agents, totals)}", flush=True)
        if stat.get("core_restarts"):
            print(f"the LLM core was restarted {stat['core_restarts']} times")
        if options.report:
            Path(options.report).write_text(report_json(agents, totals))
        return Exit.FAILED if totals.failed else Exit.OK

    def _launches(self) -> Iterator[Launch]:
        options = self._options
        return launches(options.agents, options.seed, options.turns, options.tokens)

    def _spawn(self, launch: Launch) -> int:
        script = CHECKOUT / "agents" / f"{launch.kind}.py"
        kernel = self._connection.kernel
        call = calls.spawn(kernel, script, launch.args, launch.name, None, None)
        return self._connection.call(call, ANSWER_S)

    def _wait_for(self, pids: list[int]) -> None:
        waiting = list(pids)
        inflight: dict[int, Inflight] = {}
        while waiting or inflight:
            while waiting and len(inflight) < MOST_WAITS:
                pid = waiting.pop(0)
                inflight[pid] = self._connection.submit(calls.wait(pid, None))
            until_s = time.monotonic() + REDRAW_S
            current = list(inflight.values())
            self._connection.wait(lambda: any(call.is_done for call in current), until_s)  # noqa: B023
            for pid in [pid for pid, call in inflight.items() if call.is_done]:
                self._ends[pid] = inflight.pop(pid).value()
            if time.monotonic() >= self._next_line_s:
                self._progress(len(pids), self._stat())

    def _stat(self) -> dict[str, Any]:
        return self._connection.call(calls.plain("sys.stat"), ANSWER_S)

    def _progress(self, scripts: int, stat: dict[str, Any], is_last: bool = False) -> None:
        now_s = time.monotonic()
        self._next_line_s = now_s + (REDRAW_S if self._is_terminal else LINE_S)
        spent_s = now_s - self._start_s
        tokens = stat["generated_tokens"]
        line = (
            f"{len(self._ends)}/{scripts} scripts ended  {span(spent_s)}  {tokens} tokens"
            f"  {tokens / max(spent_s, 1e-9):.0f} tokens/s  {stat['switches']} switches"
        )
        if self._is_terminal:
            print(f"{CLEAR_LINE}{line}", end="\n" if is_last else "", flush=True)
        else:
            print(line, flush=True)
