"""The long proof in a short form: the real llama.cpp core under random schedules and a real kill -9."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.prove import QUICK_EFFORT, prove_row
from benchmarks.prove_models import QUICK, select

ROWS = ("dense/q8_0/default", "sliding-window/f16/tiny-gpt-oss", "hybrid/q4_k/tiny-granite")


@pytest.mark.parametrize("name", ROWS)
def test_random_schedules_of_the_real_engine_change_no_bit_of_any_logits(name):
    (row,) = select(QUICK, [name])
    live = 1 if row.family == "dense" else 0
    rows, tally = prove_row(row, replace(QUICK_EFFORT, cases=2, requests=8, live=live))
    missed = [f"{row.what}: {row.figure}, wanted {row.bar}" for row in rows if row.met is False]
    assert not missed
    assert tally.counted >= 2
