"""Exactness: what sessions say beside others, whatever happens to them, against each alone on an idle kernel.

Random talks of sessions, with forks and commits, greedy and sampled, with penalties and grammars, are had twice: one
after the other on a kernel with one slot and memory for all, then all at once on a few slots of a short window, with
small turns and so little memory that contexts go to disk and come back, some cancelled, the core killed and the page
cache dropped meanwhile. A case is one turn; its text, its tokens and the logprobs of each token and of the 20 likeliest
in its place must be the same to the last bit. In the end the comparison itself is tried: see exactness_flip.py.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.exactness_flip import flip_bits
from benchmarks.exactness_live import Found, difference, play_alone, play_together
from benchmarks.exactness_talks import Talk, draw_talks
from benchmarks.models import model_path
from benchmarks.report import Row, at_least, must, only, progress
from benchmarks.stand import Stand

SEED = 1
WINDOW, SLOT_TOKENS = 4096, 256  # talks outgrow slots of these
MEMORY_PART = 0.75  # of what those contexts may come to whose turns are under way
CASES_BAR = 1000


class Model(NamedTuple):
    """One model that is tried."""

    shape: str
    quantisation: str
    flash_attention: str


MODELS = (
    Model("default", "q8_0", "on"),
    Model("default", "q4_k", "off"),
    Model("tiny-qwen2", "f16", "on"),
    Model("tiny-qwen3moe", "q8_0", "on"),
    Model("tiny-gemma3", "q4_0", "on"),
    Model("tiny-granite", "q8_0", "off"),
)
QUICK_MODELS = MODELS[0], MODELS[3]
FLIPPED = MODELS[0], MODELS[3]  # of whose parked contexts bits are flipped


class Effort(NamedTuple):
    """How much to try."""

    models: Sequence[Model]
    talks: int  # with each model
    kills: int  # of the core, in each model's talks
    drops: int  # of the page cache
    flips: int  # with each of FLIPPED
    turns: int  # under way at once
    least: dict[str, int]  # of what must have happened, or nothing is shown


FULL = Effort(
    MODELS, 28, 3, 3, 8, 8,
    {"preemptions": 1000, "restores": 1000, "moves within a bank": 100, "forks": 100, "commits": 20,
     "cancelled turns": 20, "core deaths": 12, "drops of the page cache": 6, "recomputed tokens": 1000,
     "bytes to disk": 10_000_000, "bytes from disk": 10_000_000},
)  # fmt: skip
QUICK_LEAST = ("preemptions", "restores", "forks", "core deaths", "recomputed tokens", "bytes to disk")
QUICK = Effort(QUICK_MODELS, 4, 1, 1, 2, 6, dict.fromkeys(QUICK_LEAST, 1))


def run(quick: bool) -> list[Row]:
    return prove(QUICK if quick else FULL, SEED, 1 if quick else CASES_BAR)


def prove(effort: Effort, seed: int, cases_bar: int) -> list[Row]:
    """Try all models; return the table."""
    draw = random.Random(seed)
    rows, differing = [], []
    cases, happened = 0, Counter[str]()
    for model in effort.models:
        talks = draw_talks(effort.talks, draw)
        alone, together, how = _play(model, talks, effort, draw)
        wrong = compare(alone, together)
        for text in wrong:
            progress(f"DIFFERS: {model.shape} {model.quantisation}, {how}: {text}")
        cases += len(alone.answers)
        differing += wrong
        happened += together.happened
        rows.append(only(f"{model.shape} {model.quantisation}, {how}", f"{len(alone.answers)} cases"))
    controls = [flip_bits(model_path(one.shape, one.quantisation), effort.flips, draw) for one in FLIPPED]
    flips, found, same = map(sum, zip(*controls, strict=True))
    return [
        *rows,
        at_least("cases", cases, cases_bar, "turns"),
        must("turns that differ from the same alone", len(differing), "0", not differing),
        *(at_least(what, happened[what], least, "") for what, least in effort.least.items()),
        must("a flipped bit is found", f"{found} of {flips}", "all", found == flips),
        must("without a flip nothing is", f"{same} of {flips} the same", "all", same == flips),
    ]


def compare(alone: Found, together: Found) -> list[str]:
    """Return what differs, a line for each turn; what failed is not missing alone."""
    wrong = [*alone.failed, *together.failed]
    for number, (wanted, *again) in sorted(alone.answers.items()):
        answers = [*again, *together.answers.get(number, [])]
        if len(answers) == len(again):
            wrong.append(f"turn {number} has no answer")
        wrong += [f"turn {number}: {text}" for text in {difference(wanted, one) for one in answers} if text]
    return wrong


def _play(model: Model, talks: list[Talk], effort: Effort, draw: random.Random) -> tuple[Found, Found, str]:
    path, config = model_path(model.shape, model.quantisation), {"window_tokens": WINDOW}
    config |= {"flash_attention": model.flash_attention, "policy": "rr", "threads": 1}
    with Stand(path, slots=1, slot_tokens=WINDOW, swap_bytes=0, **config) as stand:
        alone = play_alone(stand, talks)
        (tiers,) = stand.call("ctx.stat")["models"]
    progress(f"{model.shape} {model.quantisation}: {len(alone.answers)} turns had alone")
    longest = max(one.prompt_tokens + len(one.tokens) for several in alone.answers.values() for one in several)
    size = longest * tiers["token_bytes"]
    chosen = {"slots": draw.randint(2, 4), "quantum_tokens": draw.randint(3, 12)}
    chosen["prefill_tokens"] = draw.choice([64, 128, 256])
    memory = {"snapshot_bytes": int(size * effort.turns * MEMORY_PART), "swap_bytes": size * len(talks)}
    with Stand(path, slot_tokens=SLOT_TOKENS, **chosen, **memory, **config) as stand:
        together = play_together(stand, talks, effort.turns, effort.kills, effort.drops, draw)
    said = ", ".join(f"{value} {name.partition('_')[0]}" for name, value in chosen.items())
    return alone, together, said
