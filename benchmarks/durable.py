"""kill -9 of the kernel amid 100 durable sessions: after a reboot all go on, with the tokens of a run without it.

100 tasks have a session of 6 turns each, all at once; a turn of the default model says 12 words and samples 24 tokens.
First on a kernel that nobody disturbs; then on one that is killed when half of all turns are answered, and on another
that goes on from its disk. What a turn says is a function of what was said before, so that both must give the same
tokens.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psutil

from agentix import Task
from agentix.errors import AgentixError
from benchmarks.models import model_path
from benchmarks.report import Row, must, only, percentile, progress
from benchmarks.stand import Stand

SLOTS, SESSIONS, TURNS, WORDS = 16, 100, 6, 12
OPTIONS = {"max_tokens": 24, "temperature": 0.8, "ignore_end": True}
GONE_S = 20.0  # that processes of a dead kernel may take to end


class Talk(NamedTuple):
    """A session in one life of a kernel."""

    had: int  # turns when it was opened
    open_s: float
    said: list[tuple[int, ...]]  # tokens of the turns that were answered


def run(quick: bool) -> list[Row]:
    count, slots = (12, 4) if quick else (SESSIONS, SLOTS)
    model = model_path("default", "q8_0")
    shared = set(os.listdir("/dev/shm"))
    with tempfile.TemporaryDirectory(prefix="agentix-durable-") as folder:
        progress(f"{count} sessions of {TURNS} turns, undisturbed")
        wanted = _live(model, slots, count, Path(folder, "undisturbed"))
        progress("the same, with a kernel that is killed half way")
        state = Path(folder, "state")
        before = _live(model, slots, count, state, kill_after=count * TURNS // 2)
        progress("the next kernel")
        after = _live(model, slots, count, state)
        files = sorted(path.name for path in state.iterdir())
        size = sum(path.stat().st_size for path in state.iterdir())
    answered = sum(len(talk.said) for talk in before)
    kept = sum(len(old.said) <= new.had <= len(old.said) + 1 for old, new in zip(before, after, strict=True))
    unheard = sum(new.had - len(old.said) for old, new in zip(before, after, strict=True))
    ended = sum(new.had + len(new.said) == TURNS for new in after)
    same = sum(
        old.said == whole.said[: len(old.said)] and new.said == whole.said[new.had :]
        for whole, old, new in zip(wanted, before, after, strict=True)
    )
    others = [name for name in files if not name.endswith(".session")]
    others += sorted(set(os.listdir("/dev/shm")) - shared)
    left = ", ".join(others[:3]) or "nothing"
    opens = [talk.open_s for talk in after]
    return [
        only("turns answered when the kernel was killed", f"{answered} of {count * TURNS}"),
        must("sessions that go on after it", f"{ended} of {count}", "all", ended == count),
        must("with every turn that was answered", f"{kept} of {count}", "all", kept == count),
        only("turns that were on disk, and not yet answered", unheard),
        must("tokens as without it", f"{same} of {count}", "all", same == count),
        must("left behind", left, "nothing", not others and len(files) == count),
        only("on disk, a session", f"{size / count / 1024:.1f} KiB"),
        only("to open one again, P50 and P95", f"{percentile(opens, 0.5):.2f} s, {percentile(opens, 0.95):.2f} s"),
    ]


def _live(model: Path, slots: int, count: int, state: Path, kill_after: int = 0) -> list[Talk]:
    """Have all sessions on one kernel, to their end or until so many turns are answered, which kills it."""
    ended, lock = 0, threading.Lock()
    with Stand(model, slots=slots, state_folder=str(state)) as stand:
        processes = [psutil.Process(stand.kernel_pid), *psutil.Process(stand.kernel_pid).children(recursive=True)]

        def heard() -> None:
            nonlocal ended
            with lock:
                ended += 1
                if ended == kill_after:
                    os.kill(stand.kernel_pid, signal.SIGKILL)

        tasks = [Task(stand.operator, f"planner-{number}") for number in range(count)]
        with ThreadPoolExecutor(count) as pool:
            talks = list(pool.map(lambda pair: _talk(*pair, bool(kill_after), heard), enumerate(tasks)))
        if not kill_after:
            return talks
        _see_gone(processes)
    return talks


def _talk(number: int, me: Task, is_killed: bool, heard: Callable[[], None]) -> Talk:
    said: list[tuple[int, ...]] = []
    began = time.monotonic()
    talk = me.session(system="You are brief.", name="plan", durable=True, **OPTIONS)
    had, open_s = 0, 0.0
    try:
        with talk:
            had, open_s = talk.turns, time.monotonic() - began
            for turn in range(had, TURNS):
                said.append(talk.say(_words(number, turn), seed=number).raw.tokens)
                heard()
    except AgentixError:
        if not is_killed:
            raise
    return Talk(had, open_s, said)


def _words(number: int, turn: int) -> str:
    draw = random.Random(1000 * number + turn)
    return " ".join("".join(draw.choices("abcdefghij", k=5)) for _ in range(WORDS))


def _see_gone(processes: Sequence[psutil.Process]) -> None:
    """Raise where a process outlives its kernel."""
    _, alive = psutil.wait_procs(processes, timeout=GONE_S)
    left = [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    if left:
        raise RuntimeError(f"left behind by the kernel that was killed: {left}")
