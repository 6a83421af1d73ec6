"""Where the KV of contexts is when they hold no slot: saved in a segment, kept for a later request, or lost.

Who calls it: scheduler.py. What must hold: a request's snapshot is replaced only once the new one is whole; whatever is
lost, the tokens are enough to go on exactly.
"""

from __future__ import annotations

from kernel.context.store import SegmentStore
from kernel.engine.base import RECOMPUTE, EngineInfo, Save
from kernel.objects import KVSnapshot, Request
from kernel.sched.flight import Flight, Totals, token_digest
from kernel.sched.kept import KeptContexts
from kernel.states import RequestState


class Parking:
    """One model's contexts off their slots."""

    def __init__(self, store: SegmentStore, totals: Totals) -> None:
        self.kept = KeptContexts(store)
        self.store = store
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
        segment = self.store.acquire(size_bytes)
        while segment is None and len(self.kept):
            self.kept.drop_oldest()
            segment = self.store.acquire(size_bytes)
        if segment is None:
            return False
        digest = token_digest(request.tokens[: request.kv_tokens])
        flight.saves[segment] = (request, Save(slot, segment, request.kv_tokens, digest))
        return True

    def save_leaving(self, flight: Flight, info: EngineInfo) -> list[Request]:
        """Save what finished requests leave in their slots; return who waited for one that cannot be saved."""
        waited: list[Request] = []
        for slot, request in self._leaving.items():
            if not request.kv_tokens or not self.plan_save(request, slot, flight, info):
                waited += self.kept.lost(request)
        self._leaving.clear()
        return waited

    def commit(self, request: Request, save: Save, size_bytes: int) -> list[Request]:
        """A save is whole: it takes the place of the request's older snapshot. Return who waited for it."""
        self._totals.switch_bytes += size_bytes
        request.task.usage.switch_bytes += size_bytes
        snapshot = KVSnapshot(save.segment, save.tokens, save.digest, size_bytes, keep=save.tokens)
        if request.is_finished:
            return self.kept.saved(request, snapshot)
        self.drop_snapshot(request)
        request.snapshot = snapshot
        return []

    def count_restore(self, request: Request) -> None:
        size_bytes = request.snapshot.size_bytes if request.snapshot else 0
        request.restores += 1
        request.task.usage.restores += 1
        request.task.usage.switch_bytes += size_bytes
        self._totals.restores += 1
        self._totals.switch_bytes += size_bytes

    def core_lost(self, flight: Flight | None) -> list[Request]:
        """Slots are gone, and saves under way; return who waited for one of these."""
        waited: list[Request] = []
        for segment, (request, _) in flight.saves.items() if flight else ():
            self.store.release(segment)  # not whole; the older snapshot, if any, is still held
            waited += self.kept.lost(request)
        for request in self._leaving.values():
            waited += self.kept.lost(request)
        self._leaving.clear()
        return waited

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

    def drop_snapshot(self, request: Request) -> None:
        if request.snapshot is not None:
            self.store.release(request.snapshot.segment)
            request.snapshot = None

    @staticmethod
    def is_clean(request: Request) -> bool:
        """Whether the snapshot holds all that the slot does."""
        return request.snapshot is not None and request.snapshot.keep == request.kv_tokens
