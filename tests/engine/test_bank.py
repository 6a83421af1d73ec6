"""Contexts in a bank of a real model: moved, gathered, filled between, carried to other banks. No bit changes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import llama_cpp
import numpy as np
import pytest

from benchmarks.model_shapes import SHAPES
from benchmarks.models import model_path
from kernel.engine import bank as banks
from kernel.engine.bank import SlotBank
from kernel.engine.base import F16, PASS_CHUNKS, Q8_0, Row
from kernel.engine.cost import StepCosts
from kernel.engine.probe import MOST_ROWS, WINDOW_TOKENS, Verdict, first_traits, probe
from kernel.engine.snapshot import SnapshotError
from kernel.engine.traits import ContextOptions
from kernel.sched.turns import chunks_in, step_rows

WINDOW = 1024


class Loaded:
    """A model, tried, with a way to make banks of it."""

    def __init__(
        self, quantisation: str, flash: bool, shape: str = "default", threads: int = 2, kv_type: str = F16
    ) -> None:
        banks.prepare()
        path = model_path(shape, quantisation)
        options = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(os.fsencode(path), options)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.options = ContextOptions(threads, flash, kv_type)
        self.costs = StepCosts(4_000_000, 2048)
        self.traits = first_traits(self.model)
        self.verdict: Verdict = probe(lambda traits: self.bank(MOST_ROWS, WINDOW_TOKENS), self.traits, self.vocab)

    def bank(self, slots: int, window: int = WINDOW) -> SlotBank:
        return SlotBank(self.model, slots, window, self.options, self.traits, self.costs)


@pytest.fixture(
    scope="module",
    params=["q8_0-flash-f16", "q8_0-plain-f16", "f16-flash-f16", "f16-plain-f16", "q8_0-flash-q8_0", "f16-flash-q8_0"],
)
def loaded(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    quantisation, attention, kv_type = request.param.split("-")
    loaded = Loaded(quantisation, attention == "flash", kv_type=kv_type)
    yield loaded
    llama_cpp.llama_model_free(loaded.model)


class Agent:
    """A sequence of tokens that were decided beforehand, so that all runs feed the same."""

    def __init__(self, seed: int, prompt: int, total: int, vocab: int) -> None:
        chooser = random.Random(seed)
        self.tokens = [chooser.randrange(vocab) for _ in range(total)]
        self.prompt, self.fed = prompt, 0
        self.seen: list[bytes] = []  # logits from the last prompt token on

    @property
    def is_done(self) -> bool:
        return self.fed == len(self.tokens)

    def rows(self, slot: int, chunks: int) -> list[Row]:
        """What a step feeds of it, as the scheduler does."""
        return [
            Row(slot, start, tuple(self.tokens[start:end]), end >= self.prompt)
            for start, end, _ in step_rows((), self.fed, self.prompt, chunks)
        ]


def step(bank: SlotBank, agents: dict[int, Agent], chunks: int = 1) -> None:
    """Feed each agent once; of its prompt so many chunks."""
    rows = [row for slot, agent in agents.items() for row in agent.rows(slot, chunks)]
    alone = [row for row in rows if len(row.tokens) == 1]
    prompts = [row for row in rows if len(row.tokens) > 1]
    bank.gather(prompts)
    for feed, fed in ((bank.decode, alone), (bank.prefill, prompts)):
        for done, logits in feed(fed) if fed else ():
            for row, values in zip(done, logits, strict=True):
                if row.is_last:
                    agents[row.slot].seen.append(values.tobytes())
    for row in rows:
        agents[row.slot].fed += len(row.tokens)


def alone(loaded: Loaded, agent: Agent) -> list[bytes]:
    bank = loaded.bank(1)
    fresh = Agent(0, agent.prompt, 0, loaded.vocab)
    fresh.tokens = agent.tokens
    while not fresh.is_done:
        step(bank, {0: fresh})
    bank.close()
    return fresh.seen


def test_a_dense_model_is_found_exact(loaded):
    assert loaded.verdict.exactness == "exact"
    assert loaded.traits.layout is not None
    assert loaded.verdict.bytes_per_token > 0


def test_a_token_of_q8_0_takes_34_bytes_where_f16_takes_64(loaded):
    shape = SHAPES["default"]
    values = 2 * shape.layers * shape.kv_width
    exactly = values * 34 // 32 if loaded.options.kv_type == Q8_0 else values * 2
    assert exactly <= loaded.verdict.bytes_per_token <= exactly + 16, "and its place"


def test_random_company_holes_moves_and_banks_change_no_bit(loaded):
    chooser = random.Random(7)
    bank, other = loaded.bank(8), loaded.bank(2, 2 * WINDOW)
    loaded.costs.move_ns_per_token = 1.0  # so that scattered contexts are gathered
    prompts = [30, 64, 90, 130, 200, 260, 520, 700]
    agents = [Agent(seed, prompt, prompt + 24, loaded.vocab) for seed, prompt in enumerate(prompts)]
    slots = dict(zip(chooser.sample(range(8), 8), agents, strict=True))
    parked: list[tuple[Agent, np.ndarray]] = []
    while not all(agent.is_done for agent in agents):
        waiting = [slot for slot, agent in slots.items() if not agent.is_done]
        if waiting:
            chosen = chooser.sample(waiting, chooser.randint(1, len(waiting)))
            step(bank, {slot: slots[slot] for slot in chosen}, chunks=chooser.randint(1, 6))
        if waiting and chooser.random() < 0.3:  # park one
            slot = chooser.choice(waiting)
            if slots[slot].fed:
                parked.append((slots.pop(slot), bank.state(slot)))
                bank.clear(slot)
        if parked and chooser.random() < 0.6:  # bring one back, elsewhere, by way of another bank or not
            agent, state = parked.pop(chooser.randrange(len(parked)))
            if chooser.random() < 0.5:
                other.restore(1, state, agent.fed)
                if not agent.is_done:
                    step(other, {1: agent})
                state = other.state(1)
            slot = chooser.choice([slot for slot in range(8) if slot not in slots])
            bank.restore(slot, state, agent.fed)
            slots[slot] = agent
    assert bank.moves > 0
    bank.close()
    other.close()
    for agent in agents:
        assert agent.seen == alone(loaded, agent), f"prompt of {agent.prompt}"


def test_prompts_of_one_and_of_several_share_passes_and_no_bit_changes(loaded):
    agents = [Agent(seed, prompt, prompt + 3, loaded.vocab) for seed, prompt in enumerate((64, 700, 64, 130, 64, 64))]
    bank = loaded.bank(8)
    step(bank, dict(zip((5, 0, 2, 7, 1, 3), agents, strict=True)), chunks=11)
    if loaded.traits.prompts_may_meet:
        assert bank.passes == 1 + 1 + 3 + 1, "first tokens, four prompts of one chunk, 700, 130"
    elif loaded.traits.pass_chunks > 1:
        assert bank.passes < 1 + sum(chunks_in(0, agent.prompt) for agent in agents)
    while not all(agent.is_done for agent in agents):
        step(bank, {slot: agent for slot, agent in zip((5, 0, 2, 7, 1, 3), agents, strict=True) if not agent.is_done})
    bank.close()
    for agent in agents:
        assert agent.seen == alone(loaded, agent), f"prompt of {agent.prompt}"


def test_whole_chunks_have_the_same_bits_in_one_pass(loaded):
    assert loaded.traits.pass_chunks == PASS_CHUNKS


def test_eight_scattered_contexts_need_one_pass(loaded):
    bank = loaded.bank(16)
    agents = {slot: Agent(slot, 20, 60, loaded.vocab) for slot in range(16)}
    step(bank, agents)
    busy = {slot: agents[slot] for slot in (0, 3, 4, 7, 9, 11, 14, 15)}
    loaded.costs.pass_ns, loaded.costs.row_ns, loaded.costs.cell_ns = 1e7, 1e6, 1.0
    loaded.costs.move_ns_per_token = 1.0
    step(bank, busy)
    before = bank.passes
    step(bank, busy)
    bank.close()
    assert bank.passes == before + 1


def test_a_part_of_a_context_goes_on_after_the_first_part_of_another_that_begins_alike(loaded):
    assert loaded.traits.can_part
    bank, other, agents = loaded.bank(3), loaded.bank(1), [Agent(seed, 200, 210, loaded.vocab) for seed in (1, 2)]
    agents[1].tokens[:129] = agents[0].tokens[:129]
    while not all(agent.fed > agent.prompt for agent in agents):
        step(bank, dict(enumerate(agents)))
    first, second = bank.save_part(0, 0, 129), bank.save_part(1, 129, agents[1].fed)
    assert len(first) + len(second) < len(bank.state(1)) + 4096
    bank.restore(2, second, agents[1].fed, first)
    other.restore(0, second, agents[1].fed, first)
    assert bank.save_part(2, 0, 201).tobytes()[8:] == bank.save_part(1, 0, 201).tobytes()[8:]
    wanted = alone(loaded, agents[1])
    while not agents[1].is_done:
        step(other, {0: agents[1]})
    assert agents[1].seen == wanted
    with pytest.raises(SnapshotError, match="do not follow"):
        bank.restore(2, second, agents[1].fed, bank.save_part(0, 0, 128))
    bank.close()
    other.close()


def test_a_state_that_is_none_is_refused(loaded):
    bank = loaded.bank(2)
    agent = Agent(1, 40, 41, loaded.vocab)
    step(bank, {0: agent})
    state = bank.state(0)
    with pytest.raises(SnapshotError):
        bank.restore(1, state[: len(state) // 2], agent.fed)
    bank.restore(1, state, agent.fed)
    bank.close()

