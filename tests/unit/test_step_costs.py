"""The cost of a step, learned from steps."""

from __future__ import annotations

import random

import pytest

from kernel.engine.cost import StepCosts


def test_costs_that_hold_are_found_from_noisy_steps():
    chooser = random.Random(3)
    costs = StepCosts(140_000_000, 23_000)
    for _ in range(400):
        rows, cells = chooser.randint(1, 16), chooser.choice([256, 512, 1536])
        took = (15e6 + rows * 1.4e6 + rows * cells * 2_000) * chooser.uniform(0.9, 1.1)
        costs.saw_pass(rows, cells, int(took))
    assert costs.of_pass(8, 256) == pytest.approx(15e6 + 8 * 1.4e6 + 8 * 256 * 2_000, rel=0.1)
    assert costs.of_pass(8, 1536) == pytest.approx(15e6 + 8 * 1.4e6 + 8 * 1536 * 2_000, rel=0.1)


def test_steps_that_are_all_alike_leave_what_they_do_not_tell_near_the_guess():
    costs = StepCosts(140_000_000, 23_000)
    guess = costs.cell_ns
    for _ in range(200):
        costs.saw_pass(8, 256, 30_000_000)
    assert costs.of_pass(8, 256) == pytest.approx(30e6, rel=0.1)
    assert guess / 20 <= costs.cell_ns <= 50 * guess
    assert costs.pass_ns > 0
    assert costs.row_ns > 0


def test_moves_are_learned_too():
    costs = StepCosts(1_000_000, 1_000)
    for _ in range(100):
        costs.saw_move(500, 1_000_000)
    assert costs.move_ns_per_token == pytest.approx(2_000, rel=0.05)
