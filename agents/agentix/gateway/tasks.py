"""The tasks that stand for the gateway's callers: made when first needed, ended when long unused.

All are in one scheduling group, which an operator can change. A caller with a key has one task for each group that it
names and priority that it uses; one without a key has one for each conversation. Who uses it: gateway.py, and server.py
for the group. What must hold: a task with a request in flight is never ended; there are never more tasks than the
kernel allows one holder; a task that somebody killed is forgotten, and made anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, field

from agentix.aio import AsyncAgent, AsyncTask
from agentix.errors import AgentixError, AlreadyExists, NoSuchChild
from agentix.gateway.callers import Caller
from agentix.gateway.conversations import Chain, Conversations
from agentix.gateway.problems import Problem

GROUP = "/http"
# Chats are short beside what agents do: who begins goes first, whole prompts go in at once, and nobody waits for long.
GROUP_ATTR = {"policy": "mlfq", "gap": 0, "starve_ms": 10_000}
MAX_TASKS = 960  # of the 1,024 that the kernel allows one holder: some are on their way out
MAX_IDLE = 256  # conversations without a key that nobody uses at the moment
IDLE_S = 600.0  # after so long without a request a task ends, and its kept contexts with it
SWEEP_S = 5.0
REAP_S = 0.5  # between looks while there is no task
CREATE_S = 30.0


async def make_group(agent: AsyncAgent) -> str:
    """Make the callers' group, unless it is there, maybe as an operator has set it; return its policy.

    "": it has the kernel's. Raises AgentixError.
    """
    try:
        group = await agent.groups.create(GROUP, timeout=CREATE_S, **GROUP_ATTR)
    except AlreadyExists:
        (group,) = await agent.groups.stat(GROUP, timeout=CREATE_S)
    return group.attr["policy"]


@dataclass(slots=True, eq=False)
class Seat:
    """A caller's task, and how many requests it has in flight."""

    key: Hashable
    name: str
    limit: int  # of requests in flight
    is_passing: bool  # nothing leads back to it: it ends with its request
    task: AsyncTask | None = None
    making: asyncio.Future[None] | None = None
    in_flight: int = 0
    used_s: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        return self.task.pid if self.task is not None else 0


class TaskTable:
    """Seats by caller. `take` and `give_back` go in pairs."""

    def __init__(self, agent: AsyncAgent) -> None:
        self._agent = agent
        self._seats: dict[Hashable, Seat] = {}  # least lately used first
        self._busy: set[Hashable] = set()
        self._conversations = Conversations()
        self._made = 0
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._seats)

    @property
    def in_flight(self) -> int:
        return sum(seat.in_flight for seat in self._seats.values())

    async def take(self, caller: Caller, chain: Chain) -> Seat:
        """Return the caller's seat with one more request in flight. Raises Problem."""
        seat = self._find(caller, chain)
        if seat.in_flight >= seat.limit:
            text = f"{seat.name or 'this caller'} has {seat.in_flight} requests in flight, as many as it may have"
            raise Problem(429, "rate_limit_exceeded", text, retry_after_s=1.0)
        seat.in_flight += 1
        self._busy.add(seat.key)
        try:
            while seat.task is None:
                if seat.making is None:
                    seat.making = asyncio.ensure_future(self._make(seat, caller.priority))
                await asyncio.shield(seat.making)
        except BaseException:
            self.give_back(seat)
            raise
        return seat

    def give_back(self, seat: Seat, *, is_dead: bool = False) -> None:
        """A request has ended; is_dead: its task is no more."""
        seat.in_flight -= 1
        seat.used_s = time.monotonic()
        if is_dead and self._seats.get(seat.key) is seat:
            self._forget(seat)
        if not seat.in_flight:
            if self._seats.get(seat.key) is seat:
                self._busy.discard(seat.key)
                self._seats[seat.key] = self._seats.pop(seat.key)
                if seat.task is None or seat.is_passing:
                    self._forget(seat)
                    self._close(seat)
                self._limit_idle()
            elif seat.task is not None:
                self._close(seat)

    async def sweep(self) -> None:
        """End what is long unused, for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.end_idle(time.monotonic() - IDLE_S)

    async def reap(self) -> None:
        """Notice tasks that others have ended, for ever: the next request gets a new one."""
        while True:
            try:
                end = await self._agent.wait()
            except NoSuchChild:
                await asyncio.sleep(REAP_S)
                continue
            for seat in [seat for seat in self._seats.values() if seat.pid == end.pid]:
                self._forget(seat)

    def end_idle(self, since_s: float) -> None:
        """End tasks that nobody has used since then."""
        for seat in [
            seat for seat in self._seats.values() if not seat.in_flight and seat.used_s <= since_s
        ]:
            self._forget(seat)
            self._close(seat)

    def end(self, name: str) -> None:
        """End the tasks of a key; those with requests in flight end after these."""
        for seat in [
            seat
            for seat in self._seats.values()
            if seat.name == name or seat.name.startswith(f"{name}/")
        ]:
            self._forget(seat)
            if not seat.in_flight:
                self._close(seat)

    # -- inside -------------------------------------------------------------------------------

    def _find(self, caller: Caller, chain: Chain) -> Seat:
        if caller.name:
            key: Hashable = (caller.name, caller.group, caller.priority)
            name = caller.name + (f"/{caller.group}" if caller.group else "")
        elif caller.group:
            key, name = ("", caller.group, caller.priority), caller.group
        else:
            known = self._conversations.find(chain, self._busy)
            if known is None or known[1] != caller.priority:  # type: ignore[index]
                self._made += 1
                known = (self._made, caller.priority)
            key, name = known, f"chat-{known[0]}"  # type: ignore[index]
            if chain:
                self._conversations.put(key, chain)
        seat = self._seats.get(key)
        if seat is None:
            self._make_room()
            is_known = bool(caller.name or caller.group or chain)
            seat = self._seats[key] = Seat(
                key, name, caller.key.max_in_flight, is_passing=not is_known
            )
        return seat

    def _make_room(self) -> None:
        if len(self._seats) < MAX_TASKS:
            return
        for seat in self._seats.values():
            if not seat.in_flight:
                self._forget(seat)
                self._close(seat)
                return
        text = f"all {MAX_TASKS} tasks of this gateway have requests in flight"
        raise Problem(429, "rate_limit_exceeded", text, retry_after_s=2.0)

    def _limit_idle(self) -> None:
        idle = [
            one
            for one in self._seats.values()
            if not one.in_flight and one.key in self._conversations
        ]
        for seat in idle[: max(0, len(idle) - MAX_IDLE)]:
            self._forget(seat)
            self._close(seat)

    async def _make(self, seat: Seat, priority: int) -> None:
        try:
            task = self._agent.task(
                seat.name[:64], priority, group=GROUP, timeout=CREATE_S
            )
            seat.task = await task.__aenter__()
        finally:
            seat.making = None

    def _forget(self, seat: Seat) -> None:
        del self._seats[seat.key]
        self._busy.discard(seat.key)
        self._conversations.forget(seat.key)

    def _close(self, seat: Seat) -> None:
        """End a seat's task in the background."""
        if seat.task is None:
            return
        closing = asyncio.ensure_future(_end(seat.task))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


async def _end(task: AsyncTask) -> None:
    with suppress(AgentixError):
        await task.close()
