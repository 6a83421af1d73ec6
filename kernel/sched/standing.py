"""Where a request stands among the others, for whoever waits for it.

Who calls it: requests.py, for llm.status. What must hold: it only reads; an estimate is one of the past, and None while
there is no past.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kernel.objects import Request
from kernel.states import RequestState

SMOOTHING = 0.1  # of the newest interval in the mean
LEAST_ENDS = 5  # before an estimate is given


@dataclass(slots=True)
class Ends:
    """When requests of one model ended, as far as a mean of the intervals needs it."""

    count: int = 0
    last_ns: int = 0
    mean_ns: float = 0.0

    def add(self, now_ns: int) -> None:
        interval_ns = now_ns - self.last_ns
        if self.count:
            weight = max(SMOOTHING, 1 / self.count)
            self.mean_ns += weight * (interval_ns - self.mean_ns)
        self.count, self.last_ns = self.count + 1, now_ns


def tell(request: Request, in_flight: Iterable[Request], ends: Ends) -> dict[str, Any]:
    """Return the body of llm.status."""
    position = 0
    if request.slot is None:
        position = 1 + sum(_is_before(other, request) for other in in_flight)
    expected_s = position * ends.mean_ns / 1e9 if ends.count >= LEAST_ENDS else None
    return {
        "state": _state(request),
        "position": position,
        "expected_wait_s": expected_s,
        "prompt_tokens": request.prompt_tokens,
        "fed_tokens": request.fed_tokens,
        "cached_tokens": request.reused_tokens,
        "generated_tokens": request.generated_tokens if request.prompt_tokens else 0,
    }


def _is_before(other: Request, request: Request) -> bool:
    return other.core == request.core and other.slot is None and other.number < request.number


def _state(request: Request) -> str:
    if not request.prompt_tokens:
        return "preparing"
    if request.slot is not None:
        return "reading" if request.kv_tokens < request.prompt_tokens else "writing"
    return "parked" if request.state is RequestState.PREEMPTED else "queued"
