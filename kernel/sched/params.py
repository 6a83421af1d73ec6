"""What can be set of a policy: names, ranges and defaults, as sched.getpolicies tells them.

Who uses it: each policy's file declares its own; policy.py checks what is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Param:
    """One setting, a whole number."""

    low: int
    high: int
    default: int
    doc: str  # with its unit


SLICE_MS = Param(1, 10_000, 50, "ms of core time that a turn on the model lasts while others wait")
QUANTUM_TOKENS = Param(1, 1 << 20, 32, "tokens that a turn lasts while others wait; a chunk of a prompt counts as one")


def with_defaults(policy: str, params: Mapping[str, Param], given: Mapping[str, int]) -> dict[str, int]:
    """Return every parameter's value. Raises ValueError for an unknown name or a value out of range."""
    for name, value in given.items():
        if name not in params:
            known = ", ".join(params) or "none"
            raise ValueError(f"policy {policy} has no parameter {name[:64]!a}; it has {known}")
        param = params[name]
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if not is_number or not param.low <= value <= param.high:
            raise ValueError(f"{name} of policy {policy} is {value!a:.80}, wanted {param.low} to {param.high}")
    return {name: given.get(name, param.default) for name, param in params.items()}
