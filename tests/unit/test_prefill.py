"""Which parts of prompts are decoded in one pass."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernel.engine.base import CHUNK_TOKENS
from kernel.engine.prefill import Part, Prompt, passes


def sizes(prompts: list[Prompt], most: int, may_meet: bool = True) -> list[list[int]]:
    return [[part.end - part.begin for part in one] for one in passes(prompts, most, may_meet)]


def test_whole_chunks_of_a_prompt_share_a_pass_and_its_ends_have_their_own():
    assert sizes([Prompt(0, 30, 34 + 192 + 5)], 2) == [[34], [128], [64], [5]]
    assert sizes([Prompt(0, 0, 64)], 4) == [[64]]
    assert sizes([Prompt(0, 10, 20)], 4) == [[20]]


def test_one_chunk_a_pass_is_one_chunk_a_pass():
    assert sizes([Prompt(0, 0, 150), Prompt(1, 0, 64)], 1) == [[64], [64], [64], [22]]


def test_prompts_in_adjacent_streams_share_a_pass_if_they_are_equally_long():
    four = [Prompt(stream, 0, 64) for stream in (4, 1, 2, 3)]
    assert passes(four, 4, True) == [(Part(1, 0, 64), Part(2, 0, 64), Part(3, 0, 64), Part(0, 0, 64))]
    assert sizes(four, 4, may_meet=False) == [[64]] * 4
    assert sizes(four, 3) == [[64] * 3, [64]]
    assert sizes([Prompt(0, 0, 64), Prompt(2, 0, 64)], 4) == [[64], [64]], "not adjacent"
    assert sizes([Prompt(0, 0, 64), Prompt(1, 0, 128)], 4) == [[64], [128]], "not equally long"
    assert sizes([Prompt(0, 0, 128), Prompt(1, 64, 128)], 4) == [[128, 128]]


prompt_lists = st.lists(
    st.tuples(st.integers(0, 200), st.integers(1, 600)), min_size=1, max_size=8
).flatmap(
    lambda sizes: st.permutations(range(12)).map(
        lambda streams: [Prompt(stream, *size) for stream, size in zip(streams, sizes, strict=False)]
    )
)


@given(prompt_lists, st.integers(1, 4), st.booleans())
def test_every_token_is_fed_once_in_order_and_only_whole_chunks_meet(prompts, most, may_meet):
    fed = [0] * len(prompts)
    for one in passes(prompts, most, may_meet):
        streams = [prompts[part.row].stream for part in one]
        assert streams == list(range(streams[0], streams[0] + len(one)))
        assert len({part.end - part.begin for part in one}) == 1
        assert len(one) == 1 or may_meet
        for part in one:
            assert part.begin == fed[part.row] < part.end
            fed[part.row] = part.end
            begin = prompts[part.row].position + part.begin
            end = prompts[part.row].position + part.end
            if len(one) > 1 or end - begin > CHUNK_TOKENS:
                assert begin % CHUNK_TOKENS == end % CHUNK_TOKENS == 0
            else:
                assert begin // CHUNK_TOKENS == (end - 1) // CHUNK_TOKENS
        assert sum(part.end - part.begin for part in one) <= most * CHUNK_TOKENS
    assert fed == [prompt.tokens for prompt in prompts]
