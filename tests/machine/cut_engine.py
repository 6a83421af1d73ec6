"""A fake engine whose tokens depend on where what a context was fed was cut, as a real one's bits do.

Who uses it: tests of kept contexts. A chunk that is cut elsewhere than another time, or a token that is decoded where
a chunk was, gives other tokens from there on.
"""

from __future__ import annotations

from typing import ClassVar

import machine as machines
import pytest

from kernel.engine import fake
from kernel.engine.base import (
    CHUNK_TOKENS,
    Restore,
    Row,
    Sampled,
    Sampling,
    Save,
    StepPlan,
    StepResult,
)
from kernel.engine.fake import FakeEngine

Mark = tuple[int, bool]  # where the chunk or token began, and whether it was a chunk


class CutEngine(FakeEngine):
    """Keeps a mark for each token beside it, in segments too."""

    saved: ClassVar[dict[int, list[Mark]]] = {}  # by segment: cores come and go, segments stay

    def step(self, plan: StepPlan) -> StepResult:
        self._chunked = {row.slot for row in plan.chunks}
        return super().step(plan)

    def _feed(self, row: Row) -> list[Sampled]:
        marks = self._marks.setdefault(row.slot, [])
        del marks[row.position :]
        for at in range(row.position, row.position + len(row.tokens)):
            begins = at == row.position or at % CHUNK_TOKENS == 0
            marks.append((at, row.slot in self._chunked) if begins else marks[-1])
        CutEngine.current = marks
        return super()._feed(row)

    def _save(self, save: Save) -> int:
        self.saved[save.segment] = list(self._marks[save.slot][: save.tokens])
        return super()._save(save)

    def _restore(self, restore: Restore) -> None:
        super()._restore(restore)
        self._marks[restore.slot] = self.saved[restore.segment][: restore.keep]

    @property
    def _marks(self) -> dict[int, list[Mark]]:
        return self.__dict__.setdefault("marks", {})


def token_by_cuts(tokens: list[int], sampling: Sampling) -> int:
    """A function of all tokens and of how each was fed; no end, so that answers are as long as they may be."""
    return hash((tuple(tokens), tuple(CutEngine.current))) % fake.END


@pytest.fixture
def cut_engine(monkeypatch):
    monkeypatch.setattr(machines, "FakeEngine", CutEngine)
    monkeypatch.setattr(fake, "next_token", token_by_cuts)
    CutEngine.saved.clear()
    return CutEngine
