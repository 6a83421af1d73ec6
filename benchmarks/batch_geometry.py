"""What it costs where contexts stand: scattered, of different lengths; and how prompts are cut. On a bank alone.

llama.cpp computes a batch in passes over adjacent streams, and every row of a pass computes as many cells as
the longest has. The steps of a bank, which moves, fills and parts, are measured beside the same rows handed to
llama.cpp as they stand, and beside the best that there is: contexts side by side, two batches apart.
Rounds take turns, so that a machine that changes speed does so for all.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import replace

import llama_cpp

from benchmarks.models import model_path
from benchmarks.report import Row, at_most, only, percentile
from kernel.engine import bank as banks
from kernel.engine import probe
from kernel.engine.bank import SlotBank
from kernel.engine.base import CHUNK_TOKENS
from kernel.engine.base import Row as Feed
from kernel.engine.cost import StepCosts
from kernel.engine.traits import ContextOptions, Traits

SLOTS, BUSY = 16, 8
STEPS = 32  # a quantum: how long a set of contexts decodes before it changes
SHORT, MIDDLE, LONG = 64, 256, 1500  # tokens of context
PROMPT = 512
TALKS, SPOKEN, TURN = 4, 200, 65  # conversations, tokens of each so far, and new ones: the unfed last of before, and 64
WINDOW = 2048


class Stand:
    """Contexts of given lengths in the slots of a bank, which decode on and are cut back after each round."""

    def __init__(self, model: llama_cpp.llama_model_p, flash: bool, lengths: list[int], traits: Traits) -> None:
        costs = StepCosts(llama_cpp.llama_model_size(model), 23_000)
        self.bank = SlotBank(model, len(lengths), WINDOW, ContextOptions(2, flash), traits, costs)
        self._lengths = lengths
        self._states = []
        for slot, tokens in enumerate(lengths):
            for start in range(0, tokens, CHUNK_TOKENS):
                part = tuple(range(300 + start, 300 + min(start + CHUNK_TOKENS, tokens)))
                self.bank.chunk(Feed(slot, start, part, False))
            self._states.append(self.bank.state(slot))

    def steps(self, slots: list[int], apart: list[list[int]] | None = None) -> float:
        """Return milliseconds of a step of these slots, moves included; `apart`: in batches of these."""
        began = time.perf_counter()
        for turn in range(STEPS):
            for part in apart or [slots]:
                rows = [Feed(slot, self._lengths[slot] + turn, (400,), True) for slot in part]
                for _ in self.bank.decode(rows):
                    pass
        taken = 1e3 * (time.perf_counter() - began) / STEPS
        for slot in slots:
            self.bank.restore(slot, self._states[slot], self._lengths[slot])
        return taken

    def naive_steps(self, slots: list[int]) -> float:
        """The same with the rows handed to llama.cpp in one batch, wherever they stand."""
        streams = [self.bank._stream[slot] for slot in slots]
        began = time.perf_counter()
        for turn in range(STEPS):
            feeds = [
                banks.Feed(stream, self._lengths[slot] + turn, (400,))
                for slot, stream in zip(slots, streams, strict=True)
            ]
            self.bank._run(sorted(feeds))
        taken = 1e3 * (time.perf_counter() - began) / STEPS
        for slot in slots:
            self.bank.restore(slot, self._states[slot], self._lengths[slot])
        return taken


def run(quick: bool) -> list[Row]:
    """Return step times and their ratios."""
    banks.prepare()
    path = model_path("default" if quick else "smollm2-135m", "q8_0")
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rounds = 2 if quick else 8
    rows = []
    for flash in (False, True):
        traits = probe.first_traits(model)
        options = ContextOptions(2, flash)

        def make(traits: Traits, options: ContextOptions = options) -> SlotBank:
            return SlotBank(model, probe.MOST_ROWS, probe.WINDOW_TOKENS, options, traits, StepCosts(1, 1))

        probe.probe(make, traits, vocab)
        what = f"flash attention {'on' if flash else 'off'}"
        rows += _scattered(Stand(model, flash, [MIDDLE] * SLOTS, traits), rounds, what)
        rows += _mixed(Stand(model, flash, [SHORT] * (BUSY - 1) + [LONG], traits), rounds, what)
        rows += _prompt(model, options, traits, rounds, what)
        rows += _turns(Stand(model, flash, [SPOKEN] * TALKS, traits), rounds, what)
    return rows


def _scattered(stand: Stand, rounds: int, what: str) -> list[Row]:
    chooser = random.Random(1)
    side_by_side = list(range(4, 4 + BUSY))
    stand.steps(side_by_side)

    def places() -> list[int]:
        return sorted(chooser.sample(range(SLOTS), BUSY))

    times = _in_turns(
        rounds,
        best=lambda: stand.steps(side_by_side),
        ours=lambda: stand.steps(places()),
        naive=lambda: stand.naive_steps(places()),
    )
    stand.bank.close()
    return _rows(f"{BUSY} of {SLOTS} slots at random places, {what}", "side by side", 1.15, times)


def _mixed(stand: Stand, rounds: int, what: str) -> list[Row]:
    everybody = list(range(BUSY))
    stand.steps(everybody)
    times = _in_turns(
        rounds,
        best=lambda: stand.steps(everybody, [everybody[:-1], everybody[-1:]]),
        ours=lambda: stand.steps(everybody),
        naive=lambda: stand.naive_steps(everybody),
    )
    stand.bank.close()
    return _rows(f"one of {LONG} tokens beside {BUSY - 1} of {SHORT}, {what}", "two batches apart", 1.1, times)


def _prompt(
    model: llama_cpp.llama_model_p, options: ContextOptions, traits: Traits, rounds: int, what: str
) -> list[Row]:
    """A prompt whose whole chunks share passes, as the probe allows, against each in a pass of its own."""
    ways = [replace(traits, pass_chunks=chunks) for chunks in (1, traits.pass_chunks)]
    several = [SlotBank(model, 1, WINDOW, options, way, StepCosts(1, 1)) for way in ways]

    def read(bank: SlotBank) -> float:
        bank.clear(0)
        began = time.perf_counter()
        for _ in bank.prefill([Feed(0, 0, tuple(range(300, 300 + PROMPT)), True)]):
            pass
        return 1e3 * (time.perf_counter() - began)

    alone, ours = several
    times = _in_turns(2 * rounds, other=lambda: read(alone), ours=lambda: read(ours))
    for bank in several:
        bank.close()
    return _beside(f"a prompt of {PROMPT} tokens, {traits.pass_chunks} chunks a pass, {what}", "each alone", times)


def _turns(stand: Stand, rounds: int, what: str) -> list[Row]:
    """New tokens of several conversations: first ones with a step's single tokens, the others cut from there on.

    Beside it the same tokens cut at multiples of a chunk from where the context begins.
    """
    bank, cut = stand.bank, CHUNK_TOKENS - SPOKEN % CHUNK_TOKENS

    def read(*sizes: int) -> float:
        began, position = time.perf_counter(), SPOKEN
        for size in sizes:
            feeds = [Feed(slot, position, (400,) * size, True) for slot in range(TALKS)]
            for _ in bank.decode(feeds) if size == 1 else bank.prefill(feeds):
                pass
            position += size
        taken = 1e3 * (time.perf_counter() - began) / TALKS
        for slot in range(TALKS):
            bank.cut(slot, SPOKEN)
        return taken

    times = _in_turns(2 * rounds, ours=lambda: read(1, TURN - 1), other=lambda: read(cut, TURN - cut))
    bank.close()
    text = f"{TURN} new tokens after {SPOKEN}, each of {TALKS} conversations, {what}"
    return _beside(text, f"cut at multiples of {CHUNK_TOKENS}", times)


def _in_turns(rounds: int, **ways: Callable[[], float]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(way())
    return times


def _beside(text: str, other: str, times: dict[str, list[float]]) -> list[Row]:
    ours, theirs = (percentile(times[name], 0.5) for name in ("ours", "other"))
    return [
        only(text, f"{ours:.0f} ms, {other} {theirs:.0f} ms"),
        at_most(f"{text}: against {other}", ours / theirs, 1.0, "x"),
    ]


def _rows(what: str, best: str, limit: float, times: dict[str, list[float]]) -> list[Row]:
    middle = {name: percentile(values, 0.5) for name, values in times.items()}
    shown = ", ".join(f"{name} {middle[name]:.1f} ms" for name in ("best", "ours", "naive"))
    return [
        only(f"{what}: a step ({best} = best)", shown),
        at_most(f"{what}: ours against best", middle["ours"] / middle["best"], limit, "x"),
        only(f"{what}: as they stand against best", f"{middle['naive'] / middle['best']:.2f} x"),
    ]
