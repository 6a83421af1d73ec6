"""A pool never holds more than its limit and never lends a segment twice."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shm.pool import GROWTH, IDLE_LOANS, MAX_WASTE, SMALLEST_BYTES, Pool

LIMIT = 2 << 20


class Lending(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, int] = {}  # segment -> bytes, as whoever makes them would have them
        self.lent: dict[int, int] = {}  # segment -> bytes asked for
        self.numbers = 0
        self.pool = Pool(LIMIT, self.make, self.drop)

    def make(self, size_bytes: int) -> int:
        self.numbers += 1
        self.made[self.numbers] = size_bytes
        return self.numbers

    def drop(self, segment: int) -> None:
        assert segment not in self.lent, "a segment that is in use is dropped"
        del self.made[segment]

    @rule(size=st.integers(1, LIMIT // 2) | st.integers(1, 3 * SMALLEST_BYTES))
    def acquire(self, size: int) -> None:
        lent_before = sum(self.made[segment] for segment in self.lent)
        segment = self.pool.acquire(size)
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
        self.pool.release(segment)

    @invariant()
    def it_counts_what_there_is_and_stays_below_the_limit(self) -> None:
        assert self.pool.held_bytes == sum(self.made.values()) <= LIMIT
        assert self.pool.lent_bytes == sum(self.made[segment] for segment in self.lent)


Lending.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestLending = Lending.TestCase


def unlimited(made: list[int]) -> Pool:
    """A pool that notes the sizes it makes; segments are numbered from 1."""

    def make(size_bytes: int) -> int:
        made.append(size_bytes)
        return len(made)

    return Pool(1 << 40, make, lambda segment: None)


def test_a_released_segment_is_lent_again_instead_of_a_new_one() -> None:
    made: list[int] = []
    pool = unlimited(made)
    first = pool.acquire(100_000)
    pool.release(first)
    assert pool.acquire(90_000) == first
    assert len(made) == 1


def test_a_free_segment_much_too_large_is_left_for_something_larger() -> None:
    made: list[int] = []
    pool = unlimited(made)
    large = pool.acquire(10 << 20)
    pool.release(large)
    assert pool.acquire(100_000) != large
    assert pool.acquire(9 << 20) == large


def test_a_segment_has_whole_pages_and_little_slack() -> None:
    made: list[int] = []
    pool = unlimited(made)
    for size in range(SMALLEST_BYTES, 8 << 20, 99_991):
        pool.acquire(size)
        assert made[-1] % 4096 == 0
        assert size <= made[-1] <= size * GROWTH + 4096


def test_a_pool_without_room_lends_and_makes_nothing() -> None:
    made: list[int] = []
    pool = Pool(0, lambda size_bytes: made.append(size_bytes) or 1, made.append)
    assert pool.acquire(1) is None
    assert not made


def test_a_segment_comes_back_once() -> None:
    pool = unlimited([])
    segment = pool.acquire(1)
    pool.release(segment)
    with pytest.raises(KeyError):
        pool.release(segment)
    assert pool.lent_bytes == 0


def test_a_segment_that_cannot_be_made_counts_for_nothing() -> None:
    def make(size_bytes: int) -> int:
        raise OSError("no memory")

    pool = Pool(LIMIT, make, lambda segment: None)
    with pytest.raises(OSError, match="no memory"):
        pool.acquire(1)
    assert pool.held_bytes == pool.lent_bytes == 0


def test_what_a_peak_left_behind_is_given_up_and_what_is_in_use_stays() -> None:
    made: list[int] = []
    dropped: list[int] = []
    pool = Pool(1 << 40, lambda size_bytes: made.append(size_bytes) or len(made), dropped.append)
    peak = [pool.acquire(100_000) for _ in range(5)]
    lent, *rest = peak
    for segment in rest:
        pool.release(segment)
    for _ in range(IDLE_LOANS + 1):
        pool.release(pool.acquire(100_000))
    assert dropped == rest[1:], "one of the free ones was taken again and again"
    assert len(made) == 5
    pool.release(lent)
    assert pool.held_bytes == 2 * made[0]


def test_segments_that_take_turns_all_stay() -> None:
    dropped: list[int] = []
    made: list[int] = []
    pool = Pool(1 << 40, lambda size_bytes: made.append(size_bytes) or len(made), dropped.append)
    for _ in range(3 * IDLE_LOANS // 4):
        for segment in [pool.acquire(100_000) for _ in range(4)]:
            pool.release(segment)
    assert not dropped
    assert len(made) == 4
