"""The step model: parts come to the whole exactly, it learns what a machine takes, and says how far it is off."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.sched.cost import Part, StepModel

MS = 1_000_000


def took(parts: list[Part]) -> float:
    """A linear machine's time."""
    decodes = [part for part in parts if not part.is_chunk]
    total = (9 * MS if decodes else 0) + sum(3.5 * MS + 600 * part.depth_tokens for part in decodes)
    for part in parts:
        if part.is_chunk:
            total += 5 * MS * -(-part.tokens // 256) + part.tokens * (1.4 * MS + 150 * part.depth_tokens)
    return total


def some(draw: Random) -> list[Part]:
    parts = [Part(key, 1, draw.randint(0, 1500), False) for key in range(draw.randint(0, 24))]
    if draw.random() < 0.4 or not parts:
        parts.append(Part("reads", 64 * draw.randint(1, 8), draw.randint(0, 1500), True))
    return parts


def learned(steps: int = 600, noise: float = 0.0) -> StepModel:
    draw, model = Random(3), StepModel()
    for _ in range(steps):
        parts = some(draw)
        model.learn(parts, int(took(parts) * draw.uniform(1 - noise, 1 + noise)))
    return model


parts = st.lists(
    st.builds(Part, st.integers(0, 5), st.integers(1, 600), st.integers(0, 1 << 17), st.booleans()), max_size=30
)


@settings(deadline=None)
@given(parts, st.integers(0, 3))
def test_the_parts_of_a_step_come_to_its_time_exactly(parts, steps):
    model = learned(steps)
    parts = [part if part.is_chunk else part._replace(tokens=1) for part in parts]
    charges, total = model.split(parts)
    assert sum(charges.values()) == total
    assert charges.keys() == {part.key for part in parts}
    assert all(charge >= 0 for charge in charges.values())
    assert total == pytest.approx(model.predict(parts), abs=1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5000)), max_size=20))
def test_the_parts_of_switches_come_to_their_time_exactly(moves):
    charges, total = StepModel().split_switches(moves)
    assert sum(charges.values()) == total


def test_it_learns_a_linear_machine():
    model = learned()
    draw = Random(9)
    for _ in range(50):
        parts = some(draw)
        assert model.predict(parts) == pytest.approx(took(parts), rel=0.02)
    assert model.p95_error < 0.02
    assert model.r_squared > 0.99


def test_a_step_without_chunks_or_without_decodes_pays_nothing_for_the_other():
    model = learned()
    one = model.predict([Part(1, 1, 0, False)])
    assert one == pytest.approx(12.5 * MS, rel=0.05)
    assert model.predict([Part(1, 64, 0, True)]) == pytest.approx(94.6 * MS, rel=0.05)


def test_what_reading_the_weights_takes_is_shared_by_those_who_decode():
    charges, _ = learned().split([Part(key, 1, 0, False) for key in range(9)])
    assert charges[0] == pytest.approx(4.5 * MS, rel=0.05)


def test_a_longer_context_pays_for_its_length():
    charges, _ = learned().split([Part("short", 1, 0, False), Part("long", 1, 1000, False)])
    assert charges["long"] - charges["short"] == pytest.approx(600 * 1000, rel=0.1)


def test_a_runs_charges_come_to_what_a_noisy_drifting_machine_took():
    draw, model, total, charged = Random(1), StepModel(), 0, 0
    for step in range(3000):
        parts = some(draw)
        takes = int(took(parts) * (1.2 if step // 500 % 2 else 0.9) * draw.uniform(0.93, 1.07))
        charged += model.split(parts)[1]
        total += takes
        model.learn(parts, takes)
    assert charged == pytest.approx(total, rel=0.03)


def test_a_disturbance_of_the_machine_is_no_lesson():
    model = learned()
    parts = [Part(key, 1, 100, False) for key in range(8)]
    before = model.predict(parts)
    for _ in range(8):
        model.learn(parts, int(1000 * before))
    assert model.predict(parts) < 4.1 * before


def test_the_same_steps_teach_the_same():
    parts = [Part(key, 1, 77 * key, False) for key in range(9)]
    assert learned(300, noise=0.1).split(parts) == learned(300, noise=0.1).split(parts)


def test_from_the_first_step_on_each_teaches_something():
    model, parts = StepModel(), [Part(key, 1, 100, False) for key in range(4)]
    told = [model.predict(parts)]
    for _ in range(8):
        model.learn(parts, 90 * MS)
        told.append(model.predict(parts))
    assert told == sorted(set(told))
    assert told[-1] == pytest.approx(90 * MS, rel=0.1)


def test_a_row_that_seems_to_take_less_than_nothing_costs_little_and_the_rest_is_told_without_it():
    draw, model, told, total = Random(2), StepModel(), 0.0, 0.0
    for step in range(600):
        parts = [Part(key, 1, 0, False) for key in range(draw.randint(1, 24))]
        takes = 40 * MS - MS * len(parts)
        model.learn(parts, takes)
        if step >= 100:
            told += model.predict(parts)
            total += takes
    assert told == pytest.approx(total, rel=0.02)
    charges, _ = model.split([Part(key, 1, 0, False) for key in range(24)])
    assert all(charge > 0 for charge in charges.values())


def test_a_step_that_took_no_time_is_no_lesson():
    model, parts = learned(), [Part(1, 1, 0, False)]
    before = model.predict(parts)
    for took_ns in (0, -5) * 8:
        model.learn(parts, took_ns)
        model.learn_switches([(1, 5)], took_ns)
    assert model.predict(parts) == before
    assert model.switches_ns([5]) == StepModel().switches_ns([5])


def test_switches_are_learned_by_their_number_and_size():
    model = StepModel()
    for size in range(1, 200):
        moves = [(1, 10 * size), (2, 5 * size)]
        model.learn_switches(moves, 2 * 300_000 + 15 * size * 2_000)
    assert model.switches_ns([500, 500]) == pytest.approx(2 * 300_000 + 1000 * 2_000, rel=0.05)
    assert model.switches_ns([]) == 0


def test_it_keeps_up_with_a_machine_that_changes_its_pace():
    model, draw = learned(), Random(5)
    for _ in range(25):
        parts = some(draw)
        model.learn(parts, int(1.5 * took(parts)))
    for _ in range(20):
        parts = some(draw)
        assert model.predict(parts) == pytest.approx(1.5 * took(parts), rel=0.08)
        assert model.split(parts)[1] == pytest.approx(1.5 * took(parts), rel=0.08)
        model.learn(parts, int(1.5 * took(parts)))


def test_a_switch_that_was_disturbed_for_seconds_does_not_count_as_what_switches_take():
    model = StepModel()
    for _ in range(200):
        model.learn_switches([(1, 500)], 1_300_000)
    model.learn_switches([(1, 500)], 4_000_000_000)
    for _ in range(8):
        model.learn_switches([(1, 500)], 1_300_000)
    assert model.switches_ns([500]) == pytest.approx(1_300_000, rel=0.05)


def test_nothing_is_told_of_a_model_that_has_seen_nothing():
    assert (StepModel().p95_error, StepModel().r_squared) == (0.0, 0.0)
    StepModel().learn([], 5)
