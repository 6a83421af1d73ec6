"""Times round trips: of the null syscall (sched.getattr), of ps, and of first tokens.

Settings: what ("null", "ps" or "first"), count, pause_s (0), prompt (64), seed, until (a file: go on
until it exists, whatever the count). Records nanoseconds: round trips, or for "first" what is left of
the time to the first token after the time that the model itself worked on it; and when each began.
"""

from __future__ import annotations

import time
from pathlib import Path

from record import prompt, settings, streamed, wait_for_go, write

from agentix import Agent


def null(me: Agent, turn: int) -> int:
    began = time.monotonic_ns()
    me.sched.get()
    return time.monotonic_ns() - began


def ps(me: Agent, turn: int) -> int:
    began = time.monotonic_ns()
    me.ps()
    return time.monotonic_ns() - began


def first(me: Agent, turn: int) -> int:
    one = streamed(me, prompt(settings["seed"] + turn, settings.get("prompt", 64)), 1)
    if one["error"]:
        raise RuntimeError(one["error"])
    arrived_ns, _ = one["arrivals"][0]
    return arrived_ns - one["sent_ns"] - round(one["timings"]["core_s"] * 1e9)


KINDS = {"null": null, "ps": ps, "first": first}

with Agent("prober") as me:
    probe = KINDS[settings["what"]]
    probe(me, 0)  # imports and caches
    wait_for_go(me)
    until = settings.get("until")
    taken, began = [], []
    while len(taken) < settings["count"] or (until and not Path(until).exists()):
        time.sleep(settings.get("pause_s", 0))
        began.append(time.monotonic_ns())
        taken.append(probe(me, len(taken) + 1))
    write("json", {"ns": taken, "began_ns": began})
