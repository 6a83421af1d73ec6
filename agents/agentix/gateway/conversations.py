"""Which conversation a request without a key goes on with: the one that begins as it does. Pure.

A conversation is known by a chain of hashes, one for each of its blocks (a message, or so many tokens or
characters of a plain prompt), each over all blocks so far. A request goes on with the conversation that has the
longest chain in common with it, so one whose last turn was edited, or whose old reasoning was dropped, is found.

Who uses it: tasks.py. What must hold: two conversations that are under way at once are never taken for one; one
that shares no more than a system prompt is another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from typing import Any

BLOCK_TOKENS = 64
BLOCK_CHARS = 256
MAX_BLOCKS = 1024  # of a chain: enough to tell conversations apart

Chain = tuple[bytes, ...]


def chain_of_messages(messages: Sequence[Mapping[str, Any]]) -> Chain:
    """The chain of a chat: what stands before the first message that is no system's counts as part of it."""
    blocks, opening = [], []
    for message in messages[:MAX_BLOCKS]:
        opening.append((message.get("role"), message.get("content"), message.get("tool_calls")))
        if message.get("role") not in ("system", "developer"):
            blocks.append(repr(opening).encode("utf-8", "replace"))
            opening = []
    return _chain(blocks)


def chain_of_prompt(prompt: str | Sequence[int]) -> Chain:
    """The chain of a plain prompt, of whole blocks only."""
    size = BLOCK_CHARS if isinstance(prompt, str) else BLOCK_TOKENS
    ends = range(size, len(prompt) + 1, size)[:MAX_BLOCKS]
    return _chain(repr(prompt[end - size : end]).encode("utf-8", "replace") for end in ends)


def _chain(blocks: Iterable[bytes]) -> Chain:
    made, last = [], b""
    for block in blocks:
        last = hashlib.blake2b(last + block, digest_size=16).digest()
        made.append(last)
    return tuple(made)


class Conversations:
    """The chains of those that are known, each with whatever it stands for."""

    def __init__(self) -> None:
        self._chains: dict[Hashable, Chain] = {}
        self._owners: dict[bytes, dict[Hashable, None]] = {}  # by link; the newest last

    def __len__(self) -> int:
        return len(self._chains)

    def __contains__(self, owner: object) -> bool:
        return owner in self._chains

    def find(self, chain: Chain, busy: Container[Hashable] = ()) -> Hashable | None:
        """Return the one, not among the busy, that has most in common with a chain; None if none has a block."""
        for link in reversed(chain):
            for owner in reversed(self._owners.get(link, ())):
                if owner not in busy:
                    return owner
        return None

    def put(self, owner: Hashable, chain: Chain) -> None:
        """Let a conversation be known by its newest chain."""
        self.forget(owner)
        self._chains[owner] = chain
        for link in chain:
            self._owners.setdefault(link, {})[owner] = None

    def forget(self, owner: Hashable) -> None:
        for link in self._chains.pop(owner, ()):
            owners = self._owners[link]
            del owners[owner]
            if not owners:
                del self._owners[link]
