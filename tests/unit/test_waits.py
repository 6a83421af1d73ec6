"""What is told of waits: the log, how long, how far, and why in a sentence."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.sched.rescue import Stage
from kernel.sched.waits import LOG_ENTRIES, Decision, Waits

S = 1_000_000_000


class Thing:
    """As much of a request as is told of."""

    def __init__(self, number: int, beside: Thing | None = None, slot: int | None = None) -> None:
        self.number, self.slot = number, slot
        self.task = beside.task if beside else SimpleNamespace(pid=100 + number, name=f"a{number}")


class Run:
    """Waits, and requests that hold slots or not."""

    def __init__(self) -> None:
        self.waits = Waits()

    def come(self, one: Thing, at_s: float = 0) -> Thing:
        self.waits.wants(one, int(at_s * S), "it came when every slot was taken")
        return one

    def run(self, one: Thing, at_s: float, how: str = "a slot was free") -> None:
        one.slot = 1
        self.waits.runs(one, int(at_s * S), how)

    def evict(self, one: Thing, at_s: float) -> None:
        one.slot = None
        self.waits.evicted(one, int(at_s * S), "its turn by rr was over")

    def end(self, one: Thing, at_s: float) -> None:
        self.waits.wants_no_more(one, int(at_s * S), one.slot is not None)
        one.slot = None

    def why(self, one: Thing, at_s: float) -> str:
        return self.waits.why(one.task, int(at_s * S))

    def now_s(self, one: Thing, at_s: float) -> float:
        return self.waits.now(one.task.pid, int(at_s * S))[0] / S

    def counts(self) -> tuple[int, int]:
        return self.waits.tasks, self.waits.waiting


def test_a_wait_lasts_from_when_a_request_came_until_it_has_a_slot():
    run = Run()
    one = run.come(Thing(1), 1)
    assert run.now_s(one, 3) == 2
    assert run.counts() == (1, 1)
    run.run(one, 4)
    assert run.now_s(one, 5) == 0
    assert run.counts() == (1, 0)
    assert (run.waits.longest(one.task.pid, 9 * S), run.waits.longest_ns) == (3 * S, 3 * S)


def test_a_wait_under_way_is_told_with_its_cause_and_the_others():
    run = Run()
    one = run.come(Thing(1), 1)
    told = "task 101 (a1) has waited 2.50 s so far: it came when every slot was taken; "
    assert run.why(one, 3.5) == told + "nobody else wanted the model"
    run.come(Thing(2))
    assert run.why(one, 3.5) == told + "1 other task wanted the model"
    run.come(Thing(3))
    assert run.why(one, 3.5) == told + "2 other tasks wanted the model"


def test_the_last_wait_is_told_with_how_it_ended_and_who_was_there_then():
    run = Run()
    one, other, _ = run.come(Thing(1), 1), run.come(Thing(2)), run.come(Thing(3))
    run.run(one, 1.25)
    run.end(other, 2)
    text = "task 101 (a1) waited 0.25 s: it came when every slot was taken; a slot was free; 2 other tasks"
    assert run.why(one, 9) == f"{text} wanted the model"


def test_of_a_task_that_never_waited_nothing_is_told():
    run = Run()
    assert run.why(Thing(1), 1) == ""
    assert run.waits.now(101, S) == (0, Stage.NONE)
    assert (run.waits.longest(101, S), run.waits.rescues(101)) == (0, 0)


def test_who_loses_its_slot_waits_from_then_on():
    run = Run()
    one = run.come(Thing(1))
    run.run(one, 1)
    run.evict(one, 5)
    assert run.counts() == (1, 1)
    assert run.now_s(one, 6) == 1
    assert "1.00 s so far: its turn by rr was over" in run.why(one, 6)


def test_a_task_does_not_wait_while_one_of_its_requests_has_a_slot():
    run = Run()
    one = run.come(Thing(1))
    other = run.come(Thing(2, one))
    assert run.counts() == (1, 1)
    run.run(one, 1)
    run.run(other, 2)
    run.evict(one, 3)
    assert run.now_s(one, 9) == 0
    assert run.counts() == (1, 0)
    run.evict(other, 4)
    assert run.now_s(one, 9) == 5


def test_a_second_request_does_not_begin_the_wait_anew():
    run = Run()
    one = run.come(Thing(1), 1)
    run.come(Thing(2, one), 3)
    assert run.now_s(one, 4) == 3


def test_when_the_last_request_that_had_a_slot_ends_the_others_wait():
    run = Run()
    one = run.come(Thing(1))
    other = run.come(Thing(2, one))
    run.run(one, 1)
    run.end(one, 4)
    assert run.counts() == (1, 1)
    assert "2.00 s so far: its last request on the model ended" in run.why(other, 6)


def test_when_a_waiting_request_ends_the_others_wait_on():
    run = Run()
    one = run.come(Thing(1), 1)
    other = run.come(Thing(2, one), 2)
    run.end(one, 4)
    assert run.now_s(other, 5) == 4
    third = run.come(Thing(3, one), 5)
    run.run(third, 6)
    run.end(other, 7)
    assert run.now_s(third, 8) == 0
    assert run.counts() == (1, 0)


def test_who_wants_the_model_no_more_waits_no_more():
    run = Run()
    one = run.come(Thing(1), 1)
    run.end(one, 4)
    assert run.counts() == (0, 0)
    assert run.now_s(one, 9) == 0
    assert run.why(one, 9).startswith("task 101 (a1) waited 3.00 s: it came when every slot was taken; it wanted")


def test_an_end_on_the_model_is_no_end_of_a_wait():
    run = Run()
    one = run.come(Thing(1), 1)
    run.run(one, 2)
    run.end(one, 9)
    assert run.waits.longest(101, 20 * S) == 1 * S
    assert "a slot was free" in run.why(one, 20)


def test_one_that_goes_on_before_it_was_taken_off_does_not_wait():
    run = Run()
    one = run.come(Thing(1, slot=3))
    assert run.counts() == (1, 0)
    assert run.why(one, 1) == ""
    run.evict(one, 2)
    assert run.now_s(one, 3) == 1


def test_the_longest_wait_is_kept_and_the_one_under_way_counts():
    run = Run()
    one, other = run.come(Thing(1)), run.come(Thing(2))
    run.run(one, 3)
    run.evict(one, 4)
    run.run(one, 5)
    run.evict(one, 6)
    run.run(other, 2)
    assert [run.waits.longest(101, at * S) for at in (8, 9, 12)] == [3 * S, 3 * S, 6 * S]
    assert (run.waits.longest(102, 12 * S), run.waits.longest_ns) == (2 * S, 3 * S)


# -- stages -----------------------------------------------------------------------------------------


def test_a_wait_has_the_furthest_stage_of_its_requests():
    run = Run()
    one = run.come(Thing(1))
    other = run.come(Thing(2, one))
    run.waits.reached(one, Stage.BOOST, 0, 3 * S)
    run.waits.reached(other, Stage.WARN, 0, 3 * S)
    assert run.waits.now(101, 4 * S) == (4 * S, Stage.BOOST)
    run.run(one, 5)
    assert run.waits.now(101, 6 * S) == (0, Stage.NONE)
    run.evict(one, 7)
    assert run.waits.now(101, 8 * S) == (S, Stage.NONE)


def test_a_stage_of_a_wait_that_ended_is_logged_only():
    run = Run()
    one = run.come(Thing(1))
    run.run(one, 1)
    run.waits.reached(one, Stage.WARN, 0, 3 * S)
    run.waits.reached(Thing(9), Stage.WARN, 0, 3 * S)
    run.evict(one, 4)
    assert run.waits.now(101, 5 * S) == (S, Stage.NONE)


def test_rescues_are_counted_by_task():
    run = Run()
    one, other = run.come(Thing(1)), run.come(Thing(2))
    for stage in (Stage.WARN, Stage.BOOST, Stage.RESCUE, Stage.RESCUE):
        run.waits.reached(one, stage, 0, S)
    run.waits.reached(other, Stage.BOOST, 0, S)
    assert (run.waits.rescues(101), run.waits.rescues(102)) == (2, 0)


def test_nothing_is_known_of_a_task_that_is_gone():
    run = Run()
    one = run.come(Thing(1))
    run.run(one, 3)
    run.waits.reached(one, Stage.RESCUE, 0, S)
    run.end(one, 4)
    run.waits.forget(101)
    run.waits.forget(999)
    assert run.why(one, 9) == ""
    assert (run.waits.longest(101, 9 * S), run.waits.rescues(101)) == (0, 0)
    assert run.waits.longest_ns == 3 * S


# -- the log ----------------------------------------------------------------------------------------


def test_every_decision_is_in_the_log():
    run = Run()
    one = run.come(Thing(1))
    run.waits.reached(one, Stage.WARN, S, 3 * S)
    run.run(one, 4)
    run.evict(one, 5)
    run.waits.log(6 * S, "pause", one, "there was no memory")
    assert list(run.waits) == [
        Decision(3 * S, "warn", 101, 1, "it has waited 2.00 s"),
        Decision(4 * S, "admit", 101, 1, "a slot was free"),
        Decision(5 * S, "evict", 101, 1, "its turn by rr was over"),
        Decision(6 * S, "pause", 101, 1, "there was no memory"),
    ]


def test_the_log_has_the_newest_only():
    run, one = Run(), Thing(1)
    for number in range(LOG_ENTRIES + 5):
        run.waits.log(number, "pause", one, "")
    assert [entry.now_ns for entry in run.waits] == list(range(5, LOG_ENTRIES + 5))
    assert LOG_ENTRIES == 4096


@given(st.lists(st.tuples(st.sampled_from(["come", "run", "evict", "end"]), st.integers(0, 99)), max_size=60))
@settings(deadline=None)
def test_a_task_waits_exactly_while_it_wants_the_model_and_has_no_slot(acts):
    run, things, began = Run(), [], {}
    first = [Thing(number) for number in range(3)]
    for at, (act, which) in enumerate(acts):
        one = things[which % len(things)] if things else None
        if act == "come":
            things.append(run.come(Thing(10 + at, first[which % 3]), at))
        elif act == "run" and one and one.slot is None:
            run.run(one, at)
        elif act == "evict" and one and one.slot is not None:
            run.evict(one, at)
        elif act == "end" and one:
            things.remove(one)
            run.end(one, at)
        for task in (one.task for one in first):
            own = [thing for thing in things if thing.task is task]
            if own and all(thing.slot is None for thing in own):
                began.setdefault(task.pid, at)
            else:
                began.pop(task.pid, None)
            waits_ns, _ = run.waits.now(task.pid, (at + 1) * S)
            assert waits_ns == (at + 1 - began[task.pid] if task.pid in began else 0) * S
        assert run.counts() == (len({thing.task.pid for thing in things}), len(began))
