"""The arithmetic and the tables of benchmarks/report.py, and windows of streaming32."""

import pytest

from benchmarks.report import at_least, at_most, jain, must, only, percentile, result_table, table
from benchmarks.streaming32 import window_rate


@pytest.mark.parametrize(
    ("share", "wanted"), [(0.0, 1), (0.5, 5), (0.51, 6), (0.9, 9), (0.99, 10), (1.0, 10)]
)
def test_percentile_is_the_nearest_rank(share, wanted):
    assert percentile(list(range(10, 0, -1)), share) == wanted


def test_percentile_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_jain():
    assert jain([3, 3, 3]) == pytest.approx(1.0)
    assert jain([1, 0, 0, 0]) == pytest.approx(0.25)


def test_a_bar_is_judged_on_the_whole_figure_not_on_the_rounded_one():
    assert at_least("ratio", 0.91999, 0.92, "x").met is False
    assert at_least("ratio", 0.92, 0.92, "x").met is True
    assert at_most("time", 200.4, 200, "us").met is False
    assert at_most("time", 0, 200, "us").met is True


def test_tables_are_aligned_and_say_what_was_missed():
    text = result_table([must("one", "1", "2", False), only("a longer name", "3")])
    lines = text.splitlines()
    assert lines[0].split() == ["what", "figure", "bar", "met"]
    assert lines[2].endswith("NO")
    assert lines[2].index("1") == lines[3].index("3")


def test_a_table_without_rows_has_its_headings():
    assert table([], ["one", "two"]).splitlines() == ["one  two", "---  ---"]


def test_only_tokens_of_the_time_in_which_all_decode_count():
    early = {"arrivals": [(0, 1), (1_000_000_000, 1), (2_000_000_000, 2)]}
    late = {"arrivals": [(1_000_000_000, 1), (2_000_000_000, 3), (9_000_000_000, 1)]}
    rate, tokens = window_rate([early, late])
    assert tokens == 5
    assert rate == pytest.approx(5.0)


def test_streams_that_never_decode_together_are_an_error():
    with pytest.raises(ValueError, match="no time"):
        window_rate([{"arrivals": [(0, 1), (1, 1)]}, {"arrivals": [(2, 1), (3, 1)]}])
