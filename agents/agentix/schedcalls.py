"""The calls of sched.* and group.*: their bodies, and what becomes of their answers. See calls.py, whose part this is.

Who uses it: sched.py and aio_sched.py, and the commands that show or change a schedule. What must hold: as in calls.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from agentix.calls import Call, given, nothing


class Schedule(NamedTuple):
    """How a task is scheduled: what is in force."""

    pid: int
    group: str  # path
    policy: str
    nice: int  # -20 first, 19 last
    weight: int  # its share against others'; nice 0 is 100
    slice_s: float | None  # core time that a turn on the model lasts; None: its policy has no slice
    sched_class: str  # "realtime", "fair", "batch" or "idle"
    rt_priority: int  # within realtime: 99 first
    quota: dict[str, int]  # what the task itself may use


class Param(NamedTuple):
    """What can be set of a policy."""

    min: int
    max: int
    default: int
    doc: str


class Policy(NamedTuple):
    """A rule by which tasks share a model."""

    doc: str
    params: dict[str, Param]  # of a group's attribute `params`


class SchedClass(NamedTuple):
    """A class of tasks."""

    doc: str
    floor: float  # the part of the core time that it gets at least


class Policies(NamedTuple):
    """The scheduling policies and classes of this kernel, by name."""

    policies: dict[str, Policy]
    classes: dict[str, SchedClass]  # who goes first, first
    current: str  # the policy of the group "/"


class Bound(NamedTuple):
    """The terms of the longest wait; see kernel/sched/rescue.py."""

    starve_s: float
    tasks: int  # that may have their turn before it, and itself
    rows: int  # slots of those who waited too long
    lease_s: float
    step_s: float  # the longest step
    reads_s: float  # that they take longer than their turns to read a chunk of their prompts
    switch_s: float
    banks_s: float  # that others' slots may keep a task's own out of memory


class Standing(NamedTuple):
    """How a task has fared, and how long it may have to wait."""

    pid: int
    group: str
    policy: str
    sched_class: str
    weight: int
    attained_s: float  # modelled core time that it has had
    lag_s: float  # core time that it is behind its share; below zero: ahead
    wait_s: float  # without a slot, in all
    longest_wait_s: float
    waits_now_s: float
    stage: str  # of the wait at hand: "", "warn", "boost" or "rescue"
    switches: int
    rescues: int
    bound_s: float  # within this it gets a turn, whatever others do
    bound: Bound
    why: str  # the last wait in a sentence; "": there was none


class Group(NamedTuple):
    """A scheduling group."""

    path: str
    attr: dict[str, Any]
    tasks: int
    runnable: int  # of these, with a request in flight
    requests: int  # in flight
    attained_s: float  # modelled core time
    used: dict[str, float]  # tokens, turns, wall_s, kv_tokens


def sched_set(*, slice: float | None = None, quota: Mapping[str, int | None] | None = None, **fields: Any) -> Call:
    """slice: in seconds."""
    slice_ms = None if slice is None else round(slice * 1000)
    body = given(slice_ms=slice_ms, quota=None if quota is None else dict(quota), **fields)
    return Call("sched.setattr", body, _schedule)


def sched_get(pid: int) -> Call:
    return Call("sched.getattr", {"pid": pid}, _schedule)


def _schedule(body: dict[str, Any]) -> Schedule:
    slice_ms = body["slice_ms"]
    named = {name: body[name] for name in Schedule._fields if name != "slice_s"}
    return Schedule(**named, slice_s=None if slice_ms is None else slice_ms / 1000)


def sched_policies() -> Call:
    return Call("sched.getpolicies", {}, _policies)


def _policies(body: dict[str, Any]) -> Policies:
    policies = {item["name"]: Policy(item["doc"], _params(item["params"])) for item in body["policies"]}
    classes = {item["name"]: SchedClass(item["doc"], item["floor"]) for item in body["classes"]}
    return Policies(policies, classes, body["current"])


def _params(params: Mapping[str, Mapping[str, Any]]) -> dict[str, Param]:
    return {name: Param(*(param[field] for field in Param._fields)) for name, param in params.items()}


def sched_hint(remaining_tokens: int | None) -> Call:
    return Call("sched.hint", given(remaining_tokens=remaining_tokens), nothing)


def sched_stat(pid: int) -> Call:
    return Call("sched.stat", {"pid": pid}, _standing)


def _standing(body: dict[str, Any]) -> Standing:
    bound = Bound(*(body["bound"][name] for name in Bound._fields))
    return Standing(**{name: body[name] for name in Standing._fields if name != "bound"}, bound=bound)


def group_create(path: str, attr: Mapping[str, Any]) -> Call:
    return Call("group.create", {"path": path, "attr": dict(attr)}, _group)


def group_set(path: str, attr: Mapping[str, Any]) -> Call:
    return Call("group.setattr", {"path": path, "attr": dict(attr)}, _group)


def group_attach(path: str, pid: int) -> Call:
    return Call("group.attach", {"path": path, "pid": pid}, nothing)


def group_remove(path: str) -> Call:
    return Call("group.remove", {"path": path}, nothing)


def group_stat(path: str) -> Call:
    return Call("group.stat", {"path": path}, lambda body: [_group(row) for row in body["groups"]])


def _group(row: dict[str, Any]) -> Group:
    return Group(*(row[name] for name in Group._fields))
