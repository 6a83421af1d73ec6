"""Segments for parked contexts: never over the limit, never lent twice."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kernel.context.store import MAX_WASTE, SMALLEST_BYTES, SegmentStore
from kernel.effects import DropSegment, MakeSegment

LIMIT = 2 << 20


class Store(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, int] = {}  # segment -> bytes, as the loop would have them
        self.lent: dict[int, int] = {}  # segment -> bytes asked for
        self.numbers = 0
        self.store = SegmentStore(LIMIT, self.next_segment, self.emit)

    def next_segment(self) -> int:
        self.numbers += 1
        return self.numbers

    def emit(self, effect: object) -> None:
        if isinstance(effect, MakeSegment):
            assert effect.is_for_core
            self.made[effect.segment] = effect.size_bytes
        elif isinstance(effect, DropSegment):
            assert effect.segment not in self.lent, "a segment that is in use is dropped"
            del self.made[effect.segment]

    @rule(size=st.integers(1, LIMIT // 2) | st.integers(1, 3 * SMALLEST_BYTES))
    def acquire(self, size: int) -> None:
        lent_before = sum(self.made[segment] for segment in self.lent)
        segment = self.store.acquire(size)
        if segment is None:
            assert lent_before + max(2 * size, SMALLEST_BYTES) > LIMIT, "there was room"
            return
        assert segment not in self.lent, "one segment lent twice"
        assert size <= self.made[segment] <= max(size * MAX_WASTE, SMALLEST_BYTES)
        self.lent[segment] = size

    @precondition(lambda self: self.lent)
    @rule(which=st.integers(0, 1 << 20))
    def release(self, which: int) -> None:
        segment = sorted(self.lent)[which % len(self.lent)]
        del self.lent[segment]
        self.store.release(segment)

    @invariant()
    def it_counts_what_there_is_and_stays_below_the_limit(self) -> None:
        assert self.store.held_bytes == sum(self.made.values()) <= LIMIT
        assert self.store.lent_bytes == sum(self.made[segment] for segment in self.lent)


Store.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestStore = Store.TestCase


def test_a_released_segment_is_lent_again_instead_of_a_new_one():
    effects: list[object] = []
    numbers = iter(range(10))
    store = SegmentStore(LIMIT, lambda: next(numbers), effects.append)
    first = store.acquire(100_000)
    store.release(first)
    assert store.acquire(90_000) == first
    assert len(effects) == 1


def test_a_store_without_room_lends_nothing():
    store = SegmentStore(0, lambda: 1, lambda effect: None)
    assert store.acquire(1) is None
