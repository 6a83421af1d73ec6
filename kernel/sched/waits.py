"""What is decided about whom and why: a log, and of each task the last wait, told in a sentence.

Who calls it: the scheduler at each decision; sched.stat and `agentix why` read it. What must hold: it only listens; the
log has the newest LOG_ENTRIES.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from kernel.objects import Request, Task
from kernel.sched.rescue import Stage

LOG_ENTRIES = 4096


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the log."""

    now_ns: int
    kind: str  # admit, evict, warn, boost, rescue, pause, resume
    pid: int
    request: int
    reason: str


@dataclass(slots=True)
class Wait:
    """A time in which a task wanted the model and had no slot."""

    began_ns: int
    cause: str  # how it came to wait, as the middle of a sentence
    ended_ns: int | None = None
    end: str = ""  # how it came to an end
    others: int = 0  # tasks that wanted the model then
    stage: Stage = Stage.NONE  # the furthest that it reached


class Waits:
    """Of all tasks of one model."""

    def __init__(self) -> None:
        self._log: deque[Decision] = deque(maxlen=LOG_ENTRIES)
        self._waits: dict[int, Wait] = {}  # by pid: the newest
        self._wanting: dict[int, int] = {}  # by pid: runnable requests
        self._running: dict[int, int] = {}  # by pid: those with a slot
        self._longest_ns: dict[int, int] = {}  # by pid: of the waits that ended
        self.longest_ns = 0  # of all
        self._rescues: dict[int, int] = {}  # by pid

    @property
    def tasks(self) -> int:
        """How many want the model."""
        return len(self._wanting)

    @property
    def waiting(self) -> int:
        """How many of these have no slot."""
        return len(self._wanting) - len(self._running)

    def log(self, now_ns: int, kind: str, request: Request, reason: str) -> None:
        self._log.append(Decision(now_ns, kind, request.task.pid, request.number, reason))

    def __iter__(self) -> Iterator[Decision]:
        return iter(self._log)

    # -- what happens -------------------------------------------------------------------------

    def wants(self, request: Request, now_ns: int, cause: str) -> None:
        """A request is runnable; it has no slot, but for one that goes on before it was taken off."""
        pid = request.task.pid
        is_first = pid not in self._wanting
        self._wanting[pid] = self._wanting.get(pid, 0) + 1
        if request.slot is not None:
            self._running[pid] = self._running.get(pid, 0) + 1
        elif is_first:
            self._begin(pid, now_ns, cause)

    def wants_no_more(self, request: Request, now_ns: int, is_running: bool) -> None:
        """It ended, or was stopped."""
        pid = request.task.pid
        if is_running:
            self._leave(pid)
        self._wanting[pid] -= 1
        if not self._wanting[pid]:
            del self._wanting[pid]
            if pid in self._waits and self._waits[pid].ended_ns is None:
                self._end(pid, now_ns, "it wanted the model no more")
        elif is_running and pid not in self._running:
            self._begin(pid, now_ns, "its last request on the model ended")

    def runs(self, request: Request, now_ns: int, how: str) -> None:
        """It has a slot."""
        pid = request.task.pid
        self.log(now_ns, "admit", request, how)
        self._running[pid] = self._running.get(pid, 0) + 1
        if self._waits[pid].ended_ns is None:
            self._end(pid, now_ns, how)

    def evicted(self, request: Request, now_ns: int, cause: str) -> None:
        """It has none any more, and wants one."""
        pid = request.task.pid
        self.log(now_ns, "evict", request, cause)
        self._leave(pid)
        if pid not in self._running:
            self._begin(pid, now_ns, cause)

    def reached(self, request: Request, stage: Stage, since_ns: int, now_ns: int) -> None:
        self.log(now_ns, stage.name.lower(), request, f"it has waited {(now_ns - since_ns) / 1e9:.2f} s")
        wait = self._waits.get(request.task.pid)
        if wait is not None and wait.ended_ns is None:
            wait.stage = max(wait.stage, stage)
        if stage is Stage.RESCUE:
            self._rescues[request.task.pid] = self.rescues(request.task.pid) + 1

    def forget(self, pid: int) -> None:
        """A task is gone."""
        self._waits.pop(pid, None)
        self._longest_ns.pop(pid, None)
        self._rescues.pop(pid, None)

    # -- what can be asked --------------------------------------------------------------------

    def now(self, pid: int, now_ns: int) -> tuple[int, Stage]:
        """Return how long a task waits now, 0 if it does not, and the stage of that."""
        wait = self._waits.get(pid)
        if wait is None or wait.ended_ns is not None:
            return 0, Stage.NONE
        return now_ns - wait.began_ns, wait.stage

    def longest(self, pid: int, now_ns: int) -> int:
        """Return the longest wait of a task so far, in ns."""
        return max(self._longest_ns.get(pid, 0), self.now(pid, now_ns)[0])

    def rescues(self, pid: int) -> int:
        """Return how many waits of a task's requests went on until they were rescued."""
        return self._rescues.get(pid, 0)

    def why(self, task: Task, now_ns: int) -> str:
        """Return a task's last wait in one sentence; "" if there was none."""
        wait = self._waits.get(task.pid)
        if wait is None:
            return ""
        who = f"task {task.pid} ({task.name})"
        if wait.ended_ns is None:
            waited_s = (now_ns - wait.began_ns) / 1e9
            return f"{who} has waited {waited_s:.2f} s so far: {wait.cause}; {self._others(len(self._wanting) - 1)}"
        waited_s = (wait.ended_ns - wait.began_ns) / 1e9
        return f"{who} waited {waited_s:.2f} s: {wait.cause}; {wait.end}; {self._others(wait.others)}"

    # -- inside -------------------------------------------------------------------------------

    def _begin(self, pid: int, now_ns: int, cause: str) -> None:
        self._waits[pid] = Wait(now_ns, cause)

    def _end(self, pid: int, now_ns: int, how: str) -> None:
        wait = self._waits[pid]
        wait.ended_ns, wait.end, wait.others = now_ns, how, len(self._wanting) - 1
        waited_ns = now_ns - wait.began_ns
        self._longest_ns[pid] = max(self._longest_ns.get(pid, 0), waited_ns)
        self.longest_ns = max(self.longest_ns, waited_ns)

    def _leave(self, pid: int) -> None:
        self._running[pid] -= 1
        if not self._running[pid]:
            del self._running[pid]

    @staticmethod
    def _others(count: int) -> str:
        who = {0: "nobody else", 1: "1 other task"}.get(count, f"{count} other tasks")
        return f"{who} wanted the model"
