"""THE event loop: waits, tells the kernel what happened, does what it answers.

Who runs it: boot. What must hold: one thread, one epoll, nothing that blocks; without anything to do
it sleeps without a timer; the LLM core's messages go first, and nobody else is served for longer than
a few messages before the core is looked at again, so that no agent can delay a step.
"""

from __future__ import annotations

import select
import signal
import traceback
from collections import deque
from collections.abc import Callable
from typing import Protocol

from kernel.clock import now_ns, worked_ns
from kernel.console import log, say
from kernel.context.recordfile import RecordFiles
from kernel.context.swapfile import SwapFile
from kernel.corelinks import CoreCommand, CoreLinks
from kernel.effects import (
    AskCore,
    Disconnect,
    DropSegment,
    Effect,
    Halt,
    Launch,
    LoadRecord,
    MakeSegment,
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
from kernel.events import (
    Event,
    Message,
    Output,
    ProcessEnded,
    ProcessSample,
    RecordDone,
    ShutdownAsked,
    Spawned,
    SpawnFailed,
    StepDone,
    SwapDone,
    TimerFired,
)
from kernel.ipc.doors import Door
from kernel.ipc.server import Server
from kernel.limits import HEAVY_NS, TURN_NS
from kernel.proc.launcher import Launcher, LaunchError, Process
from kernel.proc.usage import last_sample, sample
from kernel.segments import Segments
from kernel.signals import CAUGHT, Wakeup

MESSAGES_PER_TURN = 16
PROCESSES_PER_LOOK = 16  # ends and outputs of processes served before the core is looked at again
SWEEP_NS = 50_000_000  # for what ended tasks left running: one scan of /proc for many ends
INTERRUPTED = 130  # exit status of a second Ctrl-C, as a shell has it


class Handler(Protocol):
    """The kernel, as far as the loop knows it."""

    def start(self, now_ns: int) -> list[Effect]: ...
    def handle(self, event: Event) -> list[Effect]: ...


class Loop:
    """Owns every descriptor of the kernel from here on; close gives all of them back."""

    def __init__(
        self,
        kernel: Handler,
        epoll: select.epoll,
        server: Server,
        segments: Segments,
        launcher: Launcher,
        wakeup: Wakeup,
        core_command: CoreCommand,
        records: RecordFiles,
        swap: SwapFile | None = None,
    ) -> None:
        self._kernel = kernel
        self._server = server
        self._launcher = launcher
        self._wakeup = wakeup
        self._segments = segments
        self._doors: dict[int, Door] = {}  # of launched agents, by pid
        self._pending: deque[Event] = deque()  # made by carrying out effects
        self.cores = CoreLinks(epoll, segments, core_command, self._pending.append)
        self._timer_ns: int | None = None
        self._next_timer_ns: int | None = None  # the first of all timers, the server's and the sweep's too
        self._sweep_ns: int | None = None
        self._unswept: set[int] = set()
        self._interrupts = 0
        self._status: int | None = None
        self._epoll = epoll
        self._on_ready: dict[int, Callable[[], None]] = {}  # but the server's and the cores'
        self._register(wakeup.fd, self._serve_signals)
        self._records = records
        self._register(records.wake_fd, self._serve_records)
        self._swap = swap
        if swap is not None:
            self._register(swap.wake_fd, self._serve_swap)
        self._do: dict[type, Callable[..., None]] = {
            Send: server.send,
            Refuse: server.send_refusal,
            Disconnect: server.disconnect,
            RunStep: self._run_step,
            SetTimer: self._set_timer,
            SwapOut: self._copy,
            SwapIn: self._copy,
            StoreRecord: records.ask,
            LoadRecord: records.ask,
            SetAsideRecord: records.ask,
            RemoveRecord: records.ask,
            AskCore: self.cores.ask,
            MakeSegment: self.cores.make_segment,
            DropSegment: self.cores.drop_segment,
            Launch: self._launch,
            Watch: self._watch,
            Signal: self._signal,
            SampleProcesses: lambda it: self._pending.append(ProcessSample(now_ns(), sample(it.pids))),
            StartCore: self.cores.start,
            StopCore: self.cores.stop,
            Say: lambda effect: say(effect.text),
            Halt: self._halt,
        }

    def run(self) -> int:
        """Serve until the kernel halts; return the exit status."""
        self._carry_out(self._kernel.start(now_ns()))
        self._handle_pending()
        while self._status is None:
            self._turn()
        return self._status

    def close(self) -> None:
        """End the cores and what was launched, send the last messages, free the segments."""
        self.cores.close()
        self._launcher.close()
        self._server.close()
        self._records.close()
        if self._swap is not None:
            self._swap.close()
        self._segments.close()

    # -- waiting --------------------------------------------------------------------------------

    def _turn(self) -> None:
        ready = self._epoll.poll(self._timeout_s())
        for link in self.cores.links([fd for fd, _ in ready]):
            self._serve_core(link)
        now = now_ns()
        others = []
        for fd, mask in ready:
            if not self._server.ready(fd, mask, now):
                others.append((fd, self._on_ready.get(fd)))
        for count, (fd, do) in enumerate(others, 1):
            if do is None:
                self.cores.read_stderr(fd)
            elif self._on_ready.get(fd) is do:  # else the number is another's by now
                do()
            if count % PROCESSES_PER_LOOK == 0:
                for link in self.cores.all_links():
                    self._serve_core(link)
        if self._next_timer_ns is not None and now >= self._next_timer_ns:
            self._serve_timers(now)
        self._serve_messages(now)

    def _serve_messages(self, now: int) -> None:
        server = self._server
        until, worked = now + TURN_NS, worked_ns()
        for _ in range(MESSAGES_PER_TURN):
            event = server.recv(now)
            if event is None:
                break
            self._tell(event)
            before, now = now, now_ns()
            if now - before > HEAVY_NS and type(event) is Message:  # or others were on this CPU meanwhile
                server.spent(event.peer, worked_ns() - worked, now)
            if now > until or not server.has_work:
                break
        server.end_batch()
        if server.unflushed:
            server.flush()

    def _timeout_s(self) -> float | None:
        wanted = self._server.next_timer_ns
        for at in (self._timer_ns, self._sweep_ns):
            if at is not None and (wanted is None or at < wanted):
                wanted = at
        self._next_timer_ns = wanted
        if self._server.has_work:
            return 0
        return None if wanted is None else max(0, wanted - now_ns()) / 1e9

    def _serve_core(self, link: int) -> None:
        for event in self.cores.read(link):
            began = now_ns()
            self._tell(event)
            if type(event) is StepDone:
                self._kernel.step_handling_ns += now_ns() - began

    def _serve_signals(self) -> None:
        for number in self._wakeup.read():
            if number == signal.SIGINT:
                self._interrupts += 1
                if self._interrupts > 1:
                    self._status = INTERRUPTED
                    return
            if number in CAUGHT:
                self._tell(ShutdownAsked(now_ns()))

    def _serve_timers(self, now: int) -> None:
        if self._timer_ns is not None and now >= self._timer_ns:
            self._timer_ns = None
            self._tell(TimerFired(now))
        self._server.tick(now)
        if self._sweep_ns is not None and now >= self._sweep_ns:
            self._sweep_ns = None
            self._launcher.sweep(self._unswept)
            self._unswept.clear()

    # -- the kernel -----------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        if self._status is not None:  # halted: the rest of this turn is nobody's business
            return
        try:
            effects = self._kernel.handle(event)
        except Exception:
            if type(event) is not Message:
                raise  # the kernel's own picture of the world is wrong now: better none
            log(f"bug: a message from process {event.pid} was dropped:\n{traceback.format_exc()}")
            return
        self._carry_out(effects)
        if self._pending:
            self._handle_pending()

    def _handle_pending(self) -> None:
        while self._pending and self._status is None:
            self._carry_out(self._kernel.handle(self._pending.popleft()))

    def _carry_out(self, effects: list[Effect]) -> None:
        do = self._do
        for effect in effects:
            do[type(effect)](effect)
        if self._server.unflushed:
            self._server.flush()

    # -- effects: messages and time ---------------------------------------------------------------

    def _set_timer(self, effect: SetTimer) -> None:
        self._timer_ns = effect.at_ns

    def _halt(self, effect: Halt) -> None:
        self._status = effect.status

    # -- effects: the disk ------------------------------------------------------------------------

    def _copy(self, effect: SwapOut | SwapIn) -> None:
        assert self._swap is not None
        fd, is_out = self._segments.fd(effect.segment), type(effect) is SwapOut
        self._swap.copy(effect.core, effect.ticket, is_out, fd, effect.offset, effect.size_bytes)

    def _serve_swap(self) -> None:
        assert self._swap is not None
        for core, ticket, error in self._swap.answers():
            self._tell(SwapDone(now_ns(), core, ticket, error))

    def _serve_records(self) -> None:
        for done in self._records.answers():
            self._tell(RecordDone(now_ns(), *done))

    # -- effects: processes -----------------------------------------------------------------------

    def _launch(self, effect: Launch) -> None:
        door = None
        try:
            door = self._server.doors.open_own()
            process = self._launcher.launch(effect.argv, dict(effect.env), effect.cwd, door.name)
        except (LaunchError, OSError) as error:
            if door is not None:
                self._server.doors.close(door)
            self._pending.append(SpawnFailed(now_ns(), effect.ticket, str(error)))
            return
        door.owner = process.pid
        self._doors[process.pid] = door
        self._register(process.output, lambda: self._serve_output(process))
        self._register(process.pidfd, lambda: self._serve_end(process))
        self._pending.append(Spawned(now_ns(), effect.ticket, process.pid, process.birth))

    def _watch(self, effect: Watch) -> None:
        try:
            process = self._launcher.watch(effect.pid, effect.birth)
        except LaunchError:
            self._pending.append(ProcessEnded(now_ns(), effect.pid, None, None))
            return
        if process is not None:
            self._register(process.pidfd, lambda: self._serve_end(process))

    def _signal(self, effect: Signal) -> None:
        if not self.cores.kill(effect.pid):
            self._launcher.signal(effect.pid, effect.number)

    def _register(self, fd: int, do: Callable[[], None]) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._on_ready[fd] = do

    def _forget(self, fd: int) -> None:
        """Stop waiting on a descriptor that is about to be closed."""
        del self._on_ready[fd]
        self._epoll.unregister(fd)

    def _serve_output(self, process: Process) -> None:
        data = process.read()
        if data:
            self._tell(Output(now_ns(), process.pid, data))
        elif data is not None:
            self._forget(process.output)
            process.close_output()

    def _serve_end(self, process: Process) -> None:
        self._forget(process.pidfd)
        self._tell(ProcessSample(now_ns(), last_sample(process.pid)))
        status, number = self._launcher.bury(process)
        door = self._doors.pop(process.pid, None)
        if door is not None:
            self._server.doors.close(door)
        for data in process.drain():
            self._tell(Output(now_ns(), process.pid, data))
        if process.output >= 0:
            self._forget(process.output)
            process.close_output()
        if process.child is not None:
            self._unswept.add(process.pid)
            self._sweep_ns = self._sweep_ns or now_ns() + SWEEP_NS
        self._tell(ProcessEnded(now_ns(), process.pid, status, number))

    # -- effects: cores -----------------------------------------------------------------------------

    def _run_step(self, effect: RunStep) -> None:
        self._server.flush()  # first tokens go before the step
        self.cores.run_step(effect)
