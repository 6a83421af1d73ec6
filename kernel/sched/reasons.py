"""Why somebody got a slot or lost one, in words.

Who calls it: scheduler.py, for waits.py to keep. Pure; it only tells what was decided.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kernel.objects import Request, Task
from kernel.sched.rescue import Stage


def _named(task: Task) -> str:
    return f"task {task.pid} ({task.name})"


def why_evicted(request: Request, newcomers: Sequence[Request], rescued: Collection[Request], policy: str) -> str:
    """newcomers: who gets a slot in the same step; policy: by which the request is ranked."""
    if not newcomers:
        return "its group has had what its cap allows"
    first = newcomers[0]
    if first in rescued:
        return f"{_named(first.task)}, which had waited too long, took its slot"
    theirs, own = first.task.sched.sched_class, request.task.sched.sched_class
    if theirs < own:
        return f"{_named(first.task)} of class {theirs.name.lower()} took its slot"
    if theirs > own:
        return f"class {theirs.name.lower()} was owed a slot"
    return f"its turn by {policy} was over, and {_named(first.task)} came next"


def why_admitted(request: Request, rescued: Collection[Request], stage: Stage, has_room: bool, policy: str) -> str:
    """has_room: all who want to run have slots."""
    if request in rescued:
        return "it was rescued, having waited too long"
    if has_room:
        return "a slot was free"
    if stage is Stage.BOOST:
        return f"it was put first in {policy}, having waited long"
    return f"its turn by {policy} came"
