"""Who is paused for want of memory: the youngest first, and the oldest goes on first."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from kernel.engine.base import EXACT, RECOMPUTE
from kernel.sched.residency import Residency

CAUSE = "there was no memory for its context"
INFO = SimpleNamespace(exactness=EXACT, kv_bytes_per_token=10)


class Thing:
    """As much of a request as is paused."""

    def __init__(self, number: int, beside: Thing | None = None, tokens: int = 10, parked: bool = True) -> None:
        self.number, self.tokens = number, [1] * tokens
        self.snapshot = object() if parked else None
        self.task = beside.task if beside else SimpleNamespace(pid=100 + number, running=0, requests=[])
        self.task.requests.append(self)

    def __repr__(self) -> str:
        return f"{self.number} of {self.task.pid}"


class Memory:
    """Stands for Parking: a save needs a place, and every snapshot has one."""

    def __init__(self, places: int, limit_bytes: int = 1000) -> None:
        self.places = places
        self.store = SimpleNamespace(lent_bytes=0, limit_bytes=limit_bytes)
        self.log: list[tuple[str, int]] = []

    def plan_save(self, request: Thing, slot: int, flight: object, info: object) -> bool:
        if not self.places:
            return False
        self.places -= 1
        self.log.append(("save", request.number))
        return True

    def fall_back(self, request: Thing, has_core: bool) -> None:
        assert has_core
        self.log.append(("fall back", request.number))

    def give_up(self, request: Thing, flight: object) -> None:
        if request.snapshot is not None:
            request.snapshot = None
            self.places += 1
        self.log.append(("give up", request.number))


class Run:
    """Runnable requests and a memory that is full."""

    def __init__(self, *things: Thing, places: int = 0) -> None:
        self.runnable = dict.fromkeys(things)
        self.memory = Memory(places)
        self.moves: list[tuple[str, int, str]] = []
        self.residency = Residency(self.memory, self.runnable.keys(), self._leave, self._enter)

    def _leave(self, request: Thing, cause: str) -> None:
        del self.runnable[request]
        self.moves.append(("leave", request.number, cause))

    def _enter(self, request: Thing, cause: str) -> None:
        self.runnable[request] = None
        self.moves.append(("enter", request.number, cause))

    def save(self, request: Thing, exactness: object = EXACT) -> None:
        info = SimpleNamespace(exactness=exactness, kv_bytes_per_token=10)
        self.residency.save(request, 0, object(), info)

    def resume(self, slots: int = 0, used: int = 0) -> list[int]:
        """Let them go on; return the numbers of those that do."""
        self.moves.clear()
        self.memory.store.lent_bytes = used
        self.residency.resume(INFO, slots)
        assert {(move, cause) for move, _, cause in self.moves} <= {("enter", CAUSE)}
        return [number for _, number, _ in self.moves]

    def left(self) -> list[int]:
        assert {(move, cause) for move, _, cause in self.moves} <= {("leave", CAUSE)}
        return [number for _, number, _ in self.moves]


# -- who is paused ----------------------------------------------------------------------------------


def test_while_there_is_room_nobody_is_paused():
    one, other = Thing(1), Thing(2)
    run = Run(one, other, places=1)
    run.save(one)
    assert (run.memory.log, run.left(), len(run.residency)) == ([("save", 1)], [], 0)


def test_the_youngest_that_is_parked_makes_room():
    things = [Thing(number) for number in (1, 2, 4, 3)]
    run = Run(*things)
    run.save(things[0])
    assert run.left() == [4]
    assert run.memory.log == [("give up", 4), ("save", 1)]
    assert len(run.residency) == 1


def test_as_many_are_paused_as_it_takes_youngest_first():
    one, two, three = Thing(1), Thing(2), Thing(3)
    run = Run(one, two, three)
    run.memory.places = -1
    run.memory.plan_save = lambda request, slot, flight, info: run.memory.places > 0
    run.save(one)
    assert run.left() == [3, 2]


def test_a_whole_agent_is_paused_with_all_its_requests():
    one, first = Thing(1), Thing(2)
    second = Thing(3, first, parked=False)
    run = Run(one, first, second)
    run.save(one)
    assert run.left() == [2, 3]
    assert run.memory.log[:2] == [("give up", 2), ("give up", 3)]


def test_an_agents_age_is_that_of_its_oldest_request():
    old, young = Thing(1), Thing(3)
    late = Thing(9, old)
    run = Run(late, young)
    run.save(young)
    assert run.left() == [3], "the other came before it, though its newest request came after"


def test_nobody_older_is_paused_for_a_younger_one_which_is_paused_itself():
    old, young = Thing(1), Thing(2)
    run = Run(old, young)
    run.save(young)
    assert run.left() == [2]
    assert run.memory.log[0] == ("fall back", 2)
    assert run.residency.holds(young)


def test_who_has_a_slot_or_nothing_parked_gives_no_room():
    one, running, bare = Thing(1), Thing(2), Thing(3, parked=False)
    running.task.running = 1
    run = Run(one, running, bare)
    run.save(one)
    assert run.left() == [1]


def test_one_whose_task_has_another_slot_loses_its_context_and_is_not_paused():
    one = Thing(1)
    one.task.running = 1
    run = Run(one)
    run.save(one)
    assert (run.left(), run.memory.log, len(run.residency)) == ([], [("fall back", 1)], 0)


def test_one_that_is_not_runnable_is_not_paused():
    one = Thing(1)
    run = Run()
    run.save(one)
    assert (run.left(), run.memory.log) == ([], [("fall back", 1)])


def test_a_context_that_no_snapshot_can_hold_is_dropped_and_nobody_paused():
    one, other = Thing(1), Thing(2)
    run = Run(one, other, places=5)
    run.save(one, RECOMPUTE)
    assert (run.left(), run.memory.log) == ([], [("fall back", 1)])


# -- who goes on ------------------------------------------------------------------------------------


def paused(*sizes: int) -> tuple[Run, list[Thing]]:
    """An agent that runs, and paused ones of these many tokens, youngest paused first."""
    things = [Thing(10 + number, tokens=tokens) for number, tokens in enumerate(sizes)]
    head = Thing(1)
    run = Run(head, *things)
    run.memory.plan_save = lambda request, slot, flight, info: False
    run.save(head)
    run.residency.forget(head)
    assert len(run.residency) == len(sizes)
    run.runnable[head] = None
    return run, things


def test_the_oldest_goes_on_first():
    run, _ = paused(30, 30, 30)
    assert run.resume(used=500) == [10, 11, 12]


def test_only_as_many_go_on_as_fit_into_four_fifths_of_the_memory():
    run, _ = paused(30, 10)
    assert run.resume(used=501) == []
    assert run.resume(used=500) == [10, 11], "300 bytes and 500 are 800 of 1000; then 100 and 500"


def test_a_small_one_does_not_overtake_the_head_of_the_line():
    run, _ = paused(60, 1)
    assert run.resume(used=300) == []


def test_whoever_is_paused_goes_on_while_slots_are_free():
    run, _ = paused(90, 90, 90)
    assert run.resume(slots=3, used=1000) == [10, 11], "with the one that runs they are three"
    assert run.resume(slots=3, used=1000) == []
    assert len(run.residency) == 1


def test_all_requests_of_an_agent_go_on_together():
    run, (first,) = paused(30)
    second = Thing(50, first)
    assert run.residency.holds(second)
    assert run.resume() == [10, 50]
    assert not run.residency.holds(second)
    assert len(run.residency) == 0


def test_the_need_is_that_of_the_agents_oldest_request():
    run, (first,) = paused(10)
    run.residency.holds(Thing(50, first, tokens=90))
    assert run.resume(used=700) == [10, 50]


# -- who leaves -------------------------------------------------------------------------------------


def test_an_agent_whose_last_request_ended_is_paused_no_more():
    run, (first,) = paused(30)
    second = Thing(50, first)
    run.residency.holds(second)
    run.residency.forget(first)
    assert run.residency.holds(first) is True, "as long as it has another"
    run.residency.forget(first)
    run.residency.forget(second)
    assert len(run.residency) == 0
    assert run.residency.holds(second) is False


def test_to_forget_one_that_is_not_paused_changes_nothing():
    run, (first,) = paused(30)
    run.residency.forget(Thing(7))
    run.residency.forget(Thing(51, first))
    assert len(run.residency) == 1


@pytest.mark.parametrize("count", [1, 5])
def test_everybody_goes_on_once_there_is_room(count):
    run, things = paused(*[20] * count)
    assert run.resume(used=0) == [one.number for one in things]
    assert len(run.residency) == 0
