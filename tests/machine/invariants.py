"""What must hold of a kernel after every event, whatever the event was.

Who uses it: machine.py, after each event of each test.
"""

from __future__ import annotations

from collections import Counter

from kernel.calls import CallTable
from kernel.core import Kernel
from kernel.cores import Core
from kernel.ipc import mailbox
from kernel.ipc.mailbox import Mail, Mailbox, PostOffice
from kernel.limits import MAX_KEPT_CONTEXTS
from kernel.objects import Call, Request, Task
from kernel.proc.table import TaskTable
from kernel.sched.scheduler import Scheduler
from kernel.states import CoreState, TaskState


def check(kernel: Kernel) -> None:
    tasks = list(kernel.table.tasks.values())
    living = {task.pid for task in tasks if task.state is not TaskState.ZOMBIE}
    flights = [core.scheduler._flight for core in kernel.cores if core.scheduler._flight is not None]
    saving = {request for flight in flights for request, _ in flight.saves.values()}
    _check_contexts({core.number: core.scheduler._slots for core in kernel.cores}, tasks, saving)
    _check_calls(kernel.calls, tasks)
    _check_tasks(kernel.table)
    _check_mail(kernel.post, living)
    assert kernel.memory._segments.keys() <= living
    assert kernel.governor._accounts.keys() <= living
    assert {one.call.key for task in tasks for one in task.requests} == kernel.requests._by_call.keys()
    for core in kernel.cores:
        _check_kept(core.scheduler, living)
        _check_segments(core, tasks)
    assert all(core.store.held_bytes <= core.store.limit_bytes for core in kernel.cores)
    _check_cores(kernel, tasks)
    _check_durable(kernel, living)


def _check_durable(kernel: Kernel, living: set[int]) -> None:
    """A durable session is one task's, and whoever waits for the disk has a call that is not answered."""
    durable, sessions = kernel.requests.durable, kernel.requests.sessions
    opening = [one.key for one in durable._opens.values()]
    taken = [session.key for session in sessions.of(0) if session.key is not None] + opening
    assert len(set(taken)) == len(taken)
    assert set(taken) == sessions._taken.keys()
    assert set(sessions._taken.values()) <= living
    assert all(one.session.is_storing for one in durable._stores.values())
    waiting = [one.call for one in (*durable._opens.values(), *durable._stores.values(), *durable._removes.values())]
    assert all(kernel.calls._find(*call.key) is call for call in waiting if call is not None)


def _check_kept(scheduler: Scheduler, living: set[int]) -> None:
    kept = scheduler.kept
    known = [one for several in kept._by_owner.values() for one in several]
    assert all((one if isinstance(one, int) else one.task.pid) in living for one in kept._by_owner)
    assert all(len(several) <= MAX_KEPT_CONTEXTS for several in kept._by_owner.values())
    tiers = scheduler._parking.tiers
    reading = [kv for kv, _ in tiers._reads.values() if kv.contexts]
    line = [kv for several in tiers._lines.values() for kv in several]
    called = [kv for kv in line if not kv.is_resident]
    resident = [*tiers._dirty, *tiers._clean, *tiers._queued]
    held = [*resident, *tiers._away, *called, *reading]
    assert len(set(held)) == len(held), "a context is in two tiers"
    assert {one.kv for one in known if one.kv and one.kv.snapshot} == set(held)
    for kv in (*held, *kept._coming.values()):
        assert all(one.kv is kv for one in kv.contexts)
        assert (kv.snapshot is None) == kv.is_coming == (kv not in held)
        assert kv.contexts or kv.is_coming
        assert kv.is_resident == (kv in resident)
        assert (kv.extent is None) == (kv in tiers._dirty or kv.is_coming)
        assert bool(kv.takers) == (kv in line) or kv.is_coming or kv in reading
        assert kv not in tiers._queued or kv in line
        assert kv not in tiers._clean or kv not in line
    extents = [kv.extent for kv in held if kv.extent] + [write.extent for write in tiers._writes.values()]
    assert sum(one.size_bytes for one in extents) == tiers.space.used_bytes
    assert tiers._kept_bytes == sum(tiers.store.size_of(kv.snapshot.segment) for kv in resident)
    waiting = {taker: context for kv in (*held, *kept._coming.values()) for taker, context in kv.takers}
    assert waiting == kept._waiting
    leaving = set(scheduler._parking._leaving.values())
    if scheduler._flight is not None:
        leaving |= {request for request, _ in scheduler._flight.saves.values() if request.is_finished}
    assert kept._coming.keys() <= leaving, "a context is coming that nobody saves"
    for taker, context in waiting.items():
        assert taker not in scheduler._runnable
        assert not taker.is_finished
        assert context.kv is not None


def _check_segments(core: Core, tasks: list[Task]) -> None:
    """Every lent segment has as many users as it has shares."""
    flight = core.scheduler._flight
    users = Counter(flight.saves.keys() if flight is not None else ())
    tiers = core.tiers
    users.update(kv.snapshot.segment for kv in (*tiers._dirty, *tiers._clean, *tiers._queued))
    users.update(segment for _, segment in tiers._reads.values())
    users.update(
        one.snapshot.segment for task in tasks for one in task.requests if one.snapshot and one.core == core.number
    )
    assert users == {segment: 1 + core.store._shares.get(segment, 0) for segment in core.store._lent}


def _check_cores(kernel: Kernel, tasks: list[Task]) -> None:
    in_flight = Counter(request.core for task in tasks for request in task.requests)
    assert +kernel.requests._in_flight == in_flight
    asks = kernel.asks
    for core in kernel.cores:
        is_up = core.state is CoreState.READY
        assert is_up == (core.scheduler.info is not None) == (core.number in asks._up)
        assert is_up or core.idle_since_ns is None
        if core.state is CoreState.FAILED:
            assert not kernel._is_used(core.number), "something waits for a core that will never be"
        if kernel._is_used(core.number) and not kernel.is_going_down:
            is_waited_for = core.state in (CoreState.UNLOADED, CoreState.STOPPING)
            assert core.is_wanted or not is_waited_for, "something waits for a core that nobody starts"
    states = {core.state for core in kernel.cores}
    if any(core.state is CoreState.UNLOADED and core.is_wanted for core in kernel.cores):
        assert CoreState.LOADING in states or kernel.is_going_down, "a core is wanted and none loads"
    open_asks = {ticket for tickets in asks._by_call.values() for ticket in tickets}
    assert open_asks == asks._questions.keys()
    for call in (*asks._by_call, *(item.call for item in asks._waiting)):
        assert kernel.calls._find(*call.key) is call, "a question whose call was answered"


def _check_contexts(slots_of: dict[int, list[Request | None]], tasks: list[Task], saving: set[Request]) -> None:
    for core, slots in slots_of.items():
        for slot, request in enumerate(slots):
            assert request is None or (request.slot == slot and not request.is_finished)
            assert request is None or request.core == core
    for task in tasks:
        assert task.running == sum(request.slot is not None for request in task.requests)
        for request in task.requests:
            assert request.call.key in task.calls, "a request whose call was answered"
            assert request.kv_tokens <= len(request.tokens)
            if request.slot is None and request not in saving:
                assert request.kv_tokens == (request.snapshot.keep if request.snapshot else 0)


def _check_calls(calls: CallTable, tasks: list[Task]) -> None:
    waiting = [call for several in calls._waiting.values() for call in several.values()]
    assert calls._count == len(waiting)
    assert all(calls._waiting.values()), "a connection without a waiting call is kept"
    for call in waiting:
        assert call.task is None or call.task.calls[call.key] is call
    deadlines = {(one.deadline_ns, *one.key) for one in waiting if one.deadline_ns is not None}
    assert deadlines <= set(calls._deadlines)
    assert sum(len(task.calls) for task in tasks) == sum(call.task is not None for call in waiting)
    for task in tasks:
        assert task.call_bytes == sum(call.size_bytes for call in task.calls.values())


def _check_tasks(table: TaskTable) -> None:
    living = [task for task in table.tasks.values() if task.state is not TaskState.ZOMBIE]
    zombies = table.tasks.keys() - {task.pid for task in living}
    assert table.living() == len(living)
    held = {task.pid: task.holder for task in living if not task.has_process}
    assert held == {pid: holder for holder, several in table._held.items() for pid in several}
    assert all(table._held.values()), "a holder that holds nothing is kept"
    assert {holder for holder in table._held if holder > 0} <= {task.pid for task in living}
    assert len(set(table._orphans)) == len(table._orphans)
    assert set(table._orphans) <= zombies
    for task in living:
        assert all(table._by_peer[peer] is task for peer in task.peers)
    for pid in zombies:
        assert not table.tasks[pid].calls, "a zombie has a call in flight"
        assert not table.tasks[pid].requests, "a zombie is on the model"


def _check_mail(post: PostOffice, living: set[int]) -> None:
    assert post._boxes.keys() == living
    sent_bytes: Counter[Mailbox] = Counter()
    waiting: dict[Call, Mail] = {}
    for box in post._boxes.values():
        assert len(box.mails) <= mailbox.MAX_MAILS
        assert len(box.mails) == mailbox.MAX_MAILS or not box.queue, "a message waits beside room"
        assert not (box.receivers and (box.mails or box.held_back)), "mail waits beside a receiver"
        for mail in (*box.mails, *box.queue.values()):
            sent_bytes[mail.sender] += mail.size_bytes
        waiting |= box.queue | box.held_back
    for sender in (post._operators, *post._boxes.values()):
        assert sender.sent_bytes == sent_bytes[sender] <= mailbox.MAX_SENT_BYTES
        for mail in list(sender.unsent.values())[:1]:
            assert not sender.allows(mail), "a message is held back beside its sender's allowance"
    assert post._waiting == waiting
