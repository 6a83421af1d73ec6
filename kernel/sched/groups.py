"""Scheduling groups: a tree of names, what each says of those in it, and what they have used.

Who calls it: schedcalls.py for group.* calls, the scheduler for what is in force. What must hold: "/" is always there;
a group has a parent; what a group leaves open is its parent's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from kernel.abi.codec import show
from kernel.abi.errors import Errno, KernelError
from kernel.config import Config
from kernel.limits import MAX_GROUPS
from kernel.objects import Call, Task
from kernel.sched.policy import POLICIES, make_policy
from kernel.taskattr import SLICE_MS_RANGE, WEIGHT_RANGE, GroupAttr, SchedClass, TaskAttr, Used

ROOT = "/"
MAX_PATH_PARTS = 8
_PART = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_COUNTS = ("kv_tokens", "tasks", "requests", "tokens", "turns", "wall_ms", "max_wait_ms")
_MOST = 1 << 53  # of a count


@dataclass(frozen=True, slots=True)
class Effective:
    """What is in force for the tasks of a group: its own, or the nearest ancestor's."""

    policy: str
    params: Mapping[str, int]
    slice_ms: int | None
    gap: float
    starve_ms: int


@dataclass(slots=True, eq=False)
class Group:
    path: str
    attr: GroupAttr
    children: dict[str, Group] = field(default_factory=dict)  # by path
    tasks: int = 0
    attained_ns: int = 0
    used: Used = field(default_factory=Used)
    quota: dict[str, int] = field(default_factory=dict)  # what of attr are limits, by quota.py's names


class Groups:
    """All of them, by path. Methods raise KernelError as the calls say."""

    def __init__(self, root: GroupAttr) -> None:
        self._groups = {ROOT: Group(ROOT, root)}
        self._effective: dict[str, Effective] = {}

    def __iter__(self) -> Any:
        return iter(self._groups.values())

    def __getitem__(self, path: str) -> Group:
        return self._groups[path]

    def find(self, path: str, method: str) -> Group:
        group = self._groups.get(path)
        if group is None:
            raise KernelError(Errno.ENOENT, f"{method}: no group {show(path)}")
        return group

    def lineage(self, path: str) -> list[Group]:
        """Return a group and all above it, "/" last."""
        return [self._groups[one] for one in lineage(path)]

    def effective(self, path: str) -> Effective:
        """Return what is in force in a group."""
        found = self._effective.get(path)
        if found is None:
            attrs = [group.attr for group in self.lineage(path)]
            source = next(attr for attr in attrs if attr.policy)
            found = self._effective[path] = Effective(
                source.policy,
                source.params,
                next((attr.slice_ms for attr in attrs if attr.slice_ms is not None), None),
                next(attr.gap for attr in attrs if attr.gap is not None),
                next(attr.starve_ms for attr in attrs if attr.starve_ms is not None),
            )
        return found

    def allowed(self, path: str) -> tuple[str, ...]:
        """Return the policies that a group's tasks may choose."""
        return next((group.attr.policies for group in self.lineage(path) if group.attr.policies), tuple(POLICIES))

    def create(self, path: str, given: Mapping[str, Any]) -> Group:
        method = "group.create"
        _check_path(path)
        if path in self._groups:
            raise KernelError(Errno.EEXIST, f"{method}: group {path} exists")
        if len(self._groups) >= MAX_GROUPS:
            raise KernelError(Errno.EAGAIN, f"{method}: {MAX_GROUPS} groups exist")
        parent = self.find(parent_of(path), method)
        group = Group(path, changed(GroupAttr(), given, method))
        group.quota = _limits(group.attr)
        parent.children[path] = self._groups[path] = group
        return group

    def set(self, path: str, given: Mapping[str, Any]) -> Group:
        group = self.find(path, "group.setattr")
        attr = changed(group.attr, given, "group.setattr")
        if path == ROOT and (not attr.policy or attr.gap is None or attr.starve_ms is None):
            text = "group.setattr: policy, gap and starve_ms of / have no parent's to be instead"
            raise KernelError(Errno.EINVAL, text)
        group.attr, group.quota = attr, _limits(attr)
        self._effective.clear()
        return group

    def remove(self, path: str) -> None:
        group = self.find(path, "group.remove")
        if group.children or group.tasks:
            text = f"group.remove: {path} has {len(group.children)} groups and {group.tasks} tasks in it"
            raise KernelError(Errno.EBUSY, text)
        del self._groups[path], self._groups[parent_of(path)].children[path]
        self._effective.pop(path, None)

    def check_join(self, call: Call, path: str, method: str) -> None:
        """Raise KernelError when the caller's child may not begin in a group; "": the caller's own.

        ENOENT; EPERM; EAGAIN: there are as many tasks as may be, there or above.
        """
        own = call.task.sched.group if call.task else ROOT
        group = self.find(path or own, method)
        if call.task is not None and group.path != own:
            self.check_right(call, group.path, method)
        self.check_room(group.path, method)

    def check_right(self, call: Call, path: str, method: str) -> None:
        """Raise EPERM unless the caller may do something with a group: an operator, or sched.group for those below."""
        task = call.task
        if task is None:
            return
        is_below = path != task.sched.group and task.sched.group in lineage(path)
        if "sched.group" not in task.capabilities or not is_below:
            text = f"task {task.pid} of group {task.sched.group} may not do this with group {path}"
            raise KernelError(Errno.EPERM, f"{method}: {text}")

    def check_move(self, call: Call, old: str, new: str) -> None:
        """Raise EPERM unless the caller may move a task: an operator, or sched.group within its own group and below."""
        task = call.task
        if task is None:
            return
        is_inside = all(task.sched.group in lineage(path) for path in (old, new))
        if "sched.group" not in task.capabilities or not is_inside:
            text = f"task {task.pid} of group {task.sched.group} may not move a task from {old} to {new}"
            raise KernelError(Errno.EPERM, f"{call.method}: {text}")

    def check_room(self, path: str, method: str) -> None:
        """Raise EAGAIN when a group, or one above it, has as many tasks as it may."""
        for group in self.lineage(path):
            most = group.attr.tasks
            if most is not None and group.tasks >= most:
                text = f"{method}: group {group.path} has {group.tasks} tasks, and may have {most}"
                raise KernelError(Errno.EAGAIN, text)

    def attr_of_child(self, parent: Task | None, path: str) -> TaskAttr:
        """Return how a new task is scheduled: as its parent, but not as REALTIME."""
        own = parent.sched if parent else TaskAttr()
        is_realtime = own.sched_class is SchedClass.REALTIME
        return TaskAttr(
            sched_class=SchedClass.FAIR if is_realtime else own.sched_class,
            policy="" if is_realtime else own.policy,
            weight=own.weight,
            slice_ms=own.slice_ms,
            group=path or own.group,
            quota=dict(own.quota),
        )

    def count(self, path: str, change: int) -> None:
        """So many tasks more are in a group."""
        for group in self.lineage(path):
            group.tasks += change


def root_attr(config: Config) -> GroupAttr:
    """Return what is in force where nobody says otherwise. Raises ValueError for a quantum that its policy refuses."""
    quantum = config.quantum_tokens
    has_quantum = quantum is not None and "quantum_tokens" in POLICIES[config.policy].params
    params = {"quantum_tokens": quantum} if has_quantum else {}
    make_policy(config.policy, params)
    return GroupAttr(policy=config.policy, params=params, gap=config.gap, starve_ms=config.starve_ms)


def _limits(attr: GroupAttr) -> dict[str, int]:
    pairs = ((name, getattr(attr, name)) for name in ("tokens", "turns", "wall_ms", "requests", "kv_tokens"))
    return {name: value for name, value in pairs if value is not None}


def parent_of(path: str) -> str:
    return path.rpartition("/")[0] or ROOT


def lineage(path: str) -> list[str]:
    """Return a path and all above it, "/" last."""
    found = [path]
    while found[-1] != ROOT:
        found.append(parent_of(found[-1]))
    return found


def _check_path(path: str) -> None:
    parts = path.split("/")[1:]
    is_fine = path.startswith("/") and 0 < len(parts) <= MAX_PATH_PARTS
    if not is_fine or not all(part and set(part) <= _PART and part not in (".", "..") for part in parts):
        text = f"{show(path)} is no group's path: wanted /name/name, of letters, digits, . _ -"
        raise KernelError(Errno.EINVAL, f"group.create: {text}")


def changed(attr: GroupAttr, given: Mapping[str, Any], method: str) -> GroupAttr:
    """Return attributes with some others. Raises EINVAL naming what is wrong."""
    defaults = {item.name: getattr(GroupAttr(), item.name) for item in fields(GroupAttr)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in defaults:
            known = ", ".join(defaults)
            raise KernelError(Errno.EINVAL, f"{method}: a group has no {show(name)}; it has {known}")
        values[name] = defaults[name] if value is None else _CHECKS[name](name, value, method)
    if "policy" in values and "params" not in values:
        values["params"] = {}
    made = replace(attr, **values)
    if made.params and not made.policy:
        raise KernelError(Errno.EINVAL, f"{method}: params go with a policy")
    if made.policy:
        try:
            make_policy(made.policy, made.params)
        except ValueError as error:
            raise KernelError(Errno.EINVAL, f"{method}: {error}") from None
    if made.min_share > made.max_share:
        text = f"{method}: min_share {made.min_share} is over max_share {made.max_share}"
        raise KernelError(Errno.EINVAL, text)
    return made


def _wrong(name: str, value: Any, method: str, wanted: str) -> KernelError:
    return KernelError(Errno.EINVAL, f"{method}: {name} is {show(value)}, wanted {wanted}")


def _policy(name: str, value: Any, method: str) -> str:
    if not isinstance(value, str) or value not in POLICIES:
        raise _wrong(name, value, method, f"one of {', '.join(POLICIES)}")
    return value


def _policies(name: str, value: Any, method: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > len(POLICIES):
        raise _wrong(name, value, method, "a list of policies")
    return tuple(_policy(name, one, method) for one in value)


def _params(name: str, value: Any, method: str) -> dict[str, int]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _wrong(name, value, method, "a map")
    return dict(value)


def _number(low: float, high: float, is_whole: bool) -> Any:
    def check(name: str, value: Any, method: str) -> Any:
        kinds = int if is_whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            raise _wrong(name, value, method, f"{'a whole number' if is_whole else 'a number'} from {low} to {high}")
        return value

    return check


_CHECKS: dict[str, Any] = {
    "policy": _policy,
    "params": _params,
    "policies": _policies,
    "weight": _number(*WEIGHT_RANGE, is_whole=True),
    "min_share": _number(0.0, 1.0, is_whole=False),
    "max_share": _number(0.001, 1.0, is_whole=False),
    "slice_ms": _number(*SLICE_MS_RANGE, is_whole=True),
    "gap": _number(0.0, 1000.0, is_whole=False),
    "starve_ms": _number(100, 3_600_000, is_whole=True),
    **{name: _number(0, _MOST, is_whole=True) for name in _COUNTS},
}
