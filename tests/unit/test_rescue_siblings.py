"""A request that waits long while another of its task has a slot: it takes that one, and no rescued's."""

from __future__ import annotations

from test_rescue import CORE, LEASE, STARVE_NS, Run, Thing

from kernel.sched.rescue import Stage


def served_task() -> tuple[Run, Thing, Thing]:
    """A request that runs, and one of the same task that has waited for STARVE_NS."""
    run, runs = Run(), Thing(0)
    waits = Thing(1, runs)
    run.wait(waits)
    run.run(runs, 10)
    assert run.look(STARVE_NS) == []
    return run, runs, waits


def test_a_task_of_which_another_request_runs_is_told_of_nothing():
    run, runs, _ = Run(), Thing(0), None
    waits = Thing(1, runs)
    run.wait(waits)
    run.run(runs, 10)
    run.look(9 * STARVE_NS)
    assert run.told == []


def test_a_task_starves_from_when_its_last_request_ran():
    run, runs, waits = Run(), Thing(0), None
    waits = Thing(1, runs)
    run.run(runs, 0)
    run.wait(waits)
    run.look(STARVE_NS // 4)
    runs.task.running, runs.task.ran_ns = 0, STARVE_NS // 4
    run.look(STARVE_NS // 4 + STARVE_NS // 2 - 1)
    assert run.told == []
    run.look(STARVE_NS // 4 + STARVE_NS // 2)
    assert run.told == [(1, "WARN", 0)]
    assert run.look(STARVE_NS // 4 + STARVE_NS - 1) == []
    assert run.look(STARVE_NS // 4 + STARVE_NS) == [waits]


def warned() -> tuple[Run, Thing, Thing]:
    """One that was boosted, and whose task got a slot by another request before it starved."""
    run, runs = Run(), Thing(0)
    waits = Thing(1, runs)
    run.wait(waits)
    run.look(STARVE_NS - 1)
    run.run(runs, STARVE_NS - 1)
    assert run.rescue.stage(waits) is Stage.BOOST
    return run, runs, waits


def test_one_that_waits_long_takes_a_slot_of_its_own_task():
    run, runs, waits = warned()
    assert run.inner(STARVE_NS - 1) == []
    assert run.rescue.look(STARVE_NS, 3, 1) == ([], [waits])
    assert ("RESCUE" in [name for _, name, _ in run.told]) is False, runs


def test_it_has_that_slot_for_a_lease():
    run, runs, waits = warned()
    run.inner(STARVE_NS)
    run.leave(runs, STARVE_NS)
    run.run(waits, STARVE_NS)
    assert run.inner(STARVE_NS + 2 * LEASE) == [waits], "it was not fed yet"
    run.rescue.fed(waits, 1)
    assert run.inner(STARVE_NS + LEASE - 1) == [waits]
    assert run.inner(STARVE_NS + LEASE) == []


def test_such_a_lease_that_ends_early_lets_no_row_rest():
    run, runs, waits = warned()
    other = Thing(5)
    run.wait(other)
    assert run.rescue.look(STARVE_NS, 3, 1) == ([other], [waits])
    run.leave(runs, STARVE_NS)
    run.run(waits, STARVE_NS)
    run.rescue.fed(waits, CORE)
    run.rescue.gone(other)
    run.wait(other, at=0)
    assert run.rescue.look(STARVE_NS + 1, 3, 1) == ([other], [])


def test_it_is_rescued_if_its_task_has_no_slot_any_more():
    run, runs, waits = warned()
    assert run.inner(STARVE_NS) == [waits]
    runs.task.running, runs.task.ran_ns = 0, STARVE_NS
    run.rescue.gone(runs)
    assert run.rescue.look(2 * STARVE_NS, 3, 1) == ([waits], [])


def test_who_loses_such_a_slot_takes_it_again():
    run, runs, waits = warned()
    run.inner(STARVE_NS)
    run.run(waits, STARVE_NS)
    run.rescue.fed(waits, 1)
    run.leave(waits, STARVE_NS + 5)
    assert run.inner(STARVE_NS + LEASE) == [waits], runs


def test_one_that_is_gone_takes_no_slot_of_its_task():
    run, runs, waits = warned()
    run.inner(STARVE_NS)
    run.rescue.gone(waits)
    assert run.inner(STARVE_NS + 1) == [], runs
