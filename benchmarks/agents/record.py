"""What the load generators share: their settings, the wait for the start, streams with arrival times.

Who uses it: the scripts beside it; benchmarks/stand.py reads the files that it writes.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from agentix import Agent, AgentixError

settings: dict[str, Any] = json.loads(sys.argv[1])
PROMPT_TOKENS_FROM, PROMPT_TOKENS_BELOW = 300, 2000  # plain words in every model that we make


def prompt(seed: int, count: int) -> list[int]:
    """The same tokens for the same seed."""
    draw = random.Random(seed)
    return [draw.randrange(PROMPT_TOKENS_FROM, PROMPT_TOKENS_BELOW) for _ in range(count)]


def write(kind: str, value: Any) -> None:
    """Leave a file for the stand, whole or not at all."""
    path = Path(settings["folder"]) / f"{os.getpid()}.{kind}"
    staged = path.with_suffix(f".{kind}-part")
    staged.write_text(json.dumps(value))
    staged.replace(path)


def wait_for_go(me: Agent) -> None:
    """Say that we are ready, then wait for the stand's message."""
    write("ready", {})
    me.recv()


class Arrivals(deque):
    """Takes the place of a stream's queue of chunks: notes when each came and how many tokens it has.

    The SDK's own iteration goes on as it is; it just does not show which tokens a piece is made of.
    """

    def __init__(self, chunks: deque) -> None:
        super().__init__(chunks)
        now = time.monotonic_ns()
        self.times: list[tuple[int, int]] = [(now, len(chunk["tokens"])) for chunk in chunks]
        self.tokens: list[int] = [token for chunk in chunks for token in chunk["tokens"]]

    def append(self, chunk: dict[str, Any]) -> None:
        self.times.append((time.monotonic_ns(), len(chunk["tokens"])))
        self.tokens.extend(chunk["tokens"])
        super().append(chunk)


def streamed(me: Agent, tokens: list[int], max_tokens: int, **options: Any) -> dict[str, Any]:
    """Stream one generation piece by piece; return what came, when, and the kernel's own timings."""
    sent_ns = time.monotonic_ns()
    stream = me.llm.stream(tokens, max_tokens=max_tokens, **({"ignore_end": True} | options))
    arrivals = stream._inflight.chunks = Arrivals(stream._inflight.chunks)
    error, pieces, reply = "", [], None
    try:
        pieces.extend(stream)
        reply = stream.result()
    except AgentixError as failure:
        error = f"{type(failure).__name__}: {failure}"
    return {
        "sent_ns": sent_ns,
        "ended_ns": time.monotonic_ns(),
        "arrivals": arrivals.times,
        "tokens": list(reply.tokens) if reply else [],
        "text": reply.text if reply else "",
        "is_once": reply is not None
        and "".join(pieces) == reply.text
        and tuple(arrivals.tokens) == tuple(reply.tokens),
        "timings": reply.timings if reply else {},
        "usage": reply.usage if reply else {},
        "error": error,
    }
