"""Whether a request may enter at all: a group can say how long one may wait before its own prompt is read.

Who calls it: requests.py, before anything is changed. Pure. What must hold: whoever is refused is told when to come
back; without a group's max_wait_ms nobody is.
"""

from __future__ import annotations

from collections.abc import Callable

from kernel.abi.errors import Errno, KernelError
from kernel.objects import Task
from kernel.sched.groups import Groups
from kernel.sched.standing import LEAST_ENDS, Ends

_LEAST_RETRY_MS = 100


class Gate:
    """Looks at what is before a request: who waits for a slot, times the mean time between the last requests' ends, or
    the prompts that are still to be read, whichever takes longer."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    def check(self, task: Task, waiting: int, ends: Ends, reads_ns: Callable[[], float]) -> None:
        """Raise EAGAIN with retry_after_ms when a request is expected to wait longer than its group lets it.

        reads_ns: asked for the time that others' prompts take, where there is a limit.
        """
        limits = [
            (group.attr.max_wait_ms, group.path)
            for group in self._groups.lineage(task.sched.group)
            if group.attr.max_wait_ms is not None
        ]
        if not limits:
            return
        most_ms, path = min(limits)
        slot_ms = waiting * ends.mean_ns / 1e6 if ends.count >= LEAST_ENDS else 0.0
        read_ms = reads_ns() / 1e6
        expected_ms = max(slot_ms, read_ms)
        if expected_ms > most_ms:
            what = f"{waiting} tasks wait for a slot" if slot_ms >= read_ms else "others' prompts are to be read first"
            text = f"{what}, which takes {expected_ms / 1e3:.1f} s"
            text = f"llm.generate: {text}; group {path} lets none wait longer than {most_ms / 1e3:g} s"
            raise KernelError(Errno.EAGAIN, text, max(_LEAST_RETRY_MS, int(expected_ms - most_ms)))
