"""A stock pyzmq DEALER that makes null calls (sched.getattr), one at a time or many in flight.

Settings: socket (an abstract name; this agent's own), cpu (none: where Linux likes), and either count (round
trips, one at a time; records their nanoseconds) or window (calls in flight) with begin (a file; once it
exists, its two numbers are the time from which answers count and the end, monotonic nanoseconds; records how
many answers came between).
"""

from __future__ import annotations

import json
import os
import time
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from record import settings, write

from kernel.abi.address import endpoint, own_socket
from kernel.abi.codec import PROTOCOL_VERSION, decode_answer, encode_call

if TYPE_CHECKING:
    import zmq

ANSWER_MS = 20_000
WARM_UP = 200
LOOK_S = 0.005


def connect() -> zmq.Socket:
    if settings.get("cpu") is not None:
        os.sched_setaffinity(0, {settings["cpu"]})  # before zmq starts its thread, which takes it over
    import zmq

    dealer = zmq.Context().socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.RCVTIMEO, ANSWER_MS)
    dealer.connect(endpoint(settings.get("socket") or own_socket()))
    dealer.send(encode_call(1, "sys.hello", {"version": PROTOCOL_VERSION, "name": "dealer"}))
    checked(dealer.recv())
    return dealer


def checked(frame: bytes) -> int:
    """The id that a reply answers."""
    answer = decode_answer(frame)
    if answer.kind != "reply":
        raise RuntimeError(f"{answer.kind}: {answer.body}")
    return answer.id


def round_trips(dealer: zmq.Socket) -> list[int]:
    taken = []
    for call_id in range(2, WARM_UP + settings["count"] + 2):
        began = time.monotonic_ns()
        dealer.send(encode_call(call_id, "sched.getattr", {}))
        answered = checked(dealer.recv())
        taken.append(time.monotonic_ns() - began)
        if answered != call_id:
            raise RuntimeError(f"call {call_id} got the answer to {answered}")
    return taken[WARM_UP:]


def pipelined(dealer: zmq.Socket) -> int:
    """The ids go round, so that an answer's bytes are known once the first round was answered."""
    calls = [encode_call(call_id, "sched.getattr", {}) for call_id in range(1, settings["window"] + 1)]
    answers = []
    for call in calls:
        dealer.send(call)
        answers.append(dealer.recv())
        checked(answers[-1])
    write("ready", {})
    begin = Path(settings["begin"])
    while not begin.exists():
        time.sleep(LOOK_S)
    begin_ns, end_ns = json.loads(begin.read_text())
    for call in calls:
        dealer.send(call)
    count = 0
    for call, wanted in cycle(zip(calls, answers, strict=True)):
        if dealer.recv() != wanted:
            raise RuntimeError(f"after {count} answers one came out of turn")
        now_ns = time.monotonic_ns()
        if now_ns >= end_ns:
            break
        count += now_ns >= begin_ns
        dealer.send(call)
    return count


kernel = connect()
if "count" in settings:
    write("json", {"ns": round_trips(kernel)})
else:
    write("json", {"answers": pipelined(kernel)})
