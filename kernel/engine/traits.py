"""What a model's contexts allow, and what follows for a bank of them: company for lone rows, streams, spare cells.

Who calls it: probe.py finds it out, bank.py keeps to it, fit.py counts with it. What must hold: the first guess is the
most careful one.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernel.engine.base import F16
from kernel.engine.kvstate import Layout

# ggml splits the KV of a single flash-attention row among threads once its extent reaches 512.
FLASH_WHOLE_TOKENS = 256


@dataclass(slots=True)
class Traits:
    """What probe.py found out.

    llama.cpp multiplies one row, a few or many by other kernels, which sum in other orders. So a pass has at
    least `least_rows` rows and a multiple of `row_step`, with rows of no consequence where it must.
    """

    layout: Layout | None  # of a sequence's state; None: not known, it only fits banks like its own
    can_trim: bool  # whether the newest tokens of a sequence can be taken off again
    is_windowed: bool  # a state comes back with cells missing: they are put back before
    least_rows: int = 1
    row_step: int = 1
    can_move: bool = True  # a state that was restored goes on with the same bits
    can_part: bool = False  # parts of states of contexts that begin alike can be exchanged
    pass_chunks: int = 1  # of prompts that have the same bits in one pass as each alone

    @property
    def spare_rows(self) -> int:
        """The most rows of no consequence that a pass may need."""
        return max(self.least_rows, self.row_step, 2) - 1  # 2: see FLASH_WHOLE_TOKENS

    @property
    def rows(self) -> tuple[int, int, int]:
        """What rowsfile.py keeps."""
        return self.least_rows, self.row_step, self.pass_chunks

    @property
    def prompts_may_meet(self) -> bool:
        """Whether a pass may give the logits of several prompts: they are rows then, of its last layers."""
        return self.least_rows == self.row_step == 1


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """What all contexts of a model have in common."""

    threads: int
    flash_attention: bool
    kv_type: str = F16  # one of KV_TYPES
    on_device: bool = True  # KV cells lie where their layers are


def may_twin(options: ContextOptions, traits: Traits) -> bool:
    """Whether a lone row's company may be tokens of its own; without flash attention they make another product."""
    return options.flash_attention and traits.can_trim


def spare_tokens(options: ContextOptions, traits: Traits) -> int:
    """Return how many cells a stream needs beyond its window, for such company; one more is always there."""
    return traits.spare_rows - 1 if may_twin(options, traits) else 0


def streams_of(slots: int, options: ContextOptions, traits: Traits) -> int:
    """Return how many streams a bank of so many slots has, so that every pass can be completed."""
    if not traits.can_trim:
        return slots + traits.spare_rows  # these stay empty, for nothing can be taken off others
    if slots == 1 and may_twin(options, traits):
        return 1
    least = max(slots, traits.least_rows)
    return -(-least // traits.row_step) * traits.row_step
