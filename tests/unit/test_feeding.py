"""What a step feeds: prompts before others' next tokens while all have a slot, and nobody for ever."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from kernel.sched import feeding as module
from kernel.sched.feeding import FEW, chunks_within
from kernel.taskattr import SchedClass


@dataclass(eq=False)
class Working:
    """As much of a request as is fed."""

    prompt_tokens: int
    kv_tokens: int = 0
    turns: tuple = ()
    waited: int = field(default=0, compare=False)
    task: SimpleNamespace = field(default_factory=lambda: of())


def of(group: str = "/", sched_class: SchedClass = SchedClass.FAIR) -> SimpleNamespace:
    return SimpleNamespace(sched=SimpleNamespace(group=group, sched_class=sched_class))


def Feeding(prefill_tokens: int, gap: float = 0.0) -> module.Feeding:
    """One in which a token takes 10, and a chunk 40, of those whose gaps may be `gap` times their tokens alone."""
    groups = SimpleNamespace(effective=lambda path: SimpleNamespace(gap=gap))
    charging = SimpleNamespace(decodes_ns=lambda several: 10.0 * len(several), chunk_ns=lambda one: 40.0)
    return module.Feeding(prefill_tokens, groups, charging)


def step(feeding: Feeding, working: list[Working], is_everybody: bool = True) -> list[tuple[Working, int]]:
    """Carry a step out; return who was fed, and how many chunks each."""
    fed = feeding.choose(working, is_everybody)
    for request, rows in fed:
        assert rows[0][0] == request.kv_tokens
        request.kv_tokens = rows[-1][1]
    return [(request, rows[-1][2]) for request, rows in fed]


def decoding(count: int = FEW + 1) -> list[Working]:
    return [Working(10, 10) for _ in range(count)]


def test_a_prompt_goes_before_the_next_tokens_of_others():
    feeding, old, new = Feeding(256), decoding(), Working(100)
    assert step(feeding, [*old, new]) == [(new, 1)]
    assert step(feeding, [*old, new]) == [(one, 0) for one in (*old, new)]


def test_few_others_have_their_next_tokens_beside_a_prompt():
    feeding, old, new = Feeding(256), decoding(FEW), Working(100)
    assert step(feeding, [*old, new]) == [*((one, 0) for one in old), (new, 1)]


def test_no_more_of_prompts_comes_between_two_tokens_than_a_step_may_have():
    feeding, old, new = Feeding(256), decoding(), Working(1000)
    tokens = [(one, 0) for one in old]
    assert [step(feeding, [*old, new]) for _ in range(4)] == [[(new, 4)], tokens, [(new, 4)], tokens]


def test_short_prompts_that_come_one_after_another_are_counted_together():
    feeding, old = Feeding(128), decoding()
    several = [Working(50) for _ in range(3)]
    assert step(feeding, [*old, several[0]]) == [(several[0], 1)]
    assert step(feeding, [*old, several[1]]) == [(several[1], 1)]
    assert step(feeding, [*old, several[2]]) == [(one, 0) for one in old]
    assert step(feeding, [*old, several[2]]) == [(several[2], 1)]


def test_while_others_wait_for_a_slot_a_step_does_both():
    feeding, old, new = Feeding(256), decoding(), Working(300)
    assert step(feeding, [*old, new], is_everybody=False) == [*((one, 0) for one in old), (new, 4)]


def in_class(sched_class: SchedClass, *several: Working) -> list[Working]:
    for one in several:
        one.task = of(sched_class=sched_class)
    return list(several)


def test_who_decodes_in_a_higher_class_does_not_wait_for_prompts_with_those_below():
    feeding, talk, batch = Feeding(256), decoding(2), in_class(SchedClass.BATCH, *decoding())
    (new,) = in_class(SchedClass.BATCH, Working(100))
    assert step(feeding, [*talk, *batch, new]) == [*((one, 0) for one in talk), (new, 1)]
    assert step(feeding, [*talk, *batch]) == [(one, 0) for one in (*talk, *batch)]


def test_a_class_below_reads_a_chunk_between_two_tokens_of_those_above():
    feeding, talk, batch = Feeding(256), decoding(2), in_class(SchedClass.BATCH, *decoding())
    new = in_class(SchedClass.BATCH, Working(1000), Working(1000))
    for _ in range(4):
        assert step(feeding, [*talk, *batch, *new]) == [*((one, 0) for one in talk), (new[0], 1)]
    assert step(feeding, [*talk, *batch, *new])[:-1] == [(one, 0) for one in (*talk, *batch)]


def test_a_higher_class_reads_as_much_as_a_step_may_have_before_those_below_decode():
    feeding, batch, new = Feeding(256), in_class(SchedClass.BATCH, *decoding()), Working(1000)
    assert step(feeding, [new, *batch]) == [(new, 4)]


def test_the_rescued_below_have_their_tokens_beside_prompts_and_their_chunk():
    feeding, talk, batch = Feeding(256), decoding(2), in_class(SchedClass.BATCH, *decoding(FEW + 2))
    new = in_class(SchedClass.BATCH, Working(1000), Working(1000))
    fed = feeding.choose([*talk, *batch, *new], True, [batch[0], new[1]])
    assert [one for one, _ in fed] == [*talk, batch[0], *new]
    assert [rows[-1][2] for _, rows in fed] == [0, 0, 0, 1, 1]


def test_a_step_has_as_many_chunks_as_those_who_decode_put_up_with():
    feeding, old, new = Feeding(256, gap=3.0), decoding(FEW), Working(1000)
    assert step(feeding, [*old, new])[-1] == (new, 3), "6 tokens are 60, three times that leaves 120"


def test_a_step_has_one_chunk_however_little_they_put_up_with():
    feeding, old, new = Feeding(256, gap=1.0), decoding(1), Working(1000)
    assert step(feeding, [*old, new])[-1] == (new, 1)


def test_the_rescued_have_a_chunk_each():
    feeding, old = Feeding(256, gap=1.0), decoding(1)
    new = [Working(1000) for _ in range(3)]
    feeding_of = feeding.choose([*old, *new], True, new[:2])
    assert sum(rows[-1][2] for _, rows in feeding_of) == 2


def test_the_rescued_have_one_chunk_however_many_a_step_may_have():
    feeding, new = Feeding(256), [Working(1000) for _ in range(3)]
    fed = feeding.choose(new, True, new[:2])
    assert [rows[-1][2] for _, rows in fed] == [1, 1, 2]


def test_no_more_of_the_rescued_have_a_chunk_than_a_step_may_have():
    feeding, old = Feeding(128, gap=1.0), decoding(1)
    new = [Working(1000) for _ in range(5)]
    fed = feeding.choose([*old, *new], True, new)
    assert sum(rows[-1][2] for _, rows in fed) == 2


def test_the_rescued_that_decode_leave_no_more_room_for_prompts():
    feeding, old, new = Feeding(256, gap=1.0), decoding(3), Working(1000)
    assert feeding.choose([*old, new], True, old)[-1][1][-1][2] == 1


def test_those_who_put_up_with_least_are_gone_by():
    gaps = {"/": 3.0, "/quick": 2.0, "/all": 0.0}
    feeding = Feeding(256)
    feeding._groups = SimpleNamespace(effective=lambda path: SimpleNamespace(gap=gaps[path]))
    old = decoding(6)
    for one, group in zip(old, ("/", "/all", "/quick"), strict=False):
        one.task = of(group)
    assert step(feeding, [*old, Working(1000)])[-1][1] == 1, "6 tokens are 60, twice that leaves 60"


def test_few_are_six():
    for count, is_fed in ((6, True), (7, False)):
        assert (len(step(Feeding(256), [*decoding(count), Working(100)])) > 1) is is_fed


def test_chunks_within_a_gap():
    assert chunks_within(0.0, 100.0, 10.0, 1, 9) == 9
    assert chunks_within(2.5, 0.0, 10.0, 1, 9) == 9
    assert chunks_within(2.5, 20.0, 10.0, 1, 9) == 3
    assert chunks_within(2.5, 19.9, 10.0, 1, 9) == 2
    assert chunks_within(2.5, 1.0, 10.0, 2, 9) == 2
    assert chunks_within(2.5, 1000.0, 10.0, 2, 9) == 9


def test_prompts_alone_are_read_without_a_break():
    feeding, new = Feeding(64), Working(300)
    assert [step(feeding, [new]) for _ in range(4)] == [[(new, 1)]] * 4


@given(
    st.lists(
        st.tuples(st.integers(1, 700), st.booleans(), st.sampled_from([SchedClass.FAIR, SchedClass.BATCH])),
        min_size=1,
        max_size=3 * FEW,
    ),
    st.sampled_from([1, 64, 256, 1024]),
    st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_whoever_works_is_fed_soon(requests, prefill_tokens, everybody):
    """Who decodes, after no more chunks than a step may have; the first of those that read, every other step."""
    feeding, most = Feeding(prefill_tokens), max(1, prefill_tokens // 64)
    working = [Working(prompt, prompt * is_read, task=of(sched_class=level)) for prompt, is_read, level in requests]
    passed_over = None
    for is_everybody in everybody:
        reading = [one for one in working if one.kv_tokens < one.prompt_tokens]
        decoding = [one for one in working if one not in reading]
        fed = step(feeding, working, is_everybody)
        assert sum(chunks for _, chunks in fed) <= most
        got = {request for request, _ in fed}
        for one in decoding:
            one.waited = 0 if one in got else one.waited + 1
            assert one.waited <= most
        is_passed_over = bool(reading) and reading[0] not in got
        assert not is_passed_over or passed_over is not reading[0]
        passed_over = reading[0] if is_passed_over else None
