"""What benchmarks/prove_cases.py draws, and what counts."""

import random

from benchmarks.prove_cases import DECOY_END, Answer, Outcome, difference, stops_within


def answer(tokens, text="text"):
    return Answer(text, tuple(tokens), "length", text, tuple(tokens))


def test_stop_strings_are_cut_from_the_text_and_the_long_one_is_never_said():
    text = "abcdefghij" * 12
    for seed in range(50):
        decoy, *more = stops_within(text, random.Random(seed))
        assert decoy.endswith(DECOY_END)
        assert decoy.removesuffix(DECOY_END) in text
        assert decoy not in text
        assert len(decoy) <= 256
        assert all(stop in text for stop in more)


def test_a_short_text_gives_no_stops():
    assert stops_within("short", random.Random(1)) == []


def test_a_schedule_without_a_switch_or_without_a_return_does_not_count():
    assert not Outcome(switches=0, restores=3).counts
    assert not Outcome(switches=3).counts
    assert Outcome(switches=1, restores=1).counts
    assert Outcome(switches=1, recomputed=64).counts


def test_a_difference_names_the_token_or_the_field():
    assert "token 1 of 2 is 9, alone 2" in difference(answer([1, 2]), answer([1, 9]))
    shown = difference(answer([1, 2]), answer([1, 2], "other"))
    assert "text, streamed_text differ" in shown
