"""Talks on a real kernel: one after the other with nothing beside them, or all at once with every misfortune.

Who calls it: exactness.py. What must hold: both are told the same with the same options; what is compared is all that
a caller sees of an answer, with the logprobs of each token and of the likeliest in its place to the last bit.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agentix import Reply, Task
from agentix.errors import AgentixError
from agentix.session import Session
from benchmarks.exactness_talks import Talk, Turn, paths, turns_of
from benchmarks.report import progress
from benchmarks.stand import Stand, StandError
from benchmarks.tiers import drop_page_cache

DIGEST_BYTES = 8
LIMIT_S, SAY_S, LOOK_S = 900.0, 10.0, 0.02


class Answer(NamedTuple):
    """What its caller saw."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int
    logprobs: tuple[bytes, ...]  # a digest of each token's


@dataclass(slots=True)
class Found:
    """What became of talks, and what was done to them."""

    answers: dict[int, list[Answer]] = field(default_factory=dict)  # by the turn's number
    failed: list[str] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)

    def add(self, turn: Turn, reply: Reply) -> None:
        self.answers.setdefault(turn.number, []).append(answer_of(reply))


def answer_of(reply: Reply) -> Answer:
    """Return what is compared of a reply."""
    rows = reply.logprobs or ()
    digests = [hashlib.blake2b(repr(row).encode(), digest_size=DIGEST_BYTES).digest() for row in rows]
    return Answer(reply.text, reply.tokens, reply.finish_reason, reply.usage["prompt_tokens"], tuple(digests))


def difference(wanted: Answer, found: Answer) -> str:
    """Say where two answers part; empty: nowhere."""
    for name in ("logprobs", "tokens"):
        pairs = zip(getattr(wanted, name), getattr(found, name), strict=False)
        at = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
        if at is not None:
            return f"{name} of token {at} of {len(wanted.tokens)} differ"
    names = [name for name in Answer._fields if getattr(wanted, name) != getattr(found, name)]
    return f"{', '.join(names)} differ" if names else ""


def play_alone(stand: Stand, talks: Sequence[Talk]) -> Found:
    """Have talks one after the other; what goes on from a fork is told from its start, in a session of its own."""
    found = Found()
    with Task(stand.operator, "alone") as me:
        for path in (path for talk in talks for path in paths(talk)):
            with me.session() as session:
                for turn in path:
                    found.add(turn, tell(session, turn))
    return found


def play_together(
    stand: Stand, talks: Sequence[Talk], turns: int, kills: int, drops: int, draw: random.Random
) -> Found:
    """Have all talks at once, and so many of their turns; the contexts of the others lie idle.

    Meanwhile the core is killed and the page cache of the swap file dropped so many times.
    """
    company = _Company(turns)
    tasks = [Task(stand.operator, f"talk-{number}") for number in range(len(talks))]
    with ThreadPoolExecutor(sum(talk.count() for talk in talks)) as pool:
        company.pool = pool
        futures = [pool.submit(company.play, me.session(), talk) for me, talk in zip(tasks, talks, strict=True)]
        expected = sum(turn.cut_after or turn.options["max_tokens"] for talk in talks for turn in turns_of(talk))
        _disturb(stand, futures, _marks(kills, expected, draw), _marks(drops, expected, draw), company.found)
        for number, future in enumerate(futures):
            try:
                future.result()
            except AgentixError as error:
                company.found.failed.append(f"talk {number}: {type(error).__name__}: {error}")
    company.found.happened += _counters(stand)
    return company.found


def tell(session: Session, turn: Turn) -> Reply:
    """Have one turn."""
    if isinstance(turn.said, str):
        return session.say(turn.said, **turn.options).raw
    return session.generate(turn.said, **turn.options)


class _Company:
    """Sessions that run at once, each child of a fork in a thread of its own."""

    pool: ThreadPoolExecutor

    def __init__(self, turns: int) -> None:
        self.found = Found()
        self._turn = threading.Semaphore(turns)

    def play(self, session: Session, talk: Talk) -> None:
        self._turns(session, talk.turns)
        if not talk.forks:
            return
        children = session.fork(len(talk.forks))
        self.found.happened["forks"] += len(children)
        pairs = zip(children, talk.forks, strict=True)
        for future in [self.pool.submit(self.play, child, fork) for child, fork in pairs]:
            future.result()
        if talk.rest:
            children[0].commit()
            self.found.happened["commits"] += 1
            self._turns(session, talk.rest)

    def _turns(self, session: Session, turns: Sequence[Turn]) -> None:
        for turn in turns:
            with self._turn:
                if turn.cut_after:
                    self._cut(session, turn)
                else:
                    self.found.add(turn, tell(session, turn))

    def _cut(self, session: Session, turn: Turn) -> None:
        stream = session.stream(turn.said, **turn.options)
        for _ in range(turn.cut_after):
            next(stream)
        stream.close()
        self.found.happened["cancelled turns"] += 1


def _disturb(
    stand: Stand, futures: Sequence[Future[None]], kills: list[int], drops: list[int], found: Found
) -> None:
    """Until all talks are over: do what is due at so many generated tokens."""
    end, say_at = time.monotonic() + LIMIT_S, time.monotonic() + SAY_S
    while not all(future.done() for future in futures):
        now, generated = time.monotonic(), stand.stat()["generated_tokens"]
        if now > end:
            raise StandError(f"talks go on after {LIMIT_S:.0f} s; the kernel's last words: {stand.last_lines()}")
        if now > say_at:
            say_at = now + SAY_S
            progress(f"{sum(future.done() for future in futures)} of {len(futures)} talks, {generated} tokens")
        if kills and generated >= kills[0] and stand.info()["is_ready"]:
            kills.pop(0)
            stand.kill_core()
        if drops and generated >= drops[0]:
            drops.pop(0)
            found.happened["drops of the page cache"] += drop_page_cache(stand.kernel_pid) > 0
        time.sleep(LOOK_S)


def _marks(count: int, tokens: int, draw: random.Random) -> list[int]:
    """Return so many numbers of tokens, one in each part of the whole."""
    return [int(tokens * (place + draw.uniform(0.2, 0.8)) / count) for place in range(count)]


def _counters(stand: Stand) -> Counter[str]:
    stat, (tiers,) = stand.stat(), stand.call("ctx.stat")["models"]
    counted: dict[str, Any] = {
        "preemptions": stat["switches"],
        "restores": stat["restores"],
        "moves within a bank": stat["moves"],
        "core deaths": stat["core_restarts"],
        "recomputed tokens": stat["recomputed_tokens"],
        "bytes to disk": tiers["written_bytes"],
        "bytes from disk": tiers["read_bytes"],
    }
    return Counter(counted)
