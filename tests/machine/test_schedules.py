"""The schedule never changes an agent's tokens, whatever the policy, the quantum, the neighbours and deaths."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine import Machine, Peer

from kernel.abi.calls import LlmGenerate
from kernel.engine.base import Sampling
from kernel.engine.fake import END, FakeEngine, next_token
from kernel.sched.policy import POLICIES


def alone(prompt: list[int], options: LlmGenerate) -> list[int]:
    """The tokens that the fake model gives to a request that has a core to itself."""
    tokens = list(prompt)
    sampling = Sampling(options.temperature, seed=options.seed)
    while len(tokens) < len(prompt) + options.max_tokens:
        token = next_token(tokens, sampling)
        if token == END and not options.ignore_end:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


prompts = st.lists(st.integers(0, 255), min_size=1, max_size=200)
jobs = st.lists(
    st.tuples(prompts, st.integers(1, 40), st.integers(0, 3), st.integers(0, 5), st.booleans()),
    min_size=1,
    max_size=7,
)


@settings(max_examples=150, deadline=None)
@given(
    jobs=jobs,
    policy=st.sampled_from(list(POLICIES)),
    quantum=st.integers(1, 12),
    slots=st.integers(1, 4),
    room=st.sampled_from([0, 1 << 16, 3 << 16, 1 << 24]),
    happenings=st.lists(st.integers(0, 40), max_size=20) | st.lists(st.integers(0, 40), min_size=40, max_size=90),
)
def test_tokens_are_those_of_a_request_alone(jobs, policy, quantum, slots, room, happenings):
    machine = Machine(policy=policy, quantum_tokens=quantum, slots=slots, snapshot_bytes=room)
    waiting = list(jobs)
    asked: list[tuple[Peer, int, list[int], LlmGenerate]] = []
    deaths = 0
    stopped: list[Peer] = []
    operator = machine.operator()
    for happening in happenings:
        if happening < 8 and waiting:
            prompt, count, seed, nice, is_streamed = waiting.pop()
            peer = machine.agent()
            operator.ask("sched.setattr", pid=peer.pid, nice=nice)
            body = {"tokens": prompt, "max_tokens": count, "seed": seed, "temperature": 0.5,
                    "stream": is_streamed, "ignore_end": True}
            asked.append((peer, peer.call("llm.generate", **body), prompt, LlmGenerate(**body)))
        elif happening == 8 and deaths < 2:
            deaths += 1
            machine.core_dies()
            machine.core_up()
        elif happening == 9 and asked:
            peer = asked[-1][0]
            operator.ask("proc.kill", pid=peer.pid, signal="STOP")
            stopped.append(peer)
        elif happening == 10 and stopped:
            operator.ask("proc.kill", pid=stopped.pop().pid, signal="CONT")
        else:
            machine.step()
    for peer in stopped:
        operator.ask("proc.kill", pid=peer.pid, signal="CONT")
    machine.run()
    for peer, call, prompt, options in asked:
        reply = peer.reply(call)
        assert list(reply["tokens"]) == alone(prompt, options)
        if options.stream:
            sent = [token for chunk in peer.chunks(call) for token in chunk["tokens"]]
            assert sent == list(reply["tokens"])
            assert "".join(chunk["text"] for chunk in peer.chunks(call)) == reply["text"]
    assert machine.store.lent_bytes == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_more_requests_than_slots_all_finish(policy):
    machine = Machine(policy=policy, slots=3)
    peers = [machine.agent() for _ in range(20)]
    calls = [peer.call("llm.generate", prompt=f"job {peer.pid}", max_tokens=30) for peer in peers]
    machine.run()
    for peer, call in zip(peers, calls, strict=True):
        assert peer.reply(call)["finish_reason"] in ("length", "stop")


def test_round_robin_preempts_at_the_quantum_and_restores_from_snapshots():
    machine = Machine(policy="rr", slots=1, quantum_tokens=5)
    one, two = machine.agent(), machine.agent()
    calls = [peer.call("llm.generate", prompt="hello", max_tokens=20, ignore_end=True) for peer in (one, two)]
    machine.run()
    timings = one.reply(calls[0])["timings"]
    assert timings["switches"] == 3
    assert timings["restores"] == 3
    assert timings["recomputed_tokens"] == 0


def test_fcfs_never_switches():
    machine = Machine(policy="fcfs", slots=1)
    peers = [machine.agent() for _ in range(4)]
    for peer in peers:
        peer.call("llm.generate", prompt="hello", max_tokens=20)
    machine.run()
    assert machine.scheduler.totals.switches == 0


def test_priority_preempts_at_once():
    machine = Machine(policy="prio", slots=1)
    low, high = machine.agent(), machine.agent()
    machine.operator().ask("sched.setattr", pid=low.pid, nice=10)
    slow = low.call("llm.generate", prompt="hello", max_tokens=50, ignore_end=True)
    for _ in range(5):
        machine.step()
    quick = high.call("llm.generate", prompt="hi", max_tokens=5, ignore_end=True)
    while high.end(quick) is None:
        machine.step()
    assert low.end(slow) is None
    machine.run()
    assert low.reply(slow)["timings"]["switches"] == 1


@pytest.mark.parametrize(("slots", "quantum", "places"), [(2, 1, 4), (2, 3, 4), (3, 2, 4)])
def test_who_is_paused_for_memory_while_being_saved_begins_anew(slots, quantum, places):
    machine = Machine(policy="rr", slots=slots, quantum_tokens=quantum, snapshot_bytes=places << 16)
    asked = []
    for number in range(slots + 2):
        peer, prompt = machine.agent(), [number] * (200 - number)
        asked.append((peer, peer.call("llm.generate", tokens=prompt, max_tokens=40, ignore_end=True), prompt))
    machine.run()
    for peer, call, prompt in asked:
        assert list(peer.reply(call)["tokens"]) == alone(prompt, LlmGenerate(max_tokens=40, ignore_end=True))


def test_a_snapshot_that_fails_its_check_is_prefilled_again():
    machine = Machine(policy="rr", slots=1, quantum_tokens=3)
    one, two = machine.agent(), machine.agent()
    calls = [peer.call("llm.generate", prompt="hello", max_tokens=12, ignore_end=True) for peer in (one, two)]
    while machine.scheduler.totals.switches < 1:
        machine.step()
    machine.step()
    for array in machine.segments.values():
        array[70] ^= 1
    machine.run()
    prompt = FakeEngine().ask("tokenize", {"text": "hello", "with_special": True})
    wanted = alone(prompt, LlmGenerate(max_tokens=12, ignore_end=True))
    for peer, call in zip((one, two), calls, strict=True):
        assert list(peer.reply(call)["tokens"]) == wanted
    assert machine.scheduler.totals.failed_restores >= 1
    assert machine.scheduler.totals.recomputed_tokens > 0


def test_a_request_present_at_three_deaths_fails_alone():
    machine = Machine(policy="fcfs", slots=4)
    guilty, *others = [machine.agent() for _ in range(4)]
    poison = guilty.call("llm.generate", prompt="poison", max_tokens=30, ignore_end=True)
    calls = [peer.call("llm.generate", prompt="fine", max_tokens=30, ignore_end=True) for peer in others]
    deaths = 0
    while machine.step() or machine.pending is not None:
        plan = machine.pending
        if plan and any(row.slot == 0 and row.position >= 10 for row in plan.decodes) and not guilty.end(poison):
            deaths += 1
            machine.core_dies()
            machine.core_up()
    assert deaths == 3
    assert guilty.error(poison) == "EIO"
    assert f"call {poison} of task {guilty.pid}" in guilty.end(poison)[1]["text"]
    for peer, call in zip(others, calls, strict=True):
        assert peer.reply(call)["usage"]["generated_tokens"] == 30


def until_first(machine: Machine, other: Peer, peer: Peer) -> int:
    """Step until `other` has one first token more; return how many tokens `peer` got meanwhile."""
    watched, asked = machine.task(peer.pid).usage, machine.task(other.pid).usage
    had, begun = watched.generated_tokens, asked.first_tokens
    while asked.first_tokens == begun:
        assert machine.step()
    return watched.generated_tokens - had


def test_a_hint_goes_on_counting_when_its_task_changes_its_nice_and_is_gone_with_its_request():
    machine = Machine(policy="srpt", slots=1)
    operator, hinted, other = machine.operator(), machine.agent(), machine.agent()

    def generate(peer: Peer, most: int) -> int:
        return peer.call("llm.generate", prompt="x", max_tokens=most, ignore_end=True)

    hinted.ask("sched.hint", remaining_tokens=10)
    calls = [generate(hinted, 40)]
    generate(other, 20)
    while machine.task(hinted.pid).usage.generated_tokens < 5:
        assert machine.step()
    operator.ask("sched.setattr", pid=hinted.pid, nice=3)
    assert until_first(machine, other, hinted) <= 6, "ten in all, and then it is the longer one"
    machine.run()
    hinted.ask("sched.hint", remaining_tokens=10)
    calls.append(generate(hinted, 2))
    machine.run()
    calls.append(generate(hinted, 40))
    generate(other, 20)
    assert until_first(machine, other, hinted) <= 1, "what was left of the hint was not for this one"
    machine.run()
    assert all(hinted.reply(call) for call in calls)
