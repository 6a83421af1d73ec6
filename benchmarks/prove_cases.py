"""Requests, what they generate alone, and random schedules to run them under: the stuff of `make prove`.

Who calls it: prove.py. What must hold: a case is a function of its seed; solo runs and schedules go
through the same kernel and engine, and differ in company, slots, policy and misfortune alone.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.rig import Rig
from kernel.engine import snapshot
from kernel.engine.base import StepPlan
from kernel.engine.llama import LlamaEngine

SHORTEST, LONGEST = 40, 1500  # contexts: prompt and generated tokens
GENERATED = (24, 56)
SLOTS = 4  # of the engine; a case uses 1 to 3 of them
LARGEST = 6  # requests of a case
MAX_STEPS = 20_000
DECOY_END = "\x00\x01never"  # no model of ours says this: a stop string that is held and not found
STOP_LIMIT_CHARS = 200


@dataclass(frozen=True)
class Spec:
    """A request."""

    tokens: tuple[int, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What its caller saw, stream and reply."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    streamed_text: str
    streamed_tokens: tuple[int, ...]


@dataclass
class Outcome:
    """A case: who differed, and what happened to them."""

    differing: list[str] = field(default_factory=list)
    requests: int = 0
    switches: int = 0
    restores: int = 0
    held: int = 0
    deaths: int = 0
    recomputed: int = 0
    failed_restores: int = 0
    dropped: int = 0

    @property
    def counts(self) -> bool:
        """Whether the case shows anything: somebody was switched away and came back."""
        return self.switches > 0 and (self.restores > 0 or self.recomputed > 0)


def alone(engine: LlamaEngine, spec: Spec) -> Answer:
    """Run a request with nobody else on the machine and no end to its time slice."""
    rig = Rig(engine, slots=1, policy="fcfs")
    try:
        peer = rig.agent(1)
        rig.call(peer, 101, "llm.generate", tokens=list(spec.tokens), stream=True, **spec.options)
        while rig.step():
            pass
        return _answer(rig, peer)
    finally:
        rig.close()


def library(
    engine: LlamaEngine, count: int, draw: random.Random, end: float
) -> list[tuple[Spec, Answer]]:
    """Return requests with their solo answers: contexts spread evenly in the logarithm.

    After the monotonic time `end` no more are made than a schedule needs.
    """
    made: list[tuple[Spec, Answer]] = []
    for number in draw.sample(range(count), count):  # a part of them is spread as well
        if time.monotonic() > end and len(made) >= LARGEST:
            break
        share = (number + draw.random()) / count
        context = round(math.exp(math.log(SHORTEST) + share * math.log(LONGEST / SHORTEST)))
        generated = min(draw.randint(*GENERATED), context // 2)
        vocab = range(300, min(2000, engine.info.vocab))
        tokens = tuple(draw.choice(vocab) for _ in range(context - generated))
        options: dict[str, Any] = {"max_tokens": generated, "ignore_end": True}
        if number % 2:
            options |= {"temperature": 0.8, "seed": draw.randrange(1 << 30), "top_k": 40}
        spec = Spec(tokens, options)
        answer = alone(engine, spec)
        if number % 3 != 2:  # the rest has whatever characters are cut between tokens
            stops = stops_within(answer.text, draw)
            if stops:
                spec = Spec(tokens, options | {"stop": stops})
                answer = alone(engine, spec)
        made.append((spec, answer))
    return made


def stops_within(text: str, draw: random.Random) -> list[str]:
    """Return stop strings made of a text itself: a long one that it almost says, and one that it does."""
    if len(text) < 24:
        return []
    begin = draw.randrange(len(text) // 4)
    end = min(begin + STOP_LIMIT_CHARS, len(text) - len(text) // 8)
    stops = [text[begin:end] + DECOY_END]
    if draw.random() < 0.5:
        at = len(text) - len(text) // 8 - 4
        stops.append(text[at : at + 6])
    return stops


def play(engine: LlamaEngine, requests: list[tuple[Spec, Answer]], draw: random.Random) -> Outcome:
    """Run some of the requests under a schedule drawn at random; compare each with its solo run."""
    chosen = draw.sample(requests, draw.randint(3, min(LARGEST, len(requests))))
    policy = draw.choices(["rr", "prio", "fcfs"], [8, 2, 1])[0]
    per_token = engine.info.kv_bytes_per_token
    rig = Rig(
        engine,
        slots=draw.randint(1, 3),
        policy=policy,
        quantum_tokens=draw.randint(1, 14),
        prefill_tokens=draw.choice([64, 128, 256]),
        snapshot_bytes=draw.choice([1 << 30, 1 << 30, 1 << 30, per_token * 1200]),
    )
    try:
        return _play(rig, chosen, draw)
    finally:
        rig.close()


def _play(rig: Rig, chosen: list[tuple[Spec, Answer]], draw: random.Random) -> Outcome:
    arrivals = sorted((draw.randrange(40), number) for number in range(len(chosen)))
    deaths = sorted(draw.randrange(10, 150) for _ in range(draw.choice([0, 0, 1, 1, 2])))
    pauses = {draw.randrange(120): draw.randrange(len(chosen)) for _ in range(draw.choice([0, 0, 1, 2]))}
    damages = {draw.randrange(20, 150) for _ in range(draw.choice([0, 0, 0, 1]))}
    peers: dict[int, int] = {}
    paused: list[tuple[int, int]] = []  # (step of its return, number)
    step = 0
    while True:
        while arrivals and arrivals[0][0] <= step:
            _, number = arrivals.pop(0)
            spec, _ = chosen[number]
            peers[number] = rig.agent(number)
            priority = draw.choice([0, 0, 5, 10])
            rig.call(b"op", 1, "sched.setattr", is_operator=True, pid=100 + number, priority=priority)
            options = {"tokens": list(spec.tokens), "stream": True, **spec.options}
            rig.call(peers[number], 100 + number, "llm.generate", **options)
            rig.ends.pop(b"op")
        if step in pauses and pauses[step] in peers:
            _signal(rig, pauses[step], "STOP")
            paused.append((step + draw.randrange(5, 30), pauses[step]))
        for back, number in [item for item in paused if item[0] <= step]:
            _signal(rig, number, "CONT")
            paused.remove((back, number))
        if step in damages:
            _damage(rig, draw)
        if deaths and deaths[0] <= step and rig.pending is not None:
            deaths.pop(0)
            rig.core_dies(after_its_work=draw.random() < 0.5)
        if not rig.step() and not arrivals and not paused:
            break
        step += 1
        if step > MAX_STEPS:
            raise RuntimeError(f"a case of {len(chosen)} requests still works after {MAX_STEPS} steps")
    return _judge(rig, chosen, peers)


def _judge(rig: Rig, chosen: list[tuple[Spec, Answer]], peers: dict[int, int]) -> Outcome:
    totals = rig.kernel.scheduler.totals
    outcome = Outcome(
        requests=len(chosen),
        switches=totals.switches,
        restores=totals.restores,
        held=totals.held_preemptions,
        deaths=rig.deaths,
        recomputed=totals.recomputed_tokens,
        failed_restores=totals.failed_restores,
        dropped=totals.dropped_contexts,
    )
    for number, (spec, wanted) in enumerate(chosen):
        try:
            found = _answer(rig, peers[number])
        except RuntimeError as error:
            outcome.differing.append(f"{len(spec.tokens)} prompt tokens: {error}")
            continue
        if found != wanted:
            outcome.differing.append(f"{len(spec.tokens)} prompt tokens: {difference(wanted, found)}")
    return outcome


def difference(wanted: Answer, found: Answer) -> str:
    """Say where two answers part."""
    pairs = zip(wanted.tokens, found.tokens, strict=False)
    at = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    if at is not None:
        return f"token {at} of {len(wanted.tokens)} is {found.tokens[at]}, alone {wanted.tokens[at]}"
    names = [name for name in vars(wanted) if getattr(wanted, name) != getattr(found, name)]
    return f"{', '.join(names)} differ ({len(found.tokens)} tokens, alone {len(wanted.tokens)})"


def is_noticed(engine: LlamaEngine, requests: list[tuple[Spec, Answer]], draw: random.Random) -> bool:
    """The negative control: one bit of one restored snapshot is flipped and the snapshot sealed again.

    Return whether the comparison saw it, or the sampler, which refuses logits that are no numbers. The bit
    is an exponent's (the 15th of a little-endian f16).
    """
    able = [(spec, answer) for spec, answer in requests if len(answer.tokens) >= 16]
    chosen = draw.sample(able, 2)
    rig = Rig(engine, slots=1, policy="rr", quantum_tokens=8)
    spoiled: list[int] = []

    def spoil(rig: Rig, plan: StepPlan) -> None:
        for restore in plan.restores:
            request = rig.kernel.scheduler._slots[restore.slot]
            if spoiled or request is None or request.generated_tokens < 2:
                continue
            array = rig.segment_array(restore.segment)
            fields = snapshot._FIELDS.unpack(array[: snapshot._FIELDS.size].tobytes())
            fingerprint, size = fields[3], fields[5]
            payload = array[snapshot.HEADER_BYTES :]
            at = draw.randrange(size // 8, size * 7 // 8) | 1  # a high byte, if values are aligned
            payload[at] ^= 0x40
            snapshot.seal(array, fingerprint, restore.tokens, restore.digest, size)
            spoiled.append(at)

    rig.spoil = spoil
    try:
        peers = {}
        for number, (spec, _) in enumerate(chosen):
            peers[number] = rig.agent(number)
            options = {"tokens": list(spec.tokens), "stream": True, **spec.options}
            rig.call(peers[number], 100 + number, "llm.generate", **options)
        try:
            while rig.step():
                pass
        except ValueError:
            return bool(spoiled)
        return bool(spoiled and _judge(rig, chosen, peers).differing)
    finally:
        rig.close()


def _answer(rig: Rig, peer: int) -> Answer:
    kind, body = rig.ends.get(peer, ("", {}))
    if kind != "reply":
        raise RuntimeError(f"no reply but {kind or 'nothing'} {body.get('text', '')}")
    chunks = rig.chunks.get(peer, [])
    return Answer(
        body["text"],
        tuple(body["tokens"]),
        body["finish_reason"],
        "".join(chunk["text"] for chunk in chunks),
        tuple(token for chunk in chunks for token in chunk["tokens"]),
    )


def _signal(rig: Rig, number: int, name: str) -> None:
    rig.call(b"op", 1, "proc.kill", is_operator=True, pid=100 + number, signal=name)
    rig.ends.pop(b"op")


def _damage(rig: Rig, draw: random.Random) -> None:
    """Flip a bit of a parked context without sealing it: the check must find it, and nobody notice."""
    if rig.segments:
        array = rig.segment_array(draw.choice(sorted(rig.segments)))
        array[snapshot.HEADER_BYTES + draw.randrange(256)] ^= 1
