"""Contexts of every model family: saved, carried elsewhere, decoded in any company, without a changed bit."""

from __future__ import annotations

import random
from collections.abc import Iterator

import llama_cpp
import numpy as np
import pytest

from benchmarks.model_shapes import SHAPES
from kernel.engine.base import CHUNK_TOKENS, F16, Q8_0
from tests.engine.test_bank import Agent, Loaded, alone, step

WINDOW = 512
PROMPTS = (40, 64, 150, 230)  # past every sliding window
GENERATED = 14
CASES = [  # shape, quantisation, flash attention, type of KV
    ("tiny-qwen2", "q4_0", True, F16),
    ("tiny-qwen2", "q4_k", False, F16),
    ("tiny-qwen3moe", "q8_0", True, F16),
    ("tiny-qwen3moe", "q4_k", True, F16),
    ("tiny-gemma2", "q8_0", True, F16),
    ("tiny-gemma2", "f16", False, F16),
    ("tiny-gemma3", "q4_k", True, F16),
    ("tiny-gpt-oss", "q8_0", False, F16),
    ("tiny-gpt-oss", "f16", True, F16),
    ("tiny-mamba", "q8_0", True, F16),
    ("tiny-mamba2", "q4_0", True, F16),
    ("tiny-rwkv7", "f16", True, F16),
    ("tiny-granite", "q8_0", True, F16),
    ("tiny-granite", "q4_k", False, F16),
    ("tiny-lfm2", "q4_0", True, F16),
    ("tiny-qwen35", "f16", True, F16),
    ("tiny-qwen2", "q4_k", True, Q8_0),
    ("tiny-qwen3moe", "q8_0", True, Q8_0),
    ("tiny-gemma2", "f16", True, Q8_0),
    ("tiny-gpt-oss", "q8_0", True, Q8_0),
    ("tiny-granite", "q8_0", True, Q8_0),
    ("tiny-lfm2", "q4_0", True, Q8_0),
]


@pytest.fixture(
    scope="module",
    params=CASES,
    ids=[f"{shape}-{weights}-{'flash' if flash else 'plain'}-{kv_type}" for shape, weights, flash, kv_type in CASES],
)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[str, Loaded]]:
    shape, quantisation, flash, kv_type = request.param
    loaded = Loaded(quantisation, flash, shape, 1, kv_type)
    yield SHAPES[shape].family, loaded
    llama_cpp.llama_model_free(loaded.model)


def test_what_a_model_allows_is_found_at_load(case):
    family, loaded = case
    has_state = family in ("recurrent", "hybrid")
    assert loaded.verdict.exactness == ("whole" if has_state else "exact")
    assert loaded.traits.can_trim == (not has_state)
    assert loaded.traits.is_windowed == (family == "sliding-window")
    assert loaded.traits.least_rows >= (2 if has_state or family == "moe" else 1)


def test_parked_and_carried_to_other_places_a_context_goes_on_with_the_same_bits(case):
    _, loaded = case
    chooser = random.Random(11)
    bank, other = loaded.bank(4, WINDOW), loaded.bank(2, 2 * WINDOW)
    agents = [Agent(seed, prompt, prompt + GENERATED, loaded.vocab) for seed, prompt in enumerate(PROMPTS)]
    slots: dict[int, Agent] = {}
    parked: list[tuple[Agent, np.ndarray | None]] = [(agent, None) for agent in agents]
    carried = 0
    while parked or not all(agent.is_done for agent in slots.values()):
        for slot in [slot for slot, agent in slots.items() if agent.is_done or chooser.random() < 0.15]:
            agent = slots.pop(slot)
            if not agent.is_done:
                parked.insert(chooser.randint(0, len(parked)), (agent, bank.state(slot)))
            bank.clear(slot)
        for slot in range(4):
            if slot in slots or not parked or chooser.random() < 0.3:
                continue
            agent, state = parked.pop(0)
            if state is not None:
                if chooser.random() < 0.5:  # by way of another context, a step long
                    other.restore(1, state, agent.fed)
                    step(other, {1: agent})
                    state = other.state(1)
                    other.clear(1)
                    carried += 1
                bank.restore(slot, state, agent.fed)
            slots[slot] = agent
        going = [slot for slot, agent in slots.items() if not agent.is_done]
        if going:
            chosen = chooser.sample(going, chooser.randint(1, len(going)))
            step(bank, {slot: slots[slot] for slot in chosen}, chunks=chooser.randint(1, 4))
    bank.close()
    other.close()
    assert carried > 0
    for agent in agents:
        assert agent.seen == alone(loaded, agent), f"prompt of {agent.prompt}"


def test_a_context_saved_within_its_prompt_and_at_every_chunk_is_the_same_context(case):
    _, loaded = case
    agent = Agent(3, 4 * CHUNK_TOKENS + 10, 4 * CHUNK_TOKENS + 16, loaded.vocab)
    bank = loaded.bank(3, WINDOW)
    neighbour = Agent(4, 30, 30 + 40, loaded.vocab)
    step(bank, {2: neighbour})
    slot = 0
    while not agent.is_done:
        step(bank, {slot: agent})
        step(bank, {2: neighbour})
        state = bank.state(slot)
        bank.clear(slot)
        slot = 1 - slot
        bank.restore(slot, state, agent.fed)
        assert bank.length(slot) == agent.fed
    bank.close()
    assert agent.seen == alone(loaded, agent)


def test_a_context_changes_places_with_none(case):
    _, loaded = case
    agent = Agent(5, 100, 110, loaded.vocab)
    bank = loaded.bank(2, WINDOW)
    step(bank, {1: agent})
    if loaded.traits.can_move:
        bank._exchange(0, 1)  # as for a request beside it whose first token is fed
    assert [bank.length(slot) for slot in (0, 1)] == [0, agent.fed]
    while not agent.is_done:
        step(bank, {1: agent})
    bank.close()
    assert agent.seen == alone(loaded, agent)
