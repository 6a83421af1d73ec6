"""`top`: the agents at work, looked at every second; keys renice, pause and kill them.

What must hold: the terminal is as it was when this ends, however it ends; a task is killed only after a "y".
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agentix import calls, schedcalls
from agentix.cli.exits import CommandError, Exit
from agentix.cli.topview import (
    COLUMNS,
    FREE,
    NAME_CHARS,
    SORTS,
    TEXTS,
    Lanes,
    Look,
    TaskRow,
    colour_of,
    headline,
    headline_text,
    rows,
    shown_columns,
)
from agentix.client import Connection
from agentix.errors import AgentixError

if TYPE_CHECKING:
    from rich.console import Group

ANSWER_S = 10.0
ONCE_S = 0.5  # between the two looks that one picture needs
HELP = "↑↓ choose   + - nice   p pause   K kill   s sort   q quit"
UP, DOWN = ("\x1b[A", "k"), ("\x1b[B", "j")


class Screen:
    """What is chosen and said, between the looks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.lanes = Lanes()
        self.new: Look | None = None
        self.old: Look | None = None
        self.sort = SORTS[0]
        self.chosen = 0  # pid
        self.said = HELP
        self._asks_kill = 0  # pid that a "y" kills

    def look(self) -> None:
        call = self._connection.call
        look = Look(
            time.monotonic(),
            call(calls.ps(), ANSWER_S),
            call(calls.plain("sys.info"), ANSWER_S),
            call(calls.plain("sys.stat"), ANSWER_S),
            call(calls.plain("sys.slots"), ANSWER_S),
        )
        self.old, self.new = self.new, look
        self.lanes.add(look)

    def rows(self) -> list[TaskRow]:
        assert self.new is not None
        made = rows(self.new, self.old, self.sort)
        if made and self.chosen not in {row.pid for row in made}:
            self.chosen = made[0].pid
        return made

    def press(self, key: str) -> bool:
        """Do what a key asks for; False to end."""
        if self._asks_kill:
            pid, self._asks_kill, self.said = self._asks_kill, 0, HELP
            if key == "y":
                self._try(
                    lambda: self._connection.call(calls.kill(pid, "KILL"), ANSWER_S),
                    f"killed {pid}",
                )
            return True
        made = self.rows()
        at = next((index for index, row in enumerate(made) if row.pid == self.chosen), 0)
        if key in ("q", "\x03", "\x1b"):
            return False
        if key in UP + DOWN and made:
            self.chosen = made[(at + (1 if key in DOWN else -1)) % len(made)].pid
        elif key == "s":
            self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
            self.said = f"sorted by {self.sort}"
        elif key == "h":
            self.said = HELP
        elif made:
            self._act(key, made[at])
        return True

    def _act(self, key: str, row: TaskRow) -> None:
        if key in "+-":
            nice = min(19, max(-20, row.nice + (1 if key == "+" else -1)))
            call = schedcalls.sched_set(pid=row.pid, nice=nice)
            self._try(lambda: self._connection.call(call, ANSWER_S), f"{row.name} has nice {nice}")
        elif key == "p":
            name = "CONT" if row.state == "stopped" else "STOP"
            self._try(
                lambda: self._connection.call(calls.kill(row.pid, name), ANSWER_S),
                f"{name} to {row.name}",
            )
        elif key == "K":
            self._asks_kill = row.pid
            self.said = f"kill {row.name} ({row.pid})? y/n"

    def _try(self, act: Any, said: str) -> None:
        try:
            act()
            self.said = said
        except AgentixError as error:
            self.said = str(error)

    def picture(self) -> Group:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        assert self.new is not None
        made = self.rows()
        columns = shown_columns(made, shutil.get_terminal_size().columns)
        headings = [COLUMNS[at] for at in columns]
        shown = Table(*headings, box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
        for column, heading in zip(shown.columns, headings, strict=True):
            column.no_wrap, column.overflow = True, "ellipsis"
            column.justify = "left" if heading in TEXTS else "right"
            if heading == "NAME":
                column.ratio, column.min_width = 1, NAME_CHARS
        for row in made:
            cells = [Text(cell) for cell in row.cells()]
            cells[1].stylize(colour_of(row.pid))
            style = "reverse" if row.pid == self.chosen else ""
            shown.add_row(*(cells[at] for at in columns), style=style)
        parts: list[Any] = [Text(headline_text(headline(self.new, self.old)), style="bold")]
        for (model, bank, slot), pids in sorted(self.lanes.marks.items()):
            lane = Text(f"{model[:14]:14} {bank}.{slot:<3} ")
            for pid in pids:
                lane.append("█" if pid else FREE, style=colour_of(pid) if pid else "dim")
            parts.append(lane)
        return Group(*parts, Text(self.said, style="dim"), shown)


def top(connection: Connection, options: argparse.Namespace) -> int:
    screen = Screen(connection)
    screen.look()
    if options.json or options.once:
        time.sleep(ONCE_S)
        screen.look()
        return _once(screen, options.json)
    if not sys.stdin.isatty():
        raise CommandError(Exit.USAGE, "top needs a terminal: --once or --json do without")
    _check_rich()
    from rich.console import Console
    from rich.live import Live

    with (
        _keys(),
        Live(screen.picture(), console=Console(), screen=True, auto_refresh=False) as live,
    ):
        due_s = time.monotonic() + options.every
        while True:
            key = _key(max(0.0, due_s - time.monotonic()))
            if key and not screen.press(key):
                return Exit.OK
            if key or time.monotonic() >= due_s:
                screen.look() if time.monotonic() >= due_s else None
                due_s = due_s if time.monotonic() < due_s else time.monotonic() + options.every
                live.update(screen.picture(), refresh=True)


def _once(screen: Screen, is_json: bool) -> int:
    if is_json:
        assert screen.new is not None
        figures = headline(screen.new, screen.old) | {
            "rows": [asdict(row) for row in screen.rows()]
        }
        print(json.dumps(figures | {"slots_held": screen.new.slots}, indent=2))
        return Exit.OK
    _check_rich()
    from rich.console import Console

    screen.chosen, screen.said = -1, ""
    Console(highlight=False).print(screen.picture())
    return Exit.OK


def _check_rich() -> None:
    if importlib.util.find_spec("rich") is None:
        raise CommandError(
            Exit.FAILED, "top needs rich: pip install 'agentix[cli]'; `top --json` does without"
        )


@contextmanager
def _keys() -> Iterator[None]:
    """Have keys come one by one and unechoed."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _key(timeout_s: float) -> str:
    """The next key, an arrow as its escape sequence; "" when none comes in time."""
    ready, _, _ = select.select([sys.stdin], [], [], timeout_s)
    if not ready:
        return ""
    return os.read(sys.stdin.fileno(), 8).decode(errors="replace") or "q"
