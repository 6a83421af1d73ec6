"""What a session's turn does without: where conversations can be cut, how many turns go, which tokens."""

from __future__ import annotations

from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.context.sessions import Session
from kernel.sched.windows import fewest, room_for, shifted, turns_of

LETTERS = {"s": "system", "d": "developer", "u": "user", "a": "assistant", "t": "tool"}


def said(letters: str) -> list[dict[str, str]]:
    return [{"role": LETTERS[letter]} for letter in letters]


@pytest.mark.parametrize(
    ("letters", "new", "opening", "starts"),
    [
        ("suauau", 5, 1, [3, 5]),
        ("uauau", 4, 0, [2, 4]),
        ("sduau", 4, 2, [4]),
        ("suatatauau", 9, 1, [7, 9]),  # calls of tools and their results stay with the question
        ("suauat", 5, 1, [3]),  # the result of a call: its question stays too
        ("suauuau", 6, 1, [3, 6]),  # two users' messages are answered together
        ("suasuau", 6, 1, [3, 6]),  # what the system says later goes with the turn that it opens
        ("saau", 3, 1, [3]),  # what comes before any question is a turn too
        ("suaua", 5, 1, [3]),  # nothing but an answer is said: what it is to stays
        ("suauau", 0, 1, []),  # all of it is new
        ("s", 1, 1, []),
        ("su", 0, 1, []),
    ],
)
def test_a_conversation_can_be_cut_where_somebody_speaks_after_an_answer(letters, new, opening, starts):
    assert turns_of(said(letters), new) == (opening, starts)


def search(sizes: list[int], stays: int, limit: int) -> tuple[int, int, int]:
    """Return how many turns of these sizes are dropped, the tokens then, and how many questions that took."""
    asked = fewest(len(sizes), limit)
    number, count = next(asked), 1
    while True:
        try:
            number = asked.send([0] * (stays + sum(sizes[number:])))
            count += 1
        except StopIteration as found:
            dropped, tokens = found.value
            return dropped, len(tokens), count


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=200),
    stays=st.integers(1, 400),
    limit=st.integers(100, 2000),
)
def test_as_few_turns_go_as_leave_half_of_what_is_free_in_few_questions(sizes, stays, limit):
    dropped, tokens, questions = search(sizes, stays, limit)
    target = (stays + limit) // 2
    assert tokens == stays + sum(sizes[dropped:])
    if stays > limit:
        assert (dropped, questions) == (len(sizes), 1)
    else:
        assert tokens <= target
        assert dropped == 1 or stays + sum(sizes[dropped - 1 :]) > target
    assert questions <= 2 + log2(len(sizes))


def session(tokens: int, keep: int) -> Session:
    made = Session(3, None, 0, "m", 0, "shift", keep)
    made.tokens = list(range(tokens))
    return made


@given(
    own=st.integers(0, 120), keep=st.integers(0, 40), new=st.integers(1, 120), room=st.integers(1, 60)
)
def test_what_is_shifted_out_are_the_oldest_tokens_after_those_that_are_kept(own, keep, new, room):
    window = 128
    tokens, taken = shifted(session(own, keep), [-1] * new, room, window)
    assert tokens == [*range(own)][:keep] + [*range(own)][keep + taken :] + [-1] * new
    if own + new + room <= window:
        assert taken == 0
    else:
        assert taken == max(0, own - keep) or len(tokens) + room <= window
        assert taken >= (own - keep) / 2


def test_room_for_an_answer_is_half_of_the_window_at_most():
    assert room_for(10, 64) == 10
    assert room_for(1 << 20, 64) == 32
