"""Shortest remaining work first, by what the agents say of it."""

from __future__ import annotations

from kernel.objects import Request
from kernel.sched.ranked import Key, Ranked
from kernel.sched.work import left_tokens


class ShortestRemaining(Ranked):
    """The request that has least left to do goes first, and at once: what is left of its prompt and of what its agent
    hinted at, or of max_tokens without a hint. Shortest remaining processing time (Schrage 1968)."""

    def key(self, request: Request) -> Key:
        return (left_tokens(request),)
