"""Turns the policy's choice into step plans, and the core's results into progress of requests.

Who calls it: core.py. What must hold: a slot holds one request's KV or nothing; a request's snapshot is
replaced only once the new one is whole; whatever dies, `tokens` are enough to go on exactly.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from kernel.context.store import SegmentStore
from kernel.engine.base import (
    CHUNK_TOKENS,
    EngineInfo,
    Restore,
    Row,
    Sampled,
    Save,
    StepPlan,
    StepResult,
)
from kernel.limits import MAX_CORE_DEATHS
from kernel.objects import KVSnapshot, Request
from kernel.sched.policy import POLICIES, Policy
from kernel.states import RequestState


@dataclass(slots=True)
class Totals:
    """Counters since boot, for sys.stat."""

    steps: int = 0
    core_busy_ns: int = 0
    generated_tokens: int = 0
    prompt_tokens: int = 0
    recomputed_tokens: int = 0
    switches: int = 0
    restores: int = 0
    failed_restores: int = 0
    dropped_contexts: int = 0  # parked without a snapshot for want of room
    switch_bytes: int = 0
    switch_ns: int = 0
    held_preemptions: int = 0  # switches inside a character or a possible stop string


@dataclass(slots=True)
class _Flight:
    """The step that the core is working on: who is in it, and what its result will change."""

    number: int
    rows: dict[int, tuple[Request, Row]] = field(default_factory=dict)  # by slot
    saves: dict[int, tuple[Request, Save]] = field(default_factory=dict)  # by segment
    restores: dict[int, tuple[Request, Restore]] = field(default_factory=dict)  # by slot

    def requests(self) -> set[Request]:
        parts = (*self.rows.values(), *self.saves.values(), *self.restores.values())
        return {request for request, _ in parts}


class Scheduler:
    """Slots, runnable requests and the step in flight. `settled` is told of every slot gained or lost."""

    def __init__(
        self,
        policy: str,
        quantum_tokens: int,
        prefill_tokens: int,
        store: SegmentStore,
        settled: Callable[[Request], None],
    ) -> None:
        self.policy_name = policy
        self.quantum_tokens = quantum_tokens
        self.totals = Totals()
        self.info: EngineInfo | None = None  # None: no core is ready
        self._policy: Policy = POLICIES[policy](quantum_tokens)
        self._chunks_per_step = max(1, prefill_tokens // CHUNK_TOKENS)
        self._store = store
        self._settled = settled
        self._runnable: dict[Request, None] = {}
        self._slots: list[Request | None] = []
        self._dirty: set[int] = set()  # slots whose KV nobody wants any more
        self._flight: _Flight | None = None
        self._steps_planned = 0
        self._was_alone = False  # the last step was a suspect's
        self._rotation = 0  # whose turn it is among suspects

    # -- who is runnable ----------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """A request has its tokens, or its task goes on after a STOP: it may run."""
        self._runnable[request] = None
        self._policy.add(request)

    def remove(self, request: Request, now_ns: int) -> None:
        """A request ended or its task was stopped. A stopped one keeps its KV until the next plan."""
        if request in self._runnable:
            del self._runnable[request]
            self._policy.remove(request)
        if request.is_finished:
            self._leave_slot(request, now_ns)
            self._drop_snapshot(request)

    def reprioritise(self, requests: list[Request], change: Callable[[], None]) -> None:
        """Take requests out of the policy's order, let `change` alter their rank, put them back."""
        known = [request for request in requests if request in self._runnable]
        for request in known:
            self._policy.remove(request)
        change()
        for request in known:
            self._policy.add(request)

    def set_policy(self, name: str, quantum_tokens: int) -> None:
        """Start a new policy with everything that is runnable, those that hold a slot first."""
        self.policy_name, self.quantum_tokens = name, quantum_tokens
        self._policy = POLICIES[name](quantum_tokens)
        for request in sorted(self._runnable, key=lambda item: (item.slot is None, item.number)):
            self._policy.add(request)

    @property
    def is_working(self) -> bool:
        return self._flight is not None

    # -- planning -----------------------------------------------------------------------------

    def plan(self, now_ns: int) -> StepPlan | None:
        """Return the next step, or None when the core is away, at work, or has nothing to do."""
        if self.info is None or self._flight is not None:
            return None
        if not self._runnable and not any(self._slots):
            return None
        chosen = self._policy.choose(len(self._slots))
        flight = _Flight(self._steps_planned + 1)
        staying = set(chosen)
        for request in self._slots:
            if request is not None and request not in staying:
                self._evict(request, flight, now_ns)
        for request in chosen:
            if request.slot is None:
                self._admit(request, flight, now_ns)
        working = self._not_sharing_with_suspects(chosen, flight)
        decodes, chunks = self._feed(working, flight)
        if not (decodes or chunks or flight.saves or flight.restores):
            return None
        self._steps_planned = flight.number
        self._flight = flight
        clears = tuple(sorted(self._dirty))
        self._dirty.clear()
        return StepPlan(
            number=flight.number,
            saves=tuple(save for _, save in flight.saves.values()),
            clears=clears,
            restores=tuple(restore for _, restore in flight.restores.values()),
            decodes=tuple(decodes),
            chunks=tuple(chunks),
        )

    def _evict(self, request: Request, flight: _Flight, now_ns: int) -> None:
        """Take a request off its slot, planning to save what its snapshot does not hold yet."""
        slot = request.slot
        assert slot is not None
        self._leave_slot(request, now_ns)
        request.move(RequestState.PREEMPTED)
        request.switches += 1
        request.task.usage.switches += 1
        self.totals.switches += 1
        self.totals.held_preemptions += request.text.is_holding
        if request.kv_tokens and not self._is_clean(request):
            segment = self._store.acquire(self._snapshot_bytes(request.kv_tokens))
            if segment is None:
                self._fall_back(request)
            else:
                digest = token_digest(request.tokens[: request.kv_tokens])
                save = Save(slot, segment, request.kv_tokens, digest)
                flight.saves[segment] = (request, save)
        elif not request.kv_tokens:
            request.move(RequestState.QUEUED)
        self._settled(request)

    def _admit(self, request: Request, flight: _Flight, now_ns: int) -> None:
        """Give a request the lowest free slot: busy slots stay adjacent, which a step rewards."""
        slot = self._slots.index(None)
        self._slots[slot] = request
        request.slot = slot
        request.move(RequestState.RUNNING)
        waited = now_ns - request.waits_since_ns
        request.wait_ns += waited
        request.task.usage.wait_ns += waited
        request.task.running += 1
        if request.first_slot_ns is None:
            request.first_slot_ns = now_ns
        self._dirty.add(slot)
        if request.snapshot is not None:
            held = request.snapshot
            self._dirty.discard(slot)  # restoring clears
            restore = Restore(slot, held.segment, held.tokens, held.digest)
            flight.restores[slot] = (request, restore)
        self._settled(request)

    def _not_sharing_with_suspects(
        self, chosen: list[Request], flight: _Flight
    ) -> list[Request]:
        """Return who works in this step: one suspect alone, in turn with all others together.

        So the next death tells the guilty from those that were only there.
        """
        suspects = [request for request in chosen if request.is_suspect]
        if not suspects:
            return chosen
        others = [request for request in chosen if not request.is_suspect]
        is_moving = bool(flight.saves or flight.restores)
        if others and (is_moving or self._was_alone):
            self._was_alone = False
            return others
        self._was_alone = True
        self._rotation += 1
        return [suspects[self._rotation % len(suspects)]]

    def _feed(self, working: list[Request], flight: _Flight) -> tuple[list[Row], list[Row]]:
        """Return (decodes, chunks): the next tokens of each request, see Row for their cut."""
        decodes: list[Row] = []
        chunks: list[Row] = []
        for request in working:
            slot, start = request.slot, request.kv_tokens
            assert slot is not None
            if start < request.prompt_tokens:
                if len(chunks) == self._chunks_per_step:
                    continue
                cut = (start // CHUNK_TOKENS + 1) * CHUNK_TOKENS
                end, rows = min(cut, request.prompt_tokens), chunks
            else:
                end, rows = start + 1, decodes
            wanted = request.sampling if end == len(request.tokens) else None
            row = Row(slot, start, tuple(request.tokens[start:end]), wanted)
            rows.append(row)
            flight.rows[slot] = (request, row)
        return decodes, chunks

    # -- results ------------------------------------------------------------------------------

    def core_ready(self, info: EngineInfo) -> None:
        """A core serves: its slots are empty, whoever was in a slot before has left it."""
        self.info = info
        self._slots = [None] * info.slots
        self._dirty.clear()

    def step_done(self, result: StepResult) -> list[tuple[Request, Sampled]]:
        """Take a step's result; return the new tokens of requests that still want them, in slot order."""
        flight = self._flight
        assert flight is not None
        self._flight = None
        self.totals.steps += 1
        self.totals.core_busy_ns += result.ended_ns - result.began_ns
        self.totals.switch_ns += result.switch_ns
        for segment, size_bytes in result.saved:
            self._commit(*flight.saves[segment], size_bytes)
        failed = dict(result.failed_restores)
        for slot, (request, _) in flight.restores.items():
            if slot not in failed:
                self._count_restore(request)
            elif not request.is_finished:
                self.totals.failed_restores += 1
                self._drop_snapshot(request)
                request.kv_tokens = 0  # the engine emptied the slot: prefill again, in place
        for slot, (request, row) in flight.rows.items():
            if slot not in failed and not request.is_finished:
                self._count_row(request, row)
        sampled = []
        for item in result.sampled:
            request, _ = flight.rows[item.slot]
            if not request.is_finished:
                sampled.append((request, item))
        return sampled

    def core_lost(self, now_ns: int) -> list[Request]:
        """Every slot is gone. Return the requests that were at work in their last permitted death."""
        flight, self._flight, self.info = self._flight, None, None
        if flight is not None:
            for segment in flight.saves:
                self._store.release(segment)  # not whole; the older snapshot, if any, is still held
            for request in flight.requests():
                request.core_deaths += not request.is_finished
        for request in [item for item in self._slots if item is not None]:
            self._leave_slot(request, now_ns)
            request.move(RequestState.PREEMPTED)
            self._fall_back(request)
            self._settled(request)
        if flight is not None:
            for request, _ in flight.saves.values():
                if not request.is_finished:
                    self._fall_back(request)
        self._slots = []
        self._dirty.clear()
        present = flight.requests() if flight else set()
        doomed = [item for item in present if item.core_deaths >= MAX_CORE_DEATHS]
        return sorted((item for item in doomed if not item.is_finished), key=lambda item: item.number)

    def _commit(self, request: Request, save: Save, size_bytes: int) -> None:
        """A save is whole: it takes the place of the request's older snapshot."""
        self.totals.switch_bytes += size_bytes
        request.task.usage.switch_bytes += size_bytes
        if request.is_finished:
            self._store.release(save.segment)
            return
        self._drop_snapshot(request)
        request.snapshot = KVSnapshot(save.segment, save.tokens, save.digest, size_bytes)

    def _count_restore(self, request: Request) -> None:
        size_bytes = request.snapshot.size_bytes if request.snapshot else 0
        request.restores += 1
        request.task.usage.restores += 1
        request.task.usage.switch_bytes += size_bytes
        self.totals.restores += 1
        self.totals.switch_bytes += size_bytes

    def _count_row(self, request: Request, row: Row) -> None:
        end = row.position + len(row.tokens)
        request.kv_tokens = end
        is_progress = end > request.fed_tokens
        again = min(end, request.fed_tokens) - row.position
        if again > 0:
            request.recomputed_tokens += again
            request.task.usage.recomputed_tokens += again
            self.totals.recomputed_tokens += again
        request.fed_tokens = max(request.fed_tokens, end)
        if is_progress and request in self._runnable:  # else no quantum would outlast a long replay
            self._policy.charge(request, 1)

    # -- contexts -----------------------------------------------------------------------------

    def _leave_slot(self, request: Request, now_ns: int) -> None:
        if request.slot is None:
            return
        self._slots[request.slot] = None
        self._dirty.add(request.slot)
        request.slot = None
        request.waits_since_ns = now_ns
        request.task.running -= 1

    def _fall_back(self, request: Request) -> None:
        """What the slot held is lost: go back to the snapshot, or to nothing."""
        if request.snapshot is not None:
            request.kv_tokens = request.snapshot.tokens
            return
        if request.kv_tokens and self.info is not None:
            self.totals.dropped_contexts += 1
        request.kv_tokens = 0
        if request.state is RequestState.PREEMPTED:
            request.move(RequestState.QUEUED)

    def _drop_snapshot(self, request: Request) -> None:
        if request.snapshot is not None:
            self._store.release(request.snapshot.segment)
            request.snapshot = None

    @staticmethod
    def _is_clean(request: Request) -> bool:
        return request.snapshot is not None and request.snapshot.tokens == request.kv_tokens

    def _snapshot_bytes(self, tokens: int) -> int:
        assert self.info is not None
        return tokens * self.info.kv_bytes_per_token + self.info.snapshot_overhead_bytes


def token_digest(tokens: list[int]) -> int:
    """Return 64 bits that stand for a sequence of token ids."""
    raw = hashlib.blake2b(array("i", tokens).tobytes(), digest_size=8).digest()
    return int.from_bytes(raw, "little")
