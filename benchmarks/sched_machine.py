"""The product's scheduler over a core that takes simulated time: thousands of cases a minute, the same every time.

Who uses it: sched_starvation.py, sched_growth.py and the scheduler's property tests. What must hold: everything that
decides is the kernel's own; what a step takes is a linear machine's with noise, which the scheduler has to learn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from kernel.abi.calls import LlmGenerate
from kernel.context.store import SegmentStore
from kernel.context.swapspace import SwapSpace
from kernel.context.tiers import Tiers
from kernel.engine.base import EXACT, Bank, EngineInfo, Sampled, Sampling, StepPlan, StepResult
from kernel.engine.text import TextAssembler
from kernel.objects import Call, Request, Task
from kernel.sched.bounds import Bounds
from kernel.sched.groups import Groups
from kernel.sched.scheduler import Scheduler
from kernel.states import RequestState, TaskState
from kernel.taskattr import GroupAttr, TaskAttr

MS = 1_000_000
WINDOW_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Machine:
    """What steps take, in ns: by default as 135M parameters do on two cores."""

    pass_ns: float = 9 * MS
    row_ns: float = 3.6 * MS
    cell_ns: float = 600.0
    chunk_pass_ns: float = 6 * MS
    prompt_ns: float = 1.4 * MS
    prompt_cell_ns: float = 1300.0  # attention: a chunk takes 90 ms at first, and 430 ms after 4,000 tokens
    move_ns: float = 0.3 * MS
    noise: float = 0.05  # each step takes up to this part more or less

    def takes(self, plan: StepPlan) -> tuple[float, float]:
        """Return the time of a step, and of its saves and restores."""
        decodes = sum(self.row_ns + self.cell_ns * row.position for row in plan.decodes)
        decodes += self.pass_ns * bool(plan.decodes)
        chunks = sum(
            self.chunk_pass_ns + len(row.tokens) * (self.prompt_ns + self.prompt_cell_ns * row.position)
            for row in plan.chunks
        )
        return decodes + chunks, self.move_ns * (len(plan.saves) + len(plan.restores))


@dataclass(slots=True, eq=False)
class Watched:
    """A task, and how it has waited."""

    task: Task
    since_ns: int | None = None  # wants to run and has no slot
    bound_s: float = 0.0  # the largest while it waits
    longest_s: float = 0.0
    worst: float = 0.0  # longest wait by its bound
    first_tokens: list[int] = field(default_factory=list)


class Simulation:
    """Agents, a scheduler and time."""

    def __init__(
        self, seed: int = 0, slots: int = 8, machine: Machine | None = None, store_bytes: int = 1 << 40, **root
    ) -> None:
        given = {"policy": "eevdf", "gap": 2.5, "starve_ms": 2000} | root
        self.random = Random(seed)
        self.machine = machine or Machine()
        self.groups = Groups(GroupAttr(**given))
        self._segments = 0
        store = SegmentStore(store_bytes, self._next_segment, _ignore)
        self.scheduler = Scheduler(self.groups, 256, Tiers(store, SwapSpace(0), _ignore), _ignore)
        self.now_ns = 1
        self.steps = 0
        self.tasks: list[Watched] = []
        self.requests: dict[int, Request] = {}  # in flight, by number
        self._slots: dict[int, Request] = {}
        self._count = 0
        info = EngineInfo(
            model="m", description="", family="dense", exactness=EXACT, can_trim=False, can_part=False, vocab=320,
            window_tokens=WINDOW_TOKENS, trained_tokens=WINDOW_TOKENS, banks=(Bank(slots, WINDOW_TOKENS, 1),),
            kv_bytes=1, threads=1, devices="", kv_bytes_per_token=100, snapshot_overhead_bytes=64,
            extra_buffers=True, flash_attention=True, kv_type="f16", chat_format="", takes_tools=False,
            embedding_width=0, load_s=0.0,
        )  # fmt: skip
        self.scheduler.core_ready(info, self.now_ns)

    # -- agents -------------------------------------------------------------------------------

    def agent(self, nice: int = 0, **attr) -> Watched:
        pid = 100 + len(self.tasks)
        task = Task(pid, 0, f"a{pid}", self.now_ns, (pid, 1), priority=nice, sched=TaskAttr(**attr))
        task.move(TaskState.READY)
        self.groups.count(task.sched.group, 1)
        made = Watched(task)
        self.tasks.append(made)
        return made

    def ask(self, watched: Watched, prompt_tokens: int, max_tokens: int) -> Request:
        self._count += 1
        call = Call(watched.task.pid, False, self._count, "llm.generate", watched.task)
        request = Request(
            number=self._count, call=call, task=watched.task, options=LlmGenerate(prompt="x", keep=False),
            sampling=Sampling(), text=TextAssembler(()), arrived_ns=self.now_ns, most_tokens=max_tokens,
            waits_since_ns=self.now_ns,
        )  # fmt: skip
        request.tokens = [1] * prompt_tokens
        request.prompt_tokens = prompt_tokens
        watched.task.requests.append(request)
        self.requests[request.number] = request
        self.scheduler.add(request, self.now_ns)
        return request

    def end(self, request: Request, state: RequestState = RequestState.FINISHED_LENGTH) -> None:
        request.move(state)
        self.scheduler.remove(request, self.now_ns)
        request.task.requests.remove(request)
        del self.requests[request.number]
        if not request.task.requests:  # it wants the model no more
            self._end_wait(self.tasks[request.task.pid - 100])

    def change(self, watched: Watched, nice: int | None = None, **attr) -> None:
        """Change how a task is scheduled, as sched.setattr does."""

        def apply() -> None:
            watched.task.priority = watched.task.priority if nice is None else nice
            for name, value in attr.items():
                setattr(watched.task.sched, name, value)

        self.scheduler.requeue(list(watched.task.requests), apply)

    # -- time ---------------------------------------------------------------------------------

    def step(self) -> list[Request]:
        """Let the core make a step; return the requests that ended. Without work, 10 ms pass."""
        plan = self.scheduler.plan(self.now_ns)
        self._watch()
        if plan is None:
            self.now_ns += 10 * MS
            return []
        self.steps += 1
        work_ns, move_ns = self.machine.takes(plan)
        factor = 1 + self.machine.noise * self.random.uniform(-1, 1)
        took_ns, move_ns = int((work_ns + move_ns) * factor), int(move_ns * factor)
        began_ns, self.now_ns = self.now_ns, self.now_ns + max(1, took_ns)
        held = self.scheduler.held_slots()
        drawn = [row.slot for row in (*plan.decodes, *plan.chunks) if row.is_last]
        result = StepResult(
            number=plan.number,
            sampled=tuple(Sampled(slot, 1, b"x", False) for slot in drawn),
            saved=tuple((save.segment, 64 + 100 * save.tokens) for save in plan.saves),
            failed_restores=(), failed_requests=(), began_ns=began_ns, ended_ns=self.now_ns, switch_ns=move_ns,
            runs=1, moves=0, sampling_ns=0,
        )  # fmt: skip
        ended = []
        for request, _ in self.scheduler.step_done(result)[0]:
            assert held[request.slot] is request
            request.tokens.append(1)
            if request.generated_tokens >= request.most_tokens:
                self.end(request)
                ended.append(request)
        return ended

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until_ns = self.now_ns + int(seconds * 1e9)
        while self.now_ns < until_ns:
            self.step()

    def _watch(self) -> None:
        bounds = None
        for watched in self.tasks:
            task = watched.task
            is_waiting = not task.running and any(one in self.scheduler.runnable for one in task.requests)
            if not is_waiting:
                self._end_wait(watched)
                continue
            bounds = bounds or Bounds(self.scheduler, self.groups)
            if watched.since_ns is None:
                watched.since_ns, watched.bound_s = self.now_ns, 0.0
            waited_s = (self.now_ns - watched.since_ns) / 1e9
            if waited_s >= watched.bound_s * watched.worst:  # else it is no news
                watched.bound_s = max(watched.bound_s, bounds.of(task).seconds)
                watched.longest_s = max(watched.longest_s, waited_s)
                watched.worst = max(watched.worst, waited_s / watched.bound_s)

    def _end_wait(self, watched: Watched) -> None:
        if watched.since_ns is not None:
            waited_s = (self.now_ns - watched.since_ns) / 1e9
            watched.longest_s = max(watched.longest_s, waited_s)
            watched.worst = max(watched.worst, waited_s / watched.bound_s)
            watched.since_ns = None

    def _next_segment(self) -> int:
        self._segments += 1
        return self._segments


def _ignore(told: object) -> None:
    """What schedulers tell the kernel, which there is none of here."""
