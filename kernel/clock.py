"""The kernel's clock: the only place in kernel/ outside the LLM core that reads time.

Who calls it: the loop stamps every event with it. What must hold: it never goes back, and it is the
clock of SetTimer and of StepResult (CLOCK_MONOTONIC, the same in every process).
"""

from __future__ import annotations

import time

now_ns = time.monotonic_ns


def worked_ns() -> int:
    """Return the CPU time of this thread so far: unlike now_ns, it stands still while others are on the CPU."""
    return time.thread_time_ns()
