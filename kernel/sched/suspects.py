"""Requests that several cores died of take turns with all others, so that the next death tells the guilty.

Who calls it: scheduler.py, once for each step.
"""

from __future__ import annotations

from collections.abc import Sequence

from kernel.objects import Request


class SuspectTurns:
    """Whose step it is: one suspect's alone, in turn with that of all others together."""

    def __init__(self) -> None:
        self._was_alone = False  # the last step was a suspect's
        self._rotation = 0  # whose turn it is among suspects

    def choose(self, running: Sequence[Request], is_moving: bool) -> Sequence[Request]:
        """Return who works in this step; is_moving: contexts are saved or restored in it."""
        suspects = [request for request in running if request.is_suspect]
        if not suspects:
            return running
        others = [request for request in running if not request.is_suspect]
        if others and (is_moving or self._was_alone):
            self._was_alone = False
            return others
        self._was_alone = True
        self._rotation += 1
        return [suspects[self._rotation % len(suspects)]]
