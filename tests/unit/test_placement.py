"""Where decoding contexts are put among a bank's streams."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.engine.placement import Arrangement, arrange


@dataclass(frozen=True)
class Costs:
    """Milliseconds near those measured for 135M parameters on two cores."""

    a_pass: float = 15.0
    row: float = 1.5
    cell: float = 0.003
    move_ns_per_token: float = 0.004

    def of_pass(self, rows: int, cells: int) -> float:
        return self.a_pass + rows * self.row + rows * cells * self.cell


def step_cost(arrangement: Arrangement, cells: dict[int, int], costs: Costs) -> float:
    total = 0.0
    for one in arrangement.passes:
        total += costs.of_pass(len(one), max(cells.get(stream, 1) for stream in one))
    return total


def apply(moves: tuple[tuple[int, int], ...], held: dict[int, int]) -> dict[int, int]:
    """Return stream -> context after the moves, contexts named by where they stood."""
    held = dict(held)
    for source, target in moves:
        assert source in held, f"stream {source} is moved and holds nothing"
        one, other = held.pop(source), held.pop(target, None)
        held[target] = one
        if other is not None:
            held[source] = other
    return held


def test_contexts_side_by_side_decode_in_one_pass_and_nothing_moves():
    found = arrange(dict.fromkeys(range(3, 11), 256), {}, 16, True, Costs())
    assert found == Arrangement((), (tuple(range(3, 11)),))


def test_a_small_hole_is_filled_when_moving_costs_more():
    running = dict.fromkeys((0, 1, 2, 4, 5), 256)
    found = arrange(running, {3: 8192}, 6, True, Costs(move_ns_per_token=1.0))
    assert found.moves == ()
    assert found.passes == ((0, 1, 2, 3, 4, 5),) or found.passes == ((0, 1, 2), (4, 5))


def test_a_hole_whose_context_cannot_be_trimmed_stays_open():
    running = dict.fromkeys((0, 1, 2, 4, 5), 256)
    found = arrange(running, {3: 256}, 6, False, Costs(move_ns_per_token=1e9))
    assert found.passes == ((0, 1, 2), (4, 5))


def test_scattered_contexts_are_gathered_into_one_pass():
    running = dict.fromkeys((0, 3, 4, 7, 9, 11, 14, 15), 256)
    resident = dict.fromkeys((1, 2, 5, 6, 8, 10, 12, 13), 256)
    found = arrange(running, resident, 16, True, Costs())
    assert len(found.passes) == 1
    assert len(found.passes[0]) == 8
    assert found.moves


def test_one_long_context_decodes_apart_from_many_short_ones():
    running = {**dict.fromkeys(range(7), 256), 7: 1536}
    found = arrange(running, {}, 8, True, Costs(cell=0.005))
    assert sorted(map(len, found.passes)) == [1, 7]


def test_lengths_are_no_matter_where_masked_cells_cost_nothing():
    running = {**dict.fromkeys(range(7), 256), 7: 1536}
    assert arrange(running, {}, 8, True, Costs(cell=0.005), by_length=False).passes == (tuple(range(8)),)


def test_lengths_that_hardly_differ_stay_together():
    running = {**dict.fromkeys(range(7), 256), 7: 512}
    found = arrange(running, {}, 8, True, Costs())
    assert found.passes == (tuple(range(8)),)


streams = st.integers(2, 20)


@st.composite
def situations(draw: st.DrawFn) -> tuple[dict[int, int], dict[int, int], int]:
    count = draw(streams)
    kinds = draw(st.lists(st.sampled_from(["run", "stay", "free"]), min_size=count, max_size=count))
    lengths = draw(st.lists(st.sampled_from([256, 512, 1536, 4096]), min_size=count, max_size=count))
    running = {at: lengths[at] for at, kind in enumerate(kinds) if kind == "run"}
    resident = {at: lengths[at] for at, kind in enumerate(kinds) if kind == "stay"}
    if not running:
        running, resident = {0: lengths[0]}, {at: size for at, size in resident.items() if at}
    return running, resident, count


@given(situations(), st.booleans(), st.floats(1e-5, 1.0))
def test_every_decoding_context_is_in_one_pass_of_adjacent_streams(situation, may_fill, move):
    running, resident, count = situation
    costs = Costs(move_ns_per_token=move)
    found = arrange(running, resident, count, may_fill, costs)
    held = apply(found.moves, {stream: stream for stream in (*running, *resident)})
    assert sorted(held.values()) == sorted((*running, *resident)), "a context was lost"
    decoding = []
    for one in found.passes:
        assert list(one) == list(range(one[0], one[-1] + 1))
        assert one[-1] < count
        contexts = [held.get(stream) for stream in one]
        decoding += [context for context in contexts if context in running]
        if not may_fill:
            assert not any(context in resident for context in contexts), "a filler in a context that is kept"
    assert sorted(decoding) == sorted(running)


@given(situations())
def test_an_arrangement_never_costs_more_than_a_pass_for_each_context(situation):
    running, resident, count = situation
    costs = Costs()
    found = arrange(running, resident, count, True, costs)
    held = apply(found.moves, {stream: stream for stream in (*running, *resident)})
    lengths = {**resident, **running}
    cells = {stream: lengths[context] for stream, context in held.items()}
    moved = sum(cells[target] for _, target in found.moves) * costs.move_ns_per_token / 16
    alone = sum(costs.of_pass(1, size) for size in running.values())
    assert step_cost(found, cells, costs) + moved <= alone + 1e-6


@pytest.mark.parametrize("count", [64, 256])
def test_a_full_bank_is_arranged_by_looking_at_few_places(count):
    running = {stream: 256 * (1 + stream % 4) for stream in range(0, count, 2)}
    found = arrange(running, dict.fromkeys(range(1, count, 2), 256), count, True, Costs())
    assert found.passes
