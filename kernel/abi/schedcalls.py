"""The calls of sched.*, group.* and sys.pressure: see calls.py, whose part this is."""

from __future__ import annotations

from dataclasses import dataclass

from kernel.abi.schema import bounded

MAX_GROUP_CHARS = 256  # of a path
CLASSES = ("realtime", "fair", "batch", "idle")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedSetattr:
    """Change how a task is scheduled: what is left out stays.

    pid 0 is the caller. `policy` is by which rule it shares the model with those who chose the same, out of what they
    are entitled to together; "" is its group's own. `nice` goes from -20, the most, to 19, each step a quarter;
    `weight` says the share itself (nice 0 is 100). `slice_ms` is how much core time a turn on the model lasts: the
    share stays, a shorter one comes sooner. `sched_class`: "realtime" before all, by `rt_priority` (99 first), with
    policy "fcfs" or "rr"; "fair"; "batch" after these; "idle" after all. `quota` limits what the task itself may use,
    {tokens, turns, wall_ms, requests, kv_tokens}, as a group's attributes do; null lifts one.

    Answers what sched.getattr answers. Without being an operator a task may lower itself or a child, choose among the
    policies that its group lets it, and its slice; the capability sched.raise lifts that. EPERM, ESRCH, EINVAL."""

    pid: int = bounded(0, 1 << 31, 0)
    policy: str | None = bounded(0, 32, None)
    nice: int | None = bounded(-20, 19, None)
    weight: int | None = bounded(1, 10_000, None)
    slice_ms: int | None = bounded(1, 10_000, None)
    sched_class: str | None = bounded(1, 16, None)
    rt_priority: int | None = bounded(1, 99, None)
    quota: dict | None = bounded(0, 8, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedGetattr:
    """Answer {pid, group, policy, nice, weight, slice_ms, sched_class, rt_priority,
    quota}: what is in force. ESRCH."""

    pid: int = bounded(0, 1 << 31, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedGetpolicies:
    """Answer {policies: [{name, doc, params: {name: {min, max, default, doc}}}], classes: [{name, doc, floor}],
    current}: current is the policy of the group "/"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedHint:
    """Say how many tokens the caller's request in flight, or its next one, will still generate. Answers {}. It is
    counted from now, over all of the caller's requests, and forgotten as soon as one of them ends.

    The policies srpt and hrrn go by it; a wrong one costs its sender its place and nobody anything else. null takes it
    back. EPERM: an operator."""

    remaining_tokens: int | None = bounded(0, 1 << 20, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedStat:
    """Answer a task's scheduling: {pid, group, policy, sched_class, weight, attained_s, lag_s, wait_s, longest_wait_s,
    waits_now_s, stage, switches, rescues, bound_s, bound: {starve_s, tasks, rows, lease_s, step_s, reads_s, switch_s,
    banks_s}, why}.

    attained_s: modelled core time that it has had; stage: "", "warn", "boost" or "rescue" of the wait at hand; bound_s:
    within this it gets a turn whatever others do: starve_s + ceil(tasks / rows) * (lease_s + step_s + switch_s) +
    reads_s + banks_s; why: the last wait in a sentence, "" if there was none. ESRCH."""

    pid: int = bounded(0, 1 << 31, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCreate:
    """Create a scheduling group below one that exists, by its path: "/team" or "/team/night". Answers what group.stat
    answers of one group. EPERM: an operator, or sched.group for paths below the caller's own group; ENOENT: no parent;
    EEXIST; EINVAL; EAGAIN: too many groups."""

    path: str = bounded(2, MAX_GROUP_CHARS)
    attr: dict | None = bounded(0, 64, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSetattr:
    """Change a group; what is left out of `attr` stays, null is the default. Answers what group.stat answers of it.

    attr: {policy, params, policies, weight, min_share, max_share, slice_ms, gap, starve_ms, kv_tokens, tasks, requests,
    tokens, turns, wall_ms, max_wait_ms}; docs/scheduling.md says what each is. EPERM as group.create, also for the
    caller's own group; ENOENT; EINVAL."""

    path: str = bounded(1, MAX_GROUP_CHARS)
    attr: dict = bounded(0, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAttach:
    """Move a task into a group; its children stay where they are, new ones begin there. Answers {}.

    An operator may move any; with sched.group a task may move itself and its children to its own group and below.
    EPERM, ESRCH, ENOENT; EAGAIN: the group has as many tasks as it may."""

    path: str = bounded(1, MAX_GROUP_CHARS)
    pid: int = bounded(0, 1 << 31, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRemove:
    """Remove a group without tasks and groups in it. Answers {}. EPERM as group.create; ENOENT; EBUSY: not empty."""

    path: str = bounded(2, MAX_GROUP_CHARS)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStat:
    """Answer {groups: [{path, attr, tasks, runnable, requests, attained_s, used: {tokens, turns, wall_s, kv_tokens}}]}:
    of one, or of all for the path "". ENOENT."""

    path: str = bounded(0, MAX_GROUP_CHARS, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SysPressure:
    """Answer {models: [{name, slots: {some, full}, kv: {some, full}}]}, each {avg10, avg60, avg300, total_s} as in
    Linux's PSI: percent of the time in which some, or all, of those who wanted the model waited for a slot, or for
    memory for their contexts."""
