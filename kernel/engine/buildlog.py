"""Reading a build's output while it runs: how far it is, and what went wrong when it fails.

Used by build.py and install.py; pure but for `ProgressLine`, which draws. Standard library only.
Invariant: the fraction done never falls, whatever the build prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum
from typing import TextIO

STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]")  # ninja: [12/83] c++ ...
PERCENT = re.compile(r"^\s*\[\s*(\d+)%\]")  # make: [ 12%] Building ...
FEWEST_STEPS = 20  # CMake's own probes are builds too, of one or two steps

NOISE = re.compile(
    r"^\s*$|^\s*\[\s*\d+(/\d+|%)\]|^\s*-- |^\s*\*\*\* |^\s*(Running command|Collecting|Downloading|Looking in)"
    r"|^\s*WARNING: Location|^\s*(creating|changing mode of) |^\s*\[end of output\]"
)
TIME_AT_TENTH = (0.0, 0.055, 0.075, 0.12, 0.19, 0.29, 0.42, 0.57, 0.70, 0.93, 1.0)  # of one build on two cores
LONGEST_LINE = 200  # characters; a compiler's command line can have thousands

NETWORK_TROUBLE = (
    r"No matching distribution|Could not find a version|NewConnectionError|name resolution|Connection refused"
    r"|Network is unreachable|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Max retries exceeded"
)


class Exit(IntEnum):
    """Exit status of build.py and install.py: one for each thing that a user would do differently."""

    OK = 0
    USAGE = 2
    NO_COMPILER = 10
    NO_VENV = 11
    NO_INDEX = 12
    DISK_FULL = 13
    OUT_OF_MEMORY = 14
    OLD_PYTHON = 15
    NO_PIP = 16
    BUILD_FAILED = 20
    INTERRUPTED = 130


ADVICE = {
    Exit.NO_COMPILER: "no C and C++ compiler works here: apt install build-essential cmake python3-venv",
    Exit.NO_VENV: "this Python cannot make virtual environments: apt install build-essential cmake python3-venv",
    Exit.NO_INDEX: "the package index did not answer or lacks the package: check the network, or point"
    " PIP_INDEX_URL or PIP_FIND_LINKS at an index that has it, and run the same command again",
    Exit.DISK_FULL: "the disk is full: free 1 GB there, or set XDG_CACHE_HOME to a roomier place",
    Exit.OUT_OF_MEMORY: "the compiler ran out of memory: CMAKE_BUILD_PARALLEL_LEVEL=1 make setup",
    Exit.NO_PIP: "this Python has no pip: run `make setup`, which brings its own",
    Exit.BUILD_FAILED: "the cause is in the log; if it is nothing that you can change, report it with the log",
}

# In this order: a full disk also looks like a broken compiler, and a broken compiler like a failed build.
SYMPTOMS = (
    (Exit.DISK_FULL, re.compile(r"No space left on device|Disk quota exceeded")),
    (Exit.OUT_OF_MEMORY, re.compile(r"Killed signal terminated program|out of memory|Cannot allocate memory")),
    (
        Exit.NO_COMPILER,
        re.compile(r"No CMAKE_C(XX)?_COMPILER could be found|is not a full path to an existing compiler"
                   r"|is not able to compile a simple test program"),
    ),
    (Exit.NO_PIP, re.compile(r"No module named '?pip\b")),
    (Exit.NO_VENV, re.compile(r"ensurepip is not available|No module named '?(venv|ensurepip)\b")),
    (Exit.NO_INDEX, re.compile(NETWORK_TROUBLE)),
)


def diagnose(lines: Iterable[str]) -> Exit:
    """The kind of failure that a failed command's output shows."""
    text = "\n".join(lines)
    return next((kind for kind, symptom in SYMPTOMS if symptom.search(text)), Exit.BUILD_FAILED)


def last_meaningful(lines: Iterable[str], count: int = 20) -> list[str]:
    """The last lines that a human would read: no command lines, no progress, nothing endless."""
    kept = [line.rstrip()[:LONGEST_LINE] for line in lines if not NOISE.match(line)]
    return kept[-count:]


class Progress:
    """How far a build is, from the lines it prints. Times are seconds on any one clock."""

    def __init__(self, start_s: float) -> None:
        self.fraction = 0.0  # 0.0 .. 1.0 of the compile steps
        self._start_s = start_s
        self._first_step_s: float | None = None  # what came before (download, configure) says nothing of the rest

    def feed(self, line: str, now_s: float) -> bool:
        """Take one line of output; True when it moved the fraction."""
        if step := STEP.match(line):
            done, total = int(step[1]), int(step[2])
            if total < FEWEST_STEPS:
                return False
            fraction = min(1.0, done / total)
        elif percent := PERCENT.match(line):
            fraction = min(1.0, int(percent[1]) / 100)
        else:
            return False
        if self._first_step_s is None:
            self._first_step_s = now_s
        has_moved = fraction > self.fraction
        self.fraction = max(self.fraction, fraction)
        return has_moved

    @property
    def share(self) -> float:
        """The share of the compile time that is over: what a percentage should say."""
        return share_of_time(self.fraction)

    def elapsed_s(self, now_s: float) -> float:
        return now_s - self._start_s

    def left_s(self, now_s: float) -> float | None:
        """Estimated seconds to the end; None while nothing has been measured."""
        if self._first_step_s is None or self.fraction <= 0 or now_s <= self._first_step_s:
            return None
        spent_s = now_s - self._first_step_s
        return spent_s * (1 - self.share) / self.share


def share_of_time(fraction: float) -> float:
    """The share of the compile time that the first `fraction` of the steps takes: the long ones come late."""
    tenth = min(int(fraction * 10), 9)
    before, after = TIME_AT_TENTH[tenth], TIME_AT_TENTH[tenth + 1]
    return before + (after - before) * (fraction * 10 - tenth)


def clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


class ProgressLine:
    """Draws a Progress: one line redrawn in place on a terminal, else one line for each tenth."""

    def __init__(self, stream: TextIO, label: str, progress: Progress) -> None:
        self._stream, self._label, self._progress = stream, label, progress
        self._is_tty = stream.isatty()
        self._printed_tenths = 0

    def draw(self, now_s: float) -> None:
        progress = self._progress
        if self._is_tty:
            self._stream.write(f"\r\x1b[K{self._text(now_s)}")
            self._stream.flush()
        elif (tenths := int(progress.share * 10)) > self._printed_tenths:
            self._printed_tenths = tenths
            print(self._text(now_s), file=self._stream, flush=True)

    def finish(self) -> None:
        """Leave the line as it is and let whatever is printed next start on a new one."""
        if self._is_tty:
            self._stream.write("\n")
            self._stream.flush()

    def _text(self, now_s: float) -> str:
        progress = self._progress
        elapsed = clock_text(progress.elapsed_s(now_s))
        left_s = progress.left_s(now_s)
        if left_s is None:
            return f"{self._label}: preparing, {elapsed}"
        return f"{self._label}: {progress.share:4.0%}, {elapsed} elapsed, about {clock_text(left_s)} left"
