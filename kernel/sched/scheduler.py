"""Turns what the queues choose into step plans, and the core's results into progress of requests.

Who calls it: core.py. What must hold: a slot holds one request's KV or nothing; whatever dies, `tokens` are enough to
go on exactly; the same events give the same plans.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from kernel.context.tiers import Tiers
from kernel.engine.base import EngineInfo, Restore, Row, Sampled, StepPlan, StepResult
from kernel.limits import MAX_CORE_DEATHS
from kernel.objects import Request, Task
from kernel.sched.charging import Charging
from kernel.sched.coreside import CoreSide
from kernel.sched.feeding import Feeding
from kernel.sched.flight import Flight, Totals, opening_of
from kernel.sched.groups import Groups
from kernel.sched.parking import Parking
from kernel.sched.pressure import Pressure
from kernel.sched.queues import BankQueues
from kernel.sched.reasons import why_admitted, why_evicted
from kernel.sched.rescue import Stage
from kernel.sched.residency import Residency
from kernel.sched.suspects import SuspectTurns
from kernel.sched.waits import Waits
from kernel.states import RequestState


class Scheduler:
    """Slots, runnable requests and the step in flight. `settled` is told of every slot gained or lost."""

    def __init__(
        self, groups: Groups, prefill_tokens: int, tiers: Tiers, settled: Callable[[Request], None]
    ) -> None:
        self.totals = Totals()
        self.info: EngineInfo | None = None  # None: no core is ready
        self._can_trim = False  # whether a request may go on with a kept context, also while no core is ready
        self.waits = Waits()
        self.charging = Charging()
        self.pressure, self.memory_pressure = Pressure(), Pressure()  # for slots, for contexts
        self.queues = BankQueues(groups, self._reached)
        self._groups = groups
        self._feeding = Feeding(prefill_tokens, groups, self.charging)
        self._settled = settled
        self._runnable: dict[Request, None] = {}
        self._parking = Parking(tiers, self.totals, self._let_run)
        self.kept = self._parking.kept
        self._residency = Residency(self._parking, self._runnable.keys(), self._pause, self._come)
        self._slots: list[Request | None] = []
        self._coreside = CoreSide()
        self._flight: Flight | None = None
        self._steps_planned = 0
        self._suspects = SuspectTurns()
        self._now_ns = 0  # of the newest event

    # -- who is runnable ----------------------------------------------------------------------

    def add(self, request: Request, now_ns: int) -> None:
        """A request has its tokens, or its task goes on after a STOP: it may run."""
        self._now_ns = now_ns
        if self._goes_on(request):
            self.kept.recall(request)
        if not self._residency.holds(request):
            self._come(request, "it came when every slot was taken")

    def _goes_on(self, request: Request) -> bool:
        """Whether a request may begin with a kept context."""
        return self._can_trim and request.snapshot is None and not request.fed_tokens

    def _come(self, request: Request, cause: str) -> None:
        """Let a request run, at once or when the context that it goes on with is there."""
        if not self._goes_on(request) or self.kept.lend(request):
            self._let_run(request, cause)

    def _let_run(self, request: Request, cause: str) -> None:
        if not request.fed_tokens:
            self.totals.reused_tokens += request.reused_tokens
        self._runnable[request] = None
        if request.slot is None:
            request.wants_since_ns = self._now_ns
        self.queues.add(request)
        self.waits.wants(request, self._now_ns, cause)

    def remove(self, request: Request, now_ns: int) -> None:
        """A request ended or its task was stopped. A stopped one keeps its KV until the next plan."""
        self._now_ns = now_ns
        self._unqueue(request, now_ns)
        self._residency.forget(request)
        self.kept.give_back(request)
        if request.is_finished:
            self._coreside.ended(request)
            if self._can_trim:
                self._parking.keep(request)
            self._leave_slot(request, now_ns)
            self._parking.drop_snapshot(request)

    def _unqueue(self, request: Request, now_ns: int) -> None:
        if request in self._runnable:
            del self._runnable[request]
            self.queues.remove(request)
            self.waits.wants_no_more(request, now_ns, request.slot is not None)

    def forget(self, task: Task) -> None:
        """A task ended: nothing is kept for it."""
        self.kept.forget(task.pid)
        self.waits.forget(task.pid)

    def requeue(self, requests: Collection[Request], change: Callable[[], None]) -> None:
        """Take requests out of their queues, let `change` alter how they are ranked, put them back."""
        known = [request for request in requests if request in self._runnable]
        for request in known:
            self.queues.remove(request)
        change()
        for request in sorted(known, key=lambda item: (item.slot is None, item.number)):
            self.queues.add(request)

    @property
    def runnable(self) -> Collection[Request]:
        return self._runnable.keys()

    @property
    def paused(self) -> int:
        """How many tasks wait for memory."""
        return len(self._residency)

    @property
    def most_chunks(self) -> int:
        return self._feeding.most_chunks

    def held_slots(self) -> dict[int, Request]:
        return {slot: request for slot, request in enumerate(self._slots) if request is not None}

    @property
    def is_working(self) -> bool:
        return self._flight is not None

    # -- planning -----------------------------------------------------------------------------

    def plan(self, now_ns: int) -> StepPlan | None:
        """Return the next step, or None when the core is away, at work, or has nothing to do."""
        self._now_ns = now_ns
        self._parking.swap(now_ns, is_idle=not (self._flight or self._runnable))
        if self.info is None or self._flight is not None:
            return None
        is_due = self._coreside.has_closes or self._parking.is_leaving or self.paused
        if not (is_due or self._runnable or any(self._slots)):
            return None
        plan = self._plan(self.info, now_ns)
        if plan is None and self.paused:  # whoever was to run was paused: others may, with the slots empty
            plan = self._plan(self.info, now_ns)
        return plan

    def _plan(self, info: EngineInfo, now_ns: int) -> StepPlan | None:
        self._residency.resume(info, len(self._slots))
        flight = Flight(self._steps_planned + 1)
        self._parking.save_leaving(flight, info)
        chosen, banks, rescued = self._choose(flight, now_ns)
        working = self._suspects.choose(chosen, bool(flight.saves or flight.restores))
        decodes, chunks = self._feed(working, rescued, flight)
        running = self.waits.tasks - self.waits.waiting
        self.pressure.note(now_ns, self.waits.waiting, running)
        self.memory_pressure.note(now_ns, self.paused, running)
        if not (decodes or chunks or flight.saves or flight.restores or self._coreside.has_closes):
            return None
        self._steps_planned = flight.number
        self._flight = flight
        clears, closes = self._coreside.forgets()
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

    def next_timer_ns(self) -> int | None:
        """When there may be something to do though nothing happens: a cap ends, or a read had no room for too long."""
        free_ns = None if self._flight is not None else self.queues.next_free_ns()
        times = free_ns, self._parking.tiers.next_timer_ns()
        return min((at for at in times if at is not None), default=None)

    def swapped(self, ticket: int, error: str, now_ns: int) -> None:
        """A context was written to disk, or read from it; error: it was not."""
        self._now_ns = now_ns
        self._parking.swapped(ticket, error, now_ns)

    def _choose(self, flight: Flight, now_ns: int) -> tuple[list[Request], tuple[int, ...], list[Request]]:
        """Return who holds a slot in this step, which banks have memory, who is rescued; having moved everybody."""
        for request in self._slots:
            if request in self._runnable:
                self.queues.regrade(request)
        tasks = self.waits.tasks
        chosen, banks, rescued = self.queues.choose(self.charging.work_ns, now_ns, tasks)
        staying = {request for request in chosen if self.queues.is_in_its_bank(request)}
        newcomers = [request for request in chosen if request.slot is None]
        for request in self._slots:
            if request is not None and request not in staying:
                self._evict(request, newcomers, rescued, flight)
        moving = {request for request, _ in flight.saves.values()}  # in the next step to another bank
        has_room = len(chosen) == len(self._runnable)
        for request in newcomers:
            if request not in moving and request in self._runnable:
                how = why_admitted(request, rescued, self.queues.stage(request), has_room, self._policy(request))
                self._admit(request, how, flight)
        return [request for request in chosen if request.slot is not None], banks, rescued

    def _evict(
        self, request: Request, newcomers: Sequence[Request], rescued: Sequence[Request], flight: Flight
    ) -> None:
        """Take a request off its slot, planning to save what its snapshot does not hold yet."""
        slot = request.slot
        assert slot is not None
        assert self.info is not None
        if request in self._runnable:
            cause = why_evicted(request, newcomers, rescued, self._policy(request))
            self.waits.evicted(request, self._now_ns, cause)
            request.wants_since_ns = self._now_ns
            self.queues.waits(request)
        self._leave_slot(request, self._now_ns)
        request.move(RequestState.PREEMPTED)
        request.switches += 1
        request.task.usage.switches += 1
        self.totals.switches += 1
        self.totals.held_preemptions += request.text.is_holding or request.constraint is not None
        if request.kv_tokens and not self._parking.is_clean(request):
            self._residency.save(request, slot, flight, self.info)
        elif not request.kv_tokens:
            request.move(RequestState.QUEUED)
        self._settled(request)

    def _admit(self, request: Request, how: str, flight: Flight) -> None:
        """Give a request the lowest free slot of its bank: busy slots stay adjacent, which a step rewards."""
        slot = self._slots.index(None, self.queues.first_slot(request))
        now_ns = self._now_ns
        self._slots[slot] = request
        request.slot = slot
        request.move(RequestState.RUNNING)
        waited = now_ns - request.waits_since_ns
        request.wait_ns += waited
        request.task.usage.wait_ns += waited
        request.task.running += 1
        if request.first_slot_ns is None:
            request.first_slot_ns = now_ns
        self.waits.runs(request, now_ns, how)
        self.queues.runs(request, now_ns)
        flight.admitted[slot] = request
        held = request.snapshot
        self._coreside.taken(slot, is_restored=held is not None)
        if held is not None:
            restore = Restore(slot, held.segment, held.tokens, held.digest, held.keep)
            flight.restores[slot] = (request, restore)
        self._settled(request)

    def _feed(
        self, working: Sequence[Request], rescued: Collection[Request], flight: Flight
    ) -> tuple[list[Row], list[Row]]:
        """Return (decodes, chunks): what each request is fed in this step."""
        decodes: list[Row] = []
        chunks: list[Row] = []
        flight.fed = self._feeding.choose(working, len(working) == len(self._runnable), rescued)
        for request, rows in flight.fed:
            slot, tokens = request.slot, request.tokens
            assert slot is not None
            for start, end, parts in rows:
                is_last = end == len(tokens)
                if is_last and self._coreside.opens(slot, request):
                    flight.openings.append(opening_of(request))
                (chunks if parts else decodes).append(Row(slot, start, tuple(tokens[start:end]), is_last))
                flight.rows[slot] = (request, end)
        return decodes, chunks

    # -- results ------------------------------------------------------------------------------

    def core_ready(self, info: EngineInfo, now_ns: int) -> None:
        """A core serves: its slots are empty, whoever was in a slot before has left it."""
        self.info = info
        self._can_trim = info.can_trim
        self._now_ns = now_ns
        self._slots = [None] * info.slots
        self._coreside = CoreSide()
        self.queues.fit(info, self._runnable)

    def step_done(
        self, result: StepResult
    ) -> tuple[list[tuple[Request, Sampled]], list[tuple[Request, str]]]:
        """Take a step's result; return what concerns requests that still want it, in slot order.

        First their new tokens, then those for whom no token can be drawn, with the reason.
        """
        flight = self._flight
        assert flight is not None
        self._flight = None
        self._now_ns = result.ended_ns
        self.totals.add(result)
        for segment, size_bytes in result.saved:
            self._parking.commit(*flight.saves[segment], size_bytes)
        failed = dict(result.failed_restores)
        for slot, (request, _) in flight.restores.items():
            if slot not in failed:
                self._parking.count_restore(request)
            elif not request.is_finished:
                self.totals.failed_restores += 1
                self._parking.drop_snapshot(request)
                request.kv_tokens = 0  # the engine emptied the slot: prefill again, in place
        self._charge(flight, result)
        for slot, (request, end) in flight.rows.items():
            if slot not in failed and not request.is_finished:
                self._count_fed(request, end)
            elif self._parking.is_left_in(slot, request):
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
        self._now_ns = now_ns
        has_core = self.info is not None
        flight, self._flight, self.info = self._flight, None, None
        self._parking.core_lost(flight)
        for request in flight.requests() if flight else ():
            request.core_deaths += not request.is_finished
        for request in [item for item in self._slots if item is not None]:
            if request in self._runnable:
                self.waits.evicted(request, now_ns, "the LLM core died")
                request.wants_since_ns = now_ns
                self.queues.waits(request)
            self._leave_slot(request, now_ns)
            request.move(RequestState.PREEMPTED)
            self._parking.fall_back(request, has_core)
            self._settled(request)
        for request, _ in flight.saves.values() if flight else ():
            if not request.is_finished:
                self._parking.fall_back(request, has_core)
        self._slots = []
        self._coreside = CoreSide()
        present = flight.requests() if flight else set()
        doomed = [item for item in present if item.core_deaths >= MAX_CORE_DEATHS]
        return sorted((item for item in doomed if not item.is_finished), key=lambda item: item.number)

    def _charge(self, flight: Flight, result: StepResult) -> None:
        """Have everybody who was fed, or for whom a context was moved, pay for it."""
        before_ns = self.charging.work_ns
        charges = self.charging.done(flight, result)
        fed = {request: sum(max(1, chunks) for _, _, chunks in rows) for request, rows in flight.fed}
        ends = dict(flight.rows.values())
        for request, core_ns in charges.items():
            request.task.sched.attained_ns += core_ns
            if request in self._runnable:
                is_progress = ends.get(request, 0) > request.fed_tokens  # else no turn would outlast a long replay
                if request in fed:
                    self.queues.fed(request, core_ns)
                self.queues.charge(request, core_ns * is_progress, fed.get(request, 0) * is_progress)
        self.queues.pass_time(self.charging.work_ns - before_ns)

    def _count_fed(self, request: Request, end: int) -> None:
        begin, request.kv_tokens = request.kv_tokens, end
        again = min(end, request.fed_tokens) - begin
        if again > 0:
            request.recomputed_tokens += again
            request.task.usage.recomputed_tokens += again
            self.totals.recomputed_tokens += again
        request.fed_tokens = max(request.fed_tokens, end)

    # -- slots and memory -----------------------------------------------------------------------

    def _policy(self, request: Request) -> str:
        return request.task.sched.policy or self._groups.effective(request.task.sched.group).policy

    def _reached(self, request: Request, stage: Stage, since_ns: int) -> None:
        """A wait has become long."""
        self.waits.reached(request, stage, since_ns, self._now_ns)
        if stage is Stage.BOOST:
            self.queues.boost(request)
        self.totals.rescues += stage is Stage.RESCUE

    def _leave_slot(self, request: Request, now_ns: int) -> None:
        if request.slot is None:
            return
        self._slots[request.slot] = None
        self._coreside.left(request.slot)
        request.slot = None
        request.waits_since_ns = now_ns
        request.task.running -= 1
        request.task.ran_ns = now_ns

    def _pause(self, request: Request, cause: str) -> None:
        self._unqueue(request, self._now_ns)
        self.waits.log(self._now_ns, "pause", request, cause)
