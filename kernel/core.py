"""The kernel's decisions: events in, effects out. No I/O, no clock, no threads.

Who calls it: loop.py, which makes the events and carries out the effects in order. What must hold: the
same events give the same effects; a step for the core comes before the messages that its results made,
so that the core never waits for the agents' post. First tokens alone go before it: whoever waits for
one gets a CPU while the core's threads are still asleep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from kernel.abi.calls import TaskCreate
from kernel.abi.codec import encode_error
from kernel.abi.errors import Errno, KernelError
from kernel.calls import CallTable
from kernel.config import Config
from kernel.cores import Cores
from kernel.dispatch import dispatch
from kernel.effects import (
    Disconnect,
    Effect,
    Halt,
    Refuse,
    RunStep,
    SampleProcesses,
    Say,
    SetTimer,
    Watch,
)
from kernel.events import (
    CoreAnswer,
    CoreLost,
    CoreReady,
    Event,
    Message,
    Output,
    PeerGone,
    PeerStalled,
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
from kernel.ipc.mailbox import PostOffice
from kernel.limits import MAX_BAD_BURST, SHUTDOWN_GRACE_NS
from kernel.memory.manager import MemoryManager
from kernel.objects import Call, Request, Task
from kernel.proc.governor import Governor
from kernel.proc.table import ENDING, TaskTable
from kernel.report import task_rows
from kernel.sched.asks import Asks
from kernel.sched.groups import Groups, root_attr
from kernel.sched.requests import RequestManager
from kernel.sched.texts import TextManager
from kernel.states import TaskState


class Kernel:
    """Everything the kernel knows. `pid` is its own process's, `now_ns` is CLOCK_MONOTONIC everywhere."""

    def __init__(self, config: Config, pid: int) -> None:
        self.config = config
        self.pid = pid
        self.bad_messages = self.cut_connections = 0
        self.is_going_down = False
        self.step_handling_ns = 0  # that the loop took for steps' results and next plans
        self._out: list[Effect] = []
        self._urgent = 0  # how many of them go even before the next step
        self._segments = 0
        self._timer_ns: int | None = None
        self.born_ns = 0
        self._exit_status = 0
        self._kill_at_ns: int | None = None
        self._ps_calls: list[Call] = []
        emit = self._emit
        self.calls = CallTable(emit)
        self.groups = Groups(root_attr(config))
        self.table = TaskTable(self.calls, emit, self.groups)
        self.cores = Cores(config, self.groups, self._next_segment, emit, self._settle)
        self._schedulers = [core.scheduler for core in self.cores]  # looked at after every event
        self.asks = Asks(self.calls, emit)
        self.requests = RequestManager(self.calls, self.cores, self.asks, self.groups, emit)
        self.texts = TextManager(self.calls, self.cores, self.asks)
        self.post = PostOffice(self.calls)
        self.memory = MemoryManager(self._next_segment, emit)
        self.governor = Governor(emit, self._may_signal)

    def start(self, now_ns: int) -> list[Effect]:
        """Return the first effects: a core is started."""
        self.born_ns = now_ns
        self.cores.start()
        return self._out

    def handle(self, event: Event) -> list[Effect]:
        """Take one event; return what is to be done, in order."""
        self._out, self._urgent = [], 0
        _EVENTS[type(event)](self, event)
        self._plan_steps(event.now_ns)
        if self.cores.may_unload:
            for core in self.cores.unload_idle(event.now_ns, self._is_used):
                self.asks.core_lost(core.number, event.now_ns)
        self._set_timer()
        return self._out

    # -- what happens -------------------------------------------------------------------------

    def _on_step_done(self, event: StepDone) -> None:
        sampled, failed = self.cores[event.core].scheduler.step_done(event.result)
        first = [pair for pair in sampled if pair[0].first_token_ns is None]
        later = [pair for pair in sampled if pair[0].first_token_ns is not None]
        self.requests.step_done(event.core, event.result, failed)
        self.requests.deliver(first, event.result.ended_ns)
        self._urgent = len(self._out)
        self.requests.deliver(later, event.result.ended_ns)

    def _on_core_ready(self, event: CoreReady) -> None:
        core = self.cores.ready(event)
        self.requests.core_ready(core, event.now_ns)
        self.asks.core_ready(core.number, event.now_ns)

    def _on_core_lost(self, event: CoreLost) -> None:
        number = event.core
        self.requests.core_lost(self.cores[number].scheduler.core_lost(event.now_ns), event.now_ns)
        self.asks.core_lost(number, event.now_ns)
        lost = self.cores.lost(event, self.is_going_down)
        if lost is None:
            return
        if lost.is_vital:
            self._emit(Say(lost.core.reason))
            self.shut_down(lost.status, event.now_ns)
            return
        self._emit(Say(lost.text))
        self.requests.core_failed(number, lost.text, event.now_ns)
        self.asks.core_failed(number, lost.text, event.now_ns)

    def _on_core_answer(self, event: CoreAnswer) -> None:
        self.asks.answered(event.ticket, event.value, event.error, event.now_ns)

    def _on_peer_gone(self, event: PeerGone) -> None:
        """A connection is closed: nobody waits for its answers, and what an operator held over it ends."""
        self.cut_connections += event.was_cut
        self.calls.abort_peer(event.peer, KernelError(Errno.EPIPE, "its connection closed"), event.now_ns)
        for task in self.table.held_by(-event.peer):
            self._end_held(task, "its holder's connection closed", event.now_ns)
        self.table.forget_peer(event.peer)

    def _on_spawned(self, event: Spawned) -> None:
        task = self.table.spawned(event.ticket, event.pid, event.birth, event.now_ns)
        self.post.open(task.pid)
        if self.is_going_down:
            self.table.send_signal(task, "KILL")

    def _on_spawn_failed(self, event: SpawnFailed) -> None:
        self.table.spawn_failed(event.ticket, event.reason)

    def _on_process_ended(self, event: ProcessEnded) -> None:
        task = self.table.tasks.get(event.pid)
        if task is not None and task.state is not TaskState.ZOMBIE:
            self.end(task, event.status, event.signal, event.now_ns)

    def _on_output(self, event: Output) -> None:
        task = self.table.tasks.get(event.pid)
        if task is not None:
            task.append_log(event.data, self.config.log_bytes)

    def _on_sample(self, event: ProcessSample) -> None:
        for pid, cpu_s, rss_bytes in event.usage:
            task = self.table.tasks.get(pid)
            if task is not None and task.state is not TaskState.ZOMBIE:
                task.usage.cpu_s = max(task.usage.cpu_s, cpu_s)
                task.usage.rss_bytes = rss_bytes or task.usage.rss_bytes
        self.governor.sampled(event.now_ns, event.usage)
        waiting, self._ps_calls = self._ps_calls, []
        for call in waiting:
            self.calls.reply(call, {"tasks": task_rows(self, event.now_ns)})

    def _on_timer(self, event: TimerFired) -> None:
        self._timer_ns = None
        self.calls.expire(event.now_ns)
        self.governor.tick(event.now_ns, self._living_pids())
        if self._kill_at_ns is not None and event.now_ns >= self._kill_at_ns:
            self._kill_at_ns = None
            for task in list(self.table.tasks.values()):
                if task.state is not TaskState.ZOMBIE:
                    self.table.send_signal(task, "KILL")
            self._emit(Halt(self._exit_status))

    def _on_peer_stalled(self, event: PeerStalled) -> None:
        """A peer that does not read: its calls end, and its task with them."""
        text = "it does not read its answers"
        self.calls.abort_peer(event.peer, KernelError(Errno.EPIPE, text), event.now_ns)
        task = self.table.task_of_peer(event.peer)
        if task is not None and task.state is not TaskState.ZOMBIE:
            task.reason = text
            self.signal(task, "KILL", event.now_ns)

    def _on_shutdown(self, event: ShutdownAsked) -> None:
        self.shut_down(0, event.now_ns)

    # -- what handlers ask for ----------------------------------------------------------------

    def refuse_message(self, message: Message, error: KernelError, call_id: int) -> None:
        """Answer what is no valid call; cut off a peer that pours in what is no call at all."""
        self.bad_messages += error.number in (Errno.EBADMSG, Errno.EPROTO)
        if message.burst > MAX_BAD_BURST and not call_id:
            text = f"{message.burst} messages without a pause, and then: {error.text}"
            self._emit(Disconnect(message.peer, KernelError(Errno.EBADMSG, text), is_fault=True))
            return
        self._emit(Refuse(message.peer, encode_error(call_id, error)))

    def greet(self, pid: int, birth: int, name: str, now_ns: int) -> None:
        """A process said hello: it is a task, known or adopted."""
        task = self.table.tasks.get(pid)
        if task is not None and task.state is TaskState.ZOMBIE and task.speaker[1] == birth:
            raise KernelError(Errno.EPROTO, f"sys.hello: task {pid} has ended")
        if task is None or task.state is TaskState.ZOMBIE:
            task = self.table.adopt(pid, birth, name, now_ns)
            self.post.open(pid)
            self._emit(Watch(pid, birth))
        elif task.speaker[1] != birth:
            raise KernelError(Errno.EAGAIN, f"sys.hello: task {pid}, whose pid this is, has just ended")
        if name and not task.has_said_hello and not task.is_named:
            task.name = name
        task.has_said_hello = True
        if task.state is TaskState.NEW:
            task.move(TaskState.READY)

    def create_task(self, call: Call, options: TaskCreate, now_ns: int) -> dict[str, Any]:
        """task.create: a task that lives as long as its holder."""
        task = self.table.create(call, options, now_ns)
        self.post.open(task.pid)
        return {"pid": task.pid}

    def end(self, task: Task, status: int | None, signal: int | None, now_ns: int) -> None:
        """A task is over: its process is gone, or it never had one. What it held goes with it."""
        for held in self.table.held_by(task.pid):
            self._end_held(held, "its holder ended", now_ns)
        gone = KernelError(Errno.EPIPE, f"task {task.pid} ended")
        for call in list(task.calls.values()):
            self.calls.abort(call, gone, now_ns)
        self.governor.forget(task.pid)
        self.post.close(task.pid)
        self.memory.release(task.pid)
        self.requests.forget(task)
        for peer in task.peers:
            self._emit(Disconnect(peer, gone))
        self.table.ended(task, status, signal, now_ns)
        if self.is_going_down and not self.table.living():
            self._emit(Halt(self._exit_status))

    def signal(self, task: Task, name: str, now_ns: int) -> None:
        """Send a signal, with what it means for the task's requests."""
        if name == "STOP" and task.state is not TaskState.STOPPED:
            self.governor.forget(task.pid)
            self.requests.pause(task, now_ns)
            task.move(TaskState.STOPPED)
        elif name == "CONT" and task.state is TaskState.STOPPED:
            task.resume()
            self.requests.resume(task, now_ns)
        elif name == "KILL":
            killed = KernelError(Errno.EPIPE, f"task {task.pid} was killed")
            for call in list(task.calls.values()):
                self.calls.abort(call, killed, now_ns)
        if not task.has_process:
            if name in ENDING:
                self.end(task, None, ENDING[name], now_ns)
            return
        if name in ("STOP", "CONT"):  # who speaks for them neither reads nor goes on
            for held in self.table.held_by(task.pid):
                self.signal(held, name, now_ns)
        is_held = self.governor.is_held(task.pid)
        self.table.send_signal(task, name)
        if is_held and name not in ("KILL", "STOP"):
            self.table.send_signal(task, "CONT")  # a stopped process acts on a signal once continued

    def say(self, text: str) -> None:
        """Tell the person at the kernel's terminal a line."""
        self._emit(Say(text))

    def requeue(self, tasks: Iterable[Task], change: Callable[[], None]) -> None:
        """Take tasks' requests out of every queue, let `change` alter how they are ranked, put them back."""
        requests = [request for task in tasks for request in task.requests]
        for core in self.cores:  # one inside the other: the change comes when they are in no queue at all
            own = [request for request in requests if request.core == core.number]
            change = partial(core.scheduler.requeue, own, change)
        change()

    def ask_ps(self, call: Call) -> None:
        """Answer with fresh CPU times: a sample is taken first."""
        self.calls.defer(call, self)
        self._ps_calls.append(call)
        self._emit(SampleProcesses(self._living_pids()))

    def withdraw(self, call: Call, now_ns: int) -> None:
        self._ps_calls.remove(call)

    def shut_down(self, status: int, now_ns: int) -> None:
        """End every task, then the kernel: TERM first, KILL after a grace period."""
        if self.is_going_down:
            return
        self._exit_status = status
        self.cores.go_down()
        self.governor.core_idle()
        down = KernelError(Errno.ESHUTDOWN, "the kernel is going down")
        self.calls.abort_all(down, now_ns)
        for task in [one for one in self.table.tasks.values() if not one.has_process]:
            self._end_held(task, "the kernel is going down", now_ns)
        self.is_going_down = True
        for task in self.table.tasks.values():
            if task.has_process and task.state is not TaskState.ZOMBIE:
                self.table.send_signal(task, "TERM")
                if task.state is TaskState.STOPPED:
                    self.table.send_signal(task, "CONT")
        if self.table.living():
            self._kill_at_ns = now_ns + SHUTDOWN_GRACE_NS
        else:
            self._emit(Halt(status))

    # -- inside -------------------------------------------------------------------------------

    def _plan_steps(self, now_ns: int) -> None:
        """Have every core that may work do so; the steps go before the posts."""
        out = self._out
        for number, scheduler in enumerate(self._schedulers):
            posts_end = len(out)
            plan = scheduler.plan(now_ns)
            if plan is not None:
                made = out[posts_end:]  # segments that the plan needs
                del out[posts_end:]
                out[self._urgent : self._urgent] = [*made, RunStep(plan, number)]
                self.governor.core_busy(now_ns)
        if self.governor.is_watching and not any(one.is_working for one in self._schedulers):
            self.governor.core_idle()

    def _is_used(self, core: int) -> bool:
        return self.requests.is_used(core) or self.asks.is_asked(core)

    def _emit(self, effect: Effect) -> None:
        self._out.append(effect)

    def _next_segment(self) -> int:
        self._segments += 1
        return self._segments

    def _end_held(self, task: Task, reason: str, now_ns: int) -> None:
        if task.state is not TaskState.ZOMBIE:
            task.reason = reason
            self.end(task, None, ENDING["KILL"], now_ns)

    def _settle(self, request: Request) -> None:
        request.task.settle()

    def _may_signal(self, pid: int) -> bool:
        task = self.table.tasks.get(pid)
        return task is not None and task.state not in (TaskState.ZOMBIE, TaskState.STOPPED)

    def _living_pids(self) -> tuple[int, ...]:
        tasks = self.table.tasks.items()
        return tuple(pid for pid, one in tasks if one.has_process and one.state is not TaskState.ZOMBIE)

    def _set_timer(self) -> None:
        wanted = self.calls.next_deadline_ns()
        idle_ns = self.cores.next_timer_ns() if self.cores.may_unload else None
        capped = [scheduler.next_timer_ns() for scheduler in self._schedulers]
        for at in (self.governor.next_timer_ns(), idle_ns, self._kill_at_ns, *capped):
            if at is not None and (wanted is None or at < wanted):
                wanted = at
        if wanted != self._timer_ns:
            self._timer_ns = wanted
            self._emit(SetTimer(wanted))


_EVENTS: dict[type, Any] = {
    Message: dispatch,
    StepDone: Kernel._on_step_done,
    SwapDone: lambda kernel, event: kernel.cores.swapped(event),
    RecordDone: lambda kernel, event: kernel.requests.durable.done(event),
    CoreReady: Kernel._on_core_ready,
    CoreLost: Kernel._on_core_lost,
    CoreAnswer: Kernel._on_core_answer,
    Spawned: Kernel._on_spawned,
    SpawnFailed: Kernel._on_spawn_failed,
    ProcessEnded: Kernel._on_process_ended,
    Output: Kernel._on_output,
    ProcessSample: Kernel._on_sample,
    TimerFired: Kernel._on_timer,
    PeerGone: Kernel._on_peer_gone,
    PeerStalled: Kernel._on_peer_stalled,
    ShutdownAsked: Kernel._on_shutdown,
}
