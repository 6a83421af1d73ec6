"""The negative control of exactness.py: one bit of a parked context is flipped and the snapshot sealed again.

A session has two turns; between them, while its context is parked, the bit is flipped. All checks pass, the second turn
goes on from the damaged context, and the comparison must say so; without the flip it must say nothing.

Who calls it: exactness.py. It has the product's kernel core and engine in this process (rig.py), for no other process
may look at a real kernel's contexts. The bit is the sign of one value of a key of one of the last tokens.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agentix import calls
from benchmarks.exactness_live import Answer, answer_of, difference
from benchmarks.exactness_talks import LOGPROBS
from benchmarks.rig import Rig, make_engine
from kernel.engine import snapshot
from kernel.engine.kvstate import HEAD_BYTES, PLAIN_CELL, Cells
from kernel.engine.llama import LlamaEngine

PROMPT, NEW, ANSWER, LAST = (100, 250), (1, 40), 30, 32  # tokens
WINDOW = 512
SIGN = 0x80  # of the high byte of a value of two bytes


class Control(NamedTuple):
    flips: int
    found: int  # of these
    same: int  # of as many pairs without a flip


def flip_bits(model: Path, flips: int, draw: random.Random) -> Control:
    """Have so many sessions, each without a flip, without one again, and with one."""
    engine = make_engine(str(model), slots=1, window_tokens=WINDOW)
    found = same = 0
    for _ in range(flips):
        seed = draw.randrange(1 << 30)
        undisturbed, again, flipped = (_second_turn(engine, seed, is_flipped) for is_flipped in (False, False, True))
        same += not difference(undisturbed, again)
        found += bool(difference(undisturbed, flipped))
    engine.text.close()
    return Control(flips, found, same)


def _second_turn(engine: LlamaEngine, seed: int, is_flipped: bool) -> Answer:
    draw = random.Random(seed)
    rig = Rig(engine)
    try:
        peer = rig.agent(1)
        rig.call(peer, 101, "ctx.open")
        session = rig.ends.pop(peer)[1]["session"]
        _turn(rig, peer, session, draw.randint(*PROMPT), draw)
        new = draw.randint(*NEW)
        if is_flipped:
            (number,) = rig.segments
            _flip(rig.segment_array(number), draw)
        answer, reused = _turn(rig, peer, session, new, draw)
        if not reused or rig.kernel.cores[0].scheduler.totals.failed_restores:
            raise RuntimeError(f"the second turn of seed {seed} does not go on from what was parked")
        return answer
    finally:
        rig.close()


def _turn(rig: Rig, peer: int, session: int, size: int, draw: random.Random) -> tuple[Answer, int]:
    """Return an answer, and how many tokens it went on from."""
    said = calls.pack_tokens([draw.randrange(300, 2000) for _ in range(size)])
    options = {"max_tokens": ANSWER, "ignore_end": True, "logprobs": LOGPROBS}
    rig.call(peer, 101, "llm.generate", session=session, tokens=said, **options)
    while rig.step():
        pass
    kind, body = rig.ends.pop(peer)
    if kind != "reply":
        raise RuntimeError(f"no reply but {kind} {body.get('text', '')}")
    reply = calls.generate([], {}).decode(body)
    return answer_of(reply), reply.usage["cached_tokens"]


def _flip(array: np.ndarray, draw: random.Random) -> None:
    """Flip a bit of a sealed snapshot, and seal it as its header says that it was."""
    _, _, tokens, fingerprint, digest, size, _ = snapshot._FIELDS.unpack(array[: snapshot._FIELDS.size].tobytes())
    cells = Cells(array[snapshot.HEADER_BYTES : snapshot.HEADER_BYTES + size], HEAD_BYTES, PLAIN_CELL)
    _, keys = draw.choice(cells._keys)
    keys[draw.randrange(len(keys) - LAST, len(keys)), draw.randrange(keys.shape[1]) | 1] ^= SIGN
    snapshot.seal(array, fingerprint, tokens, digest, size)
