"""Plays a load of workloads.py: a task for each job, requests when they are due whether or not others are answered.

Settings: load (a file with Load.described()), limit_s (after its end, for what is in flight), warm (requests before
it, from which the kernel learns what steps cost). One thread and one connection without the SDK, so that thousands of
tokens a second cost it little. Records for each job its requests and, as it ends, sched.stat of its task.
"""

from __future__ import annotations

import heapq
import json
import time
from array import array
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from record import PROMPT_TOKENS_BELOW, PROMPT_TOKENS_FROM, settings, wait_for_go, write

from agentix import Agent
from benchmarks.rawpeer import RawPeer
from kernel.abi.address import own_socket
from kernel.abi.codec import Answer, decode_answer, encode_call

ANSWER_S = 120.0
REFUSED_S = 0.5  # a job that was refused and repeats waits so long
AHEAD_NS = 500_000_000
WARM_PROMPT, WARM_OUTPUT = 192, 24  # tokens

Taken = Callable[[Answer, int], None]  # an answer, and when it came


def words(count_: int, *seed: int) -> array[int]:
    """Return random tokens; the same for the same seed."""
    return array("i", np.random.default_rng(seed).integers(PROMPT_TOKENS_FROM, PROMPT_TOKENS_BELOW, count_).tolist())


class Line:
    """Calls in flight over one connection, and things to do at a time."""

    def __init__(self) -> None:
        self._peer = RawPeer(own_socket(), ANSWER_S)
        self._peer.hello("sched-driver")
        self.call = self._peer.call
        self.close = self._peer.close
        self._ids = count(1_000_000)
        self._waiting: dict[int, Taken] = {}
        self._due: list[tuple[int, int, Callable[[], None]]] = []

    def send(self, method: str, body: dict[str, Any], task: int | None, taken: Taken) -> None:
        number = next(self._ids)
        self._waiting[number] = taken
        self._peer.socket.settimeout(ANSWER_S)
        self._peer.send(encode_call(number, method, body, task=task))

    def at(self, when_ns: int, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when_ns, next(self._ids), do))

    def run(self, until_ns: int) -> bool:
        """Go on until nothing is in flight or due; False: it was still at the given time."""
        while self._waiting or self._due:
            now_ns = time.monotonic_ns()
            if now_ns >= until_ns:
                return False
            if self._due and self._due[0][0] <= now_ns:
                heapq.heappop(self._due)[2]()
                continue
            next_ns = min(until_ns, self._due[0][0] if self._due else until_ns)
            self._peer.socket.settimeout(max(1e-4, (next_ns - now_ns) / 1e9))
            try:
                answer = decode_answer(self._peer.receive())
            except (TimeoutError, BlockingIOError):
                continue
            taken = self._waiting[answer.id]
            if answer.kind != "chunk":
                del self._waiting[answer.id]
            taken(answer, time.monotonic_ns())
        return True


class Player:
    """One job, in a task of its own."""

    def __init__(self, line: Line, number: int, job: dict[str, Any], load: dict[str, Any]) -> None:
        self.line, self.number, self.job, self.seed = line, number, job, load["seed"]
        self._seconds = load["seconds"]
        self._going = job["streams"]
        self.pid = 0
        self.end_ns = 0  # of the load
        self.record: dict[str, Any] = {"pid": 0, "requests": [], "error": "", "is_done": False, "stat": {}}

    def begin(self, go_ns: int) -> None:
        """Have its task made shortly before it arrives: a load may have more jobs than one holder may have tasks."""
        self.end_ns = go_ns + int(self._seconds * 1e9)
        due_ns = go_ns + int(self.job["arrival_s"] * 1e9)
        self.line.at(due_ns - AHEAD_NS, partial(self._make, due_ns))

    def _make(self, due_ns: int) -> None:
        body = {"name": f"{self.job['kind']}-{self.number}"}
        if self.job["group"]:
            body["group"] = self.job["group"]
        self.line.send("task.create", body, None, partial(self._made, due_ns))

    def _made(self, due_ns: int, answer: Answer, now_ns: int) -> None:
        if answer.kind == "error":
            self.record["error"] = answer.body["name"]
            return
        self.pid = self.record["pid"] = answer.body["pid"]
        if self.job["sched"]:
            self.line.send("sched.setattr", {"pid": self.pid, **self.job["sched"]}, None, insist)
        for number in range(self.job["streams"]):
            self.line.at(due_ns, partial(Stream(self, number).turn, due_ns))

    def ended(self, is_refused: bool) -> None:
        """One of the streams has no more to ask; with the last one the job is done."""
        self._going -= 1
        if not self._going:
            self.record["is_done"] = not is_refused
            self.line.send("sched.stat", {}, self.pid, self._leave)

    def _leave(self, answer: Answer, now_ns: int) -> None:
        """Note how it fared; then the task ends and is reaped."""
        self.record["stat"] = answer.body
        self.line.send("proc.exit", {}, self.pid, ignore)
        self.line.send("proc.wait", {"pid": self.pid}, None, ignore)


class Stream:
    """The turns of a job, one after the other."""

    def __init__(self, player: Player, number: int) -> None:
        self._player, self._number = player, number
        self._said = array("i")
        self._made = 0  # turns
        self._open = 0  # requests

    def turn(self, due_ns: int) -> None:
        player, job = self._player, self._player.job
        turn = job["turns"][self._made % len(job["turns"])]
        if not self._made % len(job["turns"]):
            self._said = words(job["preamble_tokens"], 7)
        if job["hint_tokens"] is not None:
            player.line.send("sched.hint", {"remaining_tokens": job["hint_tokens"]}, player.pid, ignore)
        for branch in range(turn["width"]):
            new = words(turn["prompt_tokens"], player.seed, player.number, self._number, self._made, branch)
            self._ask(turn, self._said + new, due_ns)
        self._made += 1

    def _ask(self, turn: dict[str, Any], tokens: array[int], due_ns: int) -> None:
        player = self._player
        request: dict[str, Any] = {
            "turn": self._made, "due_ns": due_ns, "first_ns": 0, "ended_ns": 0, "worst_gap_ns": 0,
            "new_tokens": turn["prompt_tokens"], "tokens": 0, "error": "", "arrivals": [],
        }  # fmt: skip
        body = {
            "tokens": tokens.tobytes(), "max_tokens": turn["output_tokens"], "stream": True, "ignore_end": True,
            "temperature": 0.0, "seed": self._made,
        } | ({"keep": True} if player.job["keeps"] else {})  # fmt: skip
        came: list[int] = []
        last_ns = 0

        def taken(answer: Answer, now_ns: int) -> None:
            nonlocal last_ns
            if answer.kind == "chunk":
                came.extend(answer.body["tokens"])
                request["tokens"] += len(answer.body["tokens"])
                if last_ns:
                    request["worst_gap_ns"] = max(request["worst_gap_ns"], now_ns - last_ns)
                else:
                    request["first_ns"] = now_ns
                if player.job["is_traced"]:
                    request["arrivals"].append(now_ns)
                last_ns = now_ns
                return
            request["ended_ns"] = now_ns
            if answer.kind == "error":
                request["error"] = answer.body["name"]
            self._ended(turn, tokens + array("i", came), request["error"], now_ns)

        player.record["requests"].append(request)
        self._open += 1
        player.line.send("llm.generate", body, player.pid, taken)

    def _ended(self, turn: dict[str, Any], said: array[int], error: str, now_ns: int) -> None:
        self._open -= 1
        if self._open:
            return
        player, job = self._player, self._player.job
        if job["keeps"]:
            self._said = said
        next_ns = now_ns + int(max(turn["wait_s"], REFUSED_S if error else 0.0) * 1e9)
        if job["repeats"]:
            has_more = next_ns < player.end_ns
        else:
            has_more = not error and self._made < len(job["turns"])
        if has_more:
            player.line.at(next_ns, partial(self.turn, next_ns))
        else:
            player.ended(bool(error))


def ignore(answer: Answer, now_ns: int) -> None:
    """Take an answer that nobody looks at."""


def insist(answer: Answer, now_ns: int) -> None:
    """Take an answer that must be no error: without what was asked for, the load is another one."""
    if answer.kind == "error":
        raise RuntimeError(answer.body["text"])


def warm(line: Line, requests: int) -> None:
    for number in range(requests):
        output = WARM_OUTPUT + number % 8  # so that steps differ in how many there are
        body = {"tokens": words(WARM_PROMPT, 9, number).tobytes(), "max_tokens": output, "ignore_end": True}
        line.send("llm.generate", body, None, ignore)
    line.run(time.monotonic_ns() + int(ANSWER_S * 1e9))


with Agent("sched-driver") as me:
    asked = json.loads(Path(settings["load"]).read_text())
    kernel = Line()
    warm(kernel, settings["warm"])
    players = [Player(kernel, number, job, asked) for number, job in enumerate(asked["jobs"])]
    wait_for_go(me)
    began_ns = time.monotonic_ns() + AHEAD_NS
    for player in players:
        player.begin(began_ns)
    is_whole = kernel.run(began_ns + int((asked["seconds"] + settings["limit_s"]) * 1e9))
    write("json", {"go_ns": began_ns, "is_whole": is_whole, "jobs": [player.record for player in players]})
    kernel.close()
