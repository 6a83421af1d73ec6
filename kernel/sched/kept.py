"""Contexts kept when a chat's turn ends, so that the next turn computes only what is new in it.

Who calls it: scheduler.py. What must hold: only whole chunks of a prompt are used again, for these have the
same bits whoever computes them; a task's context serves that task alone; what is kept is given up as soon as
its memory is wanted.

A turn's answer is computed again with the next prompt, in chunks: so a template that drops old reasoning from
the history costs no more than the answers themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kernel.engine.base import CHUNK_TOKENS
from kernel.objects import KVSnapshot, Request


class KeptContexts:
    """At most one for each task: its last turn's. `release` gives a segment back."""

    def __init__(self, release: Callable[[int], None]) -> None:
        self._release = release
        self._kept: dict[int, tuple[list[int], KVSnapshot]] = {}  # by pid; the oldest first

    def __len__(self) -> int:
        return len(self._kept)

    @staticmethod
    def is_worth(request: Request) -> bool:
        """Whether a request's context should outlive it: a turn of a chat, with a chunk to use again."""
        return bool(request.chat) and request.prompt_tokens >= CHUNK_TOKENS

    def put(self, request: Request, snapshot: KVSnapshot) -> None:
        """Keep a finished request's context in the place of its task's last one."""
        pid = request.task.pid
        self.forget(pid)
        self._kept[pid] = request.tokens[: request.prompt_tokens], snapshot

    def lend(self, request: Request) -> int:
        """Give a new request what it shares with its task's last prompt; return how many tokens that is."""
        pid = request.task.pid
        if pid not in self._kept:
            return 0
        prompt, snapshot = self._kept[pid]
        shared = _common(prompt, request.tokens)
        keep = min(shared, len(request.tokens) - 1) // CHUNK_TOKENS * CHUNK_TOKENS
        if keep:
            del self._kept[pid]
            request.snapshot = replace(snapshot, keep=keep)
            request.kv_tokens = keep
        return keep

    def forget(self, pid: int) -> None:
        """A task ended, or has a newer context."""
        kept = self._kept.pop(pid, None)
        if kept is not None:
            self._release(kept[1].segment)

    def drop_oldest(self) -> None:
        """Make room. Raises StopIteration when nothing is kept."""
        self.forget(next(iter(self._kept)))


def _common(one: list[int], other: list[int]) -> int:
    """Return the length of the longest common start, looking at whole chunks until they differ."""
    size = min(len(one), len(other))
    at = 0
    while at < size and one[at : at + CHUNK_TOKENS] == other[at : at + CHUNK_TOKENS]:
        at += CHUNK_TOKENS
    return min(at, size)
