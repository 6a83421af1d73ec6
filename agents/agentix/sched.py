"""Sched and Groups: how this task and others are scheduled, and the groups that share a model.

Who uses it: agent.py makes them, agents call them. What must hold: as in agent.py; the twins are in aio_sched.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentix import schedcalls
from agentix.schedcalls import Group, Policies, Schedule, Standing

if TYPE_CHECKING:
    from agentix.channel import Channel
    from agentix.client import Connection


class Sched:
    """How this task, or a child, is scheduled."""

    def __init__(self, connection: Connection | Channel) -> None:
        self._connection = connection

    def set(
        self,
        *,
        policy: str | None = None,
        nice: int | None = None,
        slice: float | None = None,
        weight: int | None = None,
        sched_class: str | None = None,
        rt_priority: int | None = None,
        quota: Mapping[str, int | None] | None = None,
        pid: int = 0,
        timeout: float | None = None,
    ) -> Schedule:
        """Change how a task is scheduled (0: this one); what is left out stays. Returns what is in force.

        policy: one of policies(); "" is its group's own. nice: -20 first, 19 last; weight says the share itself, nice
        0 is 100. slice: seconds of core time that a turn on the model lasts. sched_class: "realtime" (before all, by
        rt_priority, 99 first), "fair", "batch" or "idle". quota: what the task itself may use, {tokens, turns, wall_ms,
        requests, kv_tokens}; None lifts one.

        A task may lower itself and its children, and choose its slice and among the policies that its group lets it.
        Raises PermissionDenied, NoSuchTask, InvalidValue.
        """
        call = schedcalls.sched_set(
            pid=pid,
            policy=policy,
            nice=nice,
            slice=slice,
            weight=weight,
            sched_class=sched_class,
            rt_priority=rt_priority,
            quota=quota,
        )
        return self._connection.call(call, timeout)

    def get(self, pid: int = 0, *, timeout: float | None = None) -> Schedule:
        """How a task is scheduled. Raises NoSuchTask."""
        return self._connection.call(schedcalls.sched_get(pid), timeout)

    def policies(self, *, timeout: float | None = None) -> Policies:
        """The policies and classes that this kernel has."""
        return self._connection.call(schedcalls.sched_policies(), timeout)

    def hint(self, remaining_tokens: int | None, *, timeout: float | None = None) -> None:
        """Say how many tokens the request in flight, or the next one, will still generate; None takes it back.

        The policy srpt goes by it; a wrong one costs this task its place.
        """
        self._connection.call(schedcalls.sched_hint(remaining_tokens), timeout)

    def stat(self, pid: int = 0, *, timeout: float | None = None) -> Standing:
        """How a task has fared, and within how many seconds it gets a turn whatever others do. Raises NoSuchTask."""
        return self._connection.call(schedcalls.sched_stat(pid), timeout)


class Groups:
    """Scheduling groups: a tree of paths, each with a share and a policy of its own.

    Changing one takes the capability sched.group, and reaches below this task's own group.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, path: str, *, timeout: float | None = None, **attr: Any) -> Group:
        """Create a group below one that exists, such as create("/team", weight=200, policy="mlfq").

        docs/scheduling.md says what the attributes are. Raises PermissionDenied, NoSuchGroup for its parent,
        AlreadyExists, InvalidValue, TryAgain.
        """
        return self._connection.call(schedcalls.group_create(path, attr), timeout)

    def set(self, path: str, *, timeout: float | None = None, **attr: Any) -> Group:
        """Change a group; what is left out stays, None is the default.

        Raises PermissionDenied, NoSuchGroup, InvalidValue.
        """
        return self._connection.call(schedcalls.group_set(path, attr), timeout)

    def attach(self, path: str, pid: int = 0, *, timeout: float | None = None) -> None:
        """Move a task (0: this one) into a group; its children stay where they are.

        Raises PermissionDenied, NoSuchGroup, NoSuchTask, TryAgain.
        """
        self._connection.call(schedcalls.group_attach(path, pid), timeout)

    def remove(self, path: str, *, timeout: float | None = None) -> None:
        """Remove a group. Raises PermissionDenied, NoSuchGroup, and Busy while there is something in it."""
        self._connection.call(schedcalls.group_remove(path), timeout)

    def stat(self, path: str = "", *, timeout: float | None = None) -> list[Group]:
        """A group, or all of them, with what they have used. Raises NoSuchGroup."""
        return self._connection.call(schedcalls.group_stat(path), timeout)
