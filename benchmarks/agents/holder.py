"""Holds many tasks without a process and streams in the name of each, over one connection without the SDK.

Settings: tasks, prompt, generated, seed, until (a file: go on until it exists). Leaves a file `tasks` with
their pids before it waits for the start; records for each how many tokens came and how its request ended.
"""

from __future__ import annotations

from pathlib import Path

from record import prompt, settings, wait_for_go, write

from agentix import Agent
from benchmarks.rawpeer import RawPeer
from kernel.abi.address import own_socket
from kernel.abi.codec import decode_answer, encode_call

LOOK_S = 0.2


def stream(peer: RawPeer, tasks: list[int]) -> dict[int, dict[str, object]]:
    """Generate for all tasks at once until the file exists; return what came, by task."""
    outcomes: dict[int, dict[str, object]] = {}
    calls = {}
    for call_id, pid in enumerate(tasks, 1_000):
        tokens = prompt(settings["seed"] + call_id, settings["prompt"])
        body = {
            "tokens": tokens, "max_tokens": settings["generated"], "stream": True, "ignore_end": True,
        }  # fmt: skip
        peer.send(encode_call(call_id, "llm.generate", body, task=pid))
        calls[call_id] = outcomes[pid] = {"tokens": 0, "ended": ""}
    peer.socket.settimeout(LOOK_S)
    until = Path(settings["until"])
    while not until.exists():
        try:
            answer = decode_answer(peer.receive())
        except TimeoutError:
            continue
        outcome = calls[answer.id]
        if answer.kind == "chunk":
            outcome["tokens"] += len(answer.body["tokens"])
        else:
            outcome["ended"] = answer.body.get("name") or answer.body["finish_reason"]
    return outcomes


with Agent("holder") as me:
    kernel = RawPeer(own_socket())
    kernel.hello("holder")
    held = [kernel.call("task.create", name=f"held-{number}")["pid"] for number in range(settings["tasks"])]
    write("tasks", held)
    wait_for_go(me)
    write("json", stream(kernel, held))
    kernel.close()
