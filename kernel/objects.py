"""What the kernel keeps: tasks, requests and unanswered calls.

Who uses it: core.py and the managers. What must hold: `move` is the only assignment to a state.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from kernel.abi.calls import LlmGenerate
from kernel.abi.errors import Errno, KernelError
from kernel.engine.base import Constraint, Sampling
from kernel.engine.logprobs import Logprobs
from kernel.engine.text import TextAssembler
from kernel.limits import SUSPECT_CORE_DEATHS
from kernel.states import (
    FINISHED,
    REQUEST_TRANSITIONS,
    TASK_TRANSITIONS,
    RequestState,
    TaskState,
    validate,
)
from kernel.taskattr import TaskAttr

if TYPE_CHECKING:
    from kernel.context.sessions import Session


@dataclass(slots=True)
class Usage:
    """What a task has used since it began."""

    requests: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    recomputed_tokens: int = 0  # fed again because no snapshot held them
    switches: int = 0  # times a request of its was taken off the model
    restores: int = 0
    switch_bytes: int = 0  # moved by its saves and restores
    wait_ns: int = 0  # its requests spent off the model
    ttft_ns: int = 0  # sum over requests that gave a first token
    first_tokens: int = 0  # how many did
    calls: int = 0
    cpu_s: float = 0.0
    rss_bytes: int = 0

    def summary(self) -> dict[str, int | float]:
        """Return the map that proc.wait and proc.ps answer; times in seconds, ttft_s a mean."""
        return {
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "generated_tokens": self.generated_tokens,
            "recomputed_tokens": self.recomputed_tokens,
            "switches": self.switches,
            "restores": self.restores,
            "switch_bytes": self.switch_bytes,
            "wait_s": self.wait_ns / 1e9,
            "ttft_s": self.ttft_ns / 1e9 / max(1, self.first_tokens),
            "calls": self.calls,
            "cpu_s": self.cpu_s,
            "rss_bytes": self.rss_bytes,
        }


class Owner(Protocol):
    """Keeps calls that wait."""

    def withdraw(self, call: Call, now_ns: int) -> None:
        """Forget a call: it is about to end in an error."""
        ...


@dataclass(slots=True, eq=False)
class Call:
    """One call that is not answered yet."""

    peer: int
    is_operator: bool
    id: int
    method: str
    task: Task | None = None  # None: an operator's
    speaker: tuple[int, int] = (0, 0)  # (pid, birth) of the process that sent it
    size_bytes: int = 0  # of its message
    deadline_ns: int | None = None
    owner: Owner | None = None  # who keeps it while it waits
    next_seq: int = 0  # of a streamed answer

    @property
    def key(self) -> tuple[int, int]:
        return (self.peer, self.id)

    def needs_task(self) -> Task:
        """Return in whose name it is made. Raises KernelError EPERM for an operator's."""
        if self.task is None:
            raise KernelError(Errno.EPERM, f"{self.method}: an operator is no task")
        return self.task


@dataclass(slots=True, eq=False)
class Task:
    """An agent: a process, or a task that a process holds; its rank, what it waits for, what it has used."""

    pid: int  # of its process; above every process's for a task without one
    ppid: int  # 0: the kernel's own
    name: str
    born_ns: int
    speaker: tuple[int, int]  # (pid, birth) of the process that speaks for it: its own, or its holder's
    priority: int = 0  # nice: lower goes first
    sched: TaskAttr = field(default_factory=TaskAttr)
    has_process: bool = True
    is_launched: bool = True  # False: it said hello by itself, the kernel is not its parent
    holder: int = 0  # of a task without a process: its holder's pid, or minus an operator's connection
    capabilities: frozenset[str] = frozenset()
    has_had_children: bool = False
    state: TaskState = TaskState.NEW
    calls: dict[tuple[int, int], Call] = field(default_factory=dict)  # unanswered
    call_bytes: int = 0  # of these
    requests: list[Request] = field(default_factory=list)  # in flight
    last_core: int = 0  # whose model it asked last
    running: int = 0  # of those, how many hold a slot
    ran_ns: int = 0  # when one did last
    peers: set[int] = field(default_factory=set)  # its connections that spoke
    usage: Usage = field(default_factory=Usage)
    log: deque[bytes] = field(default_factory=deque)
    log_bytes: int = 0
    exit_declared: int | None = None  # by proc.exit
    status: int | None = None
    signal: int | None = None
    reason: str = ""  # why the kernel ended it, if it did
    has_said_hello: bool = False
    is_named: bool = False  # by whoever spawned it: a name in its hello changes nothing

    def move(self, new: TaskState) -> None:
        """Enter a state. Raises InvalidTransition when the table does not list the step."""
        validate(TASK_TRANSITIONS, self.state, new)
        self.state = new

    def settle(self) -> None:
        """Enter the state that the task's calls and requests imply."""
        if self.state not in (TaskState.READY, TaskState.BLOCKED, TaskState.RUNNING):
            return
        wanted = TaskState.READY
        if self.running:
            wanted = TaskState.RUNNING
        elif self.calls:
            wanted = TaskState.BLOCKED
        if wanted is self.state:
            return
        if self.state is TaskState.READY and wanted is TaskState.RUNNING:
            self.move(TaskState.BLOCKED)
        self.move(wanted)

    @property
    def waits_for(self) -> str:
        """The methods of its unanswered calls, for people."""
        return ",".join(sorted({call.method for call in self.calls.values()}))

    def resume(self) -> None:
        """CONT: leave STOPPED for the state that it would be in."""
        self.move(TaskState.READY if self.has_said_hello else TaskState.NEW)
        self.settle()

    def append_log(self, data: bytes, limit_bytes: int) -> None:
        """Keep the newest `limit_bytes` of the task's output."""
        self.log.append(data[-limit_bytes:])
        self.log_bytes += len(self.log[-1])
        while self.log_bytes - len(self.log[0]) >= limit_bytes:
            self.log_bytes -= len(self.log.popleft())

    def log_text(self) -> str:
        return b"".join(self.log).decode(errors="replace")


@dataclass(frozen=True, slots=True)
class KVSnapshot:
    """A parked context: of `tokens` tokens, in a segment; the first `keep` are its request's."""

    segment: int
    tokens: int
    digest: int
    size_bytes: int
    keep: int


@dataclass(slots=True, eq=False)
class Request:
    """One llm.generate in flight: the thing that is scheduled."""

    number: int  # order of arrival, unique among those of all models
    call: Call
    task: Task
    options: LlmGenerate
    sampling: Sampling
    text: TextAssembler
    arrived_ns: int
    core: int = 0  # which model's
    session: Session | None = None  # that it is a turn of
    constraint: Constraint | None = None
    with_special: bool = False  # control tokens show their names
    state: RequestState = RequestState.QUEUED
    tokens: list[int] = field(default_factory=list)  # prompt, then what was generated
    prompt_tokens: int = 0  # 0: not tokenized yet
    kv_reserved: int = 0  # tokens of context that it may come to, as counted in quotas
    kv_tokens: int = 0  # how many of `tokens` the slot or the snapshot holds
    fed_tokens: int = 0  # the most it ever held: below this, feeding again is recomputing
    bank: int = 0  # whose slots it may hold: the smallest that its tokens fit
    slot: int | None = None
    snapshot: KVSnapshot | None = None
    core_deaths: int = 0  # of cores that were working on it
    waits_since_ns: int = 0  # when it last went off the model
    wants_since_ns: int = 0  # runnable without a slot; kept when it is queued anew
    wait_ns: int = 0
    first_slot_ns: int | None = None
    first_token_ns: int | None = None
    core_ns: int = 0  # the core's working time between arrival and first token
    switches: int = 0
    restores: int = 0
    recomputed_tokens: int = 0
    most_tokens: int = 0  # that may be generated
    is_whole_at_limit: bool = False  # its constraint sees to it that the text is complete by then
    turns: tuple[tuple[int, int], ...] = ()  # of the context that it goes on with: see turns.py
    reused_tokens: int = 0  # of the prompt, whose KV was kept
    dropped_turns: int = 0  # of its session, which it does without: see windows.py
    dropped_tokens: int = 0  # that its prompt is shorter for that
    quota: str = ""  # that its last token used up
    unsent: list[int] = field(default_factory=list)  # streamed call: tokens whose text is held back
    logprobs: Logprobs | None = None  # of what was generated, if asked for
    chat: dict[str, Any] = field(default_factory=dict)  # what the caller must know to read what messages gave
    has_told_chat: bool = False  # the first chunk was sent

    def move(self, new: RequestState) -> None:
        """Enter a state. Raises InvalidTransition when the table does not list the step."""
        validate(REQUEST_TRANSITIONS, self.state, new)
        self.state = new

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    @property
    def generated_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def is_cut(self) -> bool:
        """Whether it does without some of its session."""
        return self.dropped_turns > 0 or self.dropped_tokens > 0

    @property
    def is_suspect(self) -> bool:
        return self.core_deaths >= SUSPECT_CORE_DEATHS
