"""Runs inputs through a target and counts what went wrong: exceptions, hangs and descriptors left open.

Who uses it: test_fuzz.py for a minute, __main__.py for as long as one likes. What must hold: an input that
broke something is in the tally, whatever it broke; the main thread's SIGALRM is this module's while it runs.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tests.fuzz.make_corpus import BROKE, FOLDER

DEADLINE_S = 5.0  # of one input, which takes a thousandth of it
MAX_FAILURES = 10  # then there is enough to look at
PROGRESS_S = 5.0


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that broke a target, and how."""

    data: bytes
    trace: str


@dataclass(slots=True)
class Tally:
    cases: int = 0
    seconds: float = 0.0
    crashes: list[Failure] = field(default_factory=list)
    hangs: list[Failure] = field(default_factory=list)
    leaked_descriptors: int = 0

    @property
    def is_clean(self) -> bool:
        return not (self.crashes or self.hangs or self.leaked_descriptors)


class Hang(BaseException):
    """An input took longer than its deadline. No Exception: no `except Exception` takes it for its own."""


def fuzz(
    target: Callable[[bytes], None],
    inputs: Iterator[bytes],
    *,
    cases: int | None = None,
    seconds: float | None = None,
    deadline_s: float = DEADLINE_S,
    progress: Callable[[Tally], None] | None = None,
) -> Tally:
    """Run inputs until there are none, `cases` are done, `seconds` are over, or MAX_FAILURES were found.

    A hang is noticed between one and two deadlines after it began.
    """
    tally = Tally()
    before = len(os.listdir("/proc/self/fd"))
    began = told = time.monotonic()
    with _alarm(tally, deadline_s):
        for data in inputs:
            if tally.cases == cases or len(tally.crashes) + len(tally.hangs) >= MAX_FAILURES:
                break
            try:
                target(data)
            except Hang:
                tally.hangs.append(Failure(data, traceback.format_exc()))
            except Exception:
                tally.crashes.append(Failure(data, traceback.format_exc()))
            tally.cases += 1
            now = time.monotonic()
            if seconds is not None and now - began >= seconds:
                break
            if progress is not None and now - told >= PROGRESS_S:
                told, tally.seconds = now, now - began
                progress(tally)
    tally.seconds = time.monotonic() - began
    tally.leaked_descriptors = len(os.listdir("/proc/self/fd")) - before
    return tally


def keep(target: str, failure: Failure) -> Path:
    """Put an input that broke a target into its corpus, where it is tried again in every test run."""
    path = FOLDER / target / f"{BROKE}{hashlib.sha256(failure.data).hexdigest()[:12]}"
    path.write_bytes(failure.data)
    return path


@contextmanager
def _alarm(tally: Tally, deadline_s: float) -> Iterator[None]:
    """Raise Hang in whatever runs when no case was done between two alarms."""
    done = -1

    def look(_: int, __: FrameType | None) -> None:
        nonlocal done
        if tally.cases == done:
            done = -1
            raise Hang(f"more than {deadline_s} s")
        done = tally.cases

    older = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, deadline_s, deadline_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, older)
