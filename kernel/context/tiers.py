"""Where the KV of kept contexts is: in memory, on disk, in both, or on its way; and who waits for it.

Memory is written to disk before it is needed, least lately used first, so that taking it moves nothing. KV that a
request goes on with stays in memory until it ends, so that no more is handed over than leaves room for those that run:
else each would push out another. Whoever comes then stands in line, by class and then first come first served, also
when its KV is in memory still: else those who hold memory would pass it to themselves for ever. What is taken first
is what nobody waits for, then what stands last in line.

Who calls it: kept.py and parking.py; scheduler.py with what the disk has done. What must hold: nobody waits forever:
where there is no room within a time, or a disk fails, the KV is given up and computed again. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from kernel.context.kv import Kv
from kernel.context.store import SegmentStore
from kernel.context.swapspace import Extent, SwapSpace
from kernel.effects import Effect, Say, SwapIn, SwapOut
from kernel.objects import KVSnapshot
from kernel.taskattr import SchedClass

WRITE_PART = 0.5  # of the memory: above it contexts are written to disk
GIVEN_PART = 0.75  # of the memory, that requests may have been handed over
MOST_WRITES = 2  # under way at once
PATIENCE_NS = 10_000_000_000  # that the first in line waits for room, before it is computed again
RETRY_NS = 10_000_000_000  # after a write that failed


class _Write(NamedTuple):
    kv: Kv
    snapshot: KVSnapshot
    extent: Extent


class Tiers:
    """Those of one model. `emit` takes SwapOut, SwapIn and Say."""

    def __init__(self, store: SegmentStore, space: SwapSpace, emit: Callable[[Effect], None], core: int = 0) -> None:
        self.store = store
        self.space = space
        self._core = core
        self._emit = emit
        self._dirty: dict[Kv, None] = {}  # in memory alone; least lately used first, as in the next
        self._clean: dict[Kv, None] = {}  # in both, and nobody waits for it
        self._queued: dict[Kv, None] = {}  # in both, and somebody does; last in line last
        self._away: dict[Kv, None] = {}  # on disk alone, and nobody waits for it
        self._lines: dict[SchedClass, dict[Kv, None]] = {rank: {} for rank in SchedClass}  # what is waited for
        self._head: tuple[Kv, int] | None = None  # who is first and has no room, since when
        self._writes: dict[int, _Write] = {}  # by ticket
        self._reads: dict[int, tuple[Kv, int]] = {}  # by ticket: what is read, and into which segment
        self._kept_bytes = 0  # of the segments of all in memory
        self._tickets = 0
        self._no_writes_until_ns = 0
        self.written_bytes = 0  # ever
        self.read_bytes = 0

    def __len__(self) -> int:
        """How much KV is in memory."""
        return len(self._dirty) + len(self._clean) + len(self._queued)

    @property
    def on_disk(self) -> int:
        """How much KV is on the disk."""
        read = sum(not kv.is_resident for line in self._lines.values() for kv in line) + len(self._reads)
        return len(self._clean) + len(self._queued) + len(self._away) + read

    @property
    def waiting(self) -> int:
        """How much KV is waited for."""
        return sum(map(len, self._lines.values())) + len(self._reads)

    # -- what contexts ask for ----------------------------------------------------------------

    def hold(self, kv: Kv, snapshot: KVSnapshot) -> None:
        """It is saved: in memory, and nowhere else."""
        kv.snapshot, kv.is_coming = snapshot, False
        self._keep(kv, self._dirty)

    def is_free(self, kv: Kv, rank: SchedClass) -> bool:
        """Whether a request may be handed KV over at once: it is in memory, nobody is before it, and there is room."""
        is_first = not any(line for before, line in self._lines.items() if before <= rank)
        return kv.is_resident and is_first and self._has_room(kv)

    def want(self, kv: Kv, rank: SchedClass) -> None:
        """Somebody of a class waits for it."""
        if self._is_waited_for(kv):
            return
        self._lines[rank][kv] = None
        self._away.pop(kv, None)
        if kv in self._clean:
            del self._clean[kv]
            self._queued[kv] = None

    def unwant(self, kv: Kv) -> None:
        """Nobody waits for it any more."""
        if any(line.pop(kv, self) is None for line in self._lines.values()):
            if kv in self._queued:
                del self._queued[kv]
                self._clean[kv] = None
            elif not kv.is_resident:
                self._away[kv] = None

    def room(self, size_bytes: int) -> int | None:
        """Return a segment for a context that leaves its slot, or None: nothing more can be taken from these."""
        segment = self.store.acquire(size_bytes)
        while segment is None and self.drop_oldest():
            segment = self.store.acquire(size_bytes)
        return segment

    def drop_oldest(self) -> bool:
        """Take the memory of what is needed last, of what is on disk as well if anything is; False: there is none."""
        if self._evict_one():
            return True
        kv = next((one for one in self._dirty if not one.takers), None)
        if kv is not None:
            self.lose(kv)
        return kv is not None

    def part(self, kv: Kv) -> None:
        """A request takes it; if no context is left that has a part in it, it is the request's alone."""
        assert kv.snapshot is not None
        if kv.contexts:
            self.store.share(kv.snapshot.segment)
        else:
            self._forget(kv)

    def lose(self, kv: Kv) -> None:
        """Give it up: who has a part in it computes it again."""
        for context in kv.contexts:
            context.kv = None
        kv.contexts.clear()
        self.drop(kv)

    def drop(self, kv: Kv) -> None:
        """Nobody has a part in it any more."""
        self._forget(kv)
        if kv.snapshot is not None and kv.is_resident:
            self.store.release(kv.snapshot.segment)

    # -- who waits ----------------------------------------------------------------------------

    def serve(self, now_ns: int) -> Kv | None:
        """Read what is first in line; return what needs no reading, or is not to be read after all. None: no more."""
        while (kv := next((one for line in self._lines.values() for one in line), None)) is not None:
            if self._has_room(kv):
                if kv.is_resident:
                    return self._served(kv)
                if self._read(kv):
                    continue
            since_ns = self._head[1] if self._head is not None and self._head[0] is kv else now_ns
            self._head = kv, since_ns
            return self._served(kv) if now_ns - since_ns >= PATIENCE_NS else None
        return None

    def next_timer_ns(self) -> int | None:
        """When there is something to do though nothing happens."""
        return self._head[1] + PATIENCE_NS if self._head is not None else None

    def _served(self, kv: Kv) -> Kv:
        self._head = None
        self.unwant(kv)
        return kv

    def _has_room(self, kv: Kv) -> bool:
        """Whether there is so much memory for it that enough is left to those that run."""
        assert kv.snapshot is not None
        given = self.store.lent_bytes - self._kept_bytes
        return not given or given + kv.snapshot.size_bytes <= GIVEN_PART * self.store.limit_bytes

    def _is_waited_for(self, kv: Kv) -> bool:
        return any(kv in line for line in self._lines.values()) or any(kv is one for one, _ in self._reads.values())

    # -- what the disk does -------------------------------------------------------------------

    def write(self, now_ns: int, is_idle: bool) -> None:
        """Write what is in memory alone, if that may soon be needed or the core has nothing to do."""
        if now_ns < self._no_writes_until_ns or not self.space.size_bytes or len(self._writes) >= MOST_WRITES:
            return
        if not is_idle and self.store.lent_bytes <= WRITE_PART * self.store.limit_bytes:
            return
        writing = {write.kv for write in self._writes.values()}
        for kv in [kv for kv in self._dirty if kv not in writing]:
            if len(self._writes) >= MOST_WRITES:
                return
            extent = self._extent(kv)
            if extent is None:
                return
            assert kv.snapshot is not None
            self._tickets += 1
            self._writes[self._tickets] = _Write(kv, kv.snapshot, extent)
            self._emit(SwapOut(self._core, self._tickets, kv.snapshot.segment, extent.offset, kv.snapshot.size_bytes))

    def done(self, ticket: int, error: str, now_ns: int) -> Kv | None:
        """The disk has answered. Return what was to be read: it is in memory now, or never will be."""
        if ticket in self._writes:
            self._written(*self._writes.pop(ticket), error, now_ns)
            return None
        kv, segment = self._reads.pop(ticket)
        assert kv.snapshot is not None
        if error or not kv.contexts:
            self.store.release(segment)
        if error:
            self._emit(Say(f"swap: a context of {kv.tokens} tokens could not be read ({error}): it is computed again"))
        elif kv.contexts:
            self.read_bytes += kv.snapshot.size_bytes
            kv.snapshot = replace(kv.snapshot, segment=segment)
            self._keep(kv, self._clean)
        return kv

    def _extent(self, kv: Kv) -> Extent | None:
        """Return room on the disk, made by giving up what was used before it if need be."""
        assert kv.snapshot is not None
        extent = self.space.take(kv.snapshot.size_bytes)
        while extent is None and self._away:
            self.lose(next(iter(self._away)))
            extent = self.space.take(kv.snapshot.size_bytes)
        return extent

    def _written(self, kv: Kv, snapshot: KVSnapshot, extent: Extent, error: str, now_ns: int) -> None:
        if error:
            self._no_writes_until_ns = now_ns + RETRY_NS
            self._emit(Say(f"swap: a context could not be written ({error}): all stay in memory for now"))
        if error or kv not in self._dirty or kv.snapshot is not snapshot:
            self.space.give_back(extent)
            return
        self.written_bytes += snapshot.size_bytes
        kv.extent = extent
        del self._dirty[kv]
        (self._queued if self._is_waited_for(kv) else self._clean)[kv] = None

    def _read(self, kv: Kv) -> bool:
        """Begin to read what is first in line; False: there is no memory for it now."""
        assert kv.snapshot is not None
        assert kv.extent is not None
        size = kv.snapshot.size_bytes
        segment = self.store.acquire(size)
        while segment is None and self._evict_one():
            segment = self.store.acquire(size)
        if segment is None:
            return False
        for line in self._lines.values():
            line.pop(kv, None)
        self._head = None
        self._tickets += 1
        self._reads[self._tickets] = kv, segment
        self._emit(SwapIn(self._core, self._tickets, segment, kv.extent.offset, size))
        return True

    def _evict_one(self) -> bool:
        """Take the memory of what is on disk as well and is needed last; False: there is none."""
        kv = next(iter(self._clean), None) or next(reversed(self._queued), None)
        if kv is None:
            return False
        assert kv.snapshot is not None
        is_idle = kv in self._clean
        segment = kv.snapshot.segment
        self._take_out(kv)
        kv.snapshot = replace(kv.snapshot, segment=0)
        if is_idle:
            self._away[kv] = None
        self.store.release(segment)
        return True

    # -- what is where ------------------------------------------------------------------------

    def _keep(self, kv: Kv, tier: dict[Kv, None]) -> None:
        assert kv.snapshot is not None
        tier[kv] = None
        self._kept_bytes += self.store.size_of(kv.snapshot.segment)

    def _take_out(self, kv: Kv) -> None:
        """It leaves the memory."""
        for tier in (self._dirty, self._clean, self._queued):
            if tier.pop(kv, self) is None:
                assert kv.snapshot is not None
                self._kept_bytes -= self.store.size_of(kv.snapshot.segment)

    def _forget(self, kv: Kv) -> None:
        self.unwant(kv)
        self._take_out(kv)
        self._away.pop(kv, None)
        if kv.extent is not None:
            self.space.give_back(kv.extent)
            kv.extent = None
