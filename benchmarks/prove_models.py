"""The models that `make prove` tries, by name: family, quantisation and size, as in dense/q8_0/135m.

Who calls it: prove.py. What must hold: a row's name says what was run. K-quants need widths that are
multiples of 256, so the dense q4_k rows have shapes of that kind near the published ones.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.model_shapes import SHAPES

FAMILIES = ("dense", "moe", "sliding-window", "hybrid")
QUANTISATIONS = ("q8_0", "q4_0", "q4_k", "f16")
SIZES = ("135m", "0.5b")
_DENSE = {"135m": "smollm2-135m", "0.5b": "qwen2.5-0.5b"}
_PREFIX = {"moe": "moe", "sliding-window": "swa", "hybrid": "hybrid"}


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model to try; `size` is "135m", "0.5b" or the name of a small shape."""

    family: str
    quantisation: str
    size: str

    @property
    def name(self) -> str:
        return f"{self.family}/{self.quantisation}/{self.size}"

    @property
    def shape(self) -> str:
        """The name of its shape in model_shapes.py."""
        if self.size not in SIZES:
            return self.size
        if self.family != "dense":
            return f"{_PREFIX[self.family]}-{self.size}"
        return f"{self.size}-wide" if self.quantisation == "q4_k" else _DENSE[self.size]


FULL = tuple(
    ModelRow(family, quantisation, size)
    for size in SIZES
    for family in FAMILIES
    for quantisation in QUANTISATIONS
)
QUICK = tuple(
    ModelRow(SHAPES[shape].family, quantisation, shape)
    for shape, quantisation in (
        ("default", "q8_0"),
        ("default", "q4_k"),
        ("tiny-qwen2", "f16"),
        ("tiny-qwen3moe", "q8_0"),
        ("tiny-qwen3moe", "q4_k"),
        ("tiny-gemma2", "q4_0"),
        ("tiny-gemma3", "q8_0"),
        ("tiny-gpt-oss", "f16"),
        ("tiny-mamba2", "q8_0"),
        ("tiny-rwkv7", "q4_0"),
        ("tiny-granite", "q4_k"),
        ("tiny-lfm2", "q8_0"),
        ("tiny-qwen35", "f16"),
    )
)


def select(rows: Sequence[ModelRow], patterns: Sequence[str]) -> list[ModelRow]:
    """Return the rows whose names match any of the patterns, as in shells; all where there is none.

    Raises ValueError for a pattern that matches no row.
    """
    for pattern in patterns:
        if not fnmatch.filter([row.name for row in rows], pattern):
            raise ValueError(f"no row is called {pattern!r}: {', '.join(row.name for row in rows)}")
    return [row for row in rows if not patterns or any(fnmatch.fnmatch(row.name, one) for one in patterns)]
