"""Contexts longer than a slot of the first bank: they move to larger ones, and nobody fails for want of cells."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from machine import Machine
from test_schedules import alone

from kernel.abi.calls import LlmGenerate

SMALL, LARGE = 64, 1024  # tokens of the first bank's slots, and of the longest context
BYTES = 4  # of a token in the fake engine's banks


def machine_of(slots: int = 2, kv_tokens: int = 0, **config) -> Machine:
    """A machine with banks of 64 (`slots` of them), 256 and 1,024 tokens, and memory for so many at once."""
    return Machine(
        slots=slots, slot_tokens=SMALL, window_tokens=LARGE, kv_bytes=kv_tokens * BYTES, **config
    )


def ask(machine: Machine, prompt: list[int], count: int):
    peer = machine.agent()
    body = {"tokens": prompt, "max_tokens": count, "ignore_end": True}
    return peer, peer.call("llm.generate", **body), prompt, LlmGenerate(**body)


def banks_used(machine: Machine) -> set[tuple[int, ...]]:
    return {plan.banks for plan in machine.plans}


def test_a_context_grows_through_all_banks_and_keeps_its_tokens():
    machine = machine_of()
    peer, call, prompt, options = ask(machine, [7] * 40, 700)
    machine.run()
    reply = peer.reply(call)
    assert list(reply["tokens"]) == alone(prompt, options)
    assert reply["timings"]["recomputed_tokens"] == 0, "it was carried over, not computed again"
    assert reply["timings"]["switches"] == 2


def test_a_prompt_goes_straight_to_the_bank_that_holds_it():
    machine = machine_of()
    peer, call, prompt, options = ask(machine, [9] * 500, 20)
    machine.run()
    assert list(peer.reply(call)["tokens"]) == alone(prompt, options)
    assert peer.reply(call)["timings"]["switches"] == 0


def test_a_long_context_runs_beside_many_short_ones():
    machine = machine_of(slots=8)
    jobs = [ask(machine, [1] * 700, 60)] + [ask(machine, [number] * 20, 30) for number in range(2, 17)]
    machine.run()
    for peer, call, prompt, options in jobs:
        assert list(peer.reply(call)["tokens"]) == alone(prompt, options)


def test_when_banks_do_not_fit_together_everybody_is_parked_for_the_long_one_and_comes_back():
    machine = machine_of(slots=8, kv_tokens=LARGE)  # either the first bank or the last
    jobs = [ask(machine, [1] * 700, 60)] + [ask(machine, [number] * 20, 30) for number in range(2, 17)]
    machine.run()
    for peer, call, prompt, options in jobs:
        assert list(peer.reply(call)["tokens"]) == alone(prompt, options)
    assert (2,) in banks_used(machine)
    assert all(len(banks) == 1 or 2 not in banks for banks in banks_used(machine))


def test_a_request_that_is_too_long_for_every_bank_is_refused_with_both_numbers():
    machine = machine_of()
    peer = machine.agent()
    call = peer.call("llm.generate", tokens=[1] * LARGE)
    assert peer.error(call) == "EFBIG"
    assert "1024" in peer.end(call)[1]["text"]


def test_the_longest_window_ends_a_request_with_length():
    machine = machine_of()
    peer, call, _, _ = ask(machine, [1] * 1000, 500)
    machine.run()
    reply = peer.reply(call)
    assert (reply["finish_reason"], len(reply["tokens"])) == ("length", LARGE - 1000)


@settings(max_examples=60, deadline=None)
@given(
    jobs=st.lists(st.tuples(st.integers(1, 600), st.integers(1, 120)), min_size=1, max_size=6),
    slots=st.integers(1, 3),
    kv_tokens=st.sampled_from([0, LARGE, LARGE + 256]),
    room=st.sampled_from([8 << 16, 1 << 24]),
    quantum=st.integers(1, 9),
    deaths=st.lists(st.integers(1, 60), max_size=2),
)
def test_any_lengths_in_any_memory_give_the_tokens_of_a_request_alone(
    jobs, slots, kv_tokens, room, quantum, deaths
):
    machine = machine_of(slots, kv_tokens, snapshot_bytes=room, quantum_tokens=quantum)
    asked = [ask(machine, [number] * prompt, count) for number, (prompt, count) in enumerate(jobs)]
    for steps in deaths:
        for _ in range(steps):
            machine.step()
        machine.core_dies()
        machine.core_up()
    machine.run()
    for peer, call, prompt, options in asked:
        assert list(peer.reply(call)["tokens"]) == alone(prompt, options)
