"""Which banks of slots hold memory when not all of them fit."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.engine.base import Bank
from kernel.sched.banks import TURN_STEPS, BankRota, bank_for

BANKS = (Bank(8, 2048, 800), Bank(2, 8192, 900), Bank(1, 32768, 1000))


@pytest.mark.parametrize(
    ("tokens", "number"), [(1, 0), (2047, 0), (2048, 1), (8191, 1), (8192, 2), (32768, 2), (10**9, 2)]
)
def test_a_context_goes_to_the_smallest_bank_with_a_token_to_spare(tokens, number):
    assert bank_for(BANKS, tokens) == number


def test_banks_that_fit_together_all_keep_their_memory():
    rota = BankRota(BANKS, 2700)
    assert rota.choose([True, True, True]) == (0, 1, 2)
    assert rota.choose([True, False, False]) == (0, 1, 2)  # nobody needs their memory


def test_a_bank_that_nobody_wants_makes_room_at_once():
    rota = BankRota(BANKS, 1000)
    assert rota.choose([True, False, False]) == (0,)
    assert rota.choose([False, False, True]) == (2,)


def test_banks_that_do_not_fit_together_take_turns():
    rota = BankRota(BANKS, 1000)
    seen = [rota.choose([True, True, True]) for _ in range(4 * TURN_STEPS - 1)]
    order = [seen[0], *(now for before, now in itertools.pairwise(seen) if now != before)]
    assert order == [(0,), (1,), (2,), (0,)]
    assert seen.count((1,)) == TURN_STEPS


def test_a_turn_is_of_64_steps_from_when_somebody_else_asks():
    rota = BankRota(BANKS, 1000)
    for _ in range(100):
        rota.choose([True, False, False])
    seen = [rota.choose([True, True, False]) for _ in range(65)]
    assert seen == [(0,)] * 63 + [(1,)] * 2


def test_it_is_known_which_banks_may_have_memory_together():
    rota = BankRota(BANKS, 1800)
    assert rota.fit_together([0, 1])
    assert rota.fit_together([0, 2])
    assert not rota.fit_together([1, 2])
    assert rota.fit_together([])


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=5),
    st.integers(100, 250),
    st.lists(st.integers(0, 31), min_size=1, max_size=20),
)
def test_every_wanted_bank_comes_within_a_bounded_time_and_the_budget_is_kept(sizes, budget, masks):
    banks = [Bank(1, 10 * (number + 1), size) for number, size in enumerate(sizes)]
    rota = BankRota(banks, budget)
    for mask in masks:
        wanted = [bool(mask >> number & 1) for number in range(len(banks))]
        if not any(wanted):
            wanted[0] = True
        came: set[int] = set()
        for _ in range(len(banks) * (TURN_STEPS + 1)):
            chosen = rota.choose(wanted)
            assert sum(sizes[number] for number in chosen) <= budget
            assert any(wanted[number] for number in chosen), "memory for nobody"
            came.update(chosen)
        assert {number for number, is_wanted in enumerate(wanted) if is_wanted} <= came
