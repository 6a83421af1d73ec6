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
from kernel.config import Config, ModelConfig
from kernel.context.record import Damaged, seal, unseal
from kernel.context.store import SegmentStore
from kernel.context.tiers import Tiers
from kernel.core import Kernel
from kernel.effects import (
    AskCore,
    Disconnect,
    DropSegment,
    Effect,
    Halt,
    Launch,
    LoadRecord,
    MakeSegment,
    RecordEffect,
    Refuse,
    RemoveRecord,
    RunStep,
    SampleProcesses,
    Say,
    Send,
    SetAsideRecord,
    SetTimer,
    Signal,
    StartCore,
    StopCore,
    StoreRecord,
    SwapIn,
    SwapOut,
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
    ProcessSample,
    RecordDone,
    Spawned,
    SpawnFailed,
    StepDone,
    SwapDone,
    TimerFired,
)
from kernel.objects import Task
from kernel.sched.scheduler import Scheduler

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


MODELS = (
    ModelConfig("/m/chat.gguf", "chat"),
    ModelConfig("/m/other.gguf", "other"),
    ModelConfig("/m/embed.gguf", "embed", embedding=True),
)


class KernelKilled(Exception):
    """The kernel was killed between two effects: see Machine.dies_after."""


class Machine:
    """Boots a kernel with `config`'s fields over the defaults of a small one. Cores are told by their numbers."""

    def __init__(self, *, is_core_up: bool = True, **config: Any) -> None:
        fields = {"slots": 2, "window_tokens": 512, "quantum_tokens": 4, "snapshot_bytes": 1 << 24}
        self.config = Config(**({"models": (ModelConfig("fake", "fake"),)} | fields | config))
        self.kernel = Kernel(self.config, pid=1)
        self.now_ns = 1_000
        self.engines: dict[int, FakeEngine] = {}
        self.working: dict[int, StepPlan] = {}  # what a core works on
        self.asks: deque[AskCore] = deque()
        self.copies: deque[SwapOut | SwapIn] = deque()  # that the disk is to make
        self.disk: dict[int, np.ndarray] = {}  # by offset
        self.disk_error = ""  # of every copy
        self.wanted: deque[RecordEffect] = deque()  # of the records' disk
        self.records: dict[str, bytes] = {}  # files with their seals, by name; outlives a machine that shares it
        self.record_error = ""  # of everything with records
        self.dies_after: int | None = None  # so many effects more: the kernel is killed then
        self.plans: list[StepPlan] = []  # of all cores
        self.segments: dict[int, np.ndarray] = {}
        self.owners: dict[int, tuple[int, int]] = {}  # (pid, birth) by segment, of those of tasks
        self.made_for: dict[int, int] = {}  # core by segment, of the others
        self.answers: dict[int, Answers] = {}
        self.closed: dict[int, KernelError] = {}  # connections that the kernel cut off
        self.signals: list[tuple[int, int]] = []
        self.said: list[str] = []
        self.sampled_pids: list[tuple[int, ...]] = []
        self.launches: list[Launch] = []
        self.halted: int | None = None
        self.timer_ns: int | None = None
        self.starts: list[bool] = []  # with extra buffers or without
        self.attentions: list[str] = []  # flash attention, as it was told to the core at its start
        self.loading: list[int] = []
        self.stopping: list[int] = []
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
            if self.dies_after is not None:
                self.dies_after -= 1
                if self.dies_after < 0:
                    raise KernelKilled
            _EFFECTS[type(effect)](self, effect)

    @classmethod
    def of_three(cls, **config: Any) -> Machine:
        """Two models that generate and one for embeddings, all loaded."""
        machine = cls(models=MODELS, **config)
        while machine.loading:
            machine.core_up(machine.loading[0])
        return machine

    @property
    def engine(self) -> FakeEngine | None:
        """The first model's."""
        return self.engines.get(0)

    @property
    def pending(self) -> StepPlan | None:
        """What the first model's core works on."""
        return self.working.get(0)

    @property
    def scheduler(self) -> Scheduler:
        return self.kernel.cores.first.scheduler

    @property
    def store(self) -> SegmentStore:
        return self.kernel.cores.first.store

    @property
    def tiers(self) -> Tiers:
        return self.kernel.cores.first.tiers

    def core_up(self, core: int = 0, **changes: Any) -> None:
        """A core that was to be started is ready; `changes` are what its options say otherwise."""
        self.loading.remove(core)
        model = self.config.models[core]
        options = replace(self.config.engine_options(model, True), **changes)
        engine = self.engines[core] = FakeEngine(model.path, options)
        for segment, array in self.segments.items():
            if self.made_for.get(segment) == core:
                engine.attach_array(segment, array)
        self.event(CoreReady(self.now_ns, 2 + core, engine.info, core))

    def core_dies(
        self,
        core: int = 0,
        *,
        was_ready: bool = True,
        reason: str = "signal SIGKILL",
        is_fatal: bool = False,
        is_memory: bool = False,
    ) -> None:
        self.engines.pop(core, None)
        self.working.pop(core, None)
        self.loading = [one for one in self.loading if one != core]
        self.asks = deque(ask for ask in self.asks if ask.core != core)
        self.event(CoreLost(self.now_ns, reason, was_ready, is_fatal, is_memory, core))

    def core_stops(self, core: int = 0) -> None:
        """A core that is idle for too long has ended."""
        self.stopping.remove(core)
        self.core_dies(core)

    def answer_asks(self, most: int = 1 << 30) -> None:
        """The cores' text sides answer what they were asked, the oldest first."""
        while self.asks and most:
            most -= 1
            ask, value, error = self.asks.popleft(), None, None
            engine = self.engines[ask.core]
            try:
                embeds = ask.what == "embed"
                value = engine.embed(ask.value["texts"]) if embeds else engine.ask(ask.what, ask.value)
            except EngineError as failure:
                error = str(failure)
            self.event(CoreAnswer(self.now_ns, ask.ticket, value, error))

    def copy(self) -> None:
        """The disk makes the copies that it was asked for, the oldest first."""
        while self.copies:
            effect = self.copies.popleft()
            array = self.segments.get(effect.segment)
            if array is None:  # it was dropped meanwhile: whose it was does not care
                array = np.zeros(effect.size_bytes, np.uint8)
            if not self.disk_error and isinstance(effect, SwapOut):
                self.disk[effect.offset] = array[: effect.size_bytes].copy()
            elif not self.disk_error:
                array[: effect.size_bytes] = self.disk[effect.offset][: effect.size_bytes]
            self.event(SwapDone(self.now_ns, effect.core, effect.ticket, self.disk_error))

    def write(self, most: int = 1 << 30) -> None:
        """The disk does with records what it was asked for, the oldest first."""
        while self.wanted and most:
            most -= 1
            effect = self.wanted.popleft()
            body, error, is_damaged = None, self.record_error, False
            if not error:
                try:
                    body = self._do_record(effect)
                except Damaged as fault:
                    error, is_damaged = str(fault), True
            self.event(RecordDone(self.now_ns, effect.ticket, f"/state/{effect.name}", body, error, is_damaged))

    def step(self) -> bool:
        """Let every core finish the step it works on, in the same time; False when none has one."""
        self.copy()
        self.write()
        self.answer_asks()
        working, self.working = self.working, {}
        began_ns = self.now_ns
        self.now_ns += STEP_NS if working else 0
        for core, plan in working.items():
            result = replace(self.engines[core].step(plan), began_ns=began_ns, ended_ns=self.now_ns)
            self.event(StepDone(self.now_ns, result, core))
        return bool(working)

    def run(self, limit: int = 20_000) -> int:
        """Step until the core and the disk have nothing to do; return the number of steps."""
        for count in range(limit):
            if not self.step() and not (self.copies or self.wanted or self.asks) and not self.working:
                return count
        raise AssertionError(f"still working after {limit} steps")

    def pass_time(self, seconds: float) -> None:
        """Turn the clock, firing the timer whenever it is due."""
        end = self.now_ns + int(seconds * 1e9)
        while self.timer_ns is not None and self.timer_ns <= end:
            self.now_ns, self.timer_ns = max(self.now_ns, self.timer_ns), None
            self.event(TimerFired(self.now_ns))
        self.now_ns = end

    def ps(self, peer: Peer) -> dict[int, dict[str, Any]]:
        """Return the rows of proc.ps by pid."""
        call = peer.call("proc.ps")
        self.event(ProcessSample(self.now_ns, ()))
        return {row["pid"]: row for row in peer.reply(call)["tasks"]}

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

    def agent_with(self, *capabilities: str) -> Peer:
        """Return a task that an operator spawned with these."""
        return self.child(self.operator(), capabilities=list(capabilities))

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
        assert effect.core not in self.working, "two steps at once"
        self.working[effect.core] = effect.plan
        self.plans.append(effect.plan)

    def _make_segment(self, effect: MakeSegment) -> None:
        self.segments[effect.segment] = np.zeros(effect.size_bytes, np.uint8)
        if not effect.is_for_core:
            self.owners[effect.segment] = effect.owner
            return
        self.made_for[effect.segment] = effect.core
        if effect.core in self.engines:
            self.engines[effect.core].attach_array(effect.segment, self.segments[effect.segment])

    def _drop_segment(self, effect: DropSegment) -> None:
        del self.segments[effect.segment]
        core = self.made_for.pop(effect.segment, None)
        if core in self.engines:
            self.engines[core].detach(effect.segment)

    def _do_record(self, effect: RecordEffect) -> bytes | None:
        match effect:
            case StoreRecord():
                self.records[effect.name] = seal(effect.body) + effect.body
            case LoadRecord():
                return unseal(self.records[effect.name]) if effect.name in self.records else None
            case SetAsideRecord():
                self.records[f"{effect.name}.bad"] = self.records.pop(effect.name)
            case RemoveRecord():
                self.records.pop(effect.name, None)
        return None

    def _start_core(self, effect: StartCore) -> None:
        assert effect.core not in (*self.engines, *self.loading), "two cores of one model"
        self.starts.append(effect.extra_buffers)
        self.attentions.append(effect.flash_attention)
        self.loading.append(effect.core)

    def _stop_core(self, effect: StopCore) -> None:
        assert effect.core not in self.working, "a core that works is stopped"
        self.stopping.append(effect.core)

    def _ask_core(self, effect: AskCore) -> None:
        assert effect.core in self.engines, "a core is asked that is not there"
        self.asks.append(effect)

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
    StartCore: Machine._start_core,
    StopCore: Machine._stop_core,
    SwapOut: lambda machine, effect: machine.copies.append(effect),
    SwapIn: lambda machine, effect: machine.copies.append(effect),
    StoreRecord: lambda machine, effect: machine.wanted.append(effect),
    LoadRecord: lambda machine, effect: machine.wanted.append(effect),
    SetAsideRecord: lambda machine, effect: machine.wanted.append(effect),
    RemoveRecord: lambda machine, effect: machine.wanted.append(effect),
    AskCore: Machine._ask_core,
    Launch: lambda machine, effect: machine.launches.append(effect),
    Signal: lambda machine, effect: machine.signals.append((effect.pid, effect.number)),
    SampleProcesses: lambda machine, effect: machine.sampled_pids.append(effect.pids),
    Say: lambda machine, effect: machine.said.append(effect.text),
    Watch: lambda machine, effect: None,
}
