"""Which rows a context is fed in, and how much of it another request may go on with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.sched.turns import common, next_row, shared_turns, step_rows, usable


def rows(turns: tuple[tuple[int, int], ...], prompt: int, end: int, most: int = 1) -> list[tuple[int, int, int]]:
    """All rows up to a position, of at most so many chunks each."""
    made, start = [], 0
    while start < end:
        stop, chunks = next_row(turns, start, prompt, most)
        made.append((start, stop, chunks))
        start = stop
    return made


def test_a_prompts_first_token_goes_alone_then_chunks_then_its_answer_token_by_token():
    prompt = [(0, 1, 0), (1, 65, 1), (65, 140, 1)]
    assert rows((), 140, 142) == [*prompt, (140, 141, 0), (141, 142, 0)]
    answer = [(140, 141, 0), (141, 142, 0)]
    next_prompt = [(142, 143, 0), (143, 207, 1), (207, 300, 1)]
    assert rows(((140, 142),), 300, 301) == [*prompt, *answer, *next_prompt, (300, 301, 0)]


def test_a_short_prompt_is_one_row():
    assert rows((), 64, 64) == [(0, 64, 1)]
    assert rows((), 1, 2) == [(0, 1, 1), (1, 2, 0)]
    assert rows(((140, 142),), 170, 170)[-1] == (142, 170, 1)


@pytest.mark.parametrize(
    ("start", "most", "expected"),
    [
        (0, 2, (1, 0)),
        (1, 2, (129, 2)),
        (65, 1, (129, 1)),
        (129, 1, (193, 1)),
        (129, 9, (300, 2)),
        (193, 1, (300, 1)),
        (1, 0, (65, 1)),
        (300, 2, (301, 0)),
    ],
)
def test_a_row_has_as_many_chunks_of_a_prompt_as_are_asked_for(start, most, expected):
    assert next_row((), start, 300, most) == expected


def test_a_row_of_many_chunks_ends_where_an_answer_of_before_begins():
    assert next_row(((70, 90),), 1, 300, 4) == (70, 1)
    assert next_row(((70, 90),), 91, 300, 4) == (300, 3)
    assert next_row(((70, 90),), 91, 600, 4) == (347, 4)


def test_a_step_feeds_a_first_token_and_the_chunks_after_it():
    assert step_rows((), 0, 300, 2) == [(0, 1, 0), (1, 129, 2)]
    assert step_rows((), 129, 300, 2) == [(129, 300, 2)]
    assert step_rows((), 300, 300, 2) == [(300, 301, 0)]
    assert step_rows(((70, 72),), 70, 300, 2) == [(70, 71, 0)], "the next token of an answer is another step's"
    assert step_rows(((70, 72),), 71, 300, 2) == [(71, 72, 0)]
    assert step_rows(((70, 72),), 71, 100, 2) == [(71, 72, 0), (72, 100, 1)]


def test_without_room_for_chunks_only_single_tokens_are_fed():
    assert step_rows((), 0, 300, 0) == [(0, 1, 0)]
    assert step_rows((), 1, 300, 0) == []


def test_an_answer_is_taken_whole_or_not_at_all():
    assert shared_turns(((70, 90), (150, 170)), 169) == ((70, 90),)
    assert usable(((140, 160),), 160, 159, (), 600) == 129
    assert usable(((140, 160),), 160, 160, ((140, 160),), 600) == 160


def test_the_last_chunk_of_a_prompt_is_always_fed():
    assert usable((), 600, 600, (), 600) == 1 + 8 * 64
    assert usable((), 600, 599, (), 640) == 1 + 8 * 64
    assert usable((), 600, 600, (), 641) == 1 + 9 * 64


def test_a_prompt_of_one_chunk_is_of_no_use_to_a_longer_one():
    assert usable((), 64, 64, (), 600) == 0
    assert usable((), 600, 64, (), 64) == 0


def test_a_context_whose_answers_came_about_otherwise_is_of_no_use():
    assert usable(((70, 90),), 90, 90, ((80, 90),), 600) == 0


turn_chains = st.lists(st.tuples(st.integers(1, 150), st.integers(1, 40)), max_size=4).map(
    lambda steps: tuple(_chain(steps))
)


def _chain(steps):
    end = 0
    for prompt, answer in steps:
        yield (end + prompt, end + prompt + answer)
        end += prompt + answer


@given(turn_chains, st.integers(0, 1000), st.integers(0, 900), st.integers(0, 300))
def test_what_is_usable_was_fed_in_the_rows_that_the_request_feeds(turns, tail, shared, more):
    """Chunk by chunk the rows are the same, but for the last of either: it has what is left over, and is not used."""
    fed = (turns[-1][1] if turns else 0) + tail
    shared = min(shared, fed)
    known = shared_turns(turns, shared)
    prompt = shared + 1 + more
    keep = usable(turns, fed, shared, known, prompt)
    assert keep <= shared
    mine = [row for row in rows(known, prompt, keep) if row[0] < keep]
    theirs = [row for row in rows(turns, fed, fed) if row[0] < keep]
    assert (mine[-1][1] if mine else 0) == keep
    *before, last = [row[:2] for row in theirs] or [(0, 0)]
    assert [row[:2] for row in mine[:-1]] == before
    assert not mine or (mine[-1][0] == last[0] and mine[-1][1] <= last[1])


@given(st.lists(st.integers(0, 1), max_size=200), st.lists(st.integers(0, 1), max_size=200), st.integers(0, 200))
def test_the_common_start_is_found(one, other, same):
    other = one[:same] + other
    size = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    assert common(one, other) == (min(len(one), len(other)) if size is None else size)
