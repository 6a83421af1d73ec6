"""Extents of the swap file: never two at one place, never outside, nothing lost."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kernel.context.swapspace import GRAIN_BYTES, SwapSpace

SIZE, BEGIN = 40 * GRAIN_BYTES, 7 * GRAIN_BYTES


def test_room_is_lent_in_whole_pages_and_none_where_no_gap_is_large_enough():
    space = SwapSpace(2 * GRAIN_BYTES)
    first = space.take(1)
    assert first == (0, GRAIN_BYTES)
    assert space.take(GRAIN_BYTES + 1) is None
    assert space.take(GRAIN_BYTES) == (GRAIN_BYTES, GRAIN_BYTES)
    assert space.take(1) is None
    space.give_back(first)
    assert space.take(5) == first


def test_there_is_no_room_in_no_space():
    assert SwapSpace(0).take(1) is None
    assert SwapSpace(GRAIN_BYTES - 1).size_bytes == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 12 * GRAIN_BYTES), st.integers(0, 99)), max_size=80))
def test_extents_never_overlap_and_gaps_are_joined(steps):
    space, lent = SwapSpace(SIZE, BEGIN), []
    for gives, size, which in steps:
        if gives and lent:
            space.give_back(lent.pop(which % len(lent)))
        else:
            extent = space.take(size)
            used = sorted(lent)
            if extent is None:
                edges = [BEGIN, *(at for one in used for at in (one.offset, one.offset + one.size_bytes)), BEGIN + SIZE]
                gaps = [end - begin for begin, end in zip(edges[::2], edges[1::2], strict=True)]
                assert max(gaps) < size
            else:
                assert extent.size_bytes >= size
                lent.append(extent)
        spans = sorted((one.offset, one.offset + one.size_bytes) for one in lent)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
        assert all(begin >= BEGIN and end <= BEGIN + SIZE for begin, end in spans)
        assert space.used_bytes == sum(one.size_bytes for one in lent)
    for extent in lent:
        space.give_back(extent)
    assert space.take(SIZE) == (BEGIN, SIZE)
