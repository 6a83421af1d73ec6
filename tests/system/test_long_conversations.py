"""Conversations longer than the window, on the real core: they go on, say what went, and the same whoever is beside."""

from __future__ import annotations

import json
from pathlib import Path

from live import live

TALKER = """
import json
from agentix import Agent

SYSTEM = "You answer in few words. " * 12
with Agent("talker") as me:
    found = []
    with me.session(SYSTEM, window="drop", max_tokens=4, ignore_end=True) as talk:
        for number in range(6):
            reply = talk.say(f"Number {number}: what comes after it, and what came before? Say why in a few words.")
            usage = reply.usage
            found.append([reply.raw.tokens, reply.dropped_turns, usage["prompt_tokens"], usage["cached_tokens"]])
        assert len(talk.messages) == 13
    with me.session(window="shift", keep_tokens=70, max_tokens=4, ignore_end=True) as tale:
        for number in range(6):
            reply = tale.generate(f"Chapter {number}. There was once an operating system that never slept. " * 2)
            usage = reply.usage
            found.append([reply.tokens, reply.dropped_tokens, usage["prompt_tokens"], usage["cached_tokens"]])
    print(json.dumps(found))
"""
WINDOW = 320


def test_a_conversation_outlives_the_window_with_the_same_tokens_whoever_is_beside_it(tmp_path: Path):
    script = tmp_path / "talker.py"
    script.write_text(TALKER)
    told = []
    with live(slots=1, window_tokens=WINDOW) as machine:
        for beside in (1, 2):  # alone, then two that take each other's slot
            pids = [machine.spawn(script) for _ in range(beside)]
            for pid in pids:
                ended = machine.wait(pid)
                assert ended["status"] == 0, ended["tail"]
                told.append(json.loads(ended["tail"]))
    assert [[row[:3] for row in found] for found in told[1:]] == [[row[:3] for row in told[0]]] * 2
    for rows in (told[0][:6], told[0][6:]):
        dropped = [row for row in rows if row[1]]
        assert 1 <= len(dropped) <= 2  # what went makes room for several turns
        assert all(row[2] + 4 <= WINDOW for row in rows)
        assert all(row[3] >= 65 for row in dropped)  # what stays in its place is not computed again
