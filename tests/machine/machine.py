"""A whole machine in one process: the kernel's core, a fake engine, a clock that a test turns.

The loop's part is played by `Machine.run`: effects are carried out in order, the core finishes a step
when the test says so, and can die at any. Nothing sleeps and nothing is random that a test did not draw.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
from invariants import check

from kernel.abi.codec import PROTOCOL_VERSION, decode_answer, encode_call
from kernel.abi.errors import KernelError
from kernel.config import Config
from kernel.core import Kernel
from kernel.effects import (
    AskCore,
    Disconnect,
    DropSegment,
    Effect,
    Halt,
    Launch,
    MakeSegment,
    Refuse,
    RunStep,
    SampleProcesses,
    Say,
    Send,
    SetTimer,
    Signal,
    StartCore,
    Watch,
)
from kernel.engine.base import EngineError, StepPlan
from kernel.engine.fake import FakeEngine
from kernel.events import (
    CoreAnswer,
    CoreLost,
    CoreReady,
    Event,
    Message,
    PeerGone,
    ProcessEnded,
    Spawned,
    SpawnFailed,
    StepDone,
    TimerFired,
)
from kernel.objects import Task

STEP_NS = 10_000_000
BIRTH = 1  # when every process of a test started, unless it says otherwise


@contextmanager
def at_most(module: ModuleType, limit: str, value: int) -> Iterator[None]:
    """Have a limit of the kernel's be smaller for a while."""
    was = getattr(module, limit)
    setattr(module, limit, value)
    try:
        yield
    finally:
        setattr(module, limit, was)


@dataclass
class Answers:
    """What one connection was sent, by call id."""

    chunks: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    ends: dict[int, list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)  # exactly one wanted


class Machine:
    """Boots a kernel with `config`'s fields over the defaults of a small one."""

    def __init__(self, *, window_tokens: int = 512, is_core_up: bool = True, **config: Any) -> None:
        fields = {"slots": 2, "quantum_tokens": 4, "snapshot_bytes": 1 << 24} | config
        self.config = Config(model="fake", window_tokens=window_tokens, **fields)
        self.kernel = Kernel(self.config, pid=1)
        self.now_ns = 1_000
        self.engine: FakeEngine | None = None
        self.pending: StepPlan | None = None  # the core works on it
        self.asks: deque[AskCore] = deque()
        self.plans: list[StepPlan] = []
        self.segments: dict[int, np.ndarray] = {}
        self.owners: dict[int, tuple[int, int]] = {}  # (pid, birth) by segment, of those of tasks
        self.answers: dict[int, Answers] = {}
        self.closed: dict[int, KernelError] = {}  # connections that the kernel cut off
        self.signals: list[tuple[int, int]] = []
        self.said: list[str] = []
        self.sampled_pids: list[tuple[int, ...]] = []
        self.launches: list[Launch] = []
        self.halted: int | None = None
        self.timer_ns: int | None = None
        self.starts: list[bool] = []
        self._next_pid = 100
        self.connections = itertools.count(10_001)  # unlike every pid of a test
        self.carry_out(self.kernel.start(self.now_ns))
        if is_core_up:
            self.core_up()

    # -- playing the loop ---------------------------------------------------------------------

    def event(self, event: Event) -> None:
        self.carry_out(self.kernel.handle(event))
        check(self.kernel)

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            _EFFECTS[type(effect)](self, effect)

    def core_up(self) -> None:
        self.engine = FakeEngine(slots=self.config.slots, window_tokens=self.config.window_tokens)
        for segment, array in self.segments.items():
            self.engine.attach_array(segment, array)
        self.event(CoreReady(self.now_ns, 2, self.engine.info))

    def core_dies(self, *, was_ready: bool = True, reason: str = "signal SIGKILL") -> None:
        self.engine, self.pending = None, None
        self.asks.clear()
        self.event(CoreLost(self.now_ns, reason, was_ready, is_fatal=False))

    def answer_asks(self) -> None:
        """The core's text side answers everything it was asked."""
        while self.asks and self.engine is not None:
            ask, value, error = self.asks.popleft(), None, None
            try:
                value = self._answer(ask)
            except EngineError as failure:
                error = str(failure)
            self.event(CoreAnswer(self.now_ns, ask.ticket, value, error))

    def step(self) -> bool:
        """Let the core finish the step it works on; False when it has none."""
        self.answer_asks()
        if self.pending is None or self.engine is None:
            return False
        plan, self.pending = self.pending, None
        result = self.engine.step(plan)
        began_ns, self.now_ns = self.now_ns, self.now_ns + STEP_NS
        result = replace(result, began_ns=began_ns, ended_ns=self.now_ns)
        self.event(StepDone(self.now_ns, result))
        return True

    def run(self, limit: int = 20_000) -> int:
        """Step until the core has nothing to do; return the number of steps."""
        for count in range(limit):
            if not self.step():
                return count
        raise AssertionError(f"still working after {limit} steps")

    def pass_time(self, seconds: float) -> None:
        """Turn the clock, firing the timer whenever it is due."""
        end = self.now_ns + int(seconds * 1e9)
        while self.timer_ns is not None and self.timer_ns <= end:
            self.now_ns, self.timer_ns = max(self.now_ns, self.timer_ns), None
            self.event(TimerFired(self.now_ns))
        self.now_ns = end

    def task(self, pid: int) -> Task:
        return self.kernel.table.tasks[pid]

    # -- playing agents -----------------------------------------------------------------------

    def agent(self, name: str = "agent") -> Peer:
        """Return a task that launched itself and said hello."""
        self._next_pid += 1
        peer = Peer(self, self._next_pid)
        peer.hello(name)
        return peer

    def operator(self) -> Peer:
        self._next_pid += 1
        return Peer(self, self._next_pid, is_operator=True)

    def child(self, parent: Peer, *, says_hello: bool = True, **options: Any) -> Peer:
        """Return a task that `parent` spawned."""
        parent.call("proc.spawn", **({"script": "child.py"} | options))
        peer = Peer(self, self.launched())
        if says_hello:
            peer.hello()
        return peer

    def launched(self) -> int:
        """Let the oldest launch succeed; return the pid."""
        self._next_pid += 1
        self.event(Spawned(self.now_ns, self.launches.pop(0).ticket, self._next_pid, BIRTH))
        return self._next_pid

    def launch_fails(self, reason: str) -> None:
        self.event(SpawnFailed(self.now_ns, self.launches.pop(0).ticket, reason))

    def ends(self, pid: int, status: int | None = 0, signal: int | None = None) -> None:
        self.event(ProcessEnded(self.now_ns, pid, status, signal))

    # -- inside -------------------------------------------------------------------------------

    def _answer(self, ask: AskCore) -> Any:
        assert self.engine is not None
        if ask.what == "tokenize":
            return self.engine.tokenize(*ask.value)
        if ask.what == "chat":
            return self.engine.tokenize(self.engine.render(ask.value), True)
        return b"".join(self.engine.piece(token) for token in ask.value)

    def _sent(self, effect: Send | Refuse) -> None:
        answer = decode_answer(effect.frame)
        answers = self.answers.setdefault(effect.peer, Answers())
        if answer.kind == "chunk":
            chunks = answers.chunks.setdefault(answer.id, [])
            assert answer.seq == len(chunks), "chunks are numbered from 0 without a gap"
            assert answer.id not in answers.ends, "a chunk after the end"
            chunks.append(answer.body)
        else:
            ends = answers.ends.setdefault(answer.id, [])
            ends.append((answer.kind, answer.body))
            assert len(ends) == 1 or answer.id == 0, f"{effect.peer} call {answer.id} was answered twice"

    def _run_step(self, effect: RunStep) -> None:
        assert self.pending is None, "two steps at once"
        self.pending = effect.plan
        self.plans.append(effect.plan)

    def _make_segment(self, effect: MakeSegment) -> None:
        self.segments[effect.segment] = np.zeros(effect.size_bytes, np.uint8)
        if not effect.is_for_core:
            self.owners[effect.segment] = effect.owner
        if effect.is_for_core and self.engine is not None:
            self.engine.attach_array(effect.segment, self.segments[effect.segment])

    def _drop_segment(self, effect: DropSegment) -> None:
        del self.segments[effect.segment]
        if self.engine is not None:
            self.engine.detach(effect.segment)

    def _set_timer(self, effect: SetTimer) -> None:
        self.timer_ns = effect.at_ns

    def _halt(self, effect: Halt) -> None:
        self.halted = effect.status


class Peer:
    """One connection of an agent or operator; with `task`, the same in a held task's name."""

    def __init__(self, machine: Machine, pid: int, *, is_operator: bool = False, birth: int = BIRTH) -> None:
        self.machine, self.pid, self.is_operator, self.birth = machine, pid, is_operator, birth
        self.connection = next(machine.connections)
        self.task: int | None = None
        self._ids = itertools.count(1)

    def hello(self, name: str = "", **body: Any) -> dict[str, Any]:
        return self.ask("sys.hello", **({"version": PROTOCOL_VERSION, "name": name} | body))

    def call(self, method: str, *, deadline_ms: int | None = None, **body: Any) -> int:
        """Make a call; return its id."""
        call_id = next(self._ids)
        self.raw(encode_call(call_id, method, body, deadline_ms, self.task))
        return call_id

    def raw(self, frame: bytes, burst: int = 1) -> None:
        message = Message(
            self.machine.now_ns, self.connection, self.pid, self.birth, self.is_operator, burst, frame
        )
        self.machine.event(message)

    def another(self, **changes: Any) -> Peer:
        """Return a second connection of the same process; `changes` makes it another process."""
        fields = {"pid": self.pid, "is_operator": self.is_operator, "birth": self.birth} | changes
        other = Peer(self.machine, **fields)
        other.task = self.task
        return other

    def hold(self, **body: Any) -> Peer:
        """Create a task; return this connection speaking in its name."""
        return self.speaking_for(self.ask("task.create", **body)["pid"])

    def speaking_for(self, task: int) -> Peer:
        """Return this connection with its calls made in the name of `task`."""
        held = copy(self)
        held.task = task
        return held

    def closes(self) -> None:
        self.machine.event(PeerGone(self.machine.now_ns, self.connection))

    def waits(self, call_id: int) -> bool:
        """Whether the kernel still has a call to answer."""
        waiting = self.machine.kernel.calls.of_peer(self.connection)
        return any(call.id == call_id for call in waiting)

    def ask(self, method: str, **body: Any) -> dict[str, Any]:
        """Make a call that is answered at once; return the reply's body."""
        return self.reply(self.call(method, **body))

    def end(self, call_id: int) -> tuple[str, dict[str, Any]] | None:
        """Return (kind, body) of a call's end, None while it waits."""
        ends = self.machine.answers.get(self.connection, Answers()).ends.get(call_id)
        return ends[0] if ends else None

    def reply(self, call_id: int) -> dict[str, Any]:
        end = self.end(call_id)
        assert end is not None, f"call {call_id} is not answered"
        assert end[0] == "reply", f"call {call_id} failed: {end[1]}"
        return end[1]

    def error(self, call_id: int) -> str:
        """Return the errno's name."""
        end = self.end(call_id)
        assert end is not None, f"call {call_id} is not answered"
        assert end[0] == "error", f"call {call_id} succeeded: {end[1]}"
        return end[1]["name"]

    def chunks(self, call_id: int) -> list[dict[str, Any]]:
        return self.machine.answers.get(self.connection, Answers()).chunks.get(call_id, [])


_EFFECTS: dict[type, Any] = {
    Send: Machine._sent,
    Refuse: Machine._sent,
    Disconnect: lambda machine, effect: machine.closed.setdefault(effect.peer, effect.error),
    RunStep: Machine._run_step,
    MakeSegment: Machine._make_segment,
    DropSegment: Machine._drop_segment,
    SetTimer: Machine._set_timer,
    Halt: Machine._halt,
    StartCore: lambda machine, effect: machine.starts.append(effect.extra_buffers),
    AskCore: lambda machine, effect: machine.asks.append(effect),
    Launch: lambda machine, effect: machine.launches.append(effect),
    Signal: lambda machine, effect: machine.signals.append((effect.pid, effect.number)),
    SampleProcesses: lambda machine, effect: machine.sampled_pids.append(effect.pids),
    Say: lambda machine, effect: machine.said.append(effect.text),
    Watch: lambda machine, effect: None,
}
