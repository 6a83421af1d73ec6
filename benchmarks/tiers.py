"""Sessions that memory does not hold: 300 of them on 16 slots, with a quarter of the memory that their contexts need.

Each has 6 turns, all sessions at once: 64 new tokens, 24 sampled. Once with contexts on disk, and the page cache of the
swap file dropped half way; once without a disk, where what memory does not hold is computed again. What a turn says is
a function of what was said before, so both must give the same tokens.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from agentix import Reply, Task
from benchmarks.models import model_path
from benchmarks.report import Row, at_least, at_most, must, only, progress
from benchmarks.stand import Stand

SLOTS, SESSIONS, TURNS, NEW_TOKENS, ANSWER_TOKENS = 16, 300, 6, 64, 24
MEMORY_PART, RECOMPUTED_BAR, FASTER_BAR = 0.25, 1.0, 3.0
SAY_S = 10.0


class Outcome(NamedTuple):
    seconds: float
    talks: list[list[Reply]]  # of each session
    tiers: dict[str, Any]
    recomputed: int
    dropped_bytes: int  # of the page cache

    @property
    def again(self) -> int:
        """Tokens that were computed before, but for the last of each answer, which never was."""
        replies = [reply for talk in self.talks for reply in talk]
        owed = [one.usage["prompt_tokens"] - one.usage["cached_tokens"] - NEW_TOKENS - 1 for one in replies]
        return sum(max(0, one) for one in owed) + self.recomputed

    @property
    def tokens(self) -> list[list[tuple[int, ...]]]:
        return [[reply.tokens for reply in talk] for talk in self.talks]


def run(quick: bool) -> list[Row]:
    sessions, slots = (24, 2) if quick else (SESSIONS, SLOTS)
    model = model_path("default" if quick else "smollm2-135m", "q8_0")
    with Stand(model, slots=slots, swap_bytes=0) as stand:
        need = sessions * TURNS * (NEW_TOKENS + ANSWER_TOKENS) * _tiers(stand)["token_bytes"]
    memory = int(need * MEMORY_PART)
    with_disk, without = (_play(model, slots, sessions, memory, swap) for swap in (4 * need, 0))
    recomputed = 100 * with_disk.again / (sessions * TURNS * (NEW_TOKENS + ANSWER_TOKENS))
    moved = ", ".join(f"{with_disk.tiers[key] / 1e9:.2f} GB" for key in ("written_bytes", "read_bytes"))
    is_equal = with_disk.tokens == without.tokens
    ended = sum(map(len, with_disk.talks))
    return [
        must("turns that ended", ended, str(sessions * TURNS), ended == sessions * TURNS),
        only("contexts need, memory for them", f"{need / 1e9:.2f} GB, {memory / 1e9:.2f} GB"),
        only("written to disk, read from it", moved),
        only("taken from the page cache half way", f"{with_disk.dropped_bytes / 1e9:.2f} GB"),
        at_most("tokens computed again", recomputed, RECOMPUTED_BAR, "%"),
        only("with a disk", f"{with_disk.seconds:.1f} s, {with_disk.again} tokens again"),
        only("without", f"{without.seconds:.1f} s, {without.again} tokens again"),
        at_least("times faster than without", without.seconds / with_disk.seconds, FASTER_BAR, "x"),
        must("both say the same", "equal" if is_equal else "different", "equal", is_equal),
    ]


def _play(model: Path, slots: int, sessions: int, memory: int, swap: int) -> Outcome:
    ended = 0
    lock = threading.Lock()

    def count() -> None:
        nonlocal ended
        with lock:
            ended += 1

    with Stand(model, slots=slots, snapshot_bytes=memory, swap_bytes=swap) as stand:
        tasks = [Task(stand.operator, f"talk-{number}") for number in range(sessions)]
        began = time.monotonic()
        dropped = 0
        with ThreadPoolExecutor(sessions) as pool:
            talks = [pool.submit(_talk, me, number, count) for number, me in enumerate(tasks)]
            say_at = began + SAY_S
            while not all(one.done() for one in talks):
                time.sleep(0.1)
                if swap and not dropped and ended >= sessions * TURNS // 2:
                    dropped = drop_page_cache(stand.kernel_pid)
                if time.monotonic() > say_at:
                    say_at += SAY_S
                    progress(f"{ended} of {sessions * TURNS} turns, {'with' if swap else 'without'} a disk")
            replies = [one.result() for one in talks]
        seconds = time.monotonic() - began
        return Outcome(seconds, replies, _tiers(stand), stand.stat()["recomputed_tokens"], dropped)


def _tiers(stand: Stand) -> dict[str, Any]:
    """Return the model's part of ctx.stat."""
    (model,) = stand.call("ctx.stat")["models"]
    return model


def _talk(me: Task, number: int, ended: Callable[[], None]) -> list[Reply]:
    talk = me.session(max_tokens=ANSWER_TOKENS, temperature=0.8, ignore_end=True)
    said = []
    for turn in range(TURNS):
        draw = random.Random(1000 * number + turn)
        new = [draw.randrange(300, 2000) for _ in range(NEW_TOKENS)]
        said.append(talk.generate(new, seed=number))
        ended()
    return said


def drop_page_cache(pid: int) -> int:
    """Have what a kernel's swap file holds in the page cache dropped; return how many bytes the file has."""
    size = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(link)
        except FileNotFoundError:  # closed meanwhile, as copies of segments' descriptors are
            continue
        if "/swap/" in target and target.endswith("(deleted)"):
            fd = os.open(link, os.O_RDWR)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            size += os.fstat(fd).st_blocks * 512
            os.close(fd)
    return size
