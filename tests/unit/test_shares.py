"""How slots are divided among the children of a group: by weight, with floors and caps, and few changes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.sched.shares import Share, divide, enter, owe_floors

MS = 1_000_000


def share(weight: int = 100, wants: int = 9, **values) -> Share:
    return Share(weight=weight, wants=wants, **values)


def slots_of(shares: list[Share], slots: int) -> list[int]:
    divide(shares, slots)
    return [one.slots for one in shares]


def run(shares: list[Share], slots: int, steps: int, core_ns: int = 10 * MS) -> list[float]:
    """Let steps pass in which each slot costs the same; return what part of the time each had."""
    before = [one.attained_ns for one in shares]
    for _ in range(steps):
        owe_floors(shares, slots * core_ns)
        for one, had in zip(shares, slots_of(shares, slots), strict=True):
            one.charge(had * core_ns)
    got = [one.attained_ns - had for one, had in zip(shares, before, strict=True)]
    return [one / sum(got) for one in got]


# -- by weight --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "slots"), [([100, 200, 400, 800], 4), ([1, 3], 1), ([50, 100, 150], 7)])
def test_in_the_long_run_each_has_its_weights_part(weights, slots):
    shares = [share(weight, wants=slots + 1) for weight in weights]
    got = run(shares, slots, 20_000)
    for part, weight in zip(got, weights, strict=True):
        assert part == pytest.approx(weight / sum(weights), rel=0.01)


@pytest.mark.parametrize(("weights", "wants", "slots"), [([100, 800], [1, 1], 1), ([100, 500], [8, 7], 8)])
def test_who_can_use_hardly_more_slots_than_its_part_has_it_as_well(weights, wants, slots):
    shares = [share(weight, wants=most) for weight, most in zip(weights, wants, strict=True)]
    assert run(shares, slots, 20_000)[0] == pytest.approx(weights[0] / sum(weights), rel=0.02)


def test_in_one_step_slots_are_divided_by_weight():
    assert slots_of([share(100), share(200), share(300)], 6) == [1, 2, 3]
    assert slots_of([share(100), share(100)], 4) == [2, 2]


def test_the_first_has_the_odd_slot():
    assert slots_of([share(100), share(100)], 3) == [2, 1]


def test_who_has_had_less_for_its_weight_goes_first():
    assert slots_of([share(vtime=1.0), share(vtime=0.0)], 1) == [0, 1]


@given(
    st.lists(
        st.tuples(st.integers(1, 400), st.integers(1, 6), st.integers(0, 300), st.integers(0, 5), st.integers(0, 200)),
        min_size=1, max_size=6,
    ),
    st.integers(0, 20),
)  # fmt: skip
@settings(deadline=None)
def test_nobody_gets_more_than_it_wants_and_no_slot_is_left_that_somebody_wants(values, slots):
    shares = [
        share(weight, wants, vtime=had * MS, slots=held, floor_ns=owed * MS)
        for weight, wants, had, held, owed in values
    ]
    got = slots_of(shares, slots)
    assert all(0 <= one.slots <= one.wants for one in shares)
    assert sum(got) == min(slots, sum(one.wants for one in shares))


# -- few changes ------------------------------------------------------------------------------------


def test_a_slot_is_kept_until_its_holder_is_a_turn_ahead():
    holder, other = share(slots=1, vtime=40 * MS), share()
    assert slots_of([holder, other], 1) == [1, 0]
    holder.vtime += 1
    assert slots_of([holder, other], 1) == [0, 1]


def test_a_turn_is_by_the_weight_of_the_holder():
    holder, other = share(200, slots=1, vtime=22 * MS), share(100)
    assert slots_of([holder, other], 1) == [1, 0], "40 ms by 200 are 20 ms, and its next slot is 2 ms nearer"
    holder.vtime += 1
    assert slots_of([holder, other], 1) == [0, 1]


def test_two_that_share_a_slot_change_once_in_a_turn():
    shares, seen = [share(), share()], []
    for _ in range(200):
        got = slots_of(shares, 1)
        seen.append(got.index(1))
        shares[seen[-1]].charge(5 * MS)
    changes = sum(now != before for before, now in pairwise(seen))
    assert 200 * 5 / 80 - 2 <= changes <= 200 * 5 / 40 + 2


def test_only_slots_that_were_held_are_kept():
    holder, other = share(slots=1, vtime=30 * MS), share(vtime=20 * MS)
    assert slots_of([holder, other], 2) == [1, 1], "the second is not the holder's by right"


# -- what was had -----------------------------------------------------------------------------------


def test_a_charge_counts_by_weight():
    one = share(200, vtime=1.0)
    one.charge(100)
    assert (one.attained_ns, one.vtime) == (100, 51.0)


def test_a_charge_without_a_weight_counts_as_time_only():
    one = share(0)
    one.charge(100)
    assert (one.attained_ns, one.vtime) == (100, 0.0)


def test_who_comes_back_is_owed_nothing_for_the_time_before():
    one = share(vtime=5.0, slots=2, floor_ns=70.0)
    enter(one, [share(vtime=9.0), share(vtime=7.0)])
    assert (one.vtime, one.slots, one.floor_ns) == (7.0, 0, 0.0)


def test_who_comes_back_has_not_lost_what_it_was_ahead():
    one = share(vtime=8.0)
    enter(one, [share(vtime=7.0), share(vtime=20.0)])
    assert one.vtime == 8.0


def test_who_comes_back_to_nobody_stays_where_it_was():
    one = share(vtime=5.0, slots=3)
    enter(one, [])
    assert (one.vtime, one.slots) == (5.0, 0)


def test_who_has_all_that_it_wants_saves_two_turns_up_at_most():
    content, hungry = share(200, wants=1), share(400, vtime=1000 * MS)
    other = share(250, vtime=2000 * MS)
    divide([content, hungry, other], 3)
    assert content.slots == 1
    assert content.vtime == 960 * MS, "80 ms, by a weight of 200"
    assert (hungry.vtime, other.vtime) == (1000 * MS, 2000 * MS)


def test_what_it_saves_up_is_by_the_lightest_that_wants_more_if_that_is_lighter():
    content, hungry, light = share(200, wants=1), share(400, vtime=1000 * MS), share(50, vtime=2000 * MS)
    divide([content, hungry, light], 3)
    assert content.vtime == 840 * MS, "80 ms, by a weight of 50"


def test_who_is_less_than_a_turn_behind_is_left_where_it_is():
    content, hungry = share(wants=1, vtime=970 * MS), share(vtime=1000 * MS)
    divide([content, hungry], 2)
    assert content.vtime == 970 * MS


def test_nothing_is_forgiven_while_all_have_what_they_want():
    one, other = share(wants=1), share(wants=1, vtime=1000 * MS)
    divide([one, other], 2)
    assert (one.vtime, other.vtime) == (0.0, 1000 * MS)


# -- floors -----------------------------------------------------------------------------------------


def test_a_floor_is_of_the_time_that_passes():
    one, other = share(min_share=0.25), share()
    owe_floors([one, other], 1000)
    owe_floors([one, other], 1000)
    assert (one.floor_ns, other.floor_ns) == (500.0, 0.0)


def test_what_a_floor_owes_is_paid_off_and_never_less_than_nothing():
    one = share(floor_ns=100.0)
    one.charge(30)
    assert one.floor_ns == 70.0
    one.charge(100)
    assert one.floor_ns == 0.0


@pytest.mark.parametrize(
    ("turns", "slots", "at_most", "above"),
    [pytest.param(1, 1, [0, 1], [1, 0], id="first"), pytest.param(2, 3, [1, 2], [2, 1], id="second")],
)
def test_a_floor_gives_a_slot_before_others_for_each_turn_that_it_owes_more_than(turns, slots, at_most, above):
    poor, rich = share(1, vtime=1e12), share(10_000)
    poor.floor_ns = turns * 40 * MS
    assert slots_of([poor, rich], slots) == at_most
    poor.floor_ns += 1
    assert slots_of([poor, rich], slots) == above


def test_a_floor_holds_against_weights():
    shares = [share(1, min_share=0.3), share(10_000)]
    assert run(shares, 2, 5000)[0] == pytest.approx(0.3, rel=0.02)


# -- caps -------------------------------------------------------------------------------------------


def test_without_a_cap_nobody_is_held_back():
    one = share(credit_ns=-1e12)
    assert not one.is_capped(0)


def test_a_cap_lets_go_on_when_time_has_paid_for_what_was_had():
    one = share(max_share=0.25)
    assert not one.is_capped(1000)
    one.charge(10 * MS)
    assert one.is_capped(1000)
    free_ns = one.free_at_ns(1000)
    assert free_ns == pytest.approx(1000 + 40 * MS, abs=2)
    assert one.is_capped(free_ns - 2)
    assert not one.is_capped(free_ns)


def test_the_time_before_the_first_look_is_not_saved_up():
    one = share(max_share=0.5)
    assert not one.is_capped(10**12)
    one.charge(1)
    assert one.is_capped(10**12)


def test_a_cap_saves_up_a_fifth_of_a_second_at_most():
    one = share(max_share=0.5)
    one.is_capped(0)
    assert not one.is_capped(10**12)
    one.charge(200 * MS)
    assert not one.is_capped(10**12)
    one.charge(1)
    assert one.is_capped(10**12)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_cap_is_a_part_of_the_time(part):
    one, now_ns = share(max_share=part), 0
    for _ in range(20_000):
        if not one.is_capped(now_ns):
            one.charge(10 * MS)
        now_ns += 10 * MS
    assert one.attained_ns / now_ns == pytest.approx(part, rel=0.01)
