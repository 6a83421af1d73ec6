"""What a scheduling policy is, and the list of them. Adding one: its file, a line here, a test.

Who calls it: scheduler.py, and nobody else. What must hold: a policy sees no clock and no randomness,
so that the same calls give the same choices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from kernel.objects import Request
from kernel.sched.fcfs import FirstComeFirstServed
from kernel.sched.mlfq import FeedbackQueues
from kernel.sched.priority import StaticPriority
from kernel.sched.round_robin import RoundRobin


class Policy(Protocol):
    """Chooses which runnable requests hold a slot in the next step.

    A request is added once when it becomes runnable and removed once when it no longer is; between the
    two it is the policy's own business whether it runs.
    """

    def add(self, request: Request) -> None: ...
    def remove(self, request: Request) -> None: ...
    def charge(self, request: Request, units: int) -> None:
        """Account for a step: one unit for a generated token or a prefill chunk."""
        ...

    def choose(self, slots: int) -> list[Request]:
        """Return at most `slots` requests, those that hold a slot and keep it first."""
        ...


POLICIES: dict[str, Callable[[int], Policy]] = {
    "fcfs": lambda quantum: FirstComeFirstServed(),
    "mlfq": FeedbackQueues,
    "rr": RoundRobin,
    "prio": lambda quantum: StaticPriority(),
}

DESCRIPTIONS = {
    "fcfs": FirstComeFirstServed.__doc__ or "",
    "mlfq": FeedbackQueues.__doc__ or "",
    "rr": RoundRobin.__doc__ or "",
    "prio": StaticPriority.__doc__ or "",
}
