"""Runnable requests, queued by the bank of slots that their contexts fit into: classes and a rescue tier over each
bank.

Who calls it: scheduler.py. What must hold: a request is in one queue, that of the smallest bank that holds its tokens
when it was last looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kernel.engine.base import Bank, EngineInfo
from kernel.objects import Request, Task
from kernel.sched.banks import TURN_STEPS, BankRota, bank_for
from kernel.sched.classes import ClassQueues
from kernel.sched.eevdf import Eevdf
from kernel.sched.groups import Groups
from kernel.sched.rescue import Rescue, Stage

Reached = Callable[[Request, Stage, int], None]


@dataclass(slots=True)
class _Queue:
    first: int  # slot of the bank
    slots: int
    classes: ClassQueues
    rescue: Rescue


class BankQueues:
    """Empty until the first core has said what banks there are."""

    def __init__(self, groups: Groups, reached: Reached) -> None:
        self._groups = groups
        self._reached = reached
        self._banks: tuple[Bank, ...] = ()
        self._queues: list[_Queue] = []
        self._rota = BankRota((), 0)

    def fit(self, info: EngineInfo, runnable: Iterable[Request]) -> None:
        """Take a core's banks; if they differ from the last one's, queue everybody anew."""
        if info.banks == self._banks:
            return
        self._banks = info.banks
        self._rota = BankRota(info.banks, info.kv_bytes)
        self._queues, first = [], 0
        for bank in info.banks:
            queue = _Queue(first, bank.slots, ClassQueues(self._groups), Rescue(self._reached))
            self._queues.append(queue)
            first += bank.slots
        for request in runnable:
            self.add(request)

    def add(self, request: Request) -> None:
        if not self._queues:
            return
        request.bank = bank_for(self._banks, len(request.tokens))
        queue = self._queues[request.bank]
        queue.classes.add(request)
        if request.slot is None:
            self.waits(request)

    def remove(self, request: Request) -> None:
        if self._queues:
            queue = self._queues[request.bank]
            queue.classes.remove(request)
            queue.rescue.gone(request)

    def regrade(self, request: Request) -> None:
        """Queue a request for a larger bank if it has outgrown its own."""
        if bank_for(self._banks, len(request.tokens)) > request.bank:
            self.remove(request)
            self.add(request)

    def charge(self, request: Request, core_ns: int, tokens: int) -> None:
        self._queues[request.bank].classes.charge(request, core_ns, tokens)

    def fed(self, request: Request, core_ns: int) -> None:
        """A request got further by a step that cost so much."""
        self._queues[request.bank].rescue.fed(request, core_ns)

    def pass_time(self, core_ns: int) -> None:
        """A step has passed."""
        for queue in self._queues:
            queue.classes.pass_time(core_ns)

    def choose(self, work_ns: int, now_ns: int, tasks: int) -> tuple[list[Request], tuple[int, ...], list[Request]]:
        """Return who is to hold a slot in the next step, the banks that have memory in it, and who of them is rescued.

        work_ns: the core time modelled so far; tasks: how many want the model.
        """
        banks = self._rota.choose([len(queue.classes) > 0 for queue in self._queues])
        chosen: list[Request] = []
        rescued: list[Request] = []
        for number in banks:
            queue = self._queues[number]
            first, inner = queue.rescue.look(now_ns, queue.slots, tasks)
            chosen += queue.classes.choose(queue.slots, work_ns, now_ns, first, inner)
            rescued += first
        return chosen, banks, rescued

    # -- slots --------------------------------------------------------------------------------

    def runs(self, request: Request, now_ns: int) -> None:
        """A request has a slot."""
        self._queues[request.bank].rescue.runs(request, now_ns)

    def waits(self, request: Request) -> None:
        """A runnable request has no slot, since its wants_since_ns."""
        starve_ms = self._groups.effective(request.task.sched.group).starve_ms
        self._queues[request.bank].rescue.waits(request, request.wants_since_ns, starve_ms * 1_000_000)

    def boost(self, request: Request) -> None:
        """Put a request first in its own policy until it has a slot."""
        self._queues[request.bank].classes.boost(request)

    def stage(self, request: Request) -> Stage:
        return self._queues[request.bank].rescue.stage(request) if self._queues else Stage.NONE

    def first_slot(self, request: Request) -> int:
        """The first slot of the request's bank."""
        return self._queues[request.bank].first

    def is_in_its_bank(self, request: Request) -> bool:
        """Whether the request holds a slot, and of its bank."""
        queue = self._queues[request.bank]
        return request.slot is not None and queue.first <= request.slot < queue.first + queue.slots

    def next_free_ns(self) -> int | None:
        """When a group that was held back by its cap may go on."""
        times = [queue.classes.next_free_ns() for queue in self._queues]
        return min((at for at in times if at is not None), default=None)

    def policy_of(self, request: Request) -> object:
        """Return the policy that ranks a request, None if it is not queued."""
        return self._queues[request.bank].classes.policy_of(request) if self._queues else None

    def lag_ns(self, task: Task) -> float:
        """Return the core time that a runnable task is owed where shares are fair; 0 elsewhere."""
        for request in task.requests:
            policy = self.policy_of(request)
            if isinstance(policy, Eevdf):
                return policy.lag_ns(task)
        return 0.0

    def forget_group(self, path: str) -> None:
        for queue in self._queues:
            queue.classes.forget_group(path)

    def slots_of(self, bank: int) -> int:
        """How many slots a request of this bank may be rescued in."""
        return self._queues[bank].slots if self._queues else 1

    def rows_taken(self, bank: int) -> int:
        """How many of the slots for the rescued are held by some."""
        return self._queues[bank].rescue.taken if self._queues else 0

    def rota_steps(self) -> int:
        """How many steps a bank may be without memory, for others that want to run."""
        wanted = [number for number, queue in enumerate(self._queues) if len(queue.classes)]
        together = self._rota.fit_together(wanted)
        return 0 if together else TURN_STEPS * (len(wanted) - 1)
