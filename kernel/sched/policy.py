"""What a scheduling policy is, and the list of them. Adding one: its file, a line here, a test.

Who calls it: tree.py makes one for the tasks that share by it. What must hold: a policy sees no clock but the core time
that was modelled so far, and no randomness, so that the same calls give the same choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from kernel.objects import Request
from kernel.sched.eevdf import Eevdf
from kernel.sched.fcfs import FirstComeFirstServed
from kernel.sched.hrrn import HighestResponseRatio
from kernel.sched.mlfq import FeedbackQueues
from kernel.sched.params import Param, with_defaults
from kernel.sched.plas import LeastAttainedService
from kernel.sched.priority import AgingPriority
from kernel.sched.round_robin import RoundRobin
from kernel.sched.srpt import ShortestRemaining


class Policy(Protocol):
    """Chooses which of the runnable requests of its tasks hold a slot in the next step.

    A request is added once when it becomes runnable and removed once when it no longer is; between the two it is the
    policy's own business whether it runs.
    """

    def add(self, request: Request) -> None: ...
    def remove(self, request: Request) -> None: ...
    def charge(self, request: Request, core_ns: int, tokens: int) -> None:
        """Account for a step: its part of the modelled core time, and the tokens that it was fed (chunks count 64)."""
        ...

    def choose(self, slots: int, work_ns: int) -> list[Request]:
        """Return the most wanted min(slots, runnable) requests, most wanted first.

        work_ns: the core time modelled so far, of all requests of this core.
        """
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """A policy that can be chosen by name."""

    make: Callable[..., Policy]  # takes the params by name
    doc: str
    params: Mapping[str, Param]


def _kind(policy: type) -> Kind:
    return Kind(policy, " ".join((policy.__doc__ or "").split()), policy.PARAMS)  # type: ignore[attr-defined]


POLICIES: dict[str, Kind] = {
    "eevdf": _kind(Eevdf),
    "fcfs": _kind(FirstComeFirstServed),
    "hrrn": _kind(HighestResponseRatio),
    "mlfq": _kind(FeedbackQueues),
    "plas": _kind(LeastAttainedService),
    "prio": _kind(AgingPriority),
    "rr": _kind(RoundRobin),
    "srpt": _kind(ShortestRemaining),
}


def make_policy(name: str, given: Mapping[str, int]) -> Policy:
    """Return a policy with these params, defaults for the rest. Raises ValueError naming what is wrong."""
    kind = POLICIES[name]
    return kind.make(**with_defaults(name, kind.params, given))
