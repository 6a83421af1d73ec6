"""What the demonstration's agents keep of their work, and the last line they print, which `agentix demo` reads."""

from __future__ import annotations

import hashlib
import json
import sys


def numbers(*defaults: int) -> list[int]:
    """The script's arguments as integers, with defaults for those that are missing."""
    given = [int(arg) for arg in sys.argv[1 : len(defaults) + 1]]
    return [*given, *defaults[len(given) :]]


class Transcript:
    """All text that an agent generated, as a digest: equal seeds must give equal digests."""

    def __init__(self) -> None:
        self.turns = 0
        self._digest = hashlib.sha256()

    def add(self, text: str) -> str:
        """Count one turn and return its text."""
        self.turns += 1
        self._digest.update(text.encode())
        return text

    def report(self, **more: object) -> None:
        """Print the last line."""
        summary = {"turns": self.turns, "text_sha256": self._digest.hexdigest(), **more}
        print("agentix-report", json.dumps(summary), flush=True)
