"""llm.generate: streamed or not, cut at stop strings and limits, cancelled at any point."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine import Machine

from kernel.abi.calls import LlmGenerate
from kernel.engine.base import Sampling
from kernel.engine.fake import END, FakeEngine, next_token


def bytes_of(prompt: list[int], options: LlmGenerate) -> bytes:
    """All that the fake model says, one request alone."""
    engine, tokens = FakeEngine(), list(prompt)
    for _ in range(options.max_tokens):
        token = next_token(tokens, Sampling(options.temperature, seed=options.seed))
        if token == END:
            break
        tokens.append(token)
    return b"".join(engine.piece(token) for token in tokens[len(prompt) :])


@settings(max_examples=60, deadline=None)
@given(
    prompt=st.lists(st.integers(0, 255), min_size=1, max_size=70),
    seed=st.integers(0, 1 << 40),
    stops=st.lists(st.text("w12 你", min_size=1, max_size=3), max_size=3),
    steps=st.integers(0, 20),
)
def test_a_stream_is_whole_characters_before_the_first_stop_string(prompt, seed, stops, steps):
    machine = Machine(slots=1, quantum_tokens=2)
    peer, neighbour = machine.agent(), machine.agent()
    body = {"tokens": prompt, "temperature": 1.0, "seed": seed, "max_tokens": 40, "stop": stops}
    call = peer.call("llm.generate", stream=True, **body)
    for _ in range(steps):
        machine.step()
    neighbour.call("llm.generate", prompt="hello", max_tokens=20, ignore_end=True)
    machine.run()
    reply = peer.reply(call)
    said = bytes_of(prompt, LlmGenerate(**body)).decode(errors="replace")
    assert said.startswith(reply["text"]) or stops
    assert not any(stop in reply["text"] for stop in stops)
    chunks = peer.chunks(call)
    assert "".join(chunk["text"] for chunk in chunks) == reply["text"]
    assert [token for chunk in chunks for token in chunk["tokens"]] == list(reply["tokens"])


def test_a_request_that_is_not_streamed_sends_no_chunk():
    machine = Machine()
    peer = machine.agent()
    call = peer.call("llm.generate", prompt="hello", max_tokens=5)
    machine.run()
    assert peer.chunks(call) == []


def test_generation_ends_where_the_window_ends():
    machine = Machine(window_tokens=32)
    peer = machine.agent()
    call = peer.call("llm.generate", tokens=[1] * 30, max_tokens=100, ignore_end=True)
    machine.run()
    reply = peer.reply(call)
    assert (reply["finish_reason"], reply["usage"]["generated_tokens"]) == ("length", 2)


def test_generation_ends_at_the_models_own_end_unless_it_is_ignored():
    machine = Machine()
    peer = machine.agent()
    prompt = next([token] for token in range(320) if next_token([token], Sampling()) == END)
    ends = peer.call("llm.generate", tokens=prompt, max_tokens=3)
    goes_on = peer.call("llm.generate", tokens=prompt, max_tokens=3, ignore_end=True)
    machine.run()
    assert peer.reply(ends)["finish_reason"] == "stop"
    assert peer.reply(ends)["tokens"] == []
    assert peer.reply(goes_on)["usage"]["generated_tokens"] == 3


def test_usage_and_timings_say_what_happened():
    machine = Machine(slots=1, quantum_tokens=100)
    peer = machine.agent()
    first = peer.call("llm.generate", prompt="x" * 63, max_tokens=3, ignore_end=True)
    second = peer.call("llm.generate", prompt="x" * 63, max_tokens=3, ignore_end=True)
    machine.run()
    one, two = (peer.reply(call) for call in (first, second))
    assert one["usage"] == {"prompt_tokens": 64, "cached_tokens": 0, "generated_tokens": 3}
    assert one["timings"]["queued_s"] == one["timings"]["wait_s"] == 0
    assert two["timings"]["queued_s"] == pytest.approx(0.03)
    assert two["timings"]["wait_s"] == pytest.approx(0.03)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_cancelling_ends_a_request_whatever_it_is_doing(steps):
    machine = Machine(slots=1, quantum_tokens=1)
    peer, other = machine.agent(), machine.agent()
    call = peer.call("llm.generate", prompt="x" * 200, max_tokens=50, ignore_end=True)
    kept = other.call("llm.generate", prompt="hello", max_tokens=5, ignore_end=True)
    for _ in range(steps):
        machine.step()
    assert peer.ask("llm.cancel", call=call) == {"cancelled": True}
    assert peer.error(call) == "EINTR"
    machine.run()
    assert other.reply(kept)["usage"]["generated_tokens"] == 5
    assert machine.store.lent_bytes == 0


def test_nobody_cancels_a_request_of_another_connection():
    machine = Machine()
    peer, other = machine.agent(), machine.agent()
    call = peer.call("llm.generate", prompt="hello", max_tokens=3, ignore_end=True)
    assert other.ask("llm.cancel", call=call) == {"cancelled": False}
    machine.run()
    peer.reply(call)


def test_a_request_that_times_out_frees_its_slot():
    machine = Machine(slots=1, policy="fcfs")
    one, two = machine.agent(), machine.agent()
    call = one.call("llm.generate", deadline_ms=50, prompt="hello", max_tokens=100, ignore_end=True)
    kept = two.call("llm.generate", prompt="hello", max_tokens=3, ignore_end=True)
    machine.step()
    machine.pass_time(0.05)
    assert one.error(call) == "ETIMEDOUT"
    machine.run()
    two.reply(kept)


def test_requests_of_one_task_run_side_by_side():
    machine = Machine(slots=2)
    peer = machine.agent()
    calls = [peer.call("llm.generate", prompt="hello", max_tokens=5, ignore_end=True) for _ in range(2)]
    machine.step()
    machine.step()
    assert len(machine.plans[-1].decodes) == 2
    machine.run()
    texts = [peer.reply(call)["text"] for call in calls]
    assert texts[0] == texts[1]


def test_a_change_of_policy_loses_no_request():
    machine = Machine(slots=2)
    operator, peers = machine.operator(), [machine.agent() for _ in range(6)]
    calls = [peer.call("llm.generate", prompt="hello", max_tokens=9, ignore_end=True) for peer in peers]
    for policy in ("fcfs", "prio", "rr", "prio", "fcfs"):
        machine.step()
        machine.step()
        operator.ask("group.setattr", path="/", attr={"policy": policy})
    machine.run()
    for peer, call in zip(peers, calls, strict=True):
        assert peer.reply(call)["usage"]["generated_tokens"] == 9


def test_contexts_that_find_no_room_are_fed_again_and_all_requests_finish():
    machine = Machine(slots=1, quantum_tokens=2, snapshot_bytes=0)
    peers = [machine.agent() for _ in range(2)]
    calls = [peer.call("llm.generate", prompt="hello", max_tokens=6, ignore_end=True) for peer in peers]
    machine.run()
    assert peers[0].reply(calls[0])["timings"]["recomputed_tokens"] > 0
    assert peers[0].ask("sys.stat")["dropped_contexts"] > 0
