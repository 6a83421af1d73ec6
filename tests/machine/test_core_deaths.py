"""The LLM core dies at each phase; callers notice nothing, or get the one error that names the request."""

from __future__ import annotations

import pytest
from machine import Machine

from kernel.events import CoreLost
from kernel.limits import MAX_FAILED_STARTS


def wanted(prompt: str, count: int) -> list[int]:
    machine = Machine()
    peer = machine.agent()
    call = peer.call("llm.generate", prompt=prompt, max_tokens=count, ignore_end=True)
    machine.run()
    return list(peer.reply(call)["tokens"])


def test_calls_made_before_the_first_core_is_ready_are_answered_by_it():
    machine = Machine(is_core_up=False)
    peer = machine.agent()
    texts = peer.call("llm.tokenize", text="ab", with_special=False)
    by_text = peer.call("llm.generate", prompt="hello", max_tokens=4, ignore_end=True)
    by_tokens = peer.call("llm.generate", tokens=[1, 2], max_tokens=4, ignore_end=True)
    unknown = peer.call("llm.generate", tokens=[999], max_tokens=4)
    too_long = peer.call("llm.generate", tokens=[1] * 600, max_tokens=4)
    assert peer.ask("sys.info")["is_ready"] is False
    assert machine.asks == machine.plans == [] or not machine.plans
    machine.core_up()
    machine.run()
    assert list(peer.reply(texts)["tokens"]) == [97, 98]
    assert list(peer.reply(by_text)["tokens"]) == wanted("hello", 4)
    assert peer.reply(by_tokens)["usage"]["generated_tokens"] == 4
    assert (peer.error(unknown), peer.error(too_long)) == ("EINVAL", "EFBIG")


def test_a_core_that_dies_at_its_start_is_tried_without_extra_buffers_once_for_all():
    machine = Machine(is_core_up=False)
    machine.core_dies(was_ready=False, reason="signal SIGILL")
    assert machine.starts == [True, False]
    assert "SIGILL" in machine.said[-1]
    machine.core_up()
    machine.core_dies()
    assert machine.starts == [True, False, False]
    assert machine.agent().ask("sys.info")["extra_buffers"] is False


def test_a_kernel_gives_up_after_three_failed_starts_in_a_row():
    machine = Machine(is_core_up=False)
    for _ in range(MAX_FAILED_STARTS):
        assert machine.halted is None
        machine.core_dies(was_ready=False)
    assert machine.halted == 8
    assert len(machine.starts) == MAX_FAILED_STARTS


def test_a_start_that_succeeds_begins_the_count_again():
    machine = Machine(is_core_up=False)
    for _ in range(3):
        machine.core_dies(was_ready=False)
        machine.core_up()
        machine.core_dies()
    assert machine.halted is None


def test_a_model_that_the_core_refuses_ends_the_kernel_at_once():
    machine = Machine(is_core_up=False)
    machine.event(CoreLost(machine.now_ns, "model x: no GGUF", was_ready=False, is_fatal=True))
    assert machine.halted == 5
    assert machine.said[-1] == "model x: no GGUF"
    assert len(machine.starts) == 1


def test_a_core_that_dies_idle_is_replaced():
    machine = Machine()
    machine.core_dies(reason="signal SIGKILL")
    assert machine.starts == [True, True]
    assert "SIGKILL" in machine.said[-1]
    machine.core_up()
    peer = machine.agent()
    call = peer.call("llm.generate", prompt="hello", max_tokens=4, ignore_end=True)
    machine.run()
    assert list(peer.reply(call)["tokens"]) == wanted("hello", 4)
    assert peer.ask("sys.info")["core_restarts"] == 1


@pytest.mark.parametrize("step", range(12))
def test_a_stream_that_a_core_died_under_is_as_without_it(step):
    machine = Machine(slots=1, quantum_tokens=3)
    peers = [machine.agent() for _ in range(2)]
    calls = [
        peer.call("llm.generate", prompt="hello", max_tokens=8, ignore_end=True, stream=True)
        for peer in peers
    ]
    for _ in range(step):
        machine.step()
    machine.answer_asks()
    machine.core_dies()
    machine.core_up()
    machine.run()
    for peer, call in zip(peers, calls, strict=True):
        sent = [token for chunk in peer.chunks(call) for token in chunk["tokens"]]
        assert sent == list(peer.reply(call)["tokens"]) == wanted("hello", 8)
    assert machine.store.lent_bytes == 0


def test_questions_that_a_dead_core_left_unanswered_are_asked_again():
    machine = Machine()
    peer = machine.agent()
    tokenize = peer.call("llm.tokenize", text="ab", with_special=False)
    generate = peer.call("llm.generate", prompt="hello", max_tokens=2, ignore_end=True)
    machine.core_dies()
    assert not machine.asks
    machine.core_up()
    machine.run()
    assert list(peer.reply(tokenize)["tokens"]) == [97, 98]
    assert peer.reply(generate)["usage"]["generated_tokens"] == 2


def test_a_question_whose_caller_is_gone_is_not_asked_again():
    machine = Machine()
    peer = machine.agent()
    peer.call("llm.tokenize", text="ab")
    peer.call("llm.generate", prompt="ab")
    machine.core_dies()
    machine.ends(peer.pid)
    machine.core_up()
    assert not machine.asks


def test_a_question_that_three_cores_died_of_is_not_asked_for_ever():
    machine = Machine()
    peer = machine.agent()
    call = peer.call("llm.tokenize", text="poison")
    for _ in range(3):
        machine.core_dies()
        machine.core_up()
    assert not machine.asks, "a fourth core is given the question that killed three"
    assert peer.error(call) == "EIO"


def test_a_request_cancelled_while_no_core_is_up_leaves_nothing_behind():
    machine = Machine(slots=1, quantum_tokens=2)
    peers = [machine.agent() for _ in range(2)]
    calls = [peer.call("llm.generate", prompt="hello", max_tokens=9) for peer in peers]
    for _ in range(5):
        machine.step()
    machine.core_dies()
    for peer, call in zip(peers, calls, strict=True):
        assert peer.ask("llm.cancel", call=call) == {"cancelled": True}
    assert machine.store.lent_bytes == 0
    machine.core_up()
    machine.run()
    assert not machine.scheduler.is_working


def test_a_core_that_dies_during_a_save_leaves_the_older_snapshot_valid():
    machine = Machine(slots=1, policy="rr", quantum_tokens=2)
    peers = [machine.agent() for _ in range(2)]
    calls = [peer.call("llm.generate", prompt="hello", max_tokens=9, ignore_end=True) for peer in peers]
    while not (machine.pending and machine.pending.saves and machine.pending.restores):
        machine.step()
    machine.core_dies()
    machine.core_up()
    machine.run()
    for peer, call in zip(peers, calls, strict=True):
        assert list(peer.reply(call)["tokens"]) == wanted("hello", 9)
    assert machine.store.lent_bytes == 0


def test_no_core_is_started_for_a_kernel_that_goes_down():
    machine = Machine()
    machine.agent()
    machine.operator().ask("sys.shutdown")
    machine.core_dies()
    assert len(machine.starts) == 1


def test_a_core_that_takes_anothers_place_keeps_its_kind_of_attention():
    machine = Machine()
    assert machine.attentions == [""], "the first one chooses"
    machine.core_dies()
    assert machine.attentions[-1] == "off", "as the fake engine said"
