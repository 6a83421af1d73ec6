"""Which rows a context is fed in, and how much of it another request may go on with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.sched.turns import common, next_row, shared_turns, usable


def rows(turns: tuple[tuple[int, int], ...], prompt: int, end: int) -> list[tuple[int, int, bool]]:
    """All rows up to a position, of one chunk each."""
    made, start = [], 0
    while start < end:
        stop, chunks = next_row(turns, start, prompt, 1)
        made.append((start, stop, bool(chunks)))
        start = stop
    return made


def test_a_prompt_is_fed_in_chunks_and_an_answer_token_by_token():
    assert rows((), 70, 72) == [(0, 64, True), (64, 70, True), (70, 71, False), (71, 72, False)]
    prompt = [(0, 64, True), (64, 70, True)]
    answer = [(70, 71, False), (71, 72, False)]
    next_prompt = [(72, 128, True), (128, 130, True)]
    assert rows(((70, 72),), 130, 131) == [*prompt, *answer, *next_prompt, (130, 131, False)]


@pytest.mark.parametrize(
    ("start", "most", "expected"),
    [
        (0, 2, (128, 2)),
        (10, 2, (128, 2)),
        (64, 1, (128, 1)),
        (128, 9, (300, 3)),
        (0, 0, (64, 1)),
        (300, 2, (301, 0)),
    ],
)
def test_a_row_has_as_many_chunks_of_a_prompt_as_are_asked_for(start, most, expected):
    assert next_row((), start, 300, most) == expected


def test_a_row_of_many_chunks_ends_where_an_answer_of_before_begins():
    assert next_row(((70, 90),), 0, 300, 4) == (70, 2)
    assert next_row(((70, 90),), 90, 300, 4) == (300, 4)
    assert next_row(((70, 90),), 90, 600, 4) == (320, 4)


def test_an_answer_is_taken_whole_or_not_at_all():
    assert shared_turns(((70, 90), (150, 170)), 169) == ((70, 90),)
    assert usable(((70, 90),), 89, ()) == 64
    assert usable(((70, 90),), 90, ((70, 90),)) == 90


def test_a_context_whose_answers_came_about_otherwise_is_of_no_use():
    assert usable(((70, 90),), 90, ((80, 90),)) == 0


turn_chains = st.lists(st.tuples(st.integers(1, 150), st.integers(1, 40)), max_size=4).map(
    lambda steps: tuple(_chain(steps))
)


def _chain(steps):
    end = 0
    for prompt, answer in steps:
        yield (end + prompt, end + prompt + answer)
        end += prompt + answer


@given(turn_chains, st.integers(0, 150), st.integers(0, 900), st.integers(0, 300))
def test_what_is_usable_was_fed_in_the_rows_that_the_request_feeds(turns, tail, shared, more):
    fed = (turns[-1][1] if turns else 0) + tail // 64 * 64
    shared = min(shared, fed)
    known = shared_turns(turns, shared)
    prompt = shared + 1 + more
    keep = usable(turns, shared, known)
    assert keep <= shared
    mine = [row for row in rows(known, prompt, keep) if row[1] <= keep]
    theirs = [row for row in rows(turns, fed, fed) if row[1] <= keep]
    assert mine == theirs
    assert (mine[-1][1] if mine else 0) == keep


@given(st.lists(st.integers(0, 1), max_size=200), st.lists(st.integers(0, 1), max_size=200), st.integers(0, 200))
def test_the_common_start_is_found(one, other, same):
    other = one[:same] + other
    size = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    assert common(one, other) == (min(len(one), len(other)) if size is None else size)
