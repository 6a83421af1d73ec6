"""What `make prove` draws, which rows it has, what counts, and what it keeps of finished rows."""

from __future__ import annotations

import json
import random
from collections import Counter
from types import SimpleNamespace

import pytest

from benchmarks import prove
from benchmarks.model_shapes import SHAPES
from benchmarks.model_write import QUANTISATIONS
from benchmarks.prove import Effort, Tally, expected_s, read_results
from benchmarks.prove_cases import INSIDES, Answer, Outcome, difference, insides
from benchmarks.prove_models import FULL, QUICK, ModelRow, select
from benchmarks.prove_specs import DECOY_END, GRAMMAR_TOKENS, KINDS, draw_specs, stops_within
from benchmarks.report import Row
from kernel.engine.base import Constraint, Sampling
from kernel.engine.text import TextAssembler


def answer(tokens, text="text", logits=()):
    return Answer(text, tuple(tokens), "length", text, tuple(tokens), (), tuple(logits))


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


def test_requests_are_of_every_kind_and_length_and_a_function_of_the_seed():
    specs = draw_specs(24, 800, 2048, random.Random(5))
    assert specs == draw_specs(24, 800, 2048, random.Random(5))
    assert Counter(spec.kind for spec in specs) == dict.fromkeys(KINDS, 6)
    lengths = sorted(len(spec.tokens) + spec.options["max_tokens"] for spec in specs)
    assert lengths[0] < 100
    assert 500 < lengths[-1] <= 800 + GRAMMAR_TOKENS
    for spec in specs:
        is_constrained = {"grammar", "json_schema"} & spec.options.keys()
        assert bool(is_constrained) == (spec.kind == "grammar")
        assert spec.options["ignore_end"] != bool(is_constrained)
        assert ("repeat_penalty" in spec.options) or spec.kind != "penalties"


def test_the_rows_are_every_family_quantisation_and_size_and_their_shapes_can_be_made():
    assert len({row.name for row in FULL}) == len(FULL) == 32
    for row in (*FULL, *QUICK):
        shape = SHAPES[row.shape]
        assert shape.family == row.family
        assert row.quantisation in QUANTISATIONS
        assert row.quantisation != "q4_k" or shape.width % 256 == 0
    assert {row.family for row in QUICK} == {"dense", "moe", "sliding-window", "recurrent", "hybrid"}


def test_rows_are_chosen_by_pattern_and_an_unknown_one_is_an_error():
    assert [row.name for row in select(FULL, ["dense/q8_0/135m"])] == ["dense/q8_0/135m"]
    assert len(select(FULL, ["moe/*/135m", "hybrid/f16/*"])) == 6
    assert select(FULL, []) == list(FULL)
    with pytest.raises(ValueError, match="no row is called 'dense/q2_k/135m': dense/q8_0/135m, "):
        select(FULL, ["dense/q2_k/135m"])


def test_a_schedule_without_a_switch_or_without_a_return_does_not_count():
    assert not Outcome(switches=0, restores=3).counts
    assert not Outcome(switches=3).counts
    assert Outcome(switches=1, restores=1).counts
    assert Outcome(switches=1, recomputed=64).counts


def request(sampling, constraint=None, stops=(), pieces=()):
    text = TextAssembler(stops)
    for piece in pieces:
        text.feed(piece)
    return SimpleNamespace(sampling=sampling, constraint=constraint, text=text)


def test_a_preempted_request_is_in_the_middle_of_what_drawing_and_text_keep():
    assert insides(request(Sampling())) == []
    assert insides(request(Sampling(), Constraint("gbnf", 'root ::= "a"'))) == ["a grammar"]
    assert insides(request(Sampling(frequency_penalty=0.5))) == ["a penalty window"]
    assert insides(request(Sampling(frequency_penalty=0.5, penalty_tokens=0))) == []
    assert insides(request(Sampling(), stops=["end"], pieces=[b"the en"])) == ["a stop string"]
    assert insides(request(Sampling(), pieces=["é".encode()[:1]])) == ["a character"]
    assert set(INSIDES) == {"a grammar", "a penalty window", "a stop string", "a character"}


def test_a_difference_names_the_token_or_the_field_and_where_the_logits_part():
    assert "token 1 of 2 is 9, alone 2" in difference(answer([1, 2]), answer([1, 9]))
    shown = difference(answer([1, 2]), answer([1, 2], "other"))
    assert "text, streamed_text differ" in shown
    one, other = answer([1], logits=[(7, b"x"), (8, b"y")]), answer([1], logits=[(7, b"x"), (8, b"z")])
    assert difference(one, other).startswith("logits at position 8 differ; logits differ")


def test_shares_are_of_schedules_and_judged_over_all_rows():
    tally = prove._tally(
        [
            Outcome(switches=1, restores=1, inside=Counter({"a grammar": 5})),
            Outcome(switches=1, restores=1, inside=Counter({"a grammar": 1, "a character": 1})),
            Outcome(inside=Counter({"a stop string": 1})),  # does not count
        ]
    )
    assert tally == Tally(2, Counter({"a grammar": 2, "a character": 1}))
    assert [row.met for row in tally.rows()] == [True, False, False, True]


def test_finished_rows_come_back_from_a_file_unless_they_were_tried_otherwise(tmp_path):
    path, row, effort = tmp_path / "results", ModelRow("moe", "f16", "135m"), Effort(cases=7, seed=3)
    assert read_results(path, effort) == {}
    table, tally = [Row("schedules", "7", ">= 7", True)], Tally(7, Counter({"a grammar": 4}))
    prove._keep(path, row, effort, table, tally)
    assert read_results(path, effort) == {"moe/f16/135m": (table, tally)}
    assert read_results(path, Effort(cases=8, seed=3)) == {}
    assert json.loads(path.read_text())["on"]["cores"] > 0


def test_the_command_lists_its_rows_and_refuses_others(capsys):
    assert prove.main(["--list", "--rows", "dense/q8_0/*"]) == 0
    assert capsys.readouterr().out.split() == ["dense/q8_0/135m", "dense/q8_0/0.5b"]
    assert prove.main(["--rows", "dense/q8_0/7b"]) == 2
    assert capsys.readouterr().err.startswith("prove: no row is called 'dense/q8_0/7b'")


def test_the_time_to_expect_grows_with_the_rows():
    assert expected_s(FULL, 50) > expected_s(select(FULL, ["*/135m"]), 50) > expected_s(QUICK, 4) > 0
