"""What a core keeps for slots and requests, as far as plans have to say what it may forget.

Who uses it: scheduler.py. What must hold: a core is told once of each request how to draw for it while it holds a slot,
and once of each that it may forget it.
"""

from __future__ import annotations

from kernel.objects import Request


class CoreSide:
    """That of one core process; a new one keeps nothing."""

    def __init__(self) -> None:
        self._dirty: set[int] = set()  # slots whose KV nobody wants any more
        self._opened: set[int] = set()  # slots whose request the core knows how to draw for
        self._gated: set[int] = set()  # requests for which it keeps a place in a grammar
        self._closes: list[int] = []  # of those, the ones that ended

    @property
    def has_closes(self) -> bool:
        return bool(self._closes)

    def taken(self, slot: int, is_restored: bool) -> None:
        """A slot is somebody's: it is cleared, as restoring does by itself."""
        if is_restored:
            self._dirty.discard(slot)
        else:
            self._dirty.add(slot)

    def left(self, slot: int) -> None:
        self._dirty.add(slot)
        self._opened.discard(slot)

    def opens(self, slot: int, request: Request) -> bool:
        """A token is to be drawn; say whether the core must be told how."""
        is_new = slot not in self._opened
        self._opened.add(slot)
        if request.constraint is not None:
            self._gated.add(request.number)
        return is_new

    def ended(self, request: Request) -> None:
        if request.number in self._gated:
            self._gated.remove(request.number)
            self._closes.append(request.number)

    def forgets(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return (slots to clear, requests to close) for the next plan."""
        found = tuple(sorted(self._dirty)), tuple(self._closes)
        self._dirty.clear()
        self._closes.clear()
        return found
