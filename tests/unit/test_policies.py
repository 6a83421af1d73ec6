"""Every policy, whatever is added, removed, charged and chosen: never more than the slots, nobody lost."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.sched.params import with_defaults
from kernel.sched.policy import POLICIES, make_policy
from kernel.taskattr import TaskAttr

MS = 1_000_000
TOKEN_NS = 4 * MS


class Thing:
    """As much of a request as a policy may look at."""

    def __init__(
        self, number: int, pid: int = 0, nice: int = 0, *, prompt: int = 0, most: int = 100, hint: int | None = None,
        **attr,
    ) -> None:  # fmt: skip
        self.number = number
        self.prompt_tokens, self.kv_tokens, self.generated_tokens = prompt, 0, 0
        self.most_tokens = most
        attr = TaskAttr(hint_until=hint, **attr)
        usage = SimpleNamespace(generated_tokens=0)
        self.task = SimpleNamespace(pid=pid or 100 + number, priority=nice, sched=attr, usage=usage)

    def work(self) -> None:
        """A step's progress: a chunk of the prompt, or a token."""
        if self.kv_tokens < self.prompt_tokens:
            self.kv_tokens += 64
        else:
            self.generated_tokens += 1
            self.task.usage.generated_tokens += 1

    def __repr__(self) -> str:
        return f"{self.number} of {self.task.pid} at {self.task.priority}"


class Run:
    """A policy, and the core time that passes in it."""

    def __init__(self, name: str, **params: int) -> None:
        self.policy = make_policy(name, params)
        self.work_ns = 0

    def add(self, *things: Thing) -> None:
        for thing in things:
            self.policy.add(thing)

    def step(self, slots: int, token_ns: int = TOKEN_NS) -> list[Thing]:
        chosen = self.policy.choose(slots, self.work_ns)
        for thing in chosen:
            self.charge(thing, token_ns)
        return chosen

    def charge(self, thing: Thing, core_ns: int) -> None:
        thing.work()
        thing.task.sched.attained_ns += core_ns
        self.work_ns += core_ns
        self.policy.charge(thing, core_ns, 1)


acts = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "charge", "step", "step", "step"]),
        st.integers(0, 1 << 16), st.integers(1, 5),
    ),
    max_size=80,
)  # fmt: skip


def play(name: str, acts: list[tuple[str, int, int]]) -> list[list[int]]:
    """Carry out acts, checking each choice; return the numbers that were chosen."""
    run, present, history = Run(name), [], []
    for number, (act, value, slots) in enumerate(acts):
        if act == "add":
            made = Thing(number, 1 + value % 4, value % 3, prompt=64 * (value % 4), most=1 + value % 200)
            present.append(made)
            run.add(made)
        elif act == "remove" and present:
            run.policy.remove(present.pop(value % len(present)))
        elif act == "charge" and present:
            run.charge(present[value % len(present)], value * 1000)
        elif act == "step":
            chosen = run.step(slots, 1 + value * 1000)
            assert len(set(chosen)) == len(chosen) == min(slots, len(present))
            assert set(chosen) <= set(present)
            history.append([thing.number for thing in chosen])
    for thing in present:
        run.policy.remove(thing)
    assert run.policy.choose(3, run.work_ns) == []
    return history


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=150, deadline=None)
@given(acts=acts)
def test_a_choice_is_work_conserving_within_the_slots_and_always_the_same(name, acts):
    assert play(name, acts) == play(name, acts)


@pytest.mark.parametrize("name", POLICIES)
def test_everyone_is_served_in_the_end(name):
    run = Run(name)
    things = [Thing(number, 1 + number % 5, number % 3, most=7) for number in range(12)]
    run.add(*things)
    left = dict.fromkeys(things, 7)
    for _ in range(60):
        for thing in run.step(3):
            left[thing] -= 1
            if not left[thing]:
                run.policy.remove(thing)
    assert set(left.values()) == {0}


@pytest.mark.parametrize("name", POLICIES)
def test_a_step_costs_hardly_more_with_a_hundred_times_the_requests(name, monkeypatch):
    """Counted in looks at requests' numbers, which every order falls back on, and at their sizes and levels."""

    def looks(count: int) -> int:
        seen = 0

        class Watched(Thing):
            def __getattribute__(self, attribute):
                nonlocal seen
                seen += 1
                return super().__getattribute__(attribute)

        run = Run(name)
        run.add(*(Watched(number, prompt=64, most=50 + number % 100) for number in range(count)))
        for _ in range(5):
            run.step(8)
        seen = 0
        for _ in range(50):
            run.step(8)
        return seen

    assert looks(5000) < 2 * looks(50)


# -- round robin --------------------------------------------------------------------------------


def test_round_robin_gives_each_task_the_same_however_many_requests_it_has():
    run = Run("rr", quantum_tokens=4)
    one = Thing(9, 2)
    run.add(*(Thing(number, 1) for number in range(9)), one)
    assert [run.step(1)[0] for _ in range(800)].count(one) == 400


def test_round_robin_lets_a_request_run_on_while_nobody_waits():
    run = Run("rr", quantum_tokens=1)
    one, two = Thing(0), Thing(1)
    run.add(one)
    assert [run.step(1) for _ in range(10)] == [[one]] * 10
    run.add(two)
    assert run.step(1) == [two]


def test_round_robin_switches_after_the_quantum_and_not_before():
    run = Run("rr", quantum_tokens=3)
    one, two = Thing(0), Thing(1)
    run.add(one, two)
    assert [run.step(1)[0] for _ in range(9)] == [one] * 3 + [two] * 3 + [one] * 3


def test_round_robin_gives_a_slot_that_is_taken_away_back_to_who_had_it_last():
    run = Run("rr", quantum_tokens=100)
    things = [Thing(number) for number in range(5)]
    run.add(*things)
    assert run.step(3) == things[:3]
    assert run.step(2) == things[:2]
    assert run.step(3) == things[:3]


# -- first come, and priorities -----------------------------------------------------------------


def test_first_come_is_first_served_until_it_ends():
    run = Run("fcfs")
    things = [Thing(number, nice=-number) for number in range(3)]
    run.add(*things)
    assert [run.step(1) for _ in range(50)] == [things[:1]] * 50
    run.policy.remove(things[0])
    assert run.step(1) == [things[1]]


def test_priority_goes_by_nice_value_and_then_by_arrival():
    run = Run("prio")
    things = [Thing(number, nice=nice) for number, nice in enumerate([5, 0, 0, -3])]
    run.add(*things)
    assert run.policy.choose(3, 0) == [things[3], things[1], things[2]]


def test_a_better_nice_value_preempts_at_once():
    run = Run("prio", age_ms=500, slice_ms=40)
    low, high = Thing(0, nice=1), Thing(1, nice=0)
    run.add(low)
    assert run.step(1) == [low]
    run.add(high)
    assert run.step(1) == [high]


def test_waiting_is_worth_a_step_of_nice_for_every_age_of_core_time():
    run = Run("prio", age_ms=40, slice_ms=20)  # a token is 4 ms: a turn is 5 tokens, a step of nice 10
    low, high = Thing(0, nice=1), Thing(1, nice=0)
    run.add(low, high)
    assert [run.step(1)[0] for _ in range(20)] == [high] * 10 + [low] * 5 + [high] * 5


def test_who_came_before_others_had_the_model_for_long_goes_before_a_better_nice_value():
    run = Run("prio", age_ms=50)
    old, new = Thing(0, nice=1), Thing(1, nice=0)
    run.add(old)
    run.policy.choose(0, 100 * MS)
    run.add(new)
    assert run.policy.choose(1, 100 * MS) == [old]


def test_equals_take_turns_of_a_slice_and_a_tasks_own_slice_goes_before():
    run = Run("prio", slice_ms=8)
    one, two = Thing(0), Thing(1, slice_ms=12)
    run.add(one, two)
    assert [run.step(1)[0] for _ in range(10)] == [one] * 2 + [two] * 3 + [one] * 2 + [two] * 3


# -- least attained service -----------------------------------------------------------------------


def test_the_agent_that_has_had_least_goes_first_and_at_once():
    run = Run("plas", slice_ms=40)
    old, new = Thing(0, attained_ns=40 * MS), Thing(1, attained_ns=40 * MS - 1)
    run.add(old)
    assert run.step(1, 1) == [old]
    run.add(new)
    assert run.policy.choose(1, 0) == [new]


def test_levels_double():
    policy = make_policy("plas", {"slice_ms": 10})
    levels = [policy.level(Thing(0, attained_ns=had * MS)) for had in (0, 9, 10, 19, 20, 39, 40, 79, 80)]
    assert levels == [0, 0, 1, 1, 2, 2, 3, 3, 4]


def test_within_a_level_turns_are_taken_and_nobody_is_preempted_by_its_like():
    run = Run("plas", slice_ms=8)
    one, two = Thing(0, attained_ns=1000 * MS), Thing(1, attained_ns=1000 * MS)
    run.add(one, two)
    assert [run.step(1)[0] for _ in range(8)] == [one] * 2 + [two] * 2 + [one] * 2 + [two] * 2


def test_an_agents_slice_is_its_turn():
    run = Run("plas", slice_ms=8)
    one, two = Thing(0, attained_ns=1000 * MS, slice_ms=4), Thing(1, attained_ns=1000 * MS, slice_ms=12)
    run.add(one, two)
    assert [run.step(1)[0] for _ in range(8)] == [one] + [two] * 3 + [one] + [two] * 3


def test_all_requests_of_an_agent_count():
    run = Run("plas", slice_ms=40)
    task = Thing(0, attained_ns=500 * MS).task
    first, fresh = Thing(0), Thing(1)
    first.task = task
    run.add(first, fresh)
    assert run.policy.choose(1, 0) == [fresh]


def test_what_one_request_of_an_agent_is_given_puts_its_waiting_ones_back_too():
    run = Run("plas", slice_ms=10)
    many, one = [Thing(number, pid=1) for number in range(20)], Thing(20, pid=2)
    for thing in many:
        thing.task = many[0].task
    run.add(*many)
    assert run.step(1, 25 * MS) == [many[0]]
    run.add(one)
    one.task.sched.attained_ns = 15 * MS
    assert run.policy.choose(1, 0) == [one], "a level below that of all the twenty"


# -- by size --------------------------------------------------------------------------------------


def test_the_shortest_goes_first_and_preempts():
    run = Run("srpt")
    long, short = Thing(0, most=50), Thing(1, most=10)
    run.add(long)
    assert run.step(1) == [long]
    run.add(short)
    assert [run.step(1)[0] for _ in range(3)] == [short] * 3


def test_a_prompt_counts_by_what_is_left_of_it():
    run = Run("srpt")
    asks, writes = Thing(0, prompt=260, most=10), Thing(1, most=109)
    run.add(asks, writes)
    assert run.policy.choose(1, 0) == [writes], "260 / 2.6 and 10 are 110"
    asks.kv_tokens = 64
    run.policy.remove(asks)
    run.add(asks)
    assert run.policy.choose(1, 0) == [asks]


def test_a_hint_is_believed_until_it_is_passed():
    run = Run("srpt")
    liar, honest = Thing(0, most=100, hint=3), Thing(1, most=20)
    run.add(liar, honest)
    assert [run.step(1)[0] for _ in range(5)] == [liar] * 3 + [honest] * 2


def test_a_hint_does_not_make_a_request_longer_than_it_may_be():
    run = Run("srpt")
    hinted, other = Thing(0, most=5, hint=50), Thing(1, most=6)
    run.add(hinted, other)
    assert run.policy.choose(1, 0) == [hinted]


def test_a_hint_is_counted_from_when_it_was_given():
    run = Run("srpt")
    late, other = Thing(0, most=100), Thing(1, most=80)
    late.generated_tokens = late.task.usage.generated_tokens = 10
    late.task.sched.hint_until = 10 + 20
    run.add(late, other)
    assert run.policy.choose(1, 0) == [late]


def test_the_highest_ratio_of_waiting_to_size_goes_next():
    run = Run("hrrn", slice_ms=1)
    long, short = Thing(0, most=64), Thing(1, most=4)
    run.add(long)
    assert run.step(1) == [long]
    run.add(short)
    run.work_ns += 8 * TOKEN_NS
    assert run.step(1) == [short], "it has waited for twice its size"


def test_who_waits_long_enough_goes_before_the_short():
    run = Run("hrrn", slice_ms=1)
    long = Thing(0, most=64)
    run.add(long)
    run.work_ns = 64 * TOKEN_NS
    run.policy.choose(0, run.work_ns)
    fresh = Thing(1, most=4)
    run.add(fresh)
    assert run.policy.choose(1, run.work_ns) == [long], "(64 + 64) / 64 against 1"


def test_a_turn_is_not_cut_short():
    run = Run("hrrn", slice_ms=12)
    long, short = Thing(0, most=64), Thing(1, most=4)
    run.add(long)
    assert run.step(1) == [long]
    run.add(short)
    run.work_ns += 100 * TOKEN_NS
    assert [run.step(1)[0] for _ in range(3)] == [long, long, short]


def test_of_one_size_the_longest_waiting_goes_first():
    run = Run("hrrn")
    things = [Thing(number, most=10) for number in (3, 1, 2)]
    run.add(*things)
    assert run.policy.choose(2, 0) == things[:2]


# -- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_described_with_its_parameters(name):
    kind = POLICIES[name]
    assert len(kind.doc.split()) > 5
    for param in kind.params.values():
        assert param.low <= param.default <= param.high
        assert param.doc


@pytest.mark.parametrize("value", [0, 10_001, 1.5, True, "9", None])
def test_a_parameter_out_of_its_range_is_refused_with_the_range(value):
    with pytest.raises(ValueError, match=r"slice_ms of policy plas is .*wanted 1 to 10000"):
        make_policy("plas", {"slice_ms": value})


def test_an_unknown_parameter_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="policy fcfs has no parameter 'colour'; it has none"):
        make_policy("fcfs", {"colour": 1})
    with pytest.raises(ValueError, match="it has age_ms, slice_ms"):
        make_policy("prio", {"colour": 1})


def test_turns_have_their_ranges_and_defaults():
    told = {
        (param.low, param.default, param.high)
        for kind in POLICIES.values()
        for name, param in kind.params.items()
        if name != "age_ms"
    }
    assert told == {(1, 50, 10_000), (1, 32, 1 << 20)}
    age = POLICIES["prio"].params["age_ms"]
    assert (age.low, age.default, age.high) == (1, 500, 1_000_000)


@pytest.mark.parametrize("value", [1, 10_000])
def test_what_is_not_given_has_its_default(value):
    kind = POLICIES["prio"]
    assert with_defaults("prio", kind.params, {"slice_ms": value}) == {"age_ms": 500, "slice_ms": value}
