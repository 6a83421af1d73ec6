"""Which parts of prompts are decoded in one pass.

Who calls it: bank.py, for the chunks of a step. Pure. What must hold: every token of every row is in one part, a
row's parts come in order, and only whole chunks share a pass: see Row in base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from kernel.engine.base import CHUNK_TOKENS


@dataclass(frozen=True, slots=True)
class Prompt:
    """Where a row's tokens go: `tokens` of them into a stream, from `position` on."""

    stream: int
    position: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Part:
    """The tokens [begin, end) of the row that has this index."""

    row: int
    begin: int
    end: int


Pass = tuple[Part, ...]  # of one stream, or equally long parts of adjacent streams


def passes(prompts: Sequence[Prompt], most_chunks: int, may_meet: bool) -> list[Pass]:
    """Return passes of at most so many whole chunks each; may_meet: whether those of several prompts may share one."""
    begun: list[Pass] = []
    left: dict[int, Part] = {}  # by row: fewer chunks than a pass has room for
    ended: list[Pass] = []
    for row, prompt in enumerate(prompts):
        at = min(-prompt.position % CHUNK_TOKENS, prompt.tokens)
        if at:
            begun.append((Part(row, 0, at),))
        while prompt.tokens - at >= CHUNK_TOKENS:
            chunks = min((prompt.tokens - at) // CHUNK_TOKENS, most_chunks)
            part = Part(row, at, at + chunks * CHUNK_TOKENS)
            if chunks < most_chunks:
                left[row] = part
            else:
                begun.append((part,))
            at = part.end
        if at < prompt.tokens:
            ended.append((Part(row, at, prompt.tokens),))
    if may_meet:
        return begun + _meeting(prompts, left, most_chunks) + ended
    return begun + [(part,) for part in left.values()] + ended


def _meeting(prompts: Sequence[Prompt], left: dict[int, Part], most_chunks: int) -> list[Pass]:
    """Let equally long parts in adjacent streams share passes."""
    ordered = sorted(left.values(), key=lambda part: prompts[part.row].stream)
    sizes = {part: (part.end - part.begin) // CHUNK_TOKENS for part in ordered}
    found: list[Pass] = []
    runs = groupby(enumerate(ordered), lambda item: (prompts[item[1].row].stream - item[0], sizes[item[1]]))
    for (_, size), items in runs:
        parts = [part for _, part in items]
        most = most_chunks // size
        found += [tuple(parts[at : at + most]) for at in range(0, len(parts), most)]
    return found
