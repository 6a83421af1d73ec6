"""The task table: who exists, who may signal whom, who waits for whom.

Who calls it: dispatch.py for the proc.* calls, core.py when a process starts, speaks or ends. What must
hold: resources go when a task ends, its record when it was waited for; an orphan's parent is the kernel.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from kernel.abi.calls import CAPABILITIES, ProcKill, ProcSpawn, ProcWait, TaskCreate
from kernel.abi.errors import Errno, KernelError
from kernel.calls import CallTable
from kernel.effects import Effect, Launch, Signal
from kernel.limits import MAX_HELD_TASKS, MAX_ORPHAN_ZOMBIES, MAX_TASKS, TAIL_LINES
from kernel.objects import Call, Task
from kernel.states import TaskState
from kernel.taskattr import TaskAttr

SIGNALS = ("TERM", "KILL", "INT", "STOP", "CONT", "USR1", "USR2")
ENDING = {name: int(getattr(signal, f"SIG{name}")) for name in ("TERM", "KILL", "INT")}
FIRST_HELD = (1 << 22) + 1  # Linux numbers no process above 2^22 (PID_MAX_LIMIT)


class GroupsOfTasks(Protocol):
    """What the table needs of scheduling groups."""

    def check_join(self, call: Call, path: str, method: str) -> None:
        """Raise KernelError ENOENT, EPERM or EAGAIN when the caller's child may not begin in a group; "": its own."""
        ...

    def attr_of_child(self, parent: Task | None, path: str) -> TaskAttr: ...
    def count(self, path: str, change: int) -> None: ...


class TaskTable:
    """Tasks by pid. Handlers raise KernelError as the calls' docstrings say."""

    def __init__(self, calls: CallTable, emit: Callable[[Effect], None], groups: GroupsOfTasks) -> None:
        self._groups = groups
        self.tasks: dict[int, Task] = {}
        self._calls = calls
        self._emit = emit
        self._launches: dict[int, tuple[Call | None, ProcSpawn, Task | None]] = {}  # by ticket
        self._waits: dict[Call, int] = {}  # call -> pid waited for, 0: any child
        self._orphans: deque[int] = deque()  # zombies that nobody has to wait for, oldest first
        self._tickets = 0
        self._next_held = FIRST_HELD
        self._held: dict[int, dict[int, Task]] = {}  # by holder: the living tasks without a process
        self._by_peer: dict[int, Task] = {}  # who spoke over a connection
        self._living = 0

    # -- birth --------------------------------------------------------------------------------

    def spawn(self, call: Call, options: ProcSpawn) -> None:
        """Have a script launched; answered when it runs."""
        floor = call.task.priority if call.task else -20
        if options.priority is not None and options.priority < floor:
            text = f"proc.spawn: priority {options.priority} is above the caller's own {floor}"
            raise KernelError(Errno.EPERM, text)
        _check_capabilities(call, options.capabilities)
        self._groups.check_join(call, options.group, "proc.spawn")
        if self.living() + len(self._launches) >= MAX_TASKS:
            raise KernelError(Errno.EAGAIN, f"proc.spawn: {MAX_TASKS} tasks exist")
        argv = (options.script, *_strings("args", options.args))
        env = options.env or {}
        pairs = tuple(zip(_strings("env", list(env)), _strings("env", list(env.values())), strict=True))
        self._calls.defer(call, self)
        self._tickets += 1
        self._launches[self._tickets] = (call, options, call.task)
        self._emit(Launch(self._tickets, argv, pairs, options.cwd))

    def spawned(self, ticket: int, pid: int, birth: int, now_ns: int) -> Task:
        """A launched process runs: it is a task from here on."""
        call, options, parent = self._launches.pop(ticket)
        if parent is not None and parent.state is TaskState.ZOMBIE:
            parent = None
        priority = options.priority
        if priority is None:
            priority = parent.priority if parent else 0
        name = options.name or options.script.rpartition("/")[2].removesuffix(".py")
        task = Task(
            pid,
            parent.pid if parent else 0,
            name,
            now_ns,
            (pid, birth),
            priority=priority,
            sched=self._groups.attr_of_child(parent, options.group),
            capabilities=frozenset(options.capabilities),
        )
        task.is_named = bool(options.name)
        self._enter(task)
        if call is not None:
            self._calls.reply(call, {"pid": pid})
        return task

    def spawn_failed(self, ticket: int, reason: str) -> None:
        call, options, _ = self._launches.pop(ticket)
        if call is not None:
            text = f"proc.spawn: cannot start {options.script}: {reason}"
            self._calls.fail(call, KernelError(Errno.EINVAL, text))

    def adopt(self, pid: int, birth: int, name: str, now_ns: int) -> Task:
        """A process that the kernel did not launch said hello."""
        if self.living() >= MAX_TASKS:
            raise KernelError(Errno.EAGAIN, f"sys.hello: {MAX_TASKS} tasks exist")
        task = Task(pid, 0, name or f"pid-{pid}", now_ns, (pid, birth), is_launched=False)
        self._enter(task)
        return task

    def create(self, call: Call, options: TaskCreate, now_ns: int) -> Task:
        """Make a task without a process. Raises KernelError EPERM or EAGAIN."""
        parent = call.task
        if parent is not None and "task.create" not in parent.capabilities:
            text = f"task.create: task {parent.pid} lacks the capability task.create"
            raise KernelError(Errno.EPERM, text)
        floor = parent.priority if parent else -20
        priority = options.priority
        if priority is not None and priority < floor:
            text = f"task.create: priority {priority} is above the caller's own {floor}"
            raise KernelError(Errno.EPERM, text)
        self._groups.check_join(call, options.group, "task.create")
        holder = parent.pid if parent else -call.peer
        held = self._held.get(holder, {})
        if len(held) >= MAX_HELD_TASKS or self.living() >= MAX_TASKS:
            text = f"task.create: the caller holds {len(held)} of {MAX_HELD_TASKS} tasks, and"
            raise KernelError(Errno.EAGAIN, f"{text} {self.living()} of {MAX_TASKS} exist")
        pid, self._next_held = self._next_held, self._next_held + 1
        task = Task(
            pid,
            parent.pid if parent else 0,
            options.name or f"task-{pid}",
            now_ns,
            call.speaker,
            priority=(parent.priority if parent else 0) if priority is None else priority,
            sched=self._groups.attr_of_child(parent, options.group),
            has_process=False,
            is_launched=False,
            holder=holder,
        )
        task.has_said_hello = True
        task.move(TaskState.READY)
        self._held.setdefault(holder, {})[pid] = task
        self._enter(task)
        return task

    def _enter(self, task: Task) -> None:
        stale = self.tasks.get(task.pid)
        if stale is not None:  # the pid of an unreaped zombie came round again
            self._reap(stale)
        self.tasks[task.pid] = task
        self._living += 1
        self._groups.count(task.sched.group, 1)
        if task.ppid:
            self.tasks[task.ppid].has_had_children = True

    def living(self) -> int:
        return self._living

    # -- whose ----------------------------------------------------------------------------------

    def held_by(self, holder: int) -> list[Task]:
        """Return the living tasks of a holder: a pid, or minus an operator's connection."""
        return list(self._held.get(holder, {}).values())

    def held_task(self, pid: int, holder: int, method: str) -> Task:
        """Return a living task that `holder` holds. Raises KernelError ESRCH, also for another's."""
        task = self._held.get(holder, {}).get(pid)
        if task is None:
            raise KernelError(Errno.ESRCH, f"{method}: the caller holds no task {pid}")
        return task

    def meet(self, task: Task, peer: int) -> None:
        """A task speaks over a connection for the first time."""
        task.peers.add(peer)
        self._by_peer[peer] = task

    def task_of_peer(self, peer: int) -> Task | None:
        return self._by_peer.get(peer)

    def forget_peer(self, peer: int) -> None:
        task = self._by_peer.pop(peer, None)
        if task is not None:
            task.peers.discard(peer)

    def find(self, pid: int, method: str) -> Task:
        """Return a living task. Raises KernelError ESRCH."""
        task = self.tasks.get(pid)
        if task is None or task.state is TaskState.ZOMBIE:
            raise KernelError(Errno.ESRCH, f"{method}: no task {pid}")
        return task

    # -- signals ------------------------------------------------------------------------------

    def check_signal(self, call: Call, options: ProcKill) -> Task:
        """Return the task that may be signalled. Raises KernelError EINVAL, ESRCH, EPERM."""
        if options.signal not in SIGNALS:
            text = f"proc.kill: signal {options.signal!r} is not one of {', '.join(SIGNALS)}"
            raise KernelError(Errno.EINVAL, text)
        task = self.find(options.pid, "proc.kill")
        is_own = call.task is not None and call.task.pid in (task.pid, task.ppid)
        if not call.is_operator and not is_own:
            text = f"proc.kill: task {task.pid} is neither the caller nor a child of it"
            raise KernelError(Errno.EPERM, text)
        if not task.has_process and options.signal.startswith("USR"):
            text = f"proc.kill: task {task.pid} has no process to take {options.signal}"
            raise KernelError(Errno.EINVAL, text)
        return task

    def send_signal(self, task: Task, name: str) -> None:
        """Signal a task's process."""
        self._emit(Signal(task.pid, int(getattr(signal, f"SIG{name}"))))

    # -- death --------------------------------------------------------------------------------

    def ended(self, task: Task, status: int | None, number: int | None, now_ns: int) -> None:
        """A task's process is gone: it is a zombie until somebody waits for it."""
        task.status = status if number is not None or status is not None else task.exit_declared
        task.signal = number
        if not task.reason:
            task.reason = _reason(task)
        task.move(TaskState.ZOMBIE)
        self._living -= 1
        self._groups.count(task.sched.group, -1)
        if not task.has_process:
            self._leave_holder(task)
        tasks = self.tasks.values() if task.has_had_children else ()
        for child in [item for item in tasks if item.ppid == task.pid]:
            child.ppid = 0
            if child.state is TaskState.ZOMBIE and child.has_process:
                self._orphans.append(child.pid)
        self._tell_waiters(task)
        if task.pid in self.tasks and (task.ppid == 0 or not task.has_process):
            self._orphans.append(task.pid)
        while len(self._orphans) > MAX_ORPHAN_ZOMBIES:
            self._reap(self.tasks[self._orphans[0]])
        self._answer_childless()

    def wait(self, call: Call, options: ProcWait, now_ns: int) -> dict[str, Any] | None:
        """Answer with a dead child's record, or wait for one (None)."""
        candidates = self._waitable(call, options.pid)
        if not candidates:
            which = f"task {options.pid}" if options.pid else "children"
            raise KernelError(Errno.ECHILD, f"proc.wait: the caller has no {which} to wait for")
        for task in candidates:
            if task.state is TaskState.ZOMBIE:
                return self._collect(call, task)
        if options.timeout_ms == 0:
            raise KernelError(Errno.ETIMEDOUT, "proc.wait: none has ended")
        timeout_ns = None if options.timeout_ms is None else options.timeout_ms * 1_000_000
        self._waits[call] = options.pid
        self._calls.defer(call, self, None if timeout_ns is None else now_ns + timeout_ns)
        return None

    def withdraw(self, call: Call, now_ns: int) -> None:
        """Forget a waiting wait, or the caller of a launch under way."""
        self._waits.pop(call, None)
        for ticket, (caller, options, parent) in self._launches.items():
            if caller is call:
                self._launches[ticket] = (None, options, parent)

    def _waitable(self, call: Call, pid: int) -> list[Task]:
        ppid = call.task.pid if call.task else 0
        if pid and call.is_operator:
            return [task for task in (self.tasks.get(pid),) if task is not None]
        if pid:
            return [task for task in (self.tasks.get(pid),) if task and task.ppid == ppid]
        return [task for task in self.tasks.values() if task.ppid == ppid]

    def _collect(self, call: Call, task: Task) -> dict[str, Any]:
        """Return a zombie's record; reap it unless the caller is only an operator looking on."""
        record = _record(task)
        if _is_parent(call, task):
            self._reap(task)
        return record

    def _tell_waiters(self, task: Task) -> None:
        """Answer every wait for this task by pid, and one wait of its parent's for any child."""
        record = _record(task)
        is_reaped = False
        for call, pid in list(self._waits.items()):
            is_parent = _is_parent(call, task)
            is_named = pid == task.pid and (is_parent or call.is_operator)
            if is_named or (pid == 0 and is_parent and not is_reaped):
                del self._waits[call]
                self._calls.reply(call, record)
                is_reaped = is_reaped or is_parent
        if is_reaped:
            self._reap(task)

    def _answer_childless(self) -> None:
        """Fail the waits of parents whose last child was reaped by another wait of theirs."""
        for call, pid in list(self._waits.items()):
            if not self._waitable(call, pid):
                del self._waits[call]
                text = "proc.wait: the caller has no child left to wait for"
                self._calls.fail(call, KernelError(Errno.ECHILD, text))

    def _leave_holder(self, task: Task) -> None:
        held = self._held[task.holder]
        del held[task.pid]
        if not held:
            del self._held[task.holder]

    def _reap(self, task: Task) -> None:
        del self.tasks[task.pid]
        if task.pid in self._orphans:
            self._orphans.remove(task.pid)


def _check_capabilities(call: Call, wanted: Any) -> None:
    """Raise KernelError EINVAL for what is none, EPERM for what the caller lacks."""
    for capability in wanted:
        if capability not in CAPABILITIES:
            text = f"proc.spawn: capability {ascii(capability)[:80]} is not one of {', '.join(CAPABILITIES)}"
            raise KernelError(Errno.EINVAL, text)
        if call.task is not None and capability not in call.task.capabilities:
            text = f"proc.spawn: task {call.task.pid} lacks the capability {capability} and cannot give it"
            raise KernelError(Errno.EPERM, text)


def _is_parent(call: Call, task: Task) -> bool:
    return task.ppid == (call.task.pid if call.task else 0)


def _record(task: Task) -> dict[str, Any]:
    """Return what proc.wait tells of a zombie."""
    return {
        "pid": task.pid,
        "name": task.name,
        "status": task.status,
        "signal": task.signal,
        "reason": task.reason,
        "tail": "\n".join(task.log_text().splitlines()[-TAIL_LINES:]),
        "usage": task.usage.summary(),
    }


def _reason(task: Task) -> str:
    if task.signal is not None:
        try:
            return f"signal {signal.Signals(task.signal).name}"
        except ValueError:
            return f"signal {task.signal}"
    if task.status is None:
        return "its process is gone"
    return f"exit status {task.status}"


def _strings(name: str, values: Any) -> list[str]:
    for value in values:
        if not isinstance(value, str) or "\0" in value:
            text = f"proc.spawn: {name} has {ascii(value)[:80]}: wanted strings without NUL"
            raise KernelError(Errno.EINVAL, text)
    return list(values)
