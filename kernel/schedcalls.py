"""The handlers of sched.*, group.* and sys.pressure.

Who calls it: dispatch.py's table. What must hold: who is refused has changed nothing; what changes is in force from the
next step on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kernel.abi import schedcalls as abi
from kernel.abi.codec import show
from kernel.abi.errors import Errno, KernelError
from kernel.objects import Call, Task
from kernel.sched.bounds import Bounds
from kernel.sched.classes import DESCRIPTIONS, FLOORS
from kernel.sched.groups import Group
from kernel.sched.policy import POLICIES
from kernel.sched.quota import check_quota
from kernel.states import TaskState
from kernel.taskattr import SchedClass

if TYPE_CHECKING:
    from kernel.core import Kernel
    from kernel.sched.scheduler import Scheduler

REALTIME_POLICIES = ("", "fcfs", "rr")


# -- tasks -----------------------------------------------------------------------------------------


def setattr_(kernel: Kernel, call: Call, options: abi.SchedSetattr, now_ns: int) -> dict[str, Any]:
    task = _subject(kernel, call, options.pid)
    attr = task.sched
    wanted = attr.sched_class if options.sched_class is None else _class_of(options.sched_class)
    _check_change(call, task, options, wanted)
    _check_policy(kernel, call, task, options, wanted)
    quota = dict(attr.quota)
    if options.quota is not None:
        check_quota(options.quota, call.method)
        quota |= options.quota
        _check_quota_right(call, task, quota)

    def change() -> None:
        if options.nice is not None:
            task.priority, attr.weight = options.nice, None
        attr.sched_class = wanted
        for name in ("policy", "weight", "slice_ms", "rt_priority"):
            value = getattr(options, name)
            if value is not None:
                setattr(attr, name, value)
        attr.quota = {name: value for name, value in quota.items() if value is not None}

    kernel.requeue([task], change)
    return describe_task(kernel, task)


def getattr_(kernel: Kernel, call: Call, options: abi.SchedGetattr, now_ns: int) -> dict[str, Any]:
    pid = options.pid or (call.task.pid if call.task else 0)
    return describe_task(kernel, kernel.table.find(pid, call.method))


def describe_task(kernel: Kernel, task: Task) -> dict[str, Any]:
    """Return the body of sched.getattr."""
    attr = task.sched
    effective = kernel.groups.effective(attr.group)
    policy = attr.policy or effective.policy
    if attr.sched_class is SchedClass.REALTIME and not attr.policy:
        policy = "fcfs"
    slice_ms = attr.slice_ms or effective.slice_ms
    if slice_ms is None and "slice_ms" in POLICIES[policy].params:
        slice_ms = POLICIES[policy].params["slice_ms"].default
    return {
        "pid": task.pid,
        "group": attr.group,
        "policy": policy,
        "nice": task.priority,
        "weight": attr.weight_at(task.priority),
        "slice_ms": slice_ms,
        "sched_class": attr.sched_class.name.lower(),
        "rt_priority": attr.rt_priority,
        "quota": attr.quota,
    }


def hint(kernel: Kernel, call: Call, options: abi.SchedHint, now_ns: int) -> dict[str, Any]:
    if call.task is None:
        raise KernelError(Errno.EPERM, f"{call.method}: an operator is no task")
    task = call.task

    def change() -> None:
        left = options.remaining_tokens
        task.sched.hint_until = None if left is None else task.usage.generated_tokens + left

    kernel.requeue([task], change)
    return {}


def stat(kernel: Kernel, call: Call, options: abi.SchedStat, now_ns: int) -> dict[str, Any]:
    pid = options.pid or (call.task.pid if call.task else 0)
    task = kernel.table.find(pid, call.method)
    scheduler = scheduler_of(kernel, task)
    bound = Bounds(scheduler, kernel.groups).of(task)
    attr, known = task.sched, describe_task(kernel, task)
    waits_ns, stage = scheduler.waits.now(task.pid, now_ns)
    return {
        **{name: known[name] for name in ("pid", "group", "policy", "sched_class", "weight")},
        "attained_s": attr.attained_ns / 1e9,
        "lag_s": scheduler.queues.lag_ns(task) / 1e9,
        "wait_s": task.usage.wait_ns / 1e9,
        "longest_wait_s": scheduler.waits.longest(task.pid, now_ns) / 1e9,
        "waits_now_s": waits_ns / 1e9,
        "stage": stage.name.lower() if stage else "",
        "switches": task.usage.switches,
        "rescues": scheduler.waits.rescues(task.pid),
        "bound_s": bound.seconds,
        "bound": asdict(bound),
        "why": scheduler.waits.why(task, now_ns),
    }


def scheduler_of(kernel: Kernel, task: Task) -> Scheduler:
    """Return the scheduler of the model that a task uses, the first one's if it uses none."""
    number = task.requests[0].core if task.requests else task.last_core
    return kernel.cores[number].scheduler


def getpolicies(kernel: Kernel, call: Call, options: Any, now_ns: int) -> dict[str, Any]:
    policies = [
        {
            "name": name,
            "doc": kind.doc,
            "params": {
                key: {"min": param.low, "max": param.high, "default": param.default, "doc": param.doc}
                for key, param in kind.params.items()
            },
        }
        for name, kind in POLICIES.items()
    ]
    classes = [
        {"name": one.name.lower(), "doc": DESCRIPTIONS[one], "floor": FLOORS.get(one, 0.0)} for one in SchedClass
    ]
    return {"policies": policies, "classes": classes, "current": kernel.groups["/"].attr.policy}


def _subject(kernel: Kernel, call: Call, pid: int) -> Task:
    """Return the task that the caller may change. Raises EPERM, ESRCH."""
    task = kernel.table.find(pid or (call.task.pid if call.task else 0), call.method)
    is_own = call.task is not None and call.task.pid in (task.pid, task.ppid)
    if not call.is_operator and not is_own:
        raise KernelError(Errno.EPERM, f"{call.method}: task {task.pid} is neither the caller nor a child of it")
    return task


def _class_of(name: str) -> SchedClass:
    if name not in abi.CLASSES:
        text = f"sched.setattr: sched_class {show(name)} is not one of {', '.join(abi.CLASSES)}"
        raise KernelError(Errno.EINVAL, text)
    return SchedClass[name.upper()]


def _check_change(call: Call, task: Task, options: abi.SchedSetattr, wanted: SchedClass) -> None:
    """Raise EPERM for what raises a task above what it is, without the right to."""
    if call.is_operator:
        return
    assert call.task is not None
    if wanted is SchedClass.REALTIME:
        if "sched.realtime" not in call.task.capabilities:
            text = f"{call.method}: class realtime needs the capability sched.realtime, task {call.task.pid} lacks it"
            raise KernelError(Errno.EPERM, text)
    elif "sched.raise" in call.task.capabilities:
        return
    elif wanted < task.sched.sched_class:
        text = f"{call.method}: task {task.pid} may not rise to class {wanted.name.lower()}"
        raise KernelError(Errno.EPERM, text)
    if "sched.raise" in call.task.capabilities:
        return
    if options.nice is not None and (options.nice < task.priority or task.sched.weight is not None):
        raise KernelError(Errno.EPERM, f"{call.method}: task {task.pid} may not rise to nice {options.nice}")
    if options.weight is not None and options.weight > task.sched.weight_at(task.priority):
        raise KernelError(Errno.EPERM, f"{call.method}: task {task.pid} may not rise to weight {options.weight}")


def _check_policy(kernel: Kernel, call: Call, task: Task, options: abi.SchedSetattr, wanted: SchedClass) -> None:
    policy = task.sched.policy if options.policy is None else options.policy
    if policy and policy not in POLICIES:
        text = f"{call.method}: policy {show(policy)} is not one of {', '.join(POLICIES)}"
        raise KernelError(Errno.EINVAL, text)
    if wanted is SchedClass.REALTIME and policy not in REALTIME_POLICIES:
        raise KernelError(Errno.EINVAL, f"{call.method}: class realtime has the policies fcfs and rr, not {policy}")
    allowed = kernel.groups.allowed(task.sched.group)
    if options.policy and not call.is_operator and policy not in allowed:
        text = f"{call.method}: group {task.sched.group} lets its tasks choose {', '.join(allowed)}, not {policy}"
        raise KernelError(Errno.EPERM, text)


def _check_quota_right(call: Call, task: Task, quota: dict[str, Any]) -> None:
    if call.is_operator:
        return
    for name, value in task.sched.quota.items():
        if quota[name] is None or quota[name] > value:
            raise KernelError(Errno.EPERM, f"{call.method}: task {task.pid} may not raise its quota of {value} {name}")


# -- groups ----------------------------------------------------------------------------------------


def create(kernel: Kernel, call: Call, options: abi.GroupCreate, now_ns: int) -> dict[str, Any]:
    kernel.groups.check_right(call, options.path, call.method)
    return describe_group(kernel, kernel.groups.create(options.path, options.attr or {}), now_ns)


def set_group(kernel: Kernel, call: Call, options: abi.GroupSetattr, now_ns: int) -> dict[str, Any]:
    kernel.groups.check_right(call, options.path, call.method)
    group = kernel.groups.find(options.path, call.method)
    found: list[KernelError] = []

    def change() -> None:
        try:
            kernel.groups.set(options.path, options.attr)
        except KernelError as error:  # everybody goes back to where they were
            found.append(error)

    kernel.requeue(_tasks_below(kernel, group), change)
    if found:
        raise found[0]
    return describe_group(kernel, group, now_ns)


def attach(kernel: Kernel, call: Call, options: abi.GroupAttach, now_ns: int) -> dict[str, Any]:
    task = _subject(kernel, call, options.pid)
    path = kernel.groups.find(options.path, call.method).path
    if path != task.sched.group:
        kernel.groups.check_move(call, task.sched.group, path)
        kernel.groups.check_room(path, call.method)

        def change() -> None:
            kernel.requests.quotas.move(task, path)
            kernel.groups.count(task.sched.group, -1)
            task.sched.group = path
            kernel.groups.count(path, 1)

        kernel.requeue([task], change)
    return {}


def remove(kernel: Kernel, call: Call, options: abi.GroupRemove, now_ns: int) -> dict[str, Any]:
    kernel.groups.check_right(call, options.path, call.method)
    kernel.groups.remove(options.path)
    for core in kernel.cores:
        core.scheduler.queues.forget_group(options.path)
    return {}


def group_stat(kernel: Kernel, call: Call, options: abi.GroupStat, now_ns: int) -> dict[str, Any]:
    found: Iterable[Group] = kernel.groups
    if options.path:
        found = [kernel.groups.find(options.path, call.method)]
    return {"groups": [describe_group(kernel, group, now_ns) for group in found]}


def describe_group(kernel: Kernel, group: Group, now_ns: int) -> dict[str, Any]:
    """Return a row of group.stat."""
    used = group.used
    tasks = _tasks_below(kernel, group)
    return {
        "path": group.path,
        "attr": asdict(group.attr),
        "tasks": group.tasks,
        "runnable": sum(bool(task.requests) for task in tasks),
        "requests": used.requests,
        "attained_s": group.attained_ns / 1e9,
        "used": {
            "tokens": used.tokens,
            "turns": used.turns,
            "wall_s": 0.0 if used.first_ns is None else (now_ns - used.first_ns) / 1e9,
            "kv_tokens": used.kv_tokens,
        },
    }


def _tasks_below(kernel: Kernel, group: Group) -> list[Task]:
    living = [task for task in kernel.table.tasks.values() if task.state is not TaskState.ZOMBIE]
    return [task for task in living if group in kernel.groups.lineage(task.sched.group)]


# -- the machine -----------------------------------------------------------------------------------


def pressure(kernel: Kernel, call: Call, options: Any, now_ns: int) -> dict[str, Any]:
    models = [
        {
            "name": core.model.name,
            "slots": core.scheduler.pressure.snapshot(now_ns),
            "kv": core.scheduler.memory_pressure.snapshot(now_ns),
        }
        for core in kernel.cores
    ]
    return {"models": models}


HANDLERS = {
    "sched.setattr": setattr_,
    "sched.getattr": getattr_,
    "sched.getpolicies": getpolicies,
    "sched.hint": hint,
    "sched.stat": stat,
    "group.create": create,
    "group.setattr": set_group,
    "group.attach": attach,
    "group.remove": remove,
    "group.stat": group_stat,
    "sys.pressure": pressure,
}
