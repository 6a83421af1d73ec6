"""Runnable requests, queued by the bank of slots that their contexts fit into; a policy over each bank.

Who calls it: scheduler.py. What must hold: a request is in one queue, that of the smallest bank that holds
its tokens when it was last looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kernel.engine.base import Bank, EngineInfo
from kernel.objects import Request
from kernel.sched.banks import BankRota, bank_for
from kernel.sched.policy import POLICIES, Policy


@dataclass(slots=True)
class _Queue:
    first: int  # slot of the bank
    slots: int
    policy: Policy
    runnable: int = 0


class BankQueues:
    """Empty until the first core has said what banks there are."""

    def __init__(self, policy: str, quantum_tokens: int) -> None:
        self.policy_name = policy
        self.quantum_tokens = quantum_tokens
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
            self._queues.append(_Queue(first, bank.slots, self._make_policy()))
            first += bank.slots
        for request in runnable:
            self.add(request)

    def set_policy(self, name: str, quantum_tokens: int, runnable: Iterable[Request]) -> None:
        """Start a new policy over those who are queued, in the order given."""
        self.policy_name, self.quantum_tokens = name, quantum_tokens
        for queue in self._queues:
            queue.policy = self._make_policy()
        for request in runnable:
            self._queues[request.bank].policy.add(request)

    def add(self, request: Request) -> None:
        request.bank = bank_for(self._banks, len(request.tokens))
        queue = self._queues[request.bank]
        queue.runnable += 1
        queue.policy.add(request)

    def remove(self, request: Request) -> None:
        queue = self._queues[request.bank]
        queue.runnable -= 1
        queue.policy.remove(request)

    def regrade(self, request: Request) -> None:
        """Queue a request for a larger bank if it has outgrown its own."""
        if bank_for(self._banks, len(request.tokens)) > request.bank:
            self.remove(request)
            self.add(request)

    def charge(self, request: Request, units: int) -> None:
        self._queues[request.bank].policy.charge(request, units)

    def choose(self) -> tuple[list[Request], tuple[int, ...]]:
        """Return who is to hold a slot in the next step, and the banks that have memory in it."""
        banks = self._rota.choose([queue.runnable > 0 for queue in self._queues])
        chosen: list[Request] = []
        for number in banks:
            queue = self._queues[number]
            chosen += queue.policy.choose(queue.slots)
        return chosen, banks

    def first_slot(self, request: Request) -> int:
        """The first slot of the request's bank."""
        return self._queues[request.bank].first

    def is_in_its_bank(self, request: Request) -> bool:
        """Whether the request holds a slot, and of its bank."""
        queue = self._queues[request.bank]
        return request.slot is not None and queue.first <= request.slot < queue.first + queue.slots

    def _make_policy(self) -> Policy:
        return POLICIES[self.policy_name](self.quantum_tokens)
