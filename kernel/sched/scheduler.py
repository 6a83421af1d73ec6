"""Turns the policy's choice into step plans, and the core's results into progress of requests.

Who calls it: core.py. What must hold: a slot holds one request's KV or nothing; a request's snapshot is
replaced only once the new one is whole; whatever dies, `tokens` are enough to go on exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kernel.context.store import SegmentStore
from kernel.engine.base import (
    RECOMPUTE,
    EngineInfo,
    Restore,
    Row,
    Sampled,
    Save,
    StepPlan,
    StepResult,
)
from kernel.limits import MAX_CORE_DEATHS
from kernel.objects import KVSnapshot, Request, Task
from kernel.sched.feeding import Feeding
from kernel.sched.flight import Flight, Totals, opening_of, token_digest
from kernel.sched.kept import KeptContexts
from kernel.sched.queues import BankQueues
from kernel.sched.suspects import SuspectTurns
from kernel.sched.turns import chunks_in
from kernel.states import RequestState


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
        self.totals = Totals()
        self.info: EngineInfo | None = None  # None: no core is ready
        self._feeding = Feeding(prefill_tokens)
        self._store = store
        self._settled = settled
        self._runnable: dict[Request, None] = {}
        self._queues = BankQueues(policy, quantum_tokens)
        self._slots: list[Request | None] = []
        self._dirty: set[int] = set()  # slots whose KV nobody wants any more
        self._opened: set[int] = set()  # slots whose request the core knows how to draw for
        self._gated: set[int] = set()  # requests for which the core keeps a place in a grammar
        self._closes: list[int] = []  # of those, the ones that ended
        self._leaving: dict[int, Request] = {}  # by the slot that a turn to be kept has just left
        self._kept = KeptContexts(store.release)
        self._flight: Flight | None = None
        self._steps_planned = 0
        self._suspects = SuspectTurns()

    # -- who is runnable ----------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """A request has its tokens, or its task goes on after a STOP: it may run."""
        is_new = request.snapshot is None and not request.fed_tokens
        if is_new and self.info is not None and self.info.can_trim and not self._kept.lend(request):
            return  # until the context that it goes on with is saved
        self._let_run(request)

    def _let_run(self, request: Request) -> None:
        if not request.fed_tokens:
            self.totals.reused_tokens += request.reused_tokens
        self._runnable[request] = None
        self._queues.add(request)

    def remove(self, request: Request, now_ns: int) -> None:
        """A request ended or its task was stopped. A stopped one keeps its KV until the next plan."""
        if request in self._runnable:
            del self._runnable[request]
            self._queues.remove(request)
        self._kept.give_back(request)
        if request.is_finished:
            if request.number in self._gated:
                self._gated.remove(request.number)
                self._closes.append(request.number)
            can_trim = self.info is not None and self.info.can_trim
            if can_trim and self._kept.is_worth(request) and self._kept.put(request):
                assert request.slot is not None
                self._leaving[request.slot] = request
            self._leave_slot(request, now_ns)
            self._drop_snapshot(request)

    def forget(self, task: Task) -> None:
        """A task ended: nothing is kept for it."""
        self._kept.forget(task.pid)

    def reprioritise(self, requests: list[Request], change: Callable[[], None]) -> None:
        """Take requests out of the policy's order, let `change` alter their rank, put them back."""
        known = [request for request in requests if request in self._runnable]
        for request in known:
            self._queues.remove(request)
        change()
        for request in known:
            self._queues.add(request)

    def set_policy(self, name: str, quantum_tokens: int) -> None:
        """Start a new policy with everything that is runnable, those that hold a slot first."""
        slot_holders_first = sorted(self._runnable, key=lambda item: (item.slot is None, item.number))
        self._queues.set_policy(name, quantum_tokens, slot_holders_first)

    @property
    def policy_name(self) -> str:
        return self._queues.policy_name

    @property
    def quantum_tokens(self) -> int:
        return self._queues.quantum_tokens

    def held_slots(self) -> dict[int, Request]:
        return {slot: request for slot, request in enumerate(self._slots) if request is not None}

    @property
    def is_working(self) -> bool:
        return self._flight is not None

    # -- planning -----------------------------------------------------------------------------

    def plan(self, now_ns: int) -> StepPlan | None:
        """Return the next step, or None when the core is away, at work, or has nothing to do."""
        if self.info is None or self._flight is not None:
            return None
        if not (self._runnable or any(self._slots) or self._closes or self._leaving):
            return None
        flight = Flight(self._steps_planned + 1)
        self._save_leaving(flight)
        chosen, banks = self._choose(flight, now_ns)
        working = self._suspects.choose(chosen, bool(flight.saves or flight.restores))
        decodes, chunks = self._feed(working, flight)
        if not (decodes or chunks or flight.saves or flight.restores or self._closes):
            return None
        self._steps_planned = flight.number
        self._flight = flight
        clears, closes = tuple(sorted(self._dirty)), tuple(self._closes)
        self._dirty.clear()
        self._closes.clear()
        return StepPlan(
            number=flight.number,
            closes=closes,
            saves=tuple(save for _, save in flight.saves.values()),
            clears=clears,
            banks=banks,
            restores=tuple(restore for _, restore in flight.restores.values()),
            openings=tuple(flight.openings),
            decodes=tuple(decodes),
            chunks=tuple(chunks),
        )

    def _choose(self, flight: Flight, now_ns: int) -> tuple[list[Request], tuple[int, ...]]:
        """Return who holds a slot in this step and which banks have memory, having moved everybody there."""
        for request in self._slots:
            if request in self._runnable:
                self._queues.regrade(request)
        chosen, banks = self._queues.choose()
        staying = {request for request in chosen if self._queues.is_in_its_bank(request)}
        for request in self._slots:
            if request is not None and request not in staying:
                self._evict(request, flight, now_ns)
        moving = {request for request, _ in flight.saves.values()}  # in the next step to another bank
        for request in chosen:
            if request.slot is None and request not in moving:
                self._admit(request, flight, now_ns)
        return [request for request in chosen if request.slot is not None], banks

    def _evict(self, request: Request, flight: Flight, now_ns: int) -> None:
        """Take a request off its slot, planning to save what its snapshot does not hold yet."""
        slot = request.slot
        assert slot is not None
        self._leave_slot(request, now_ns)
        request.move(RequestState.PREEMPTED)
        request.switches += 1
        request.task.usage.switches += 1
        self.totals.switches += 1
        self.totals.held_preemptions += request.text.is_holding or request.constraint is not None
        if request.kv_tokens and not self._is_clean(request):
            if not self._plan_save(request, slot, flight):
                self._fall_back(request)
        elif not request.kv_tokens:
            request.move(RequestState.QUEUED)
        self._settled(request)

    def _admit(self, request: Request, flight: Flight, now_ns: int) -> None:
        """Give a request the lowest free slot of its bank: busy slots stay adjacent, which a step rewards."""
        slot = self._slots.index(None, self._queues.first_slot(request))
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
            restore = Restore(slot, held.segment, held.tokens, held.digest, held.keep)
            flight.restores[slot] = (request, restore)
        self._settled(request)

    def _feed(self, working: Sequence[Request], flight: Flight) -> tuple[list[Row], list[Row]]:
        """Return (decodes, chunks): what each request is fed in this step."""
        decodes: list[Row] = []
        chunks: list[Row] = []
        for request, rows in self._feeding.choose(working, len(working) == len(self._runnable)):
            slot, tokens = request.slot, request.tokens
            assert slot is not None
            for start, end, parts in rows:
                is_last = end == len(tokens)
                if is_last and slot not in self._opened:
                    self._opened.add(slot)
                    flight.openings.append(opening_of(request))
                    if request.constraint is not None:
                        self._gated.add(request.number)
                (chunks if parts else decodes).append(Row(slot, start, tuple(tokens[start:end]), is_last))
                flight.rows[slot] = (request, end)
        return decodes, chunks

    # -- results ------------------------------------------------------------------------------

    def core_ready(self, info: EngineInfo) -> None:
        """A core serves: its slots are empty, whoever was in a slot before has left it."""
        self.info = info
        self._slots = [None] * info.slots
        self._dirty.clear()
        self._queues.fit(info, self._runnable)

    def step_done(
        self, result: StepResult
    ) -> tuple[list[tuple[Request, Sampled]], list[tuple[Request, str]]]:
        """Take a step's result; return what concerns requests that still want it, in slot order.

        First their new tokens, then those for whom no token can be drawn, with the reason.
        """
        flight = self._flight
        assert flight is not None
        self._flight = None
        self.totals.add(result)
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
        for slot, (request, end) in flight.rows.items():
            if slot not in failed and not request.is_finished:
                self._count_fed(request, end)
            elif self._leaving.get(slot) is request:
                request.kv_tokens = 0 if slot in failed else end
        sampled = []
        for item in result.sampled:
            request, _ = flight.rows[item.slot]
            if not request.is_finished:
                sampled.append((request, item))
        failures = [(flight.rows[slot][0], reason) for slot, reason in result.failed_requests]
        return sampled, [pair for pair in failures if not pair[0].is_finished]

    def core_lost(self, now_ns: int) -> list[Request]:
        """Every slot is gone. Return the requests that were at work in their last permitted death."""
        flight, self._flight, self.info = self._flight, None, None
        if flight is not None:
            for segment, (request, _) in flight.saves.items():
                self._store.release(segment)  # not whole; the older snapshot, if any, is still held
                self._lose_kept(request)
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
        self._opened.clear()
        self._gated.clear()
        self._closes.clear()
        for request in self._leaving.values():
            self._lose_kept(request)
        self._leaving.clear()
        present = flight.requests() if flight else set()
        doomed = [item for item in present if item.core_deaths >= MAX_CORE_DEATHS]
        return sorted((item for item in doomed if not item.is_finished), key=lambda item: item.number)

    def _commit(self, request: Request, save: Save, size_bytes: int) -> None:
        """A save is whole: it takes the place of the request's older snapshot."""
        self.totals.switch_bytes += size_bytes
        request.task.usage.switch_bytes += size_bytes
        snapshot = KVSnapshot(save.segment, save.tokens, save.digest, size_bytes, keep=save.tokens)
        if not request.is_finished:
            self._drop_snapshot(request)
            request.snapshot = snapshot
        elif (taker := self._kept.saved(request, snapshot)) is not None:
            self._let_run(taker)

    def _count_restore(self, request: Request) -> None:
        size_bytes = request.snapshot.size_bytes if request.snapshot else 0
        request.restores += 1
        request.task.usage.restores += 1
        request.task.usage.switch_bytes += size_bytes
        self.totals.restores += 1
        self.totals.switch_bytes += size_bytes

    def _count_fed(self, request: Request, end: int) -> None:
        begin, request.kv_tokens = request.kv_tokens, end
        is_progress = end > request.fed_tokens
        again = min(end, request.fed_tokens) - begin
        if again > 0:
            request.recomputed_tokens += again
            request.task.usage.recomputed_tokens += again
            self.totals.recomputed_tokens += again
        request.fed_tokens = max(request.fed_tokens, end)
        if is_progress and request in self._runnable:  # else no quantum would outlast a long replay
            self._queues.charge(request, chunks_in(begin, end))

    # -- contexts -----------------------------------------------------------------------------

    def _leave_slot(self, request: Request, now_ns: int) -> None:
        if request.slot is None:
            return
        self._slots[request.slot] = None
        self._dirty.add(request.slot)
        self._opened.discard(request.slot)
        request.slot = None
        request.waits_since_ns = now_ns
        request.task.running -= 1

    def _plan_save(self, request: Request, slot: int, flight: Flight) -> bool:
        """Plan to save what a slot holds of a request; False when there is no room or no use."""
        assert self.info is not None
        size_bytes = request.kv_tokens * self.info.kv_bytes_per_token + self.info.snapshot_overhead_bytes
        if self.info.exactness == RECOMPUTE:
            return False
        segment = self._store.acquire(size_bytes)
        while segment is None and len(self._kept):
            self._kept.drop_oldest()
            segment = self._store.acquire(size_bytes)
        if segment is None:
            return False
        digest = token_digest(request.tokens[: request.kv_tokens])
        flight.saves[segment] = (request, Save(slot, segment, request.kv_tokens, digest))
        return True

    def _save_leaving(self, flight: Flight) -> None:
        """Save what finished requests leave in slots that nobody has taken since."""
        for slot, request in self._leaving.items():
            if not request.kv_tokens or not self._plan_save(request, slot, flight):
                self._lose_kept(request)
        self._leaving.clear()

    def _lose_kept(self, request: Request) -> None:
        """A finished request's context is not saved: who has waited for it goes on without."""
        if (taker := self._kept.lost(request)) is not None:
            self._let_run(taker)

    def _fall_back(self, request: Request) -> None:
        """What the slot held is lost: go back to the snapshot, or to nothing."""
        if request.snapshot is not None:
            request.kv_tokens = request.snapshot.keep
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
        return request.snapshot is not None and request.snapshot.keep == request.kv_tokens
