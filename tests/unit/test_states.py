"""The state machines are their tables and nothing else."""

from __future__ import annotations

import itertools

import pytest

from kernel.objects import Task
from kernel.states import (
    CORE_TRANSITIONS,
    FINISHED,
    REQUEST_TRANSITIONS,
    TASK_TRANSITIONS,
    CoreState,
    InvalidTransition,
    RequestState,
    TaskState,
    validate,
)

TABLES = [
    (TASK_TRANSITIONS, TaskState), (REQUEST_TRANSITIONS, RequestState), (CORE_TRANSITIONS, CoreState)
]  # fmt: skip
FIRST = {TaskState: TaskState.NEW, RequestState: RequestState.QUEUED, CoreState: CoreState.UNLOADED}
ENDS = {TaskState: {TaskState.ZOMBIE}, RequestState: FINISHED, CoreState: {CoreState.FAILED}}


@pytest.mark.parametrize(("table", "states"), TABLES)
def test_every_step_that_is_not_listed_raises(table, states):
    for old, new in itertools.product(states, states):
        if new in table[old]:
            validate(table, old, new)
        else:
            with pytest.raises(InvalidTransition, match=f"{old.name} -> {new.name}"):
                validate(table, old, new)


@pytest.mark.parametrize(("table", "states"), TABLES)
def test_every_state_is_reached_from_the_first_and_can_end(table, states):
    assert set(table) == set(states)
    reached, todo = set(), [FIRST[states]]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo += table[state]
    assert reached == set(states)
    assert {state for state in states if not table[state]} == ENDS[states]


@pytest.mark.parametrize(("table", "states"), TABLES)
def test_every_step_says_why_and_leads_elsewhere(table, states):
    for old, steps in table.items():
        assert old not in steps
        assert all(steps.values())


@pytest.mark.parametrize("old", TaskState)
@pytest.mark.parametrize("new", TaskState)
def test_a_task_moves_as_its_table_says(old, new):
    task = Task(1, 0, "", 0, (1, 1), state=old)
    if new in TASK_TRANSITIONS[old]:
        task.move(new)
        assert task.state is new
    else:
        with pytest.raises(InvalidTransition):
            task.move(new)
        assert task.state is old
