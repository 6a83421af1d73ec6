"""Every model's LLM core: when it is started, replaced, unloaded, given up. No I/O.

Who calls it: core.py with what happens to cores; the managers of llm.* calls for the core that a call needs. What
must hold: `move` is the only assignment to a core's state; cores load one after the other (each measures how much
memory is free), but for one that takes the place of a dead one; a core that cannot be had fails what waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kernel.abi.errors import Errno, KernelError
from kernel.config import Config, ModelConfig
from kernel.context.store import SegmentStore
from kernel.context.swapspace import SwapSpace
from kernel.context.tiers import Tiers
from kernel.effects import Effect, Say, StartCore, StopCore
from kernel.engine.base import EngineInfo
from kernel.events import CoreLost, CoreReady, SwapDone
from kernel.limits import MAX_FAILED_STARTS
from kernel.objects import Request
from kernel.report import boot_line
from kernel.sched.groups import Groups
from kernel.sched.scheduler import Scheduler
from kernel.states import CORE_TRANSITIONS, CoreState, validate

STATUS_MODEL, STATUS_MEMORY, STATUS_CORE = 5, 6, 8  # exit statuses, see docs/errors.md


@dataclass(slots=True, eq=False)
class Core:
    """One model: the process that serves it when there is one, its scheduler and its parked contexts."""

    number: int
    model: ModelConfig
    scheduler: Scheduler
    store: SegmentStore
    tiers: Tiers
    state: CoreState = CoreState.UNLOADED
    info: EngineInfo | None = None  # as the last process that served said it
    pid: int | None = None
    restarts: int = 0
    failed_starts: int = 0  # in a row
    uses_extra_buffers: bool = True
    reason: str = ""  # why it could not be served when that was tried last
    is_wanted: bool = False  # somebody waits for it to be loaded
    idle_since_ns: int | None = None  # None: it has something to do, or is not there

    def move(self, new: CoreState) -> None:
        """Enter a state. Raises InvalidTransition when the table does not list the step."""
        validate(CORE_TRANSITIONS, self.state, new)
        self.state = new


class Unservable(NamedTuple):
    """A model could not be loaded, for the reason that its core has."""

    core: Core
    status: int  # the kernel's exit status, if it is nothing without this model:
    is_vital: bool

    @property
    def text(self) -> str:
        return f"model {self.core.model.name} cannot be served: {self.core.reason}"


class Cores:
    """All of them, by the place of their models in the configuration."""

    def __init__(
        self,
        config: Config,
        groups: Groups,
        next_segment: Callable[[], int],
        emit: Callable[[Effect], None],
        settled: Callable[[Request], None],
    ) -> None:
        self._emit = emit
        self._keep_alive_ns = int(config.keep_alive_s * 1e9)
        self.may_unload = self._keep_alive_ns > 0
        generating = sum(not model.embedding for model in config.models)
        self._cores: list[Core] = []
        for number, model in enumerate(config.models):
            limit = 0 if model.embedding else config.snapshot_bytes // generating
            store = SegmentStore(limit, next_segment, emit, number)
            part = 0 if model.embedding else (config.swap_bytes or 0) // generating
            tiers = Tiers(store, SwapSpace(part, number * part), emit, number)
            scheduler = Scheduler(groups, config.prefill_of(model), tiers, settled)
            self._cores.append(Core(number, model, scheduler, store, tiers))

    def __getitem__(self, number: int) -> Core:
        return self._cores[number]

    def __iter__(self) -> Iterator[Core]:
        return iter(self._cores)

    @property
    def first(self) -> Core:
        return self._cores[0]

    def find(self, method: str, name: str, embedding: bool | None = None) -> Core:
        """Return the core of a model, or of the first of its kind for the name "".

        Raises KernelError ENOENT, EINVAL when the model is of the other kind, EIO when it cannot be served.
        """
        kind = "is for embeddings" if embedding else "generates"
        if name:
            found = [core for core in self._cores if core.model.name == name]
            if not found:
                names = ", ".join(core.model.name for core in self._cores)
                raise KernelError(Errno.ENOENT, f"{method}: model {name!a} is not one of {names}")
            what = f"model {name!a} is not one that {kind}"
        else:
            found = [core for core in self._cores if embedding in (None, core.model.embedding)]
            what = f"no model of this kernel {kind}"
        if not found or embedding not in (None, found[0].model.embedding):
            raise KernelError(Errno.EINVAL, f"{method}: {what}")
        if found[0].state is CoreState.FAILED:
            text = f"{method}: model {found[0].model.name} cannot be served: {found[0].reason}"
            raise KernelError(Errno.EIO, text)
        return found[0]

    # -- starting and stopping ----------------------------------------------------------------

    def start(self) -> None:
        """The kernel boots: every model is wanted."""
        for core in self._cores:
            core.is_wanted = True
        self._load_next()

    def go_down(self) -> None:
        """The kernel goes down: nothing is loaded any more."""
        for core in self._cores:
            core.is_wanted = False

    def want(self, core: Core) -> None:
        """Something waits for this core: see that it is loaded."""
        if core.state in (CoreState.UNLOADED, CoreState.STOPPING):
            core.is_wanted = True
            self._load_next()

    def ready(self, event: CoreReady) -> Core:
        """A process serves its model."""
        core = self._cores[event.core]
        core.move(CoreState.READY)
        if core.info is None:
            self._emit(Say(boot_line(core.model.name, event.info)))
        core.info, core.pid, core.reason = event.info, event.pid, ""
        core.failed_starts = 0
        core.is_wanted = False
        core.idle_since_ns = None
        core.scheduler.core_ready(event.info, event.now_ns)
        self._load_next()
        return core

    def swapped(self, event: SwapDone) -> None:
        """A context was copied to disk or from it."""
        self._cores[event.core].scheduler.swapped(event.ticket, event.error, event.now_ns)

    def lost(self, event: CoreLost, is_going_down: bool) -> Unservable | None:
        """A process is gone. Start another one, or say why there will be none."""
        core = self._cores[event.core]
        core.pid = None
        if is_going_down:
            core.move(CoreState.UNLOADED)
            return None
        if core.state is CoreState.STOPPING:
            core.move(CoreState.UNLOADED)
            self._load_next()
            return None
        if event.is_fatal:
            status = STATUS_MEMORY if event.is_memory else STATUS_MODEL
            return self._unservable(core, event.reason, status)
        who = "the LLM core" if len(self._cores) == 1 else f"the LLM core of {core.model.name}"
        if core.state is CoreState.READY:
            core.restarts += 1
            core.idle_since_ns = None
            core.move(CoreState.LOADING)
            self._emit(Say(f"{who} died ({event.reason}): starting another one"))
        else:
            core.failed_starts += 1
            if core.failed_starts >= MAX_FAILED_STARTS:
                text = f"{who} died {core.failed_starts} times at its start: {event.reason}"
                return self._unservable(core, text, STATUS_CORE)
            if core.uses_extra_buffers:
                core.uses_extra_buffers = False
                text = f"{who} died at its start ({event.reason}): trying without repacked weights"
                self._emit(Say(text))
        self._start(core)
        return None

    def unload_idle(self, now_ns: int, is_used: Callable[[int], bool]) -> list[Core]:
        """Stop the cores that had nothing to do for the time of --keep-alive, and return them.

        Called after every event if may_unload. What is parked stays: the next process restores it.
        """
        stopped: list[Core] = []
        seconds = self._keep_alive_ns / 1e9
        for core in self._cores:
            if core.state is not CoreState.READY:
                continue
            if core.scheduler.is_working or is_used(core.number):
                core.idle_since_ns = None
            elif core.idle_since_ns is None:
                core.idle_since_ns = now_ns
            elif now_ns >= core.idle_since_ns + self._keep_alive_ns:
                core.idle_since_ns = None
                core.move(CoreState.STOPPING)
                self._emit(Say(f"model {core.model.name} unloaded: nothing was asked of it for {seconds:g} s"))
                core.scheduler.core_lost(now_ns)  # from now on nothing is planned for it
                self._emit(StopCore(core.number))
                stopped.append(core)
        return stopped

    def next_timer_ns(self) -> int | None:
        """When unload_idle may have something to do, if may_unload."""
        idle = [core.idle_since_ns for core in self._cores if core.idle_since_ns is not None]
        return min(idle) + self._keep_alive_ns if idle else None

    # -- inside -------------------------------------------------------------------------------

    def _load_next(self) -> None:
        if any(core.state is CoreState.LOADING for core in self._cores):
            return
        for core in self._cores:
            if core.is_wanted and core.state is CoreState.UNLOADED:
                core.move(CoreState.LOADING)
                self._start(core)
                return

    def _start(self, core: Core) -> None:
        attention = "" if core.info is None else "on" if core.info.flash_attention else "off"
        self._emit(StartCore(core.uses_extra_buffers, core.number, attention))

    def _unservable(self, core: Core, reason: str, status: int) -> Unservable:
        """Give a model up: for good if it never served, else until somebody wants it again."""
        has_served = core.info is not None
        core.move(CoreState.UNLOADED if has_served else CoreState.FAILED)
        core.reason = reason
        core.is_wanted = False
        core.failed_starts = 0
        is_vital = core.number == 0 and not has_served
        if not is_vital:
            self._load_next()
        return Unservable(core, status, is_vital)
