"""How long a task may wait for a turn at most: rescue.py's bound with the terms of this moment.

Who calls it: schedcalls.py and report.py, when somebody asks. It only reads. What must hold: no term is less than what
the scheduler may do: the largest step with the longest contexts there are, every slot taken.
"""

from __future__ import annotations

from kernel.objects import Task
from kernel.sched.groups import Groups
from kernel.sched.rescue import Bound, lease_ns, rows_of
from kernel.sched.scheduler import Scheduler

MOST_DEPTHS = 256  # LLAMA_MAX_SEQ: no core has more slots


class Bounds:
    """Of one model, at one moment."""

    def __init__(self, scheduler: Scheduler, groups: Groups) -> None:
        self._scheduler = scheduler
        self._groups = groups
        lengths = sorted((len(request.tokens) for request in scheduler.runnable), reverse=True)
        self._depths = lengths[:MOST_DEPTHS] or [0]  # the longest contexts, longest first
        reading = (one.prompt_tokens for one in scheduler.runnable if one.kv_tokens < one.prompt_tokens)
        self._prompt_depth = max(reading, default=0)  # the longest prompt that is read

    def of(self, task: Task) -> Bound:
        """Return the bound for a task's requests, counting the task itself."""
        scheduler, charging = self._scheduler, self._scheduler.charging
        own = [request for request in task.requests if request in scheduler.runnable]
        slots = scheduler.queues.slots_of(max((request.bank for request in own), default=0))
        tasks = max(1, scheduler.waits.tasks + (not own))
        rows, chunks = rows_of(slots), scheduler.most_chunks
        depths, depth = self._depths[:slots], self._prompt_depth
        step_ns = charging.worst_step_ns(depths, chunks, depth)
        reads = -(-rows // chunks)  # steps in which the rescued read, and the others write
        reads_ns = reads * charging.worst_step_ns(depths[: slots - rows], min(rows, chunks), depth)
        return Bound(
            starve_s=self._groups.effective(task.sched.group).starve_ms / 1e3,
            tasks=tasks,
            rows=rows,
            lease_s=lease_ns(tasks) / 1e9,
            step_s=step_ns / 1e9,
            reads_s=reads_ns / 1e9,
            switch_s=charging.worst_switches_ns(rows, depths[0]) / 1e9,
            banks_s=scheduler.queues.rota_steps() * step_ns / 1e9,
        )
