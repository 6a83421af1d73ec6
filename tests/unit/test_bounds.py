"""The bound's terms: who counts as waiting before a task, and what their reading takes longer than their turns."""

from __future__ import annotations

import pytest

from benchmarks.sched_machine import Machine, Simulation
from kernel.sched.bounds import Bounds
from kernel.sched.rescue import Bound

SLOTS = 6


def simulation(slots: int = SLOTS, policy: str = "eevdf") -> Simulation:
    """One whose model of the steps has seen short and long prompts."""
    made = Simulation(1, slots, Machine(noise=0.0), policy=policy)
    for prompt in (64, 1500, 400):
        made.ask(made.agent(), prompt, 30)
        while made.requests:
            made.step()
    return made


def bound(made: Simulation, watched) -> Bound:
    return Bounds(made.scheduler, made.groups).of(watched.task)


def test_those_who_wait_count_and_not_those_who_have_a_slot():
    made = simulation()
    asking = [made.agent() for _ in range(SLOTS + 4)]
    for one in asking:
        made.ask(one, 20, 500)
    made.step()
    waiting = [one for one in asking if not one.task.running]
    running = next(one for one in asking if one.task.running)
    assert len(waiting) == 4
    assert bound(made, waiting[0]).tasks == 4, "itself too"
    assert bound(made, running).tasks == 5, "the four, and itself when it has lost its slot"
    assert bound(made, made.agent()).tasks == 5


def test_who_has_a_slot_and_another_request_that_waits_counts_as_well():
    made = simulation()
    many, one = made.agent(), made.agent()
    for _ in range(SLOTS + 1):
        made.ask(many, 20, 500)
    made.step()
    made.ask(one, 20, 500)
    assert bound(made, one).tasks == 2


def test_those_of_groups_with_less_patience_count_though_they_have_slots():
    made = simulation()
    made.groups.create("/hasty", {"starve_ms": 100})
    hasty, one = made.agent(group="/hasty"), made.agent()
    made.ask(hasty, 20, 500)
    made.step()
    assert bound(made, one).tasks == 2
    assert bound(made, hasty).tasks == 1
    assert bound(made, hasty).starve_s == pytest.approx(0.1)


def test_reading_counts_by_how_much_it_is_longer_than_the_turns():
    made = simulation(24)
    for _ in range(24):
        made.ask(made.agent(), 20, 500)
    made.step()
    one = made.agent()
    assert (bound(made, one).rows, bound(made, one).reads_s) == (9, 0.0)
    read = [made.ask(made.agent(), 1500, 1) for _ in range(18)]
    assert bound(made, one).reads_s == 0.0, "at their beginning chunks take no longer than the leases"
    for request in read:
        request.kv_tokens = 1472
    found = bound(made, one)
    machine = made.machine
    chunk_s = (machine.chunk_pass_ns + 64 * (machine.prompt_ns + 1472 * machine.prompt_cell_ns)) / 1e9
    others_s = (machine.pass_ns + 15 * machine.row_ns) / 1e9
    longer_s = 1.2 * (9 * chunk_s + 3 * others_s) - found.lease_s - found.step_s
    assert found.reads_s == pytest.approx(2 * longer_s, rel=0.2), "two turns of nine; a fifth more"
    assert found.seconds == pytest.approx(
        found.starve_s + 3 * (found.lease_s + found.step_s + found.switch_s) + found.reads_s
    )


def test_those_who_are_rescued_count_if_their_leases_may_outlast_the_patience():
    made = simulation(policy="fcfs")
    made.groups.create("/hasty", {"starve_ms": 100})
    for _ in range(SLOTS + 30):  # more than can be boosted in time
        made.ask(made.agent(), 20, 5000)
    taken = 0
    for _ in range(400):
        made.step()
        if taken := made.scheduler.queues.rows_taken(0):
            break
    waiting = sum(not one.task.running for one in made.tasks if one.task.requests)
    assert (taken, waiting) == (2, 30)
    assert bound(made, made.agent()).tasks == 30 + 1
    assert bound(made, made.agent(group="/hasty")).tasks == 30 + 1 + taken
