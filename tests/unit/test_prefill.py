"""Which parts of prompts are decoded in one pass."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernel.engine.base import CHUNK_TOKENS
from kernel.engine.cost import StepCosts
from kernel.engine.prefill import Part, Prompt, passes, places


def sizes(prompts: list[Prompt], most: int, may_meet: bool = True) -> list[list[int]]:
    return [[part.end - part.begin for part in one] for one in passes(prompts, most, may_meet)]


def test_a_pass_has_as_many_chunks_as_it_may_and_what_is_left_over_with_the_last():
    assert sizes([Prompt(0, 64)], 4) == [[64]]
    assert sizes([Prompt(0, 20)], 4) == [[20]]
    assert sizes([Prompt(0, 3 * 64 + 63)], 4) == [[255]]
    assert sizes([Prompt(0, 4 * 64 + 1)], 4) == [[128], [129]], "one would be too few for their kernel"
    assert sizes([Prompt(0, 512)], 4) == [[256], [256]]
    assert sizes([Prompt(0, 8 * 64 + 3)], 4) == [[192], [192], [131]]


def test_where_chunks_may_not_share_a_pass_what_is_left_over_has_its_own():
    assert sizes([Prompt(0, 150), Prompt(1, 64)], 1) == [[64], [64], [64], [22]]


def test_prompts_in_adjacent_streams_share_a_pass_if_they_are_equally_long():
    four = [Prompt(stream, 64) for stream in (4, 1, 2, 3)]
    assert passes(four, 4, True) == [(Part(1, 0, 64), Part(2, 0, 64), Part(3, 0, 64), Part(0, 0, 64))]
    assert sizes(four, 4, may_meet=False) == [[64]] * 4
    assert sizes(four, 3) == [[64] * 3, [64]]
    assert sizes([Prompt(0, 64), Prompt(2, 64)], 4) == [[64], [64]], "not adjacent"
    assert sizes([Prompt(0, 64), Prompt(1, 128)], 4) == [[64], [128]], "not equally long"
    assert sizes([Prompt(0, 80), Prompt(1, 80)], 4) == [[80, 80]]
    assert sizes([Prompt(0, 20), Prompt(1, 20)], 4) == [[20], [20]], "too few for the kernel that both would meet"


prompt_lists = st.lists(st.integers(1, 600), min_size=1, max_size=8).flatmap(
    lambda sizes: st.permutations(range(12)).map(
        lambda streams: [Prompt(stream, size) for stream, size in zip(streams, sizes, strict=False)]
    )
)


@given(prompt_lists, st.integers(1, 4), st.booleans())
def test_every_token_is_fed_once_in_order_and_in_enough_company(prompts, most, may_meet):
    fed = [0] * len(prompts)
    for one in passes(prompts, most, may_meet):
        streams = [prompts[part.row].stream for part in one]
        assert streams == list(range(streams[0], streams[0] + len(one)))
        assert len({part.end - part.begin for part in one}) == 1
        assert len(one) == 1 or (may_meet and most > 1)
        for part in one:
            assert part.begin == fed[part.row] < part.end
            assert part.begin % CHUNK_TOKENS == 0
            fed[part.row] = part.end
            tokens = prompts[part.row].tokens
            if most > 1:
                assert part.end - part.begin >= min(CHUNK_TOKENS, tokens)
            else:
                assert part.end in (part.begin + CHUNK_TOKENS, tokens)
        assert sum(part.end - part.begin for part in one) <= most * CHUNK_TOKENS
    assert fed == [prompt.tokens for prompt in prompts]


CHEAP, DEAR = StepCosts(4_000_000, 2048), StepCosts(4_000_000, 2048)
CHEAP.move_ns_per_token, DEAR.move_ns_per_token = 1.0, 1e9


def test_prompts_begin_side_by_side_where_there_is_room():
    assert places(2, [0, 9, 0, 0, 9], DEAR) == ([], [2, 3, 0])
    assert places(3, [0, 9, 0, 0, 9], DEAR) == ([], [2, 3, 0])


def test_a_context_moves_out_of_the_way_if_that_costs_less_than_a_pass():
    assert places(3, [0, 9, 0, 0, 9], CHEAP) == ([(1, 3)], [0, 1, 2])
    assert places(3, [0, 9, 0, 500, 0, 0, 500], CHEAP) == ([(1, 4)], [0, 1, 2, 5])


@given(st.lists(st.sampled_from([0, 0, 1, 70, 900]), min_size=1, max_size=12), st.data())
def test_prompts_begin_in_streams_that_hold_nothing(held, data):
    free = held.count(0)
    new = data.draw(st.integers(0, free))
    if not new:
        return
    moves, streams = places(new, held, data.draw(st.sampled_from([CHEAP, DEAR])))
    now = list(held)
    for source, target in moves:
        assert now[source]
        assert not now[target]
        now[source], now[target] = 0, now[source]
    assert sorted(streams) == [stream for stream, tokens in enumerate(now) if not tokens]
    if moves:
        assert streams[:new] == list(range(streams[0], streams[0] + new))
