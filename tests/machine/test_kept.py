"""The next turn of a chat computes only what is new in it."""

from __future__ import annotations

from machine import Machine
from test_schedules import alone

from kernel.abi.calls import LlmGenerate
from kernel.engine.base import CHUNK_TOKENS
from kernel.engine.fake import FakeEngine

SYSTEM = {"role": "system", "content": "answer " * 30}  # more than three chunks
OPTIONS = {"max_tokens": 12, "ignore_end": True}


def turn(machine: Machine, peer, messages: list[dict]) -> dict:
    call = peer.call("llm.generate", messages=messages, **OPTIONS)
    machine.run()
    reply = peer.reply(call)
    prompt = FakeEngine().ask("chat", {"messages": messages})["tokens"]
    assert list(reply["tokens"]) == alone(prompt, LlmGenerate(messages=messages, **OPTIONS))
    return reply


def fed(machine: Machine) -> int:
    """Prompt tokens that the core was given so far."""
    return sum(len(row.tokens) for plan in machine.plans for row in plan.chunks)


def test_a_second_turn_feeds_only_what_the_first_did_not():
    machine = Machine()
    peer = machine.agent()
    messages = [SYSTEM, {"role": "user", "content": "one"}]
    first = turn(machine, peer, messages)
    before = fed(machine)
    messages += [{"role": "assistant", "content": first["text"]}, {"role": "user", "content": "two"}]
    second = turn(machine, peer, messages)
    length = second["usage"]["prompt_tokens"]
    assert second["usage"]["cached_tokens"] >= 192
    assert fed(machine) - before == length - second["usage"]["cached_tokens"]
    assert first["usage"]["cached_tokens"] == 0


def test_reasoning_that_is_dropped_from_the_history_costs_no_new_prompt():
    machine = Machine()
    peer = machine.agent()
    messages = [SYSTEM, {"role": "user", "content": "one"}]
    turn(machine, peer, messages)  # its text stands for <think>...</think> and an answer
    messages += [{"role": "assistant", "content": "the answer"}, {"role": "user", "content": "two"}]
    assert turn(machine, peer, messages)["usage"]["cached_tokens"] >= 192


def test_an_edited_beginning_is_computed_anew():
    machine = Machine()
    peer = machine.agent()
    turn(machine, peer, [SYSTEM, {"role": "user", "content": "one"}])
    other = {"role": "system", "content": "no " + SYSTEM["content"]}
    assert turn(machine, peer, [other, {"role": "user", "content": "one"}])["usage"]["cached_tokens"] == 0


def test_nobody_uses_another_tasks_context():
    machine = Machine()
    messages = [SYSTEM, {"role": "user", "content": "one"}]
    turn(machine, machine.agent(), messages)
    assert turn(machine, machine.agent(), messages)["usage"]["cached_tokens"] == 0


def test_what_is_kept_goes_with_its_task():
    machine = Machine()
    peer = machine.agent()
    turn(machine, peer, [SYSTEM, {"role": "user", "content": "one"}])
    assert machine.store.lent_bytes > 0
    peer.ask("proc.exit")
    machine.ends(peer.pid)
    assert machine.store.lent_bytes == 0


def test_memory_that_a_preempted_request_needs_is_taken_from_what_is_kept():
    messages = [SYSTEM, {"role": "user", "content": "one"}]
    roomy = Machine()
    turn(roomy, roomy.agent(), messages)
    machine = Machine(slots=1, quantum_tokens=2, snapshot_bytes=3 * roomy.store.held_bytes)
    turn(machine, machine.agent(), messages)
    assert machine.store.lent_bytes > 0
    calls = []
    for number in range(2):
        peer = machine.agent()
        calls.append((peer, peer.call("llm.generate", tokens=[number] * 200, max_tokens=30, ignore_end=True)))
    machine.run()
    assert all(peer.reply(call)["timings"]["recomputed_tokens"] == 0 for peer, call in calls)
    assert len(machine.tiers) < 3


def test_a_core_that_dies_takes_nothing_that_is_kept():
    machine = Machine()
    peer = machine.agent()
    messages = [SYSTEM, {"role": "user", "content": "one"}]
    turn(machine, peer, messages)
    machine.core_dies()
    machine.core_up()
    assert turn(machine, peer, messages)["usage"]["cached_tokens"] == 1 + 2 * CHUNK_TOKENS


def test_a_kept_context_that_is_damaged_is_computed_again():
    machine = Machine()
    peer = machine.agent()
    messages = [SYSTEM, {"role": "user", "content": "one"}]
    turn(machine, peer, messages)
    for array in machine.segments.values():
        array[70] ^= 1
    turn(machine, peer, messages)
    assert machine.scheduler.totals.failed_restores == 1
