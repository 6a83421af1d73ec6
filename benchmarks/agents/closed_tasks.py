"""The closed load of peers_load.py without HTTP: tasks that this agent holds, over one connection without the SDK.

Settings: clients, seed, warm_s, seconds. Each task asks again as soon as it is answered; the requests are those that
peers_load.closed makes. Records the tokens that came in the window, and how many requests ended.
"""

from __future__ import annotations

import time

from record import settings, write

from agentix import Agent
from benchmarks.peers_figures import requests
from benchmarks.rawpeer import RawPeer
from kernel.abi.address import own_socket
from kernel.abi.codec import decode_answer, encode_call

ANSWER_S = 120.0


def load(peer: RawPeer, tasks: list[int]) -> dict[str, float]:
    """Ask in the name of all tasks until the time is over; return what came in the window."""
    asked = requests(settings["seed"])
    last_id = 1_000
    owners: dict[int, int] = {}

    def ask(task: int) -> None:
        nonlocal last_id
        last_id += 1
        owners[last_id] = task
        one = next(asked)
        body = {
            "tokens": list(one.ids), "max_tokens": one.max_tokens, "stream": True, "ignore_end": True,
            "temperature": 0.0,
        }  # fmt: skip
        peer.send(encode_call(last_id, "llm.generate", body, task=task))

    begin_s = time.monotonic() + settings["warm_s"]
    end_s = begin_s + settings["seconds"]
    tokens = ended = errors = 0
    for task in tasks:
        ask(task)
    while time.monotonic() < end_s:
        answer = decode_answer(peer.receive())
        is_inside = begin_s <= time.monotonic() < end_s
        if answer.kind == "chunk":
            tokens += len(answer.body["tokens"]) * is_inside
            continue
        ended += is_inside
        errors += answer.kind == "error"
        ask(owners.pop(answer.id))
    return {"tokens": tokens, "requests": ended, "errors": errors, "seconds": settings["seconds"]}


with Agent("closed-tasks") as me:
    kernel = RawPeer(own_socket(), ANSWER_S)
    kernel.hello("closed-tasks")
    held = [kernel.call("task.create", name=f"client-{number}")["pid"] for number in range(settings["clients"])]
    write("json", load(kernel, held))
    kernel.close()
