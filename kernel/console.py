"""What the kernel tells people: lines on its terminal, and a log on stderr.

Who uses it: the loop and boot. What must hold: a terminal that is gone ends nothing.
"""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Print a line for the person at the terminal."""
    try:
        print(text, flush=True)
    except OSError:  # the terminal is gone; agents are not
        sys.stdout = None


def log(text: str) -> None:
    """Print a line to stderr."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = None
