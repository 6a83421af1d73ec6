"""A fake engine whose tokens depend on where what a context was fed was cut, as a real one's bits do.

Who uses it: tests of kept contexts. It is as choosy as all models together: some compute each chunk alone, and others
have one kernel for a token alone, one for fewer rows than a chunk has, and one for more.
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
)
from kernel.engine.fake import FakeEngine

SOME_ROWS = 4  # kernels take so many at once, and what is left over otherwise
Mark = tuple[int, bool, bool]  # where its chunk begins, whether a kernel for many rows took it, and whether whole


class CutEngine(FakeEngine):
    """Keeps a mark for each token beside it, in segments too."""

    saved: ClassVar[dict[int, list[Mark]]] = {}  # by segment: cores come and go, segments stay

    def _feed(self, row: Row) -> list[Sampled]:
        marks = self._marks.setdefault(row.slot, [])
        del marks[row.position :]
        size = len(row.tokens)
        for at in range(size):
            begin = row.position + at // CHUNK_TOKENS * CHUNK_TOKENS
            marks.append((begin, size >= CHUNK_TOKENS, at < size // SOME_ROWS * SOME_ROWS))
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
