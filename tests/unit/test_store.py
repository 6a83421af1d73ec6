"""Segments for parked contexts: what the pool makes and drops, the loop hears of."""

from __future__ import annotations

from kernel.context.store import SegmentStore
from kernel.effects import DropSegment, MakeSegment
from shm.pool import SMALLEST_BYTES


def test_a_segment_is_made_for_the_core_and_dropped_to_make_room_for_a_longer_one() -> None:
    effects: list[object] = []
    numbers = iter(range(7, 10))
    store = SegmentStore(2 * SMALLEST_BYTES, lambda: next(numbers), effects.append)
    assert store.acquire(100) == 7
    store.release(7)
    assert store.acquire(SMALLEST_BYTES + 1) == 8
    assert effects == [
        MakeSegment(7, SMALLEST_BYTES, is_for_core=True),
        DropSegment(7),
        MakeSegment(8, store.held_bytes, is_for_core=True),
    ]


def test_a_models_segments_are_made_for_its_own_core() -> None:
    effects: list[object] = []
    SegmentStore(1 << 20, lambda: 1, effects.append, core=2).acquire(100)
    assert effects == [MakeSegment(1, SMALLEST_BYTES, is_for_core=True, core=2)]


def test_a_segment_that_is_lent_again_is_nothing_for_the_loop_to_do() -> None:
    effects: list[object] = []
    store = SegmentStore(1 << 20, lambda: 1, effects.append)
    store.release(store.acquire(100_000))
    effects.clear()
    assert store.acquire(90_000) == 1
    assert not effects
