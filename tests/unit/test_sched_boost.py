"""Who waits long goes first in its own policy: one at a time, for a turn, and in the place of its own task."""

from __future__ import annotations

from test_sched_tree import MS, Run


def test_a_boosted_request_goes_first_in_its_policy_for_a_turn_of_40_ms():
    run = Run(policy="fcfs", token_ns=10 * MS)
    first, second, third = run.add(), run.add(), run.add()
    run.tree.boost(third)
    assert [run.step(2) for _ in range(4)] == [[third, first]] * 4
    assert run.step(2) == [first, second]


def test_who_was_boosted_first_goes_first_one_at_a_time():
    run = Run(policy="fcfs", token_ns=20 * MS)
    first, second, third = run.add(), run.add(), run.add()
    run.tree.boost(third)
    run.tree.boost(second)
    assert [run.step(1)[0] for _ in range(5)] == [third, third, second, second, first]


def test_to_be_boosted_again_is_no_longer_turn():
    run = Run(policy="fcfs", token_ns=20 * MS)
    first, second = run.add(), run.add()
    run.tree.boost(second)
    run.step(1)
    run.tree.boost(second)
    assert [run.step(1)[0] for _ in range(2)] == [second, first]


def test_a_boosted_request_that_has_a_slot_anyway_changes_nothing():
    run = Run(policy="fcfs")
    first, second, _ = run.add(), run.add(), run.add()
    run.tree.boost(second)
    assert run.chosen(2) == [first, second]


def test_a_boosted_request_takes_the_slot_that_its_task_has():
    run = Run(policy="fcfs")
    first, second, third = run.add(), run.add(), run.add()
    fourth = run.add(beside=first)
    run.tree.boost(fourth)
    assert run.chosen(2) == [fourth, second], third


def test_a_boosted_request_takes_the_last_of_the_slots_that_its_task_has():
    run = Run(policy="fcfs")
    first, other = run.add(), run.add()
    second = run.add(beside=first)
    third = run.add(beside=first)
    run.tree.boost(third)
    assert run.chosen(3) == [third, first, other], second


def test_a_boosted_request_that_leaves_is_forgotten():
    run = Run(policy="fcfs")
    first, second = run.add(), run.add()
    run.tree.boost(second)
    run.tree.remove(second)
    assert run.chosen(1) == [first]
    run.tree.add(second)
    assert run.chosen(1) == [first]
