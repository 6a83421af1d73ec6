"""How the tokens of a context were fed: where they were cut. The same cuts give the same bits.

A context is a chain of turns, (prompt_end, fed_end) each: from the end of the last turn to prompt_end in chunks that
end at multiples of CHUNK_TOKENS and at prompt_end, then one token at a time to fed_end. After the last turn come
the prompt and the answer of the request at hand, in the same way.

Who uses it: scheduler.py to feed, kept.py to know what of a context another request may go on with. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from kernel.engine.base import CHUNK_TOKENS

Turn = tuple[int, int]
Turns = tuple[Turn, ...]


def next_row(turns: Turns, start: int, prompt_tokens: int, most_chunks: int) -> tuple[int, int]:
    """Return where the row that starts at `start` ends, and how many chunks of a prompt it has; 0: it is no prompt."""
    for prompt_end, fed_end in (*turns, (prompt_tokens, None)):
        if start < prompt_end:
            end = min((start // CHUNK_TOKENS + max(1, most_chunks)) * CHUNK_TOKENS, prompt_end)
            return end, chunks_in(start, end)
        if fed_end is None or start < fed_end:
            return start + 1, 0
    raise AssertionError("the last turn has no end")


def chunks_in(start: int, end: int) -> int:
    """Return how many chunks the tokens [start, end) are, or are part of."""
    return -(-end // CHUNK_TOKENS) - start // CHUNK_TOKENS


def shared_turns(turns: Turns, shared: int) -> Turns:
    """Return the turns that lie wholly within the first `shared` tokens."""
    return tuple(turn for turn in turns if turn[1] <= shared)


def usable(turns: Turns, shared: int, known: Turns) -> int:
    """Return how many of a context's first tokens have the bits that a request with the turns `known` gives them.

    turns: the context's; shared: how many of its tokens are the request's too. Answers are taken whole or not at all:
    who goes on with one has seen it, so whether it was there cannot depend on the schedule. Of prompts, whole chunks.
    """
    own = shared_turns(turns, shared)
    if known[: len(own)] != own:
        return 0
    begin = own[-1][1] if own else 0
    ends = [several[len(own)][0] for several in (turns, known) if len(several) > len(own)]
    return max(begin, min([shared, *ends]) // CHUNK_TOKENS * CHUNK_TOKENS)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the longest common start, looking at whole chunks until they differ."""
    size, at = min(len(one), len(other)), 0
    while at < size and one[at : at + CHUNK_TOKENS] == other[at : at + CHUNK_TOKENS]:
        at += CHUNK_TOKENS
    while at < size and one[at] == other[at]:
        at += 1
    return min(at, size)
