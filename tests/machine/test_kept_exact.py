"""Whether a kept context's KV was still there changes no token, and the answers' own KV is used again."""

from __future__ import annotations

import pytest
from cut_engine import cut_engine  # noqa: F401 - a fixture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine import Machine, Peer

from kernel.engine.base import CHUNK_TOKENS
from kernel.limits import MAX_KEPT_CONTEXTS

pytestmark = pytest.mark.usefixtures("cut_engine")

ROOM = 1 << 24


def ask(peer: Peer, tokens: list[int], count: int = 12, **options) -> int:
    return peer.call("llm.generate", tokens=tokens, max_tokens=count, keep=True, **options)


def answer(machine: Machine, peer: Peer, tokens: list[int], count: int = 12, **options) -> dict:
    call = ask(peer, tokens, count, **options)
    machine.run()
    return peer.reply(call)


def prompt(seed: int, length: int) -> list[int]:
    return [(seed * 37 + at * (seed + 3)) % 256 for at in range(length)]


def test_the_next_turn_computes_neither_the_prompt_nor_the_answer_again():
    machine = Machine()
    peer = machine.agent()
    first = prompt(1, 100)
    said = list(answer(machine, peer, first)["tokens"])
    then = answer(machine, peer, [*first, *said, *prompt(2, 30)])
    assert (
        then["usage"]["cached_tokens"] == 100 + 12 - 1
    )  # the last token of an answer is never fed


def test_a_turn_that_comes_while_its_context_is_being_saved_waits_for_it():
    machine = Machine()
    peer = machine.agent()
    call = ask(peer, prompt(1, 100))
    while peer.end(call) is None:
        machine.step()
    said = list(peer.reply(call)["tokens"])
    assert machine.scheduler._parking.kept._coming
    then = answer(machine, peer, [*prompt(1, 100), *said, 5])
    assert then["usage"]["cached_tokens"] == 111


def test_many_conversations_of_one_task_are_told_apart():
    machine = Machine()
    peer = machine.agent()
    talks = []
    for seed in range(5):
        asked = prompt(seed, 80)
        talks.append([*asked, *answer(machine, peer, asked)["tokens"]])
    for talk in reversed(talks):
        assert answer(machine, peer, [*talk, 1])["usage"]["cached_tokens"] == 91


def test_an_edited_last_turn_finds_what_came_before_it():
    machine = Machine()
    peer = machine.agent()
    talk = prompt(1, 100)
    talk += answer(machine, peer, talk)["tokens"]
    answer(machine, peer, [*talk, *prompt(2, 40)])
    edited = answer(machine, peer, [*talk, *prompt(3, 40)])
    assert edited["usage"]["cached_tokens"] == 111


def test_a_cancelled_requests_twin_finds_its_prompt():
    machine = Machine(prefill_tokens=64)
    peer = machine.agent()
    call = ask(peer, prompt(1, 300))
    for _ in range(4):
        machine.step()
    peer.ask("llm.cancel", call=call)
    assert answer(machine, peer, prompt(1, 300))["usage"]["cached_tokens"] >= 128


def test_a_twin_of_one_that_was_cancelled_before_it_ran_has_what_that_had_taken():
    machine = Machine(slots=1, quantum_tokens=1000)
    peer, other = machine.agent(), machine.agent()
    talk = prompt(1, 100)
    talk += answer(machine, peer, talk)["tokens"]
    busy = other.call("llm.generate", tokens=prompt(9, 10), max_tokens=30)
    machine.step()
    waits = ask(peer, [*talk, 7])
    machine.step()
    peer.ask("llm.cancel", call=waits)
    again = ask(peer, [*talk, 7])
    machine.run()
    assert other.reply(busy)
    assert peer.reply(again)["usage"]["cached_tokens"] == 111


def test_without_keep_a_prompt_leaves_nothing():
    machine = Machine()
    peer = machine.agent()
    call = peer.call("llm.generate", tokens=prompt(1, 100), max_tokens=3)
    machine.run()
    assert peer.reply(call)
    assert not machine.scheduler._parking.kept._by_owner


def test_no_more_contexts_of_a_task_are_known_than_the_limit():
    machine = Machine()
    peer = machine.agent()
    for seed in range(MAX_KEPT_CONTEXTS + 3):
        answer(machine, peer, [seed % 256] * 40 + prompt(seed, 40), 1)
    (several,) = machine.scheduler._parking.kept._by_owner.values()
    assert len(several) == MAX_KEPT_CONTEXTS


turns = st.lists(
    st.tuples(
        st.integers(0, 2),  # task
        st.integers(0, 2),  # which of its conversations
        st.integers(1, 90),  # new tokens
        st.integers(1, 20),  # of the answer
        st.sampled_from(["go on", "go on", "go on", "edit", "cancel"]),
    ),
    min_size=2,
    max_size=12,
)


def talk_through(turns, machine: Machine, happen) -> list[list[int]]:
    """Have the conversations, one request at a time; return all answers."""
    peers = [machine.agent() for _ in range(3)]
    talks: dict[tuple[int, int], list[int]] = {}
    answers = []
    for number, (task, which, new, count, how) in enumerate(turns):
        talk = talks.setdefault((task, which), prompt(which, CHUNK_TOKENS + 10))
        asked = [*talk, *prompt(number, new)][:400]
        call = ask(peers[task], asked, count)
        if how == "cancel":
            for _ in range(new % 7):
                machine.step()
            if peers[task].end(call) is None:
                peers[task].ask("llm.cancel", call=call)
                machine.run()
                continue
        steps = 0
        while peers[task].end(call) is None:
            happen(machine, number, steps)
            machine.step()
            steps += 1
        said = list(peers[task].reply(call)["tokens"])
        answers.append(said)
        if how != "edit":
            talks[task, which] = [*asked, *said]
        if number % 3:
            machine.run()
    return answers


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    turns=turns.filter(lambda several: all(how != "cancel" for *_, how in several)),
    rooms=st.sampled_from([0, 1 << 12, 1 << 16, ROOM]),
    slots=st.integers(1, 3),
    policy=st.sampled_from(["rr", "mlfq", "prio"]),
    deaths=st.sets(st.tuples(st.integers(0, 12), st.integers(0, 9)), max_size=2),
)
def test_no_token_depends_on_whether_kv_was_kept(turns, rooms, slots, policy, deaths):
    """The same talks on a roomy, calm machine and on one with little room, others at work, and cores that die."""

    def calm(machine: Machine, number: int, steps: int) -> None:
        pass

    def rough(machine: Machine, number: int, steps: int) -> None:
        if (number, steps) in deaths and not machine.loading:
            machine.core_dies()
            machine.core_up()
        if steps == 2:
            machine.others.call(
                "llm.generate", tokens=prompt(99, 70), max_tokens=25, ignore_end=True
            )

    calmly = talk_through(turns, Machine(slots=4, snapshot_bytes=ROOM), calm)
    machine = Machine(slots=slots, snapshot_bytes=rooms, policy=policy, quantum_tokens=2)
    machine.others = machine.agent()
    assert talk_through(turns, machine, rough) == calmly


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(turns=turns, slots=st.integers(1, 3), room=st.sampled_from([0, 1 << 14, ROOM]))
def test_cancelling_anywhere_leaves_nothing_behind(turns, slots, room):
    machine = Machine(slots=slots, snapshot_bytes=room, quantum_tokens=2, policy="mlfq")
    talk_through(turns, machine, lambda *_: None)
    machine.run()
    for pid in list(machine.scheduler._parking.kept._by_owner):
        machine.ends(pid)
    assert machine.store.lent_bytes == 0
