"""What drawing keeps of a request is a function of its newest tokens; it changes logits as llama.cpp does."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.engine.base import EngineError, Opening, Sampling
from kernel.engine.samplestate import Drawing, undo

VOCAB = 12
tokens_of_a_text = st.lists(st.integers(0, VOCAB - 1), max_size=60)


def opening(sampling: Sampling, tokens: list[int], generated: int = 0) -> Opening:
    return Opening(1, 0, sampling, None, tuple(tokens), generated, 100, False)


def edited(drawing: Drawing, row: np.ndarray) -> np.ndarray:
    changed = row.copy()
    drawing.edit(changed)
    return changed


samplings = st.builds(
    Sampling,
    repeat_penalty=st.sampled_from([1.0, 1.3, 0.5]),
    presence_penalty=st.sampled_from([0.0, 0.7, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.3]),
    penalty_tokens=st.integers(0, 20),
    logit_bias=st.lists(
        st.tuples(st.integers(0, VOCAB - 1), st.sampled_from([-100.0, -1.0, 2.0])), max_size=8
    ).map(tuple),
)
rows = st.integers(0, 1 << 32).map(
    lambda seed: np.random.default_rng(seed).normal(0, 3, VOCAB).astype(np.float32)
)


@given(sampling=samplings, prompt=tokens_of_a_text, drawn=tokens_of_a_text, row=rows, data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_drawing_made_anew_at_any_point_equals_one_that_saw_every_token(sampling, prompt, drawn, row, data):
    lasting = Drawing(opening(sampling, prompt), VOCAB, None)
    moved = lasting
    preempted = data.draw(st.sets(st.integers(0, len(drawn))))
    for count, token in enumerate(drawn):
        if count in preempted:
            text = prompt + drawn[:count]
            newest = text[len(text) - max(min(sampling.penalty_tokens, len(text)), count) :]
            moved = Drawing(opening(sampling, newest, count), VOCAB, None)
        assert (edited(moved, row) == edited(lasting, row)).all()
        assert moved.generated == lasting.generated == count
        lasting.accept(token)
        if moved is not lasting:
            moved.accept(token)
    assert (edited(moved, row) == edited(lasting, row)).all()


@given(sampling=samplings, text=tokens_of_a_text, row=rows)
@settings(max_examples=300, deadline=None)
def test_bias_and_penalties_are_those_of_their_definition(sampling, text, row):
    wanted = row.astype(np.float64)
    for token, bias in sampling.logit_bias:
        wanted[token] += bias
    window = text[max(len(text) - sampling.penalty_tokens, 0) :]
    for token, times in Counter(window).items():
        is_positive = wanted[token] > 0
        wanted[token] *= 1 / sampling.repeat_penalty if is_positive else sampling.repeat_penalty
        wanted[token] -= sampling.presence_penalty + times * sampling.frequency_penalty
    for token, bias in sampling.logit_bias:
        if bias <= -100:
            wanted[token] = -np.inf
    found = edited(Drawing(opening(sampling, text), VOCAB, None), row)
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-5)


@given(sampling=samplings, text=tokens_of_a_text, row=rows)
def test_undo_gives_back_the_row_bit_by_bit(sampling, text, row):
    changed = row.copy()
    undo(changed, Drawing(opening(sampling, text), VOCAB, None).edit(changed))
    assert changed.tobytes() == row.tobytes()


def test_the_number_of_tokens_generated_goes_on_from_the_opening():
    drawing = Drawing(opening(Sampling(), [1, 2, 3], 2), VOCAB, None)
    drawing.accept(4)
    assert drawing.generated == 3


def test_a_long_window_costs_what_it_holds():
    sampling = Sampling(presence_penalty=1.0, penalty_tokens=1 << 40)
    drawing = Drawing(opening(sampling, [1, 2, 1]), VOCAB, None)
    assert edited(drawing, np.zeros(VOCAB, np.float32)).tolist() == [0, -1, -1, *[0] * (VOCAB - 3)]


@pytest.mark.parametrize("token", [-1, VOCAB])
def test_a_token_that_the_model_does_not_have_is_named(token):
    with pytest.raises(EngineError, match=f"logit_bias names token {token}"):
        Drawing(opening(Sampling(logit_bias=((token, 1.0),)), []), VOCAB, None)
    with pytest.raises(EngineError, match=f"token {token}"):
        Drawing(opening(Sampling(repeat_penalty=2.0), [0, token]), VOCAB, None)
