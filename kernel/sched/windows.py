"""The windows of sessions: what a turn does without that would not fit the model's window.

Who calls it: prompts.py. Pure. What must hold: what goes follows from the session's turns, the call and the window
alone; the system's messages stay, and so does what the call says. What stays is computed again where it has moved:
shifting its KV to other positions gives other bits than computing it there.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from kernel.context.sessions import Session

_OPENS = ("system", "developer")  # roles whose messages, where they come first, no turn does without
_ASKS = ("user", *_OPENS)  # roles of what an answer is to


def room_for(max_tokens: int, window: int) -> int:
    """Return how many tokens of a window are left for an answer.

    As many as it may have, and half of the window at most: who wants all that there is names large numbers.
    """
    return min(max_tokens, window // 2)


def shifted(session: Session, new: list[int], room: int, window: int) -> tuple[list[int], int]:
    """Return the tokens of a turn of texts or tokens, and how many of the session's own were taken out of them.

    None while they fit with their room. Then the oldest after those that are kept: half, so that not every turn takes
    some out, or more if that does not make the room. They may be cut in the middle of a word.
    """
    over = len(session.tokens) + len(new) + room - window
    old = len(session.tokens) - session.keep_tokens
    if over <= 0 or old <= 0:
        return session.tokens + new, 0
    taken = min(old, max(over, (old + 1) // 2))
    keep = session.keep_tokens
    return session.tokens[:keep] + session.tokens[keep + taken :] + new, taken


def turns_of(said: list[dict[str, Any]], new: int) -> tuple[int, list[int]]:
    """Return how many messages stay first, and where what follows them may begin without the oldest turn, without the
    two oldest and so on; messages from `new` on are those of a turn that stays.

    A turn is what is said, what answers it, calls of tools and their results: it begins with what a user or the system
    says after an answer.
    """
    opening = next((at for at, one in enumerate(said) if one["role"] not in _OPENS), len(said))
    asks = [one["role"] in _ASKS for one in said]
    last = min(new, len(said) - 1)
    return opening, [at for at in range(opening + 1, last + 1) if asks[at] and not asks[at - 1]]


def fewest(most: int, limit: int) -> Generator[int, list[int], tuple[int, list[int]]]:
    """Find how many of its oldest turns a turn does without, of `most`: yields a number and is sent the prompt's tokens
    without so many; returns the number and these tokens.

    As few as leave it half of what is free below `limit` tokens when all are gone: the next turns fit, too. All, if
    that is still more than the limit. By halving: 1 + log2(most) questions.
    """
    few, enough = 0, most
    best = yield most
    target = (len(best) + limit) // 2
    while len(best) <= limit and enough - few > 1:
        middle = (few + enough) // 2
        tokens = yield middle
        if len(tokens) <= target:
            enough, best = middle, tokens
        else:
            few = middle
    return enough, best
