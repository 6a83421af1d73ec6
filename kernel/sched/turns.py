"""How the tokens of a context were fed: where they were cut. The same cuts give the same bits.

A context is a chain of turns, (prompt_end, fed_end) each: from the end of the last turn to prompt_end in chunks, then
one token at a time to fed_end. After the last turn come the prompt and the answer of the request at hand, in the same
way. If what a turn's prompt adds is longer than a chunk, its first token is fed alone: it goes with the others'
generated tokens, between which it fills a gap. The chunks that follow have CHUNK_TOKENS each, and the last has what is
left over as well: attention computes a chunk that is not whole as slowly as one that is, or more slowly.

Who uses it: feeding.py for a step's rows, scheduler.py to charge for them, kept.py to know what of a context another
request may go on with. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from kernel.engine.base import CHUNK_TOKENS

Turn = tuple[int, int]
Turns = tuple[Turn, ...]


def next_row(turns: Turns, start: int, prompt_tokens: int, most_chunks: int) -> tuple[int, int]:
    """Return where the row that starts at `start` ends, and how many chunks of a prompt it has; 0: a token alone."""
    begin = 0
    for prompt_end, fed_end in (*turns, (prompt_tokens, None)):
        if start < prompt_end:
            if start == begin and _has_lead(begin, prompt_end):
                return start + 1, 0
            left, most = chunks_in(start, prompt_end), max(1, most_chunks)
            return (prompt_end, left) if left <= most else (start + most * CHUNK_TOKENS, most)
        if fed_end is None or start < fed_end:
            return start + 1, 0
        begin = fed_end
    raise AssertionError("the last turn has no end")


def step_rows(turns: Turns, start: int, prompt_tokens: int, most_chunks: int) -> list[tuple[int, int, int]]:
    """Return what a step feeds: a token alone, chunks of a prompt if it may have any, or first one, then the others.

    Each as (start, end, chunks); 0 chunks: a token alone.
    """
    end, chunks = next_row(turns, start, prompt_tokens, most_chunks)
    rows = [(start, end, chunks)]
    if not chunks and end < prompt_tokens:
        further, chunks = next_row(turns, end, prompt_tokens, most_chunks)
        rows += [(end, further, chunks)] if chunks else []
    return rows if most_chunks else [row for row in rows if not row[2]]


def chunks_in(start: int, end: int) -> int:
    """Return how many chunks the tokens [start, end) are, the last with what is left over."""
    return max(1, (end - start) // CHUNK_TOKENS)


def _has_lead(begin: int, end: int) -> bool:
    """Whether the first of the tokens that a turn's prompt adds is fed alone."""
    return end - begin > CHUNK_TOKENS


def shared_turns(turns: Turns, shared: int) -> Turns:
    """Return the turns that lie wholly within the first `shared` tokens."""
    return tuple(turn for turn in turns if turn[1] <= shared)


def usable(turns: Turns, fed: int, shared: int, known: Turns, prompt_tokens: int) -> int:
    """Return how many of a context's first tokens have the bits that a request with the turns `known` gives them.

    turns, fed: the context's, and its length; shared: how many of its tokens are the request's too. Answers are taken
    whole or not at all: who goes on with one has seen it, so whether it was there cannot depend on the schedule. Of
    prompts, whole chunks, and not the last that the request feeds: it has what is left over.
    """
    own = shared_turns(turns, shared)
    if known[: len(own)] != own:
        return 0
    begin = own[-1][1] if own else 0
    had = turns[len(own)][0] if len(turns) > len(own) else fed
    asked = known[len(own)][0] if len(known) > len(own) else prompt_tokens
    if not (_has_lead(begin, had) and _has_lead(begin, asked)):
        return begin
    first = begin + 1
    chunks = min((min(shared, had) - first) // CHUNK_TOKENS, chunks_in(first, asked) - 1)
    return first + chunks * CHUNK_TOKENS if chunks > 0 else begin


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the longest common start, looking at whole chunks until they differ."""
    size, at = min(len(one), len(other)), 0
    while at < size and one[at : at + CHUNK_TOKENS] == other[at : at + CHUNK_TOKENS]:
        at += CHUNK_TOKENS
    while at < size and one[at] == other[at]:
        at += 1
    return min(at, size)
