"""What requests generate alone, and random schedules to run them under: the stuff of `make prove`.

Who calls it: prove.py. What must hold: a case is a function of its seed; solo runs and schedules go
through the same kernel and engine, and differ in company, slots, banks, policy and misfortune alone.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from benchmarks.prove_engine import WatchedEngine
from benchmarks.prove_specs import Spec, draw_specs, stops_within
from benchmarks.rig import Rig
from kernel.engine import snapshot
from kernel.engine.base import StepPlan
from kernel.objects import Request

LARGEST = 6  # requests of a case
MAX_STEPS = 20_000
INSIDES = ("a grammar", "a penalty window", "a stop string", "a character")


@dataclass(frozen=True)
class Answer:
    """What its caller saw, stream and reply, and what it was drawn from."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    streamed_text: str
    streamed_tokens: tuple[int, ...]
    logprobs: tuple[Any, ...] = ()
    logits: tuple[tuple[int, bytes], ...] = ()  # (position, digest)


@dataclass
class Outcome:
    """A case: who differed, and what happened to them."""

    differing: list[str] = field(default_factory=list)
    requests: int = 0
    switches: int = 0
    restores: int = 0
    inside: Counter[str] = field(default_factory=Counter)  # preemptions by what they were inside of
    moves: int = 0
    deaths: int = 0
    recomputed: int = 0
    failed_restores: int = 0
    dropped: int = 0

    @property
    def counts(self) -> bool:
        """Whether the case shows anything: somebody was switched away and came back."""
        return self.switches > 0 and (self.restores > 0 or self.recomputed > 0)


def alone(engine: WatchedEngine, spec: Spec) -> Answer:
    """Run a request with nobody else on the machine and no end to its time slice."""
    engine.forget()
    rig = Rig(engine, slots=1, policy="fcfs")
    try:
        peer = rig.agent(1)
        rig.call(peer, 101, "llm.generate", **spec.fields)
        while rig.step():
            pass
        return _answer(rig, peer, engine.logits_of(1))
    finally:
        rig.close()


def library(
    engine: WatchedEngine, count: int, longest: int, draw: random.Random, end: float
) -> list[tuple[Spec, Answer]]:
    """Return requests with their solo answers; stop strings are cut from a request's own text.

    After the monotonic time `end` no more are made than a schedule needs. Raises RuntimeError when a request
    gets no answer even alone.
    """
    made: list[tuple[Spec, Answer]] = []
    for spec in draw_specs(count, longest, engine.info.vocab, draw):
        if time.monotonic() > end and len(made) >= LARGEST:
            break
        answer = alone(engine, spec)
        stops = stops_within(answer.text, draw) if spec.kind == "stop" else []
        if stops:
            stopped = Spec(spec.kind, spec.tokens, spec.options | {"stop": stops})
            made.append((stopped, alone(engine, stopped)))
        else:
            made.append((spec, answer))
    return made


def play(engine: WatchedEngine, requests: list[tuple[Spec, Answer]], draw: random.Random) -> Outcome:
    """Run some of the requests under a schedule drawn at random; compare each with its solo run."""
    engine.forget()
    fewest = 3 if len(engine.info.banks) == 1 else 5  # more than there are slots, or nobody is switched away
    chosen = draw.sample(requests, draw.randint(fewest, min(LARGEST, len(requests))))
    policy = draw.choices(["rr", "prio", "fcfs"], [8, 2, 1])[0]
    per_token, overhead = engine.info.kv_bytes_per_token, engine.info.snapshot_overhead_bytes
    rig = Rig(
        engine,
        slots=draw.randint(1, engine.info.banks[0].slots - 1),
        policy=policy,
        quantum_tokens=draw.randint(1, 14),
        prefill_tokens=draw.choice([64, 128, 256]),
        snapshot_bytes=draw.choice([1 << 30, 1 << 30, 1 << 30, 3 * overhead + 1200 * per_token]),
    )
    try:
        return _Case(rig, engine, chosen, draw).run()
    finally:
        rig.close()


class _Case:
    """One schedule: who arrives when, who is stopped, which deaths and damages there are; calm: none is."""

    def __init__(
        self,
        rig: Rig,
        engine: WatchedEngine,
        chosen: list[tuple[Spec, Answer]],
        draw: random.Random,
        *,
        is_calm: bool = False,
    ) -> None:
        self._rig, self._engine, self._chosen, self._draw = rig, engine, chosen, draw
        latest = 1 if is_calm else 40
        chances = ([0, 0, 1, 1, 2], [0, 0, 1, 2], [0, 0, 0, 1])
        deaths, pauses, damages = (0 if is_calm else draw.choice(counts) for counts in chances)
        self._arrivals = sorted((draw.randrange(latest), number) for number in range(len(chosen)))
        self._deaths = sorted(draw.randrange(10, 150) for _ in range(deaths))
        self._pauses = {draw.randrange(120): draw.randrange(len(chosen)) for _ in range(pauses)}
        self._damages = {draw.randrange(20, 150) for _ in range(damages)}
        self._paused: list[tuple[int, int]] = []  # (step of its return, number)
        self._arrived: list[int] = []  # in the order in which the kernel numbers them, from 1
        self._switches: Counter[int] = Counter()  # of requests, as last seen
        self._moves = 0
        self._inside: Counter[str] = Counter()
        rig.before_step = self._look

    def run(self) -> Outcome:
        step = 0
        while True:
            while self._arrivals and self._arrivals[0][0] <= step:
                self._arrive(self._arrivals.pop(0)[1])
            self._disturb(step)
            if not self._rig.step() and not self._arrivals and not self._paused:
                return self._judge()
            step += 1
            if step > MAX_STEPS:
                count = len(self._chosen)
                raise RuntimeError(f"a case of {count} requests still works after {MAX_STEPS} steps")

    def _arrive(self, number: int) -> None:
        spec, _ = self._chosen[number]
        peer, pid = self._rig.agent(number), 100 + number
        nice = self._draw.choice([0, 0, 5, 10])
        self._rig.call(b"op", 1, "sched.setattr", is_operator=True, pid=pid, nice=nice)
        self._rig.ends.pop(b"op")
        self._rig.call(peer, pid, "llm.generate", **spec.fields)
        self._arrived.append(number)

    def _disturb(self, step: int) -> None:
        if self._pauses.get(step) in self._arrived:
            _signal(self._rig, self._pauses[step], "STOP")
            self._paused.append((step + self._draw.randrange(5, 30), self._pauses[step]))
        for back, number in [item for item in self._paused if item[0] <= step]:
            _signal(self._rig, number, "CONT")
            self._paused.remove((back, number))
        if step in self._damages:
            _damage(self._rig, self._draw)
        if self._deaths and self._deaths[0] <= step and self._rig.pending is not None:
            self._deaths.pop(0)
            self._rig.core_dies(after_its_work=self._draw.random() < 0.5)

    def _look(self, rig: Rig, plan: StepPlan) -> None:
        """Note who comes back in the middle of what."""
        for opening in plan.openings:
            request = _holder(rig, opening.slot)
            if request.switches > self._switches[opening.request] and opening.generated:
                self._inside.update(insides(request))
            self._switches[opening.request] = request.switches

    def _judge(self) -> Outcome:
        totals = self._rig.kernel.cores[0].scheduler.totals
        outcome = Outcome(
            requests=len(self._chosen),
            switches=totals.switches,
            restores=totals.restores,
            inside=self._inside,
            moves=totals.moves,
            deaths=self._rig.deaths,
            recomputed=totals.recomputed_tokens,
            failed_restores=totals.failed_restores,
            dropped=totals.dropped_contexts,
        )
        outcome.differing += [f"other logits the second time: {text}" for text in self._engine.changed]
        for place, number in enumerate(self._arrived):
            spec, wanted = self._chosen[number]
            what = f"{spec.kind}, {len(spec.tokens)} prompt tokens"
            try:
                found = _answer(self._rig, number, self._engine.logits_of(place + 1))
            except RuntimeError as error:
                outcome.differing.append(f"{what}: {error}")
                continue
            if found != wanted:
                outcome.differing.append(f"{what}: {difference(wanted, found)}")
        return outcome


def insides(request: Request) -> list[str]:
    """Return what a request that was taken off the model is in the middle of, of INSIDES."""
    sampling, text = request.sampling, request.text
    neutral = (1.0, 0.0, 0.0)
    found = {
        "a grammar": request.constraint is not None,
        "a penalty window": sampling.penalty_tokens > 0
        and (sampling.repeat_penalty, sampling.presence_penalty, sampling.frequency_penalty) != neutral,
        "a stop string": bool(text._held),
        "a character": bool(text._decoder.getstate()[0]),
    }
    return [name for name in INSIDES if found[name]]


def difference(wanted: Answer, found: Answer) -> str:
    """Say where two answers part."""
    pairs = zip(wanted.logits, found.logits, strict=False)
    parted = next((one[0] for one, other in pairs if one != other), None)
    where = "" if parted is None else f"logits at position {parted} differ; "
    tokens = zip(wanted.tokens, found.tokens, strict=False)
    at = next((place for place, (one, other) in enumerate(tokens) if one != other), None)
    if at is not None:
        return f"{where}token {at} of {len(wanted.tokens)} is {found.tokens[at]}, alone {wanted.tokens[at]}"
    names = [name for name in vars(wanted) if getattr(wanted, name) != getattr(found, name)]
    return f"{where}{', '.join(names)} differ ({len(found.tokens)} tokens, alone {len(wanted.tokens)})"


def is_noticed(engine: WatchedEngine, requests: list[tuple[Spec, Answer]], draw: random.Random) -> bool:
    """The negative control: one bit of one restored snapshot is flipped and the snapshot sealed again.

    Return whether the comparison saw it, or the sampler, which refuses logits that are no numbers. The bit
    is an exponent's (the 15th of a little-endian f16).
    """
    engine.forget()
    able = [(spec, answer) for spec, answer in requests if len(answer.tokens) >= 16]
    rig = Rig(engine, slots=1, policy="rr", quantum_tokens=8)
    case = _Case(rig, engine, draw.sample(able, 2), draw, is_calm=True)
    spoiled: list[int] = []

    def spoil(rig: Rig, plan: StepPlan) -> None:
        for restore in plan.restores:
            if spoiled or _holder(rig, restore.slot).generated_tokens < 2:
                continue
            array = rig.segment_array(restore.segment)
            fields = snapshot._FIELDS.unpack(array[: snapshot._FIELDS.size].tobytes())
            fingerprint, size = fields[3], fields[5]
            at = draw.randrange(size // 8, size * 7 // 8) | 1  # a high byte, if values are aligned
            array[snapshot.HEADER_BYTES + at] ^= 0x40
            snapshot.seal(array, fingerprint, restore.tokens, restore.digest, size)
            spoiled.append(at)

    rig.before_step = spoil
    try:
        differing = case.run().differing
    except (ValueError, RuntimeError):  # the sampler's, or llama.cpp did not take the state
        differing = ["refused"]
    finally:
        rig.close()
    return bool(spoiled and differing)


def _holder(rig: Rig, slot: int) -> Request:
    request = rig.kernel.cores[0].scheduler._slots[slot]
    assert request is not None
    return request


def _answer(rig: Rig, peer: int, logits: tuple[tuple[int, bytes], ...]) -> Answer:
    kind, body = rig.ends.get(peer, ("", {}))
    if kind != "reply":
        raise RuntimeError(f"no reply but {kind or 'nothing'} {body.get('text', '')}")
    chunks = rig.chunks.get(peer, [])
    rows = [row for chunk in chunks for row in chunk.get("logprobs", [])]
    if rows != body.get("logprobs", []):
        raise RuntimeError("the chunks' logprobs are not the reply's")
    return Answer(
        body["text"],
        tuple(body["tokens"]),
        body["finish_reason"],
        "".join(chunk["text"] for chunk in chunks),
        tuple(token for chunk in chunks for token in chunk["tokens"]),
        tuple((row["token"], row["logprob"], repr(row["top"])) for row in rows),
        logits,
    )


def _signal(rig: Rig, number: int, name: str) -> None:
    rig.call(b"op", 1, "proc.kill", is_operator=True, pid=100 + number, signal=name)
    rig.ends.pop(b"op")


def _damage(rig: Rig, draw: random.Random) -> None:
    """Flip a bit of a parked context without sealing it: the check must find it, and nobody notice."""
    if rig.segments:
        array = rig.segment_array(draw.choice(sorted(rig.segments)))
        array[snapshot.HEADER_BYTES + draw.randrange(256)] ^= 1
