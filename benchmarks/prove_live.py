"""A random schedule on the whole stack: processes, sockets, and an LLM core that is really killed.

Who calls it: prove.py. The same streaming agents, some with a grammar or a penalty window, run one at a
time on a stand of their own, then together on fewer slots, of two sizes, with a random quantum while the core
is killed; tokens and text are compared.
"""

from __future__ import annotations

import random
import time
from typing import Any, NamedTuple

from benchmarks.prove_specs import GRAMMAR_TOKENS, draw_options
from benchmarks.stand import Stand

AGENTS = 8
SLOT_TOKENS, WINDOW_TOKENS = 256, 1024  # of the banks that the contexts move between
LIMIT_S = 600


class LiveOutcome(NamedTuple):
    is_same: bool
    switches: int
    deaths: int


def play_live(model: str, threads: int, draw: random.Random) -> LiveOutcome:
    """Return whether every agent got what it got alone, having been switched and having lost a core."""
    settings = [
        {
            "prompt": draw.randrange(30, 500),
            "generated": draw.randrange(GRAMMAR_TOKENS, 2 * GRAMMAR_TOKENS),
            "seed": draw.randrange(1 << 20),
            "temperature": draw.choice([0.0, 0.8]),
            "options": draw_options(kind, draw),
        }
        for kind in ("grammar", "penalties", *["plain"] * (AGENTS - 2))
    ]
    slots, quantum = draw.randint(1, 3), draw.randint(3, 12)
    config = {"slots": slots, "window_tokens": WINDOW_TOKENS, "threads": threads}
    with Stand(model, policy="fcfs", **config) as stand:
        wanted = [_seen(stand.run_crowd("streamer.py", [one], LIMIT_S)[0]) for one in settings]
    config |= {"slot_tokens": SLOT_TOKENS, "quantum_tokens": quantum}
    with Stand(model, policy="rr", **config) as stand:
        pids = stand.crowd("streamer.py", settings)
        stand.go(pids)
        _kill_in_mid_stream(stand, draw.randrange(20, 200), pids)
        found = [_seen(record) for record in stand.records(pids, LIMIT_S)]
        stat = stand.stat()
    is_same = found == wanted and all(one[2] for one in found)
    has_lived = stat["switches"] > 0 and stat["core_restarts"] > 0
    return LiveOutcome(is_same and has_lived, stat["switches"], stat["core_restarts"])


def _kill_in_mid_stream(stand: Stand, tokens: int, pids: list[int]) -> None:
    """Kill the core once so many tokens were generated, or when the first agent is done."""
    end = time.monotonic() + LIMIT_S
    while stand.stat()["generated_tokens"] < tokens and time.monotonic() < end:
        if any(stand.is_ready(pid, "json") for pid in pids):
            break
        time.sleep(0.02)
    stand.kill_core()


def _seen(record: dict[str, Any]) -> tuple[str, list[int], bool]:
    turn = record["turns"][0]
    return turn["text"], turn["tokens"], turn["is_once"] and not turn["error"]
