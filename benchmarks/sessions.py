"""Sessions: what a turn computes beside a chat without one, and what a fork costs beside prefilling again.

A kernel with 16 slots; 24 conversations of 6 turns, all at once, once as sessions and once as chats whose messages are
sent again. A turn says 12 words and samples 24 tokens. Then a session of 1,024 tokens is forked into 8, each child has
a turn, and each says what a session alone says that was told the same. The cost of the forks is that of the call and of
all that is restored and moved until all children write.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from statistics import mean
from typing import Any

from agentix import Reply, Task
from agentix.session import Session
from benchmarks.models import model_path
from benchmarks.report import Row, at_most, must, only, progress
from benchmarks.stand import Stand, StandError

SLOTS, TALKS, TURNS, WORDS, ANSWER_TOKENS = 16, 24, 6, 12, 24
FORKS, FORKED_TOKENS, FORK_BAR, CHUNK_TOKENS = 8, 1024, 5.0, 64
FORK_ANSWER_TOKENS, PATIENCE_S = 96, 60.0
OPTIONS = {"max_tokens": ANSWER_TOKENS, "temperature": 0.8, "ignore_end": True}


def run(quick: bool) -> list[Row]:
    talks, tokens = (4, 256) if quick else (TALKS, FORKED_TOKENS)
    model = model_path("default" if quick else "smollm2-135m", "q8_0")
    with Stand(model, slots=SLOTS) as stand, Task(stand.operator, "bench") as me:
        progress(f"{talks} sessions of {TURNS} turns")
        by_session = _talk_all(talks, lambda number: _session_turns(me, number))
        progress(f"{talks} chats of {TURNS} turns")
        by_chat = _talk_all(talks, lambda number: _chat_turns(me, number))
        progress(f"{FORKS} forks of {tokens} tokens")
        forks = _forks(stand, me, tokens)
    extra = [extra for turns in by_session for extra in _extra(turns)]
    computed = [[mean(_computed(turns)[1:]) for turns in several] for several in (by_session, by_chat)]
    return [
        at_most("a session's turn computes beyond its new tokens, at most", max(extra), CHUNK_TOKENS, "tokens"),
        only("a turn computes, as a session", f"{mean(computed[0]):.1f} tokens"),
        only("a turn computes, as a chat", f"{mean(computed[1]):.1f} tokens"),
        *forks,
    ]


def _talk_all(count: int, talk: Any) -> list[list[dict[str, int]]]:
    """Have so many conversations at once; return the usage of each one's turns."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(talk, range(count)))


def _session_turns(me: Task, number: int) -> list[dict[str, int]]:
    with me.session(system="You are brief.", **OPTIONS) as talk:
        return [talk.say(_words(number, turn), seed=number).usage for turn in range(TURNS)]


def _chat_turns(me: Task, number: int) -> list[dict[str, int]]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You are brief."}]
    usage = []
    for turn in range(TURNS):
        messages.append({"role": "user", "content": _words(number, turn)})
        reply = me.llm.chat(messages, seed=number, **OPTIONS)
        messages.append(reply.as_message())
        usage.append(reply.usage)
    return usage


def _computed(turns: Sequence[dict[str, int]]) -> list[int]:
    return [usage["prompt_tokens"] - usage["cached_tokens"] for usage in turns]


def _extra(turns: Sequence[dict[str, int]]) -> list[int]:
    """By how much each turn after the first computed more than what is new in it."""
    found = []
    for before, usage in pairwise(turns):
        new = usage["prompt_tokens"] - before["prompt_tokens"] - before["generated_tokens"]
        found.append(usage["prompt_tokens"] - usage["cached_tokens"] - new)
    return found


def _forks(stand: Stand, me: Task, tokens: int) -> list[Row]:
    begin = [random.Random(5).randrange(300, 2000) for _ in range(tokens)]
    tails = [[7 + number] * 8 for number in range(FORKS)]
    with me.session(**OPTIONS) as talk:
        first = talk.generate(begin, seed=1)
        prefill_s = first.timings["core_s"]
        before = stand.stat()
        stand.info()  # waits out what the kernel lets a process wait after much work for it, as sys.stat is
        began = time.monotonic()
        children = talk.fork(FORKS)
        call_s = time.monotonic() - began
        with ThreadPoolExecutor(FORKS) as pool:
            said = [pool.submit(_go_on, child, tail) for child, tail in zip(children, tails, strict=True)]
            after = _when_all_write(stand)
            replies = [one.result() for one in said]
        switch_s = after["switch_s"] - before["switch_s"]
        recomputed = stand.stat()["recomputed_tokens"] - before["recomputed_tokens"]
        for child in children:
            child.close()
    alone = [_alone(me, begin, tail) for tail in tails]
    is_exact = all(reply.tokens == tokens for reply, tokens in zip(replies, alone, strict=True))
    cost = 100 * (call_s + switch_s) / prefill_s
    cached = min(reply.usage["cached_tokens"] for reply in replies)
    spent = f"{1e3 * call_s:.1f} ms for the call, {1e3 * switch_s:.1f} ms of switches"
    shown = f" ({spent}; {prefill_s:.2f} s to prefill)"
    return [
        at_most(f"{FORKS} forks of {tokens} tokens, of prefilling once more", cost, FORK_BAR, "%", shown),
        must("children go on from", f"{cached} tokens, {recomputed} recomputed", "all", not recomputed),
        must("children say what a session alone says", "equal" if is_exact else "different", "equal", is_exact),
    ]


def _alone(me: Task, begin: Sequence[int], tail: Sequence[int]) -> tuple[int, ...]:
    with me.session(**OPTIONS) as talk:
        talk.generate(begin, seed=1)
        return _go_on(talk, tail).tokens


def _go_on(talk: Session, tail: Sequence[int]) -> Reply:
    return talk.generate(tail, seed=1, max_tokens=FORK_ANSWER_TOKENS)


def _when_all_write(stand: Stand) -> dict[str, Any]:
    """Return the kernel's counters once every fork has read what is new to it."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        (model,) = stand.call("sys.slots")["models"]
        phases = [phase for bank in model["banks"] for *_, phase in bank["held"]]
        if phases.count("write") == FORKS:
            return stand.stat()
        time.sleep(0.01)
    raise StandError(f"not all of {FORKS} forks wrote within {PATIENCE_S:g} s")


def _words(number: int, turn: int) -> str:
    draw = random.Random(1000 * number + turn)
    return " ".join(draw.choice(("to", "be", "or", "not", "that", "is", "the", "question")) for _ in range(WORDS))
