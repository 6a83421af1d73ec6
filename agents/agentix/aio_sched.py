"""AsyncSched and AsyncGroups: sched.py's methods for asyncio. Each does what its twin's docstring says.

Who uses it: aio.py makes them. What must hold: as in aio.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentix import schedcalls
from agentix.schedcalls import Group, Policies, Schedule, Standing

if TYPE_CHECKING:
    from agentix.aio_client import AsyncConnection
    from agentix.channel import Channel


class AsyncSched:
    """Sched for asyncio."""

    def __init__(self, connection: AsyncConnection | Channel) -> None:
        self._connection = connection

    async def set(
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
        return await self._connection.call(call, timeout)

    async def get(self, pid: int = 0, *, timeout: float | None = None) -> Schedule:
        return await self._connection.call(schedcalls.sched_get(pid), timeout)

    async def policies(self, *, timeout: float | None = None) -> Policies:
        return await self._connection.call(schedcalls.sched_policies(), timeout)

    async def hint(self, remaining_tokens: int | None, *, timeout: float | None = None) -> None:
        await self._connection.call(schedcalls.sched_hint(remaining_tokens), timeout)

    async def stat(self, pid: int = 0, *, timeout: float | None = None) -> Standing:
        return await self._connection.call(schedcalls.sched_stat(pid), timeout)


class AsyncGroups:
    """Groups for asyncio."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(self, path: str, *, timeout: float | None = None, **attr: Any) -> Group:
        return await self._connection.call(schedcalls.group_create(path, attr), timeout)

    async def set(self, path: str, *, timeout: float | None = None, **attr: Any) -> Group:
        return await self._connection.call(schedcalls.group_set(path, attr), timeout)

    async def attach(self, path: str, pid: int = 0, *, timeout: float | None = None) -> None:
        await self._connection.call(schedcalls.group_attach(path, pid), timeout)

    async def remove(self, path: str, *, timeout: float | None = None) -> None:
        await self._connection.call(schedcalls.group_remove(path), timeout)

    async def stat(self, path: str = "", *, timeout: float | None = None) -> list[Group]:
        return await self._connection.call(schedcalls.group_stat(path), timeout)
