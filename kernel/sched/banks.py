"""Which banks of slots hold memory, when not all of them fit at once.

Who calls it: scheduler.py, once for each step. What must hold: the banks chosen fit the budget together;
a bank that is wanted is chosen within a bounded number of steps; one that nobody else's memory is needed
for stays, for making it again costs more than keeping it.
"""

from __future__ import annotations

from collections.abc import Sequence

from kernel.engine.base import Bank

TURN_STEPS = 64  # that banks in use keep their memory while others wait for it


def bank_for(banks: Sequence[Bank], tokens: int) -> int:
    """Return the number of the first bank that holds so many tokens and one more; the last one otherwise.

    One more, for a core may have to feed a token beside the last that is taken off again.
    """
    for number, bank in enumerate(banks):
        if tokens < bank.window_tokens:
            return number
    return len(banks) - 1


class BankRota:
    """Chooses the banks that may take memory. Those that cannot stand together take turns."""

    def __init__(self, banks: Sequence[Bank], budget_bytes: int) -> None:
        self._sizes = [bank.size_bytes for bank in banks]
        self._budget = budget_bytes
        self._chosen: tuple[int, ...] = (0,)
        self._steps = 0  # in all
        self._served = [0] * len(banks)  # the last step that each had memory in
        self._turn_began = 0  # since when somebody waits

    def choose(self, wanted: Sequence[bool]) -> tuple[int, ...]:
        """Return bank numbers, ascending, for the next step; `wanted` says who has something to run."""
        self._steps += 1
        asking = [number for number, is_wanted in enumerate(wanted) if is_wanted]
        asking.sort(key=lambda number: self._served[number])  # who waits longest first
        if all(number in self._chosen for number in asking):
            self._turn_began = self._steps
        else:
            kept = [number for number in self._chosen if wanted[number]]
            chosen = self._fill(kept, asking)
            is_over = self._steps - self._turn_began >= TURN_STEPS
            if len(chosen) == len(kept) and is_over:
                chosen = self._fill([], asking)
            if set(chosen) != set(kept):
                self._turn_began = self._steps
                self._chosen = tuple(sorted(self._fill(chosen, self._chosen)))
        for number in self._chosen:
            self._served[number] = self._steps
        return self._chosen

    def fit_together(self, wanted: Sequence[int]) -> bool:
        """Whether all of these banks may have memory at once."""
        return len(self._fill([], wanted)) == len(wanted)

    def _fill(self, chosen: list[int], candidates: Sequence[int]) -> list[int]:
        """Add candidates, in order, as far as the budget goes; the first of all is always let in."""
        taken = list(chosen)
        for number in candidates:
            used = sum(self._sizes[one] for one in taken)
            if number not in taken and (not taken or used + self._sizes[number] <= self._budget):
                taken.append(number)
        return taken
