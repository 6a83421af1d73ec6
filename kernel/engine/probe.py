"""Does a model decode here, and what may be done with its contexts without changing a bit? Tried at load.

Who calls it: llama.py, before a core says ready. What must hold: nothing is promised of a model that was
not seen to hold with this model, on this machine, in this build.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import llama_cpp
import numpy as np

from kernel.engine import family, kvstate
from kernel.engine.bank import SlotBank
from kernel.engine.base import (
    APPROXIMATE,
    CHUNK_TOKENS,
    EXACT,
    PASS_CHUNKS,
    RECOMPUTE,
    WHOLE,
    EngineError,
    Row,
)
from kernel.engine.batch import Feed
from kernel.engine.kvstate import HEAD_BYTES
from kernel.engine.rowsfile import Rows
from kernel.engine.snapshot import SnapshotError
from kernel.engine.traits import Traits

WINDOW_TOKENS = 256
MOST_ROWS = 12  # of a pass that is tried: the widest that kernels for few rows are known to end at is 8
_LONE_TRIES = 6
_ROW_RULES = ((1, 1), (2, 1), (4, 4), (8, 4))  # (least_rows, row_step), the cheapest first
_PROMPT_TOKENS = 2 * CHUNK_TOKENS
_LEFT_OVER = CHUNK_TOKENS - 3  # of a prompt's last chunk: no multiple of what a kernel takes at once


@dataclass(frozen=True, slots=True)
class Verdict:
    """exactness: see base.py."""

    traits: Traits
    exactness: str
    bytes_per_token: int  # of a snapshot
    overhead_bytes: int


def first_traits(model: llama_cpp.llama_model_p) -> Traits:
    """What is known of a model's contexts before anything was tried."""
    kind = family.family_of(model)
    has_window = llama_cpp.llama_model_n_swa(model) > 0
    layout = kvstate.Layout(0 if kind == family.RECURRENT else 1 + has_window)
    can_trim = kind not in (family.RECURRENT, family.HYBRID)
    # A router's matrix, and the small ones about a recurrent state, are F32 in quantised files too: they meet
    # a lone row with another kernel, which shows once in a hundred tokens.
    least_rows = 2 if family.has_experts(model) or not can_trim else 1
    chunks = family.most_chunks(model)
    return Traits(layout, can_trim, is_windowed=has_window, least_rows=least_rows, pass_chunks=chunks)


def probe(
    make_bank: Callable[[Traits], SlotBank],
    traits: Traits,
    vocab: int,
    known_rows: Rows | None = None,
) -> Verdict:
    """Try a bank of MOST_ROWS slots and WINDOW_TOKENS; fill in `traits`.

    known_rows: if they were found before, else they are tried, which takes longest. A build whose kernels crash on
    this CPU dies here, before it serves. Raises EngineError when the model's logits are not finite.
    """
    bank = make_bank(traits)
    try:
        return _Probe(bank, traits, vocab).run(known_rows)
    finally:
        bank.close()


class _Probe:
    def __init__(self, bank: SlotBank, traits: Traits, vocab: int) -> None:
        self._bank, self._traits, self._vocab = bank, traits, vocab

    def run(self, known_rows: Rows | None) -> Verdict:
        sizes = []
        for start in range(0, _PROMPT_TOKENS, CHUNK_TOKENS):
            tokens = tuple(self._token(at) for at in range(start, start + CHUNK_TOKENS))
            if not np.isfinite(self._bank.chunk(Row(0, start, tokens, True))).all():
                raise EngineError("the model's logits are not finite: the file is damaged")
            sizes.append(len(self._bank.state(0)))
        per_token = max(0, -(-(sizes[-1] - sizes[0]) // CHUNK_TOKENS))
        if self._traits.is_windowed:  # past the window a state grows more slowly than before it
            per_token = max(per_token, -(-sizes[0] // CHUNK_TOKENS))
        overhead = max(0, sizes[0] - per_token * CHUNK_TOKENS) + 4096
        return Verdict(self._traits, self._judge(self._bank.state(0), known_rows), per_token, overhead)

    def _judge(self, state: np.ndarray, known_rows: Rows | None) -> str:
        self._traits.layout = self._learn_layout(state)
        if self._traits.layout is None or not self._goes_on(state):
            self._traits.can_move = False
            self._traits.pass_chunks = 1
            return RECOMPUTE
        if known_rows is None:
            rows = self._learn_rows(state)
            if rows is None:
                return APPROXIMATE
            known_rows = (*rows, self._learn_chunks() if self._traits.pass_chunks > 1 else 1)
        self._traits.can_part = self._parts_meet(state)
        least, self._traits.row_step, self._traits.pass_chunks = known_rows
        self._traits.least_rows = max(least, self._traits.least_rows)
        return EXACT if self._traits.can_trim else WHOLE

    def _learn_layout(self, state: np.ndarray) -> kvstate.Layout | None:
        """Return the layout by which a state can be taken apart, if there is one."""
        guess = self._traits.layout
        assert guess is not None
        for cell_bytes in kvstate.CELL_BYTES if guess.caches else kvstate.CELL_BYTES[:1]:
            layout = kvstate.Layout(guess.caches, cell_bytes)
            try:
                rewritten = layout.rewrite(state, layout.streams_of(state))
            except kvstate.LayoutError:
                continue
            if len(rewritten) >= len(state):
                return layout
        return None

    def _goes_on(self, state: np.ndarray) -> bool:
        """Return whether a context that came back elsewhere goes on with the same bits as where it was."""
        feeds = [Feed(slot, _PROMPT_TOKENS, (self._token(_PROMPT_TOKENS),)) for slot in (0, 1)]
        try:
            self._bank.restore(1, state, _PROMPT_TOKENS)
            first, second = self._bank.run_pass(feeds)
            if self._traits.can_trim:
                self._bank.cut(0, _PROMPT_TOKENS)
        except SnapshotError:
            return False
        except RuntimeError:  # llama.cpp cannot take tokens off after all
            self._traits.can_trim = False
        return first.tobytes() == second.tobytes()

    def _parts_meet(self, state: np.ndarray) -> bool:
        """Return whether a context's first part may be that of another which begins alike."""
        layout, begin = self._traits.layout, tuple(self._token(at) for at in range(CHUNK_TOKENS))
        if layout is None or layout.caches != 1 or not self._traits.can_trim or self._traits.is_windowed:
            return False
        self._bank.clear(1)
        for start, tokens in ((0, begin), (CHUNK_TOKENS, begin[::-1])):
            self._bank.chunk(Row(1, start, tokens, True))
        first = self._bank.save_part(1, 0, CHUNK_TOKENS)
        second = layout.part(state, CHUNK_TOKENS, _PROMPT_TOKENS)
        joined, whole = layout.join(first, second, 1), layout.part(state, 0, _PROMPT_TOKENS)
        return joined[HEAD_BYTES:].tobytes() == whole[HEAD_BYTES:].tobytes()

    def _learn_rows(self, state: np.ndarray) -> tuple[int, int] | None:
        """Return (least_rows, row_step) with which a row's bits depend on its context alone."""
        is_same = dict.fromkeys(range(1, MOST_ROWS), True)
        for first in (_PROMPT_TOKENS, 7 * _PROMPT_TOKENS):
            wanted = self._pass(state, range(MOST_ROWS), first)
            for rows in range(2, MOST_ROWS):
                is_same[rows] &= self._pass(state, range(rows), first) == wanted[:rows]
            for slot in range(_LONE_TRIES):
                is_same[1] &= self._pass(state, [slot], first) == [wanted[slot]]
        for least, step in _ROW_RULES:
            if all(is_same[rows] for rows in range(least, MOST_ROWS) if rows % step == 0):
                return least, step
        return None

    def _learn_chunks(self) -> int:
        """Return PASS_CHUNKS if chunks of a prompt have the same bits in any company of each other, else 1."""
        last = CHUNK_TOKENS + _LEFT_OVER
        apart, together = (CHUNK_TOKENS, CHUNK_TOKENS, last), (2 * CHUNK_TOKENS + last,)
        return PASS_CHUNKS if self._cut(apart) == self._cut(together) else 1

    def _cut(self, passes: Sequence[int]) -> tuple[bytes, bytes]:
        """Return the bits that a prompt has in passes of so many tokens: of its last logits and of its state."""
        self._bank.clear(0)
        logits, at = b"", 0
        for size in passes:
            tokens = tuple(self._token(at + further) for further in range(size))
            logits = self._bank.chunk(Row(0, at, tokens, True)).tobytes()
            at += size
        return logits, self._bank.state(0).tobytes()

    def _pass(self, state: np.ndarray, slots: Sequence[int], first: int) -> list[bytes]:
        """Return the bits of a token decoded in each of these slots, all after the same context."""
        for slot in slots:
            self._bank.restore(slot, state, _PROMPT_TOKENS)
        feeds = [Feed(slot, _PROMPT_TOKENS, (self._token(first + slot),)) for slot in slots]
        return [row.tobytes() for row in self._bank.run_pass(feeds)]

    def _token(self, at: int) -> int:
        return (7919 * at + 13) % self._vocab
