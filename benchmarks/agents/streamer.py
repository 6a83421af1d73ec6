"""Streams `generated` tokens after `prompt` random ones, `turns` times, and records every arrival.

Settings: prompt, generated, seed, turns (1), temperature (0), options (more of llm.generate's),
think_s (0: pause between turns), until (a file: repeat until it exists).
"""

from __future__ import annotations

import time
from pathlib import Path

from record import prompt, settings, streamed, wait_for_go, write

from agentix import Agent

with Agent("streamer") as me:
    wait_for_go(me)
    until = settings.get("until")
    turns = []
    while len(turns) < settings.get("turns", 1) or (until and not Path(until).exists()):
        seed = settings["seed"] + 1000 * len(turns)
        if turns:
            time.sleep(settings.get("think_s", 0))
        options = {"temperature": settings.get("temperature", 0.0), "seed": seed} | settings.get("options", {})
        turns.append(
            streamed(me, prompt(seed, settings["prompt"]), settings["generated"], **options)
        )
    write("json", {"turns": turns})
