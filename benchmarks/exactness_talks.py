"""Conversations to be had twice, alone and in bad company: the stuff of exactness.py. Pure.

Who calls it: exactness.py makes them, exactness_live.py has them. What must hold: a talk is a function of the random
numbers that it is drawn from; a turn is one number in a script, whatever has happened when it comes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from benchmarks.prove_specs import GRAMMAR_TOKENS, draw_options

LOGPROBS = 20  # of each token: the most that a call may ask for
SHORT, LONG = (2, 40), (66, 300)  # tokens of what a talk begins with: below one chunk, above it
NEW = (1, 90)  # of what a later turn says
ANSWER = (25, 56)  # tokens
CUT_AFTER, CUT_ANSWER = (1, 20), 400  # pieces of a cancelled answer; it must not end before them
FILTERS = ({"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.05}, {"typical_p": 0.8}, {"top_k": 0})
KINDS = ("plain", "plain", "plain", "penalties", "grammar")
_TOKENS = range(300, 2000)  # plain words in every model that we make
_WORDS = ("to", "be", "or", "not", "that", "is", "the", "question", "whether", "nobler", "in", "mind")


@dataclass(frozen=True, slots=True)
class Turn:
    """What is said, and how it is answered."""

    number: int
    said: str | tuple[int, ...]  # a message of a chat, or tokens that go on from the last answer
    options: dict[str, Any]
    cut_after: int = 0  # pieces of the answer, after which it is cancelled; 0: it ends


@dataclass(frozen=True, slots=True)
class Talk:
    """Turns of a session; then forks of it, each a talk that goes on from there."""

    turns: tuple[Turn, ...]
    forks: tuple[Talk, ...] = ()
    rest: tuple[Turn, ...] = ()  # if any: the first fork is committed and the session goes on from it

    def count(self) -> int:
        """Return how many sessions it takes."""
        return 1 + sum(fork.count() for fork in self.forks)


def draw_talks(talks: int, draw: random.Random) -> list[Talk]:
    """Return so many talks: half of them of messages, half of them forked."""
    numbers = count()
    return [_talk(numbers, is_chat=place % 2 == 0, is_forked=place % 4 < 2, draw=draw) for place in range(talks)]


def paths(talk: Talk) -> list[tuple[Turn, ...]]:
    """Return what is said in a talk as talks without forks, which have no cancelled turns either."""
    begin = tuple(turn for turn in talk.turns if not turn.cut_after)
    if not talk.forks:
        return [begin]
    found = [begin + path for fork in talk.forks for path in paths(fork)]
    found[0] += tuple(turn for turn in talk.rest if not turn.cut_after)
    return found


def turns_of(talk: Talk) -> Iterator[Turn]:
    """Yield all turns, the cancelled ones as well."""
    yield from talk.turns
    for fork in talk.forks:
        yield from turns_of(fork)
    yield from talk.rest


def _talk(numbers: Iterator[int], is_chat: bool, is_forked: bool, draw: random.Random) -> Talk:
    def some(least: int, most: int, sizes: tuple[int, int] = NEW) -> tuple[Turn, ...]:
        turns = []
        for place in range(draw.randint(least, most)):
            if is_chat and draw.random() < 0.2:
                turns.append(_cut(numbers, draw))
            turns.append(_turn(numbers, is_chat, NEW if place else sizes, draw))
        return tuple(turns)

    begin = draw.choice([SHORT, LONG, LONG])
    if not is_forked:
        return Talk(some(4, 7, begin))
    forks = tuple(Talk(some(1, 3)) for _ in range(draw.randint(2, 4)))
    return Talk(some(1, 3, begin), forks, some(0, 2))


def _turn(numbers: Iterator[int], is_chat: bool, sizes: tuple[int, int], draw: random.Random) -> Turn:
    kind = draw.choice(KINDS)
    tokens = max(draw.randint(*ANSWER), GRAMMAR_TOKENS if kind == "grammar" else 0)
    options = {"max_tokens": tokens, "logprobs": LOGPROBS, **draw_options(kind, draw)}
    if draw.random() < 0.6:
        options |= {"temperature": draw.choice([0.7, 1.1]), "seed": draw.randrange(1 << 30), **draw.choice(FILTERS)}
    return Turn(next(numbers), _said(is_chat, draw.randint(*sizes), draw), options)


def _cut(numbers: Iterator[int], draw: random.Random) -> Turn:
    options = {"max_tokens": CUT_ANSWER, "ignore_end": True, "temperature": 0.8, "seed": draw.randrange(1 << 30)}
    return Turn(next(numbers), _said(True, draw.randint(*NEW), draw), options, draw.randint(*CUT_AFTER))


def _said(is_chat: bool, size: int, draw: random.Random) -> str | tuple[int, ...]:
    if is_chat:
        return " ".join(draw.choice(_WORDS) for _ in range(size))
    return tuple(draw.choice(_TOKENS) for _ in range(size))
