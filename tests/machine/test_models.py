"""Several models side by side, each with a core of its own: loaded one after the other, unloaded when idle."""

from __future__ import annotations

import pytest
from machine import MODELS, Machine, Peer

from kernel.abi.textcalls import MAX_TEXTS
from kernel.limits import EMBED_BATCH_TEXTS, EMBED_BATCH_TOKENS, MAX_FAILED_STARTS

GO_ON = {"prompt": "hello", "max_tokens": 12, "ignore_end": True}


def states(peer: Peer) -> list[str]:
    return [row["state"] for row in peer.ask("llm.models")["models"]]


def wanted(**body: object) -> list[int]:
    """The tokens of a request alone."""
    machine = Machine()
    peer = machine.agent()
    call = peer.call("llm.generate", **(GO_ON | body))
    machine.run()
    return peer.reply(call)["tokens"]


# -- side by side -----------------------------------------------------------------------------


def test_models_are_loaded_one_after_the_other():
    machine = Machine(models=MODELS, is_core_up=False)
    peer = machine.agent()
    seen = []
    while machine.loading:
        seen.append((list(machine.loading), states(peer)))
        machine.core_up(machine.loading[0])
    assert seen == [
        ([0], ["loading", "unloaded", "unloaded"]),
        ([1], ["ready", "loading", "unloaded"]),
        ([2], ["ready", "ready", "loading"]),
    ]


def test_a_request_waits_for_its_own_model_and_no_other():
    machine = Machine(models=MODELS[:2], is_core_up=False)
    peer = machine.agent()
    late = peer.call("llm.generate", model="other", **GO_ON)
    early = peer.call("llm.generate", **GO_ON)
    machine.core_up(0)
    machine.run()
    assert peer.reply(early)["tokens"] == wanted()
    assert peer.waits(late)
    machine.core_up(1)
    machine.run()
    assert peer.reply(late)["tokens"] == wanted()


def test_models_work_at_the_same_time_and_number_their_requests_together():
    machine = Machine.of_three(slots=1)
    peer = machine.agent()
    calls = [peer.call("llm.generate", model=name, **GO_ON) for name in ("chat", "other")]
    machine.answer_asks()
    assert set(machine.working) == {0, 1}
    steps = machine.run()
    assert all(peer.reply(call)["tokens"] == wanted() for call in calls)
    assert steps < 2 * 12
    openings = [opening.request for plan in machine.plans for opening in plan.openings]
    assert sorted(openings) == [1, 2]


def test_a_name_left_out_is_the_first_model_of_its_kind():
    machine = Machine.of_three()
    peer = machine.agent()
    peer.call("llm.generate", prompt="a")
    peer.call("llm.embed", texts=["a"])
    peer.call("llm.tokenize", text="a")
    peer.call("llm.tokenize", text="a", model="other")
    assert [ask.core for ask in machine.asks] == [0, 2, 0, 1]


def test_parked_contexts_of_a_model_are_its_own():
    machine = Machine.of_three(slots=1, policy="rr", quantum_tokens=2)
    peer = machine.agent()
    calls = [peer.call("llm.generate", model=name, **GO_ON) for name in ("chat", "other") * 2]
    machine.run()
    assert [peer.reply(call)["tokens"] for call in calls] == [wanted()] * 4
    assert set(machine.made_for.values()) == {0, 1}
    limits = [core.store.limit_bytes for core in machine.kernel.cores]
    assert limits == [machine.config.snapshot_bytes // 2] * 2 + [0]


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_core_that_dies_takes_no_other_with_it(deaths):
    machine = Machine.of_three()
    peer = machine.agent()
    calls = [peer.call("llm.generate", model=name, **GO_ON) for name in ("chat", "other")]
    for _ in range(deaths):
        machine.step()
        machine.step()
        machine.core_dies(1)
        assert machine.loading == [1]
        assert states(peer) == ["ready", "loading", "ready"]
        machine.core_up(1)
    machine.run()
    assert [peer.reply(call)["tokens"] for call in calls] == [wanted()] * 2
    rows = peer.ask("sys.info")["models"]
    assert [row["core_restarts"] for row in rows] == [0, deaths, 0]
    assert "the LLM core of other died (signal SIGKILL)" in machine.said[-1]


def test_a_dead_core_is_replaced_though_another_is_loading():
    machine = Machine(models=MODELS[:2], is_core_up=False)
    machine.core_up(0)
    machine.core_dies(0)
    assert machine.loading == [1, 0]


def test_the_type_of_kv_is_told_with_flash_attention():
    machine = Machine(kv_type="q8_0", flash_attention="on")
    assert "flash attention on, KV q8_0" in machine.said[0]
    info = machine.agent().ask("sys.info")
    assert (info["flash_attention"], info["kv_type"]) == (True, "q8_0")


def test_counters_and_settings_are_told_for_each_model():
    machine = Machine.of_three()
    peer = machine.agent()
    peer.call("llm.generate", model="other", **GO_ON)
    machine.run()
    stat, info = peer.ask("sys.stat"), peer.ask("sys.info")
    assert [(row["name"], row["generated_tokens"]) for row in stat["models"]] == [
        ("chat", 0), ("other", 12), ("embed", 0)
    ]  # fmt: skip
    assert stat["generated_tokens"] == 0, "the first model's"
    assert info["model"] == "/m/chat.gguf"
    assert [row["core_pid"] for row in info["models"]] == [2, 3, 4]


def test_a_priority_and_a_policy_hold_for_every_model():
    machine = Machine.of_three(slots=1, policy="fcfs")
    operator = machine.operator()
    low, high = machine.agent(), machine.agent()
    operator.ask("group.setattr", path="/", attr={"policy": "prio"})
    slow = [low.call("llm.generate", model=name, **GO_ON) for name in ("chat", "other")]
    quick = [high.call("llm.generate", model=name, **GO_ON) for name in ("chat", "other")]
    operator.ask("sched.setattr", pid=low.pid, nice=9)
    while not all(high.end(call) for call in quick):
        machine.step()
    assert not any(low.end(call) for call in slow)


def test_a_stopped_task_is_off_every_model():
    machine = Machine.of_three()
    operator, peer = machine.operator(), machine.agent()
    calls = [peer.call("llm.generate", model=name, **GO_ON) for name in ("chat", "other")]
    machine.step()
    operator.ask("proc.kill", pid=peer.pid, signal="STOP")
    machine.run()
    assert not any(peer.end(call) for call in calls)
    operator.ask("proc.kill", pid=peer.pid, signal="CONT")
    machine.run()
    assert [peer.reply(call)["tokens"] for call in calls] == [wanted()] * 2


# -- embeddings -------------------------------------------------------------------------------


def test_many_texts_are_embedded_in_batches_and_come_back_in_order():
    machine = Machine.of_three()
    peer = machine.agent()
    texts = [f"text {number}" for number in range(MAX_TEXTS)]
    call = peer.call("llm.embed", texts=texts)
    sizes = []
    while machine.asks:
        sizes += [len(ask.value["texts"]) for ask in machine.asks if ask.what == "embed"]
        machine.answer_asks(1)
    alone = [peer.call("llm.embed", texts=[text]) for text in texts]
    machine.answer_asks()
    assert peer.reply(call)["vectors"] == [peer.reply(one)["vectors"][0] for one in alone]
    assert sizes == [EMBED_BATCH_TEXTS] * (MAX_TEXTS // EMBED_BATCH_TEXTS)


def test_a_batch_has_few_tokens_but_at_least_one_text():
    machine = Machine.of_three(window_tokens=2 * EMBED_BATCH_TOKENS, slot_tokens=2 * EMBED_BATCH_TOKENS)
    peer = machine.agent()
    lengths = (EMBED_BATCH_TOKENS + 1, EMBED_BATCH_TOKENS // 2, EMBED_BATCH_TOKENS // 2, 1)
    call = peer.call("llm.embed", tokens=[b"\1\0\0\0" * length for length in lengths])
    batches = []
    while machine.asks:
        batches.append([len(tokens) for tokens in machine.asks[0].value["texts"]])
        machine.answer_asks(1)
    assert batches == [[lengths[0]], [lengths[1], lengths[2]], [1]]
    assert len(peer.reply(call)["vectors"]) == 4


def test_an_embedding_whose_caller_is_gone_asks_no_more():
    machine = Machine.of_three()
    peer = machine.agent()
    peer.call("llm.embed", tokens=[[1]] * MAX_TEXTS)
    machine.ends(peer.pid)
    machine.answer_asks()
    assert not machine.kernel.asks._questions


def test_tokens_given_before_the_model_is_loaded_are_checked_then():
    machine = Machine(models=(MODELS[2],), is_core_up=False)
    peer = machine.agent()
    wrong = peer.call("llm.embed", tokens=[[320]])
    right = peer.call("llm.embed", tokens=[[319]])
    machine.core_up(0)
    machine.answer_asks()
    assert peer.error(wrong) == "EINVAL"
    assert len(peer.reply(right)["vectors"]) == 1


# -- models that cannot be served -------------------------------------------------------------


def test_another_model_that_cannot_be_served_fails_what_waits_for_it_and_nothing_else():
    machine = Machine(models=MODELS[:2], is_core_up=False)
    peer = machine.agent()
    ours = [
        peer.call("llm.generate", model="other", **GO_ON),
        peer.call("llm.generate", model="other", tokens=[1]),
        peer.call("llm.tokenize", model="other", text="a"),
    ]
    good = peer.call("llm.generate", **GO_ON)
    machine.core_up(0)
    machine.core_dies(1, was_ready=False, is_fatal=True, reason="model /m/other.gguf: no GGUF")
    assert [peer.error(call) for call in ours] == ["EIO"] * 3
    assert "model other cannot be served: model /m/other.gguf: no GGUF" in peer.end(ours[0])[1]["text"]
    assert machine.halted is None
    machine.run()
    assert peer.reply(good)["tokens"] == wanted()
    assert states(peer) == ["ready", "failed"]
    assert peer.ask("llm.models")["models"][1]["reason"] == "model /m/other.gguf: no GGUF"
    assert "model other cannot be served" in machine.said[-1]


def test_another_model_whose_core_dies_at_each_start_is_given_up():
    machine = Machine(models=MODELS, is_core_up=False)
    machine.core_up(0)
    for _ in range(MAX_FAILED_STARTS):
        assert machine.loading == [1]
        machine.core_dies(1, was_ready=False)
    assert machine.loading == [2], "the next one has its turn"
    assert machine.halted is None


def test_the_first_model_that_cannot_be_served_ends_the_kernel_though_others_could():
    machine = Machine(models=MODELS[:2], is_core_up=False)
    machine.core_dies(0, was_ready=False, is_fatal=True, is_memory=True, reason="too large")
    assert machine.halted == 6
    assert machine.loading == []


@pytest.mark.parametrize("model", ["chat", "other"])
def test_a_model_that_has_served_and_cannot_be_loaded_again_is_tried_anew_for_the_next_who_asks(model):
    machine = Machine.of_three()
    core = ("chat", "other").index(model)
    peer = machine.agent()
    call = peer.call("llm.generate", model=model, **GO_ON)
    machine.step()
    machine.core_dies(core)
    machine.core_dies(core, was_ready=False, is_fatal=True, is_memory=True, reason="no memory now")
    assert peer.error(call) == "EIO"
    assert "no memory now" in peer.end(call)[1]["text"]
    assert states(peer)[core] == "unloaded"
    again = peer.call("llm.generate", model=model, **GO_ON)
    machine.core_up(core)
    machine.run()
    assert peer.reply(again)["tokens"] == wanted()
    assert machine.halted is None


def test_contexts_that_the_next_core_has_no_room_for_end_with_the_reason():
    machine = Machine(window_tokens=512, slots=2)
    peer = machine.agent()
    long = peer.call("llm.generate", tokens=[1] * 400, max_tokens=50, ignore_end=True)
    short = peer.call("llm.generate", **GO_ON)
    machine.step()
    machine.core_dies()
    machine.core_up(window_tokens=256)
    assert peer.error(long) == "EIO"
    assert "with a window of 256 tokens, this context is 400" in peer.end(long)[1]["text"]
    machine.run()
    assert peer.reply(short)["tokens"] == wanted()


# -- unloading --------------------------------------------------------------------------------


def test_a_model_that_nobody_asks_is_unloaded_and_loaded_again_for_who_asks():
    machine = Machine(keep_alive_s=60)
    peer = machine.agent()
    first = peer.call("llm.generate", **GO_ON)
    machine.run()
    machine.pass_time(59.9)
    assert machine.stopping == []
    machine.pass_time(0.1)
    assert (machine.stopping, states(peer)) == ([0], ["stopping"])
    machine.core_stops()
    assert (machine.loading, states(peer)) == ([], ["unloaded"])
    assert machine.timer_ns is None, "an unloaded model needs no timer"
    assert peer.ask("sys.info")["is_ready"] is False
    second = peer.call("llm.generate", **GO_ON)
    assert (machine.loading, states(peer)) == ([0], ["loading"])
    machine.core_up()
    machine.run()
    assert peer.reply(second)["tokens"] == peer.reply(first)["tokens"]
    assert peer.ask("sys.info")["core_restarts"] == 0, "nothing died"


def test_a_model_is_not_unloaded_while_anything_waits_for_it():
    machine = Machine(keep_alive_s=10)
    peer, operator = machine.agent(), machine.operator()
    peer.call("llm.generate", **(GO_ON | {"max_tokens": 400}))
    machine.step()
    machine.pass_time(30)
    assert machine.stopping == []
    operator.ask("proc.kill", pid=peer.pid, signal="STOP")
    machine.run()
    machine.pass_time(30)
    assert machine.stopping == [], "a stopped task goes on one day"
    machine.ends(peer.pid)
    question = operator.call("llm.tokenize", text="a")
    machine.pass_time(30)
    assert machine.stopping == []
    machine.answer_asks()
    assert operator.reply(question)
    machine.pass_time(10)
    assert machine.stopping == [0]


@pytest.mark.parametrize("body", [GO_ON, {"tokens": [1, 2], "max_tokens": 3}])
def test_who_asks_while_a_model_is_being_unloaded_waits_for_the_next_core(body):
    machine = Machine(keep_alive_s=1)
    peer = machine.agent()
    machine.pass_time(1)
    call = peer.call("llm.generate", **body)
    assert (machine.loading, list(machine.asks)) == ([], [])
    machine.core_stops()
    assert machine.loading == [0]
    machine.core_up()
    machine.run()
    assert peer.reply(call)["usage"]["generated_tokens"]


def test_only_the_idle_model_is_unloaded():
    machine = Machine.of_three(keep_alive_s=5)
    peer = machine.agent()
    for _ in range(10):
        peer.call("llm.tokenize", text="a", model="other")
        machine.answer_asks()
        machine.pass_time(1)
    assert machine.stopping == [0, 2]
    assert states(peer) == ["stopping", "ready", "stopping"]


def test_an_unloaded_models_core_that_is_to_be_loaded_waits_for_another_that_loads():
    machine = Machine.of_three(keep_alive_s=1)
    peer = machine.agent()
    machine.pass_time(1)
    for core in (0, 1, 2):
        machine.core_stops(core)
    calls = [peer.call("llm.tokenize", text="a", model=name) for name in ("other", "chat")]
    assert machine.loading == [1]
    machine.core_up(1)
    assert machine.loading == [0]
    machine.core_up(0)
    machine.answer_asks()
    assert all(peer.reply(call) for call in calls)


def test_a_kernel_that_goes_down_while_it_loads_models_begins_no_other():
    machine = Machine(models=MODELS, is_core_up=False)
    machine.agent()
    machine.operator().ask("sys.shutdown")
    machine.core_up(0)
    assert machine.loading == []


def test_a_kernel_that_goes_down_loads_nothing_again():
    machine = Machine(keep_alive_s=1)
    machine.agent()
    machine.pass_time(1)
    machine.operator().ask("sys.shutdown")
    machine.core_stops()
    assert machine.loading == []


def test_without_a_limit_a_model_stays_loaded():
    machine = Machine()
    machine.pass_time(1e6)
    assert machine.stopping == []
