"""CPU time and memory of tasks' processes, read from /proc in one scan however many there are.

Who calls it: the loop for SampleProcesses; the launcher asks for a session's members. What must hold:
a process belongs to the task whose pid is its session id or its own pid, so what a task starts is
charged to it even after the child in between has gone.

Two limits, both Linux's: time is counted in ticks of 10 ms, and the time of a descendant that was
adopted by init and has ended is lost, so a total may go back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kernel.identity import stat_fields

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Stat(NamedTuple):
    """What this kernel needs of one process's stat line."""

    pid: int
    state: str
    session: int
    ticks: int  # user and system time, that of waited-for children included
    rss_pages: int


def sample(pids: Iterable[int]) -> tuple[tuple[int, float, int], ...]:
    """Return (pid, CPU seconds, RSS bytes), sessions summed; processes that are gone are left out."""
    ticks = dict.fromkeys(pids, 0)
    pages = dict.fromkeys(ticks, 0)
    seen = set()
    for stat in scan():
        task = stat.pid if stat.pid in ticks else stat.session
        if task in ticks:
            ticks[task] += stat.ticks
            pages[task] += stat.rss_pages
            seen.add(task)
    return tuple(
        (pid, count * _TICK_S, pages[pid] * _PAGE_BYTES) for pid, count in ticks.items() if pid in seen
    )


def last_sample(pid: int) -> tuple[tuple[int, float, int], ...]:
    """Return what `sample` does for a process that has ended and is not reaped yet; RSS is 0 by then."""
    stat = read_stat(pid)
    return () if stat is None else ((pid, stat.ticks * _TICK_S, 0),)


def scan() -> Iterator[Stat]:
    """Yield every process that can be read."""
    for name in os.listdir("/proc"):
        if name[0] in "123456789":
            stat = read_stat(name)
            if stat is not None:
                yield stat


def read_stat(pid: int | str) -> Stat | None:
    """Return one process's line, or None when it is gone."""
    fields = stat_fields(pid)
    if fields is None:
        return None
    return Stat(
        pid=int(pid),
        state=fields[0].decode(),
        session=int(fields[3]),
        ticks=int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14]),
        rss_pages=int(fields[21]),
    )
