"""Packed logprobs come out as they went in, for whoever takes only the newest too."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernel.engine.base import Sampled
from kernel.engine.logprobs import Logprobs

tokens = st.integers(0, 2**31 - 1)
numbers = st.floats(-1e30, 0)
rows = st.lists(st.tuples(tokens, numbers, st.lists(st.tuples(tokens, numbers), max_size=4)), max_size=9)


@given(rows, st.integers(0, 9))
def test_rows_come_out_as_they_went_in(given_rows, newest):
    kept = Logprobs()
    for token, logprob, top in given_rows:
        kept.add(Sampled(0, token, b"", False, logprob, tuple(top)))
    wanted = [{"token": token, "logprob": logprob, "top": top} for token, logprob, top in given_rows]
    newest = min(newest, len(wanted))
    assert len(kept) == len(wanted)
    assert kept.rows(len(kept)) == wanted
    assert kept.rows(newest) == wanted[len(wanted) - newest :]
