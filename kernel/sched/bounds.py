"""How long a task may wait for a turn at most: rescue.py's bound with the terms of this moment.

Who calls it: schedcalls.py and report.py, when somebody asks. It only reads. What must hold: no term is less than what
the scheduler may do: the largest step with the longest contexts there are, every slot taken.

Who is before a task in the queue of the rescued began to wait before it, or has a group with a shorter starve_ms. So
those count of which a request waits now, and the latter; not who has slots for all its requests and as much patience,
unless it is rescued at the moment and its lease may outlast that.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from kernel.objects import Task
from kernel.sched.groups import Groups
from kernel.sched.rescue import Bound, lease_ns, rows_of
from kernel.sched.scheduler import Scheduler

MOST_DEPTHS = 256  # LLAMA_MAX_SEQ: no core has more slots
_DEPTH = 1024  # tokens: what a chunk takes grows evenly with those before it


class Bounds:
    """Of one model, at one moment."""

    def __init__(self, scheduler: Scheduler, groups: Groups) -> None:
        self._scheduler = scheduler
        self._groups = groups
        lengths: list[int] = []
        starves: dict[int, int] = {}  # by pid, of those that have a slot
        self._waiting: dict[int, int] = {}  # by pid: after how many tokens it reads a chunk, -1: it writes
        self._prompt_depth = 0  # the longest prompt that is read
        for request in scheduler.runnable:
            task = request.task
            lengths.append(len(request.tokens))
            is_reading = request.kv_tokens < request.prompt_tokens
            if is_reading:
                self._prompt_depth = max(self._prompt_depth, request.prompt_tokens)
            if task.running:
                starves[task.pid] = self._starve_ms(task)
            if request.slot is None:
                depth = request.kv_tokens if is_reading else -1
                self._waiting[task.pid] = max(self._waiting.get(task.pid, -1), depth)
        self._depths = sorted(lengths, reverse=True)[:MOST_DEPTHS] or [0]  # the longest contexts, longest first
        self._starves = sorted(starve for pid, starve in starves.items() if pid not in self._waiting)
        self._reads_ns: dict[tuple[int, int, int], int] = {}

    def of(self, task: Task) -> Bound:
        """Return the bound for a task's requests, counting the task itself."""
        scheduler, charging = self._scheduler, self._scheduler.charging
        own = [request for request in task.requests if request in scheduler.runnable]
        bank = max((request.bank for request in own), default=0)
        slots = scheduler.queues.slots_of(bank)
        starve_ms = self._starve_ms(task)
        sooner = bisect_left(self._starves, starve_ms)
        rows = rows_of(slots)
        step_ns = charging.worst_step_ns(self._depths[:slots], scheduler.most_chunks, self._prompt_depth)
        lasting_ns = lease_ns(scheduler.waits.tasks + (not own))
        is_lasting = lasting_ns + step_ns > starve_ms * 1_000_000
        before = len(self._waiting) - (task.pid in self._waiting) + sooner
        if is_lasting:
            before += scheduler.queues.rows_taken(bank)
        return Bound(
            starve_s=starve_ms / 1e3,
            tasks=before + 1,
            rows=rows,
            lease_s=lasting_ns / 1e9,
            step_s=step_ns / 1e9,
            reads_s=self._longer_ns(slots, sooner, lasting_ns + step_ns) / 1e9,
            switch_s=charging.worst_switches_ns(rows, self._depths[0]) / 1e9,
            banks_s=scheduler.queues.rota_steps() * step_ns / 1e9,
        )

    def _starve_ms(self, task: Task) -> int:
        return self._groups.effective(task.sched.group).starve_ms

    def _longer_ns(self, slots: int, sooner: int, turn_ns: int) -> int:
        """Return by how much reading exceeds the turns of those who wait, and of so many others, all turns together."""
        key = slots, sooner, turn_ns
        if key not in self._reads_ns:
            depths = [depth for depth in self._waiting.values() if depth >= 0] + [self._prompt_depth] * sooner
            self._reads_ns[key] = self._reading_ns(sorted(depths, reverse=True), slots, turn_ns)
        return self._reads_ns[key]

    def _reading_ns(self, depths: Sequence[int], slots: int, turn_ns: int) -> int:
        """The worst is that those with the longest contexts read side by side: what exceeds a turn is convex."""
        charging, most_chunks, rows = self._scheduler.charging, self._scheduler.most_chunks, rows_of(slots)
        others_ns = charging.worst_step_ns(self._depths[: slots - rows], 0, 0)
        first_ns = charging.worst_step_ns((), 1, 0)
        deep_ns = (charging.worst_step_ns((), 1, _DEPTH) - first_ns) / _DEPTH
        longer_ns = 0
        for begin in range(0, len(depths), rows):
            together = depths[begin : begin + rows]
            steps = -(-len(together) // most_chunks)  # in which they read, and the others write
            took_ns = steps * others_ns + len(together) * first_ns + deep_ns * sum(together)
            longer_ns += max(0, int(took_ns) - turn_ns)
        return longer_ns
