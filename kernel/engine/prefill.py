"""Which parts of prompts are decoded in one pass, and where contexts should stand for it.

Who calls it: bank.py, for the chunks of a step. Pure. What must hold: every token of every row is in one part, a
row's parts come in order, and where chunks may not share a pass none does: see Row in base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from kernel.engine.base import CHUNK_TOKENS
from kernel.engine.placement import Costs


@dataclass(frozen=True, slots=True)
class Prompt:
    """Where a row's tokens go, and how many there are."""

    stream: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Part:
    """The tokens [begin, end) of the row that has this index."""

    row: int
    begin: int
    end: int


Pass = tuple[Part, ...]  # of one stream, or equally long parts of adjacent streams


def passes(prompts: Sequence[Prompt], most_chunks: int, may_meet: bool) -> list[Pass]:
    """Return passes of at most so many chunks each; may_meet: whether those of several prompts may share one."""
    begun: list[Pass] = []
    left: list[Part] = []  # of each row the last one, which may meet those of others
    ended: list[Pass] = []
    for row, prompt in enumerate(prompts):
        *whole, last = _parts(row, prompt.tokens, most_chunks)
        begun += [(part,) for part in whole]
        if may_meet and last.end - last.begin >= CHUNK_TOKENS:
            left.append(last)
        else:
            ended.append((last,))
    return begun + _meeting(prompts, left, most_chunks * CHUNK_TOKENS) + ended


def _parts(row: int, tokens: int, most_chunks: int) -> list[Part]:
    """Cut a row at multiples of a chunk from its beginning, in parts of about the same size."""
    most = most_chunks * CHUNK_TOKENS
    chunks = tokens // CHUNK_TOKENS if most_chunks > 1 else -(-tokens // CHUNK_TOKENS)
    parts = -(-tokens // most)
    ends = [-(-chunks * part // parts) * CHUNK_TOKENS for part in range(1, parts)] + [tokens]
    return [Part(row, begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


def _meeting(prompts: Sequence[Prompt], left: Sequence[Part], most_tokens: int) -> list[Pass]:
    """Let equally long parts in adjacent streams share passes."""
    ordered = sorted(left, key=lambda part: prompts[part.row].stream)
    sizes = {part: part.end - part.begin for part in ordered}
    found: list[Pass] = []
    runs = groupby(enumerate(ordered), lambda item: (prompts[item[1].row].stream - item[0], sizes[item[1]]))
    for (_, size), items in runs:
        parts = [part for _, part in items]
        most = most_tokens // size
        found += [tuple(parts[at : at + most]) for at in range(0, len(parts), most)]
    return found


def places(new: int, held: Sequence[int], costs: Costs) -> tuple[list[tuple[int, int]], list[int]]:
    """Return (moves, streams): where so many prompts should begin, and what moves out of their way before.

    held: the tokens in each stream, 0 in at least `new` of them. A move is (from, to), to where nothing is. Streams
    come side by side as far as there are any; others' contexts move if that costs less than the passes it saves.
    """
    runs: list[list[int]] = []
    for stream in (stream for stream, tokens in enumerate(held) if not tokens):
        if runs and stream == runs[-1][-1] + 1:
            runs[-1].append(stream)
        else:
            runs.append([stream])
    runs.sort(key=len, reverse=True)
    free = [stream for run in runs for stream in run]
    meetings = 1 + sum(before + 1 != stream for before, stream in pairwise(free[:new]))
    if meetings == 1:
        return [], free
    windows = [range(start, start + new) for start in range(len(held) - new + 1)]
    window = min(windows, key=lambda window: sum(held[stream] for stream in window))
    moved = sum(held[stream] for stream in window)
    if moved * costs.move_ns_per_token > (meetings - 1) * costs.of_pass(0, 0):
        return [], free
    outside = [stream for stream in free if stream not in window]
    moves = list(zip((stream for stream in window if held[stream]), outside, strict=False))
    return moves, [*window, *outside[len(moves) :]]
