"""Where the KV of contexts is when they hold no slot: saved in a segment, kept for a later request, or lost.

Who calls it: scheduler.py. What must hold: a request's snapshot is replaced only once the new one is whole; whatever is
lost, the tokens are enough to go on exactly.
"""

from __future__ import annotations

from collections.abc import Callable

from kernel.context.kv import Kv
from kernel.context.tiers import Tiers
from kernel.engine.base import RECOMPUTE, EngineInfo, Save
from kernel.objects import KVSnapshot, Request
from kernel.sched.flight import Flight, Totals, token_digest
from kernel.sched.kept import KeptContexts
from kernel.states import RequestState

_READ = "what it goes on with was on the disk"
_IN_LINE = "there was no memory for what it goes on with"


class Parking:
    """One model's contexts off their slots. `let_run` is told of whoever has waited for one."""

    def __init__(self, tiers: Tiers, totals: Totals, let_run: Callable[[Request, str], None]) -> None:
        self.kept = KeptContexts(tiers, let_run)
        self.tiers, self.store = tiers, tiers.store
        self._totals = totals
        self._leaving: dict[int, Request] = {}  # by the slot that a finished request has just left

    @property
    def is_leaving(self) -> bool:
        return bool(self._leaving)

    def keep(self, request: Request) -> None:
        """A request ended: keep its context, if it is worth it, for the task's next one."""
        if self.kept.is_worth(request) and self.kept.put(request):
            assert request.slot is not None
            self._leaving[request.slot] = request

    def is_left_in(self, slot: int, request: Request) -> bool:
        """Whether a slot holds what a finished request left, to be saved."""
        return self._leaving.get(slot) is request

    def size_of(self, request: Request, info: EngineInfo) -> int:
        """Return the bytes of a request's snapshot."""
        return request.kv_tokens * info.kv_bytes_per_token + info.snapshot_overhead_bytes

    def plan_save(self, request: Request, slot: int, flight: Flight, info: EngineInfo) -> bool:
        """Plan to save what a slot holds of a request; False when there is no room or no use."""
        if info.exactness == RECOMPUTE:
            return False
        size_bytes = self.size_of(request, info)
        segment = self.tiers.room(size_bytes)
        if segment is None:
            return False
        digest = token_digest(request.tokens[: request.kv_tokens])
        flight.saves[segment] = (request, Save(slot, segment, request.kv_tokens, digest))
        return True

    def save_leaving(self, flight: Flight, info: EngineInfo) -> None:
        """Save what finished requests leave in their slots."""
        for slot, request in self._leaving.items():
            if not request.kv_tokens or not self.plan_save(request, slot, flight, info):
                self.kept.lost(request)
        self._leaving.clear()

    def commit(self, request: Request, save: Save, size_bytes: int) -> None:
        """A save is whole: it takes the place of the request's older snapshot."""
        self._totals.switch_bytes += size_bytes
        request.task.usage.switch_bytes += size_bytes
        snapshot = KVSnapshot(save.segment, save.tokens, save.digest, size_bytes, keep=save.tokens)
        if request.is_finished:
            self.kept.saved(request, snapshot)
            return
        self.drop_snapshot(request)
        request.snapshot = snapshot

    def count_restore(self, request: Request) -> None:
        size_bytes = request.snapshot.size_bytes if request.snapshot else 0
        request.restores += 1
        request.task.usage.restores += 1
        request.task.usage.switch_bytes += size_bytes
        self._totals.restores += 1
        self._totals.switch_bytes += size_bytes

    def swap(self, now_ns: int, is_idle: bool) -> None:
        """Let contexts go to disk and come from it."""
        self.tiers.write(now_ns, is_idle)
        while (kv := self.tiers.serve(now_ns)) is not None:
            self._end_wait(kv, _IN_LINE)

    def swapped(self, ticket: int, error: str, now_ns: int) -> None:
        """The disk has made a copy; error: it has not."""
        kv = self.tiers.done(ticket, error, now_ns)
        if kv is not None:
            self._end_wait(kv, _READ)

    def _end_wait(self, kv: Kv, cause: str) -> None:
        self.kept.end_wait(kv, cause)
        if not kv.is_resident:
            self.tiers.lose(kv)

    def core_lost(self, flight: Flight | None) -> None:
        """Slots are gone, and saves under way."""
        for segment, (request, _) in flight.saves.items() if flight else ():
            self.store.release(segment)  # not whole; the older snapshot, if any, is still held
            self.kept.lost(request)
        for request in self._leaving.values():
            self.kept.lost(request)
        self._leaving.clear()

    def fall_back(self, request: Request, has_core: bool) -> None:
        """What the slot held is lost: go back to the snapshot, or to nothing."""
        if request.snapshot is not None:
            request.kv_tokens = request.snapshot.keep
            return
        if request.kv_tokens and has_core:
            self._totals.dropped_contexts += 1
        request.kv_tokens = 0
        if request.state is RequestState.PREEMPTED:
            request.move(RequestState.QUEUED)

    def give_up(self, request: Request, flight: Flight) -> None:
        """Let go of what is saved of a request that has no slot, and of what this step was to save of it."""
        for segment in [segment for segment, (one, _) in flight.saves.items() if one is request]:
            del flight.saves[segment]
            self.store.release(segment)
        self.drop_snapshot(request)
        self.fall_back(request, has_core=True)

    def drop_snapshot(self, request: Request) -> None:
        if request.snapshot is not None:
            self.store.release(request.snapshot.segment)
            request.snapshot = None

    @staticmethod
    def is_clean(request: Request) -> bool:
        """Whether the snapshot holds all that the slot does."""
        return request.snapshot is not None and request.snapshot.keep == request.kv_tokens
