"""Highest response ratio next: exact orders of constructed cases."""

from __future__ import annotations

from test_policies import Thing

from kernel.sched.hrrn import HighestResponseRatio

MS = 1_000_000


class Run:
    """The policy with turns of 50 ms, and the core time that others have."""

    def __init__(self, slice_ms: int = 50) -> None:
        self.policy = HighestResponseRatio(slice_ms)
        self.work_ms = 0.0
        self.count = 0

    def add(self, size: int, **attr) -> Thing:
        self.count += 1
        made = Thing(self.count, most=size, **attr)
        self.policy.add(made)
        return made

    def choose(self, slots: int) -> list[Thing]:
        return self.policy.choose(slots, int(self.work_ms * MS))

    def wait(self, ms: float) -> None:
        """Let time pass in which nobody here has a slot."""
        self.work_ms += ms
        self.choose(0)

    def step(self, slots: int = 1, ms: float = 10) -> list[int]:
        chosen = self.choose(slots)
        for one in chosen:
            self.policy.charge(one, int(ms * MS), 1)
            self.work_ms += ms
        return [one.number for one in chosen]


def test_the_ratio_is_of_the_wait_to_the_size():
    for over in (-1, 1):
        run = Run()
        long = run.add(64)
        run.wait(1500 + over)
        short = run.add(4)
        run.wait(100)
        assert run.choose(1) == [long if over > 0 else short], "64 are 16 times 4, and 1600 is 16 times 100"


def test_among_many_sizes_the_highest_ratio_goes_first_and_then_the_next():
    run = Run()
    several = [run.add(size) for size in (200, 3, 50, 7, 1000, 20)]
    run.wait(100)
    order = [several[place] for place in (1, 3, 5, 2, 0, 4)]
    assert run.choose(4) == order[:4]
    assert run.choose(6) == order


def test_sizes_are_told_apart_by_half_powers_of_two():
    run = Run()
    for size in (8, 5, 4, 2):
        run.add(size)
    run.wait(100)
    assert run.step(4) == [4, 3, 2, 1]
    same = Run()
    for size in (8, 7, 6):
        same.add(size)
    same.wait(100)
    assert same.step(3) == [1, 2, 3], "by arrival: to it they are of one size"


def test_a_size_of_nothing_is_one_token():
    run = Run()
    run.add(1)
    run.add(0)
    run.wait(10)
    assert run.step(2) == [1, 2]


def test_within_a_size_the_longest_waiting_goes_first_and_its_turn_over_it_queues_up():
    run = Run(slice_ms=20)
    for _ in range(3):
        run.add(50)
    assert [run.step()[0] for _ in range(8)] == [1, 1, 2, 2, 3, 3, 1, 1]


def test_a_turn_is_over_to_the_nanosecond():
    run = Run(slice_ms=1)
    one, two = run.add(50), run.add(50)
    assert run.choose(1) == [one]
    run.policy.charge(one, MS - 1, 1)
    assert run.choose(1) == [one]
    run.policy.charge(one, 1, 1)
    assert run.choose(1) == [two]


def test_a_tasks_own_slice_is_its_turn():
    run = Run()
    run.add(50, slice_ms=10)
    run.add(50, slice_ms=30)
    assert [run.step()[0] for _ in range(8)] == [1, 2, 2, 2, 1, 2, 2, 2]


def test_whose_slot_is_taken_away_waits_for_another_from_then_on():
    run = Run()
    one, two = run.add(50), run.add(50)
    assert run.choose(2) == [one, two]
    run.work_ms = 1000
    assert run.choose(1) == [one], "the last that got a slot loses it"
    run.add(50)
    run.work_ms = 2000
    assert run.choose(2) == [one, two]


def test_what_is_left_of_a_request_is_its_size_when_it_queues_up_again():
    run = Run(slice_ms=10)
    long, other = run.add(100), run.add(10)
    run.wait(10)
    assert run.step() == [2]
    other.generated_tokens, long.generated_tokens = 0, 97
    run.policy.remove(long)
    run.policy.add(long)
    run.wait(100)
    assert run.step() == [1], "3 against 10"


def test_a_hint_is_counted_from_when_it_was_given():
    run = Run()
    hinted = Thing(9, most=100, hint=55)
    hinted.generated_tokens = hinted.task.usage.generated_tokens = 50
    run.policy.add(hinted)
    other = run.add(10)
    run.wait(10)
    assert run.choose(1) == [hinted], other


def test_who_leaves_is_not_chosen_and_nothing_is_kept_of_it():
    run = Run()
    one, two = run.add(50), run.add(4)
    run.choose(1)
    run.policy.remove(two)
    run.policy.remove(one)
    run.policy.charge(one, 10, 1)
    assert run.choose(2) == []
    assert not run.policy._class_of
