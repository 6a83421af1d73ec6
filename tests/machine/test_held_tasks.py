"""Tasks without a process: scheduled, accounted, limited and killed as any task is, and gone with their holder."""

from __future__ import annotations

import signal

import pytest
from machine import Machine, Peer, at_most

from kernel.abi.calls import MAX_MAIL_BYTES
from kernel.abi.codec import encode_call
from kernel.effects import Halt
from kernel.events import PeerStalled, ProcessSample, ShutdownAsked
from kernel.limits import (
    MAX_CALLS,
    MAX_MAILS,
    MAX_REQUESTS,
    MAX_SENT_BYTES,
    MAX_TASK_CALL_BYTES,
    MAX_TASK_MEMORY_BYTES,
)
from kernel.proc import table
from kernel.proc.table import FIRST_HELD
from kernel.states import TaskState

LONG = {"prompt": "hello", "max_tokens": 400, "ignore_end": True}
SHORT = {"prompt": "hello", "max_tokens": 5, "ignore_end": True}


def capable(machine: Machine, **options: object) -> Peer:
    """Return an agent that may hold tasks."""
    return machine.child(machine.operator(), capabilities=["task.create"], **options)


@pytest.fixture(params=["agent", "operator"])
def machine_and_holder(request) -> tuple[Machine, Peer]:
    machine = Machine()
    return machine, capable(machine) if request.param == "agent" else machine.operator()


def is_over(machine: Machine, held: Peer) -> bool:
    task = machine.kernel.table.tasks.get(held.task)
    return task is None or task.state is TaskState.ZOMBIE


# -- what it is -------------------------------------------------------------------------------


def test_a_held_task_has_a_number_above_every_processs_that_is_never_used_again(machine_and_holder):
    _, holder = machine_and_holder
    numbers = []
    for _ in range(3):
        held = holder.hold()
        numbers.append(held.task)
        held.ask("proc.exit")
    assert numbers == [FIRST_HELD, FIRST_HELD + 1, FIRST_HELD + 2]
    assert FIRST_HELD > 1 << 22


def test_a_held_task_has_the_name_and_priority_that_it_was_given_or_its_holders(machine_and_holder):
    machine, holder = machine_and_holder
    named, unnamed = holder.hold(name="reader", priority=4), holder.hold()
    assert (machine.task(named.task).name, machine.task(named.task).priority) == ("reader", 4)
    assert (machine.task(unnamed.task).name, machine.task(unnamed.task).priority) == (f"task-{unnamed.task}", 0)


def test_a_held_task_inherits_its_holders_priority():
    machine = Machine()
    assert machine.task(capable(machine, priority=6).hold().task).priority == 6


def test_ps_shows_a_held_task_as_one_without_a_process():
    machine = Machine()
    holder = capable(machine)
    held = holder.hold(name="reader")
    call = held.call("proc.ps")
    machine.event(ProcessSample(machine.now_ns, ((holder.pid, 1.0, 4096),)))
    rows = {row["pid"]: row for row in held.reply(call)["tasks"]}
    assert [rows[pid]["has_process"] for pid in (holder.pid, held.task)] == [True, False]
    row = rows[held.task]
    assert (row["name"], row["ppid"], row["waits_for"]) == ("reader", holder.pid, "proc.ps")
    assert (row["cpu_s"], row["rss_bytes"], row["throttled"]) == (0, 0, False)


# -- scheduled and accounted ------------------------------------------------------------------


def test_what_a_held_task_uses_is_charged_to_it_and_not_to_its_holder():
    machine = Machine()
    holder = capable(machine)
    held, idle = holder.hold(), holder.hold()
    call = held.call("llm.generate", **SHORT)
    machine.run()
    assert held.reply(call)["usage"] == {"prompt_tokens": 6, "cached_tokens": 0, "generated_tokens": 5}
    usage = machine.task(held.task).usage
    assert (usage.requests, usage.prompt_tokens, usage.generated_tokens, usage.calls) == (1, 6, 5, 1)
    for pid in (holder.pid, idle.task):
        assert machine.task(pid).usage.requests == machine.task(pid).usage.generated_tokens == 0


def test_a_held_task_says_what_it_waits_for():
    machine = Machine()
    held = machine.operator().hold()
    task = machine.task(held.task)
    assert (task.state, task.waits_for) == (TaskState.READY, "")
    call = held.call("ipc.recv")
    assert (task.state, task.waits_for) == (TaskState.BLOCKED, "ipc.recv")
    machine.operator().ask("ipc.send", to=held.task, data=b"x")
    assert held.reply(call) == {"sender": 0, "data": b"x"}
    assert task.state is TaskState.READY
    held.call("llm.generate", **SHORT)
    machine.step()
    assert task.state is TaskState.RUNNING


def test_an_operators_held_task_generates_though_an_operator_may_not():
    machine = Machine()
    operator = machine.operator()
    held = operator.hold()
    call = held.call("llm.generate", **SHORT)
    assert operator.error(operator.call("llm.generate", **SHORT)) == "EPERM"
    machine.run()
    assert held.reply(call)["usage"]["generated_tokens"] == 5


def test_a_held_task_of_high_priority_goes_before_its_low_sibling():
    machine = Machine(policy="prio", slots=1)
    operator = machine.operator()
    low, high = operator.hold(priority=10), operator.hold(priority=-5)
    slow = low.call("llm.generate", **LONG)
    for _ in range(5):
        machine.step()
    quick = high.call("llm.generate", **SHORT)
    while high.end(quick) is None:
        machine.step()
    assert low.waits(slow)
    assert machine.task(low.task).usage.switches == 1


def test_a_holder_may_lower_its_held_task_and_not_raise_it():
    machine = Machine()
    holder = capable(machine)
    held = holder.hold(priority=3)
    assert holder.ask("sched.setattr", pid=held.task, nice=8)["nice"] == 8
    assert holder.error(holder.call("sched.setattr", pid=held.task, nice=7)) == "EPERM"
    assert held.error(held.call("sched.setattr", nice=7)) == "EPERM"
    assert held.ask("sched.setattr", nice=9)["nice"] == 9


def test_64_held_tasks_of_one_holder_and_64_agents_get_the_same_share_of_the_model():
    machine = Machine(slots=8, policy="rr", quantum_tokens=2, starve_ms=60_000)
    holder = capable(machine)
    held = [holder.hold() for _ in range(64)]
    agents = [machine.agent() for _ in range(64)]
    for peer in (*held, *agents):
        peer.call("llm.generate", prompt="go on", max_tokens=500, ignore_end=True, stream=True)
    pids = [*(peer.task for peer in held), *(peer.pid for peer in agents)]
    usages = [machine.task(pid).usage for pid in pids]
    while sum(usage.generated_tokens for usage in usages) < len(pids) * 250:
        assert machine.step()
    tokens = [usage.generated_tokens for usage in usages]
    mean = sum(tokens) / len(tokens)
    assert max(tokens) - min(tokens) <= 0.02 * mean
    assert abs(sum(tokens[:64]) - sum(tokens[64:])) <= 0.02 * sum(tokens[:64])


# -- limited one by one -----------------------------------------------------------------------


def test_each_held_task_may_have_as_many_requests_as_any_task():
    machine = Machine()
    holder = capable(machine)
    one, two = holder.hold(), holder.hold()
    for _ in range(MAX_REQUESTS):
        one.call("llm.generate", **SHORT)
    assert one.error(one.call("llm.generate", **SHORT)) == "EAGAIN"
    for peer in (two, holder):
        assert peer.waits(peer.call("llm.generate", **SHORT))


def test_each_held_task_may_have_as_many_calls_in_flight_as_any_task(machine_and_holder):
    machine, holder = machine_and_holder
    one, two = holder.hold(), holder.hold()
    for _ in range(MAX_CALLS):
        one.call("ipc.recv")
    assert one.error(one.call("ipc.recv")) == "EAGAIN"
    assert two.waits(two.call("ipc.recv")), "over the same connection, in another's name"
    assert holder.ask("sys.info")["kernel_pid"] == 1, "those are its held tasks' calls and not its own"
    machine.operator().ask("ipc.send", to=one.task, data=b"")
    assert one.waits(one.call("ipc.recv"))


def test_a_holder_with_many_waiting_held_tasks_may_go_on_creating_them(machine_and_holder):
    _, holder = machine_and_holder
    for _ in range(MAX_CALLS + 10):
        held = holder.hold()
        assert held.waits(held.call("ipc.recv"))


def test_each_held_task_has_its_own_bytes_of_calls_in_flight():
    machine = Machine()
    holder = capable(machine)
    one, two = holder.hold(), holder.hold()
    text = "x" * (1 << 20)
    for _ in range(7):
        one.call("llm.tokenize", text=text)
    assert one.error(one.call("llm.tokenize", text=text)) == "EAGAIN"
    assert machine.task(one.task).call_bytes <= MAX_TASK_CALL_BYTES
    for peer in (two, holder):
        assert peer.waits(peer.call("llm.tokenize", text=text))
    machine.answer_asks()


def test_call_ids_are_the_connections_and_not_the_held_tasks():
    machine = Machine()
    operator = machine.operator()
    one, two = operator.hold(), operator.hold()
    call = one.call("ipc.recv")
    ends = machine.answers[operator.connection].ends
    for frame in (encode_call(call, "ipc.recv", {}, None, two.task), encode_call(call, "sys.info", {})):
        operator.raw(frame)
        assert [body["name"] for _, body in ends.pop(call)] == ["EINVAL"]
    assert one.waits(call)


def test_a_call_in_a_held_tasks_name_has_its_own_deadline():
    machine = Machine()
    held = machine.operator().hold()
    calls = [held.call("ipc.recv", deadline_ms=ms) for ms in (10, 1000)]
    machine.pass_time(0.01)
    assert held.error(calls[0]) == "ETIMEDOUT"
    assert held.waits(calls[1])


def test_each_held_task_has_segments_of_its_own_that_go_with_it(machine_and_holder):
    machine, holder = machine_and_holder
    one, two = holder.hold(), holder.hold()
    one.ask("mem.create", name="a", size_bytes=10)
    two.ask("mem.create", name="a", size_bytes=20)
    assert one.error(one.call("mem.create", name="b", size_bytes=MAX_TASK_MEMORY_BYTES)) == "ENOMEM"
    assert two.ask("mem.stat")["used_bytes"] == 20
    assert set(machine.owners.values()) == {(holder.pid, holder.birth)}, "the holder gets the descriptors"
    one.ask("proc.exit")
    assert [len(array) for array in machine.segments.values()] == [20]


def test_each_held_task_has_a_mailbox_of_its_own(machine_and_holder):
    _, holder = machine_and_holder
    one, two, three = (holder.hold() for _ in range(3))
    for number in range(MAX_MAILS):
        one.ask("ipc.send", to=two.task, data=b"%d" % number)
    late = one.call("ipc.send", to=two.task, data=b"late")
    assert one.waits(late)
    assert one.ask("ipc.send", to=three.task, data=b"x") == {}
    assert three.ask("ipc.recv") == {"sender": one.task, "data": b"x"}
    assert two.ask("ipc.recv") == {"sender": one.task, "data": b"0"}
    assert one.reply(late) == {}


def test_each_held_task_may_have_as_much_mail_under_way_as_any_task():
    machine = Machine()
    holder, box = machine.operator(), machine.agent()
    one, two = holder.hold(), holder.hold()
    mail = bytes(MAX_MAIL_BYTES)
    while not one.waits(one.call("ipc.send", to=box.pid, data=mail)):
        assert len(machine.kernel.post._boxes[box.pid].mails) * MAX_MAIL_BYTES < MAX_SENT_BYTES
    for peer in (two, holder):
        assert peer.ask("ipc.send", to=box.pid, data=mail) == {}


def test_a_held_task_has_a_log_that_its_holder_may_read():
    machine = Machine()
    holder = capable(machine)
    held, other = holder.hold(), holder.hold()
    held.ask("log.write", text="a line")
    assert holder.ask("proc.logs", pid=held.task)["text"] == "a line\n"
    assert other.error(other.call("proc.logs", pid=held.task)) == "EPERM"


# -- signals and ends -------------------------------------------------------------------------


def test_stop_takes_a_held_task_off_the_model_and_cont_lets_it_go_on():
    machine = Machine(slots=2)
    holder = capable(machine)
    one, two = holder.hold(), holder.hold()
    calls = [peer.call("llm.generate", prompt="hello", max_tokens=20, ignore_end=True) for peer in (one, two)]
    for _ in range(5):
        machine.step()
    holder.ask("proc.kill", pid=one.task, signal="STOP")
    machine.run()
    assert machine.task(one.task).state is TaskState.STOPPED
    assert one.waits(calls[0])
    assert two.reply(calls[1])["usage"]["generated_tokens"] == 20
    later = one.call("llm.generate", **SHORT)
    machine.run()
    assert one.waits(later), "it is stopped still"
    holder.ask("proc.kill", pid=one.task, signal="CONT")
    machine.run()
    assert one.reply(calls[0])["tokens"] == two.reply(calls[1])["tokens"]
    assert one.reply(later)["usage"]["generated_tokens"] == 5
    assert machine.signals == [], "there is no process to be signalled"


@pytest.mark.parametrize("name", ["TERM", "INT", "KILL"])
@pytest.mark.parametrize("is_stopped", [False, True])
def test_each_ending_signal_ends_a_held_task_at_once(name, is_stopped):
    machine = Machine()
    holder = capable(machine)
    held = holder.hold(name="victim")
    calls = [held.call("llm.generate", **LONG), held.call("ipc.recv")]
    machine.step()
    if is_stopped:
        holder.ask("proc.kill", pid=held.task, signal="STOP")
    holder.ask("proc.kill", pid=held.task, signal=name)
    assert [held.error(call) for call in calls] == ["EPIPE", "EPIPE"]
    assert machine.task(held.task).running == 0
    record = holder.ask("proc.wait", pid=held.task)
    number = getattr(signal, f"SIG{name}")
    assert (record["status"], record["signal"], record["reason"]) == (None, number, f"signal SIG{name}")
    assert machine.signals == []
    machine.run()
    assert machine.store.lent_bytes == 0


def test_64_held_tasks_are_killed_one_by_one_and_the_others_go_on_untouched():
    machine = Machine(slots=8, policy="rr")
    operator, holder = machine.operator(), capable(machine)
    held = [holder.hold() for _ in range(64)]
    body = {"prompt": "hello", "max_tokens": 20, "ignore_end": True, "stream": True}
    calls = {peer: peer.call("llm.generate", **body) for peer in held}
    alone = holder.call("llm.generate", **body)
    killed = []
    while held:
        for _ in range(3):
            machine.step()
        victim = held.pop(len(held) // 2 if len(killed) % 2 else 0)
        if victim.end(calls[victim]) is None:
            killed.append(victim)
        (operator if len(killed) % 2 else holder).ask("proc.kill", pid=victim.task, signal="KILL")
        assert machine.task(victim.task).state is TaskState.ZOMBIE
        assert all(machine.task(peer.task).state is not TaskState.ZOMBIE for peer in held)
    machine.run()
    wanted = holder.reply(alone)["tokens"]
    assert 10 < len(killed) < 64
    for peer, call in calls.items():
        if peer in killed:
            assert peer.error(call) == "EPIPE"
            sent = [token for chunk in peer.chunks(call) for token in chunk["tokens"]]
            assert sent == wanted[: len(sent)]
        else:
            assert peer.reply(call)["tokens"] == wanted
    assert machine.task(holder.pid).state is not TaskState.ZOMBIE
    assert machine.signals == []


def test_a_held_task_that_ends_frees_its_slot_within_the_same_event():
    machine = Machine(slots=1, policy="fcfs")
    holder = capable(machine)
    one, two = holder.hold(), holder.hold()
    one.call("llm.generate", **LONG)
    kept = two.call("llm.generate", **SHORT)
    for _ in range(3):
        machine.step()
    steps = len(machine.plans)
    one.ask("proc.exit")
    assert machine.task(one.task).running == 0
    machine.run()
    assert two.reply(kept)["usage"]["generated_tokens"] == 5
    assert len(machine.plans) - steps <= 7


def test_a_held_task_ends_by_proc_exit_in_its_own_name_with_its_status():
    machine = Machine()
    holder = capable(machine)
    one, two = holder.hold(), holder.hold()
    waiting = one.call("ipc.recv")
    any_child = holder.call("proc.wait")
    assert one.ask("proc.exit", status=7) == {}
    assert one.error(waiting) == "EPIPE"
    record = holder.reply(any_child)
    assert (record["pid"], record["status"], record["signal"]) == (one.task, 7, None)
    assert record["reason"] == "exit status 7"
    assert one.error(one.call("proc.exit")) == "ESRCH"
    assert two.ask("sys.info")["kernel_pid"] == 1


def test_a_held_task_may_kill_itself_and_is_answered():
    machine = Machine()
    held = machine.operator().hold()
    assert held.ask("proc.kill", pid=held.task, signal="TERM") == {}
    assert is_over(machine, held)


def test_a_holder_waits_for_a_held_task_as_for_any_child():
    machine = Machine()
    holder = capable(machine)
    one, two = holder.hold(name="one"), holder.hold(name="two")
    by_pid, by_time = holder.call("proc.wait", pid=two.task), holder.call("proc.wait", timeout_ms=10)
    machine.pass_time(0.01)
    assert holder.error(by_time) == "ETIMEDOUT"
    one.ask("log.write", text="last words")
    one.ask("proc.exit", status=1)
    assert holder.waits(by_pid)
    record = holder.ask("proc.wait")
    assert (record["name"], record["status"], record["tail"]) == ("one", 1, "last words")
    holder.ask("proc.kill", pid=two.task)
    assert holder.reply(by_pid)["name"] == "two"
    assert holder.error(holder.call("proc.wait")) == "ECHILD"
    assert machine.kernel.table.tasks.keys() == {holder.pid}


def test_a_held_tasks_record_tells_what_it_used():
    machine = Machine()
    operator = machine.operator()
    held = operator.hold()
    held.call("llm.generate", **SHORT)
    machine.run()
    held.ask("proc.exit")
    usage = operator.ask("proc.wait", pid=held.task)["usage"]
    assert (usage["requests"], usage["generated_tokens"], usage["calls"]) == (1, 5, 2)


def test_ended_held_tasks_that_nobody_waits_for_do_not_pile_up(machine_and_holder):
    machine, holder = machine_and_holder
    with at_most(table, "MAX_ORPHAN_ZOMBIES", 10):
        held = [holder.hold() for _ in range(30)]
        for peer in held:
            peer.ask("proc.exit")
    zombies = [pid for pid in machine.kernel.table.tasks if pid >= FIRST_HELD]
    assert zombies == [peer.task for peer in held[20:]]
    assert holder.error(holder.call("proc.wait", pid=held[0].task)) == "ECHILD"
    assert holder.ask("proc.wait", pid=held[-1].task)["status"] == 0


# -- whose it is ------------------------------------------------------------------------------


def test_a_holder_names_only_its_own_living_held_tasks():
    machine = Machine()
    holders = [capable(machine), capable(machine), machine.operator(), machine.operator()]
    held = [holder.hold() for holder in holders]
    dead = [holder.hold() for holder in holders]
    for peer in dead:
        peer.ask("proc.exit")
    for index, holder in enumerate(holders):
        wrong = [peer.task for other, peer in enumerate(held) if other != index]
        wrong += [dead[index].task, holders[0].pid, holder.pid, 0, 1, FIRST_HELD + 100]
        for pid in wrong:
            name = holder.speaking_for(pid)
            assert name.error(name.call("sys.info")) == "ESRCH"
        own = holder.speaking_for(held[index].task)
        assert own.ask("sched.getattr")["pid"] == held[index].task


def test_an_agent_names_its_held_tasks_over_any_of_its_connections():
    machine = Machine()
    holder = capable(machine)
    held = holder.hold()
    second = holder.another().speaking_for(held.task)
    call = second.call("ipc.recv")
    assert held.ask("ipc.send", to=held.task, data=b"x") == {}
    assert second.reply(call)["data"] == b"x"


def test_an_operator_names_its_held_tasks_over_the_connection_that_created_them_only():
    machine = Machine()
    operator = machine.operator()
    held = operator.hold()
    second = operator.another().speaking_for(held.task)
    assert second.error(second.call("sys.info")) == "ESRCH"


def test_a_process_with_the_pid_of_a_holder_does_not_speak_for_its_held_tasks():
    machine = Machine()
    holder = capable(machine)
    again = holder.another(birth=2).speaking_for(holder.hold().task)
    assert again.error(again.call("sys.info")) == "EPROTO"


def test_an_agents_held_tasks_end_with_its_process(machine_and_holder):
    machine, other = machine_and_holder
    holder = capable(machine)
    held, kept = [holder.hold() for _ in range(3)], other.hold()
    calls = [peer.call("llm.generate", **LONG) for peer in held]
    mail = kept.call("ipc.send", to=held[0].task, data=b"x")
    kept.reply(mail)
    machine.step()
    machine.ends(holder.pid)
    assert all(is_over(machine, peer) for peer in held)
    assert [peer.error(call) for peer, call in zip(held, calls, strict=True)] == ["EPIPE"] * 3
    record = machine.operator().ask("proc.wait", pid=held[0].task)
    assert (record["signal"], record["reason"]) == (signal.SIGKILL, "its holder ended")
    assert kept.error(kept.call("ipc.send", to=held[0].task, data=b"x")) == "ESRCH"
    assert not is_over(machine, kept)
    machine.run()
    assert machine.store.lent_bytes == 0


def test_an_agents_held_tasks_outlive_its_connections():
    machine = Machine()
    holder = capable(machine)
    held = holder.hold()
    call = held.call("ipc.recv")
    holder.closes()
    assert held.error(call) == "EPIPE"
    assert not is_over(machine, held)
    assert holder.another().speaking_for(held.task).ask("sys.info")["kernel_pid"] == 1


def test_the_end_of_a_connection_ends_the_calls_made_over_it_in_held_tasks_names_and_no_others():
    machine = Machine(slots=2)
    holder = capable(machine)
    held = holder.hold()
    second = holder.another().speaking_for(held.task)
    gone, kept = (peer.call("llm.generate", **SHORT) for peer in (held, second))
    machine.step()
    holder.closes()
    assert held.error(gone) == "EPIPE"
    assert len(machine.task(held.task).requests) == 1
    machine.run()
    assert second.reply(kept)["usage"]["generated_tokens"] == 5


def test_an_operators_held_tasks_end_with_its_connection_and_not_with_anothers():
    machine = Machine()
    operator, other = machine.operator(), machine.operator()
    second = operator.another()
    held = [operator.hold() for _ in range(3)]
    kept = [second.hold(), other.hold()]
    call = held[0].call("llm.generate", **LONG)
    held[1].ask("mem.create", name="a", size_bytes=10)
    machine.step()
    operator.closes()
    assert all(is_over(machine, peer) for peer in held)
    assert machine.task(held[0].task).running == 0
    assert held[0].error(call) == "EPIPE"
    assert machine.segments == {}
    assert not any(is_over(machine, peer) for peer in kept)
    assert other.ask("proc.wait", pid=held[0].task)["reason"] == "its holder's connection closed"
    other.closes()
    assert [is_over(machine, peer) for peer in kept] == [False, True]


def test_an_operator_that_does_not_read_loses_its_held_tasks_with_its_connection():
    machine = Machine()
    operator = machine.operator()
    held = operator.hold()
    call = held.call("llm.generate", stream=True, **LONG)
    machine.step()
    machine.event(PeerStalled(machine.now_ns, operator.connection))
    assert held.error(call) == "EPIPE"
    operator.closes()
    assert is_over(machine, held)
    assert machine.signals == []


def test_an_agent_that_does_not_read_what_its_held_tasks_are_sent_is_killed_itself():
    machine = Machine()
    holder = capable(machine)
    held = holder.hold()
    call = held.call("llm.generate", stream=True, **LONG)
    machine.event(PeerStalled(machine.now_ns, holder.connection))
    assert held.error(call) == "EPIPE"
    assert machine.signals == [(holder.pid, signal.SIGKILL)]
    machine.ends(holder.pid, status=None, signal=9)
    assert is_over(machine, held)


# -- what it may not --------------------------------------------------------------------------


def test_a_held_task_has_no_capability_and_cannot_create_or_give_any(machine_and_holder):
    machine, holder = machine_and_holder
    held = holder.hold()
    assert machine.task(held.task).capabilities == frozenset()
    assert held.error(held.call("task.create")) == "EPERM"
    assert held.error(held.call("proc.spawn", script="a.py", capabilities=["task.create"])) == "EPERM"
    assert machine.launches == []


def test_a_call_in_a_held_tasks_name_has_not_an_operators_rights():
    machine = Machine()
    operator, stranger = machine.operator(), machine.agent()
    held = operator.hold()
    for method, body in (
        ("sys.shutdown", {}),
        ("group.setattr", {"path": "/", "attr": {"policy": "fcfs"}}),
        ("sched.setattr", {"sched_class": "realtime"}),
        ("sched.setattr", {"nice": -1}),
        ("sched.setattr", {"pid": stranger.pid, "nice": 5}),
        ("proc.kill", {"pid": stranger.pid}),
        ("proc.logs", {"pid": stranger.pid}),
        ("proc.spawn", {"script": "a.py", "priority": -1}),
    ):
        assert held.error(held.call(method, **body)) == "EPERM", method
    assert held.error(held.call("proc.wait", pid=stranger.pid)) == "ECHILD"
    assert machine.halted is None


def test_a_held_task_signals_neither_its_holder_nor_its_siblings():
    machine = Machine()
    holder = capable(machine)
    one, two = holder.hold(), holder.hold()
    for pid in (holder.pid, two.task):
        assert one.error(one.call("proc.kill", pid=pid)) == "EPERM"
    assert machine.signals == []
    assert not is_over(machine, two)


def test_a_request_is_cancelled_in_the_name_of_its_own_task_only():
    machine = Machine()
    holder = capable(machine)
    one, two = holder.hold(), holder.hold()
    call, own = one.call("llm.generate", **LONG), holder.call("llm.generate", **LONG)
    for peer in (two, holder, holder.another().speaking_for(one.task)):
        assert peer.ask("llm.cancel", call=call) == {"cancelled": False}
    for peer in (one, two):
        assert peer.ask("llm.cancel", call=own) == {"cancelled": False}
    assert one.ask("llm.cancel", call=call) == {"cancelled": True}
    assert one.error(call) == "EINTR"
    assert holder.waits(own)


def test_an_operator_does_not_cancel_what_its_held_task_asked_for():
    machine = Machine()
    operator = machine.operator()
    held = operator.hold()
    call = held.call("llm.generate", **LONG)
    assert operator.ask("llm.cancel", call=call) == {"cancelled": False}
    assert held.waits(call)


# -- its children -----------------------------------------------------------------------------


def test_a_held_tasks_children_are_its_own_until_it_ends():
    machine = Machine()
    holder = capable(machine)
    held = holder.hold()
    child, dead = machine.child(held), machine.child(held)
    machine.ends(dead.pid, status=2)
    assert machine.task(child.pid).ppid == held.task
    assert holder.error(holder.call("proc.wait", pid=child.pid)) == "ECHILD"
    assert held.ask("proc.wait")["status"] == 2
    held.ask("proc.exit")
    assert machine.task(child.pid).ppid == 0
    assert machine.task(child.pid).state is TaskState.READY


# -- the machine around it --------------------------------------------------------------------


def test_held_tasks_are_never_sampled_signalled_or_held_by_the_governor(machine_and_holder):
    machine, holder = machine_and_holder
    held, agent = holder.hold(), machine.agent()
    for peer in (held, agent):
        peer.call("llm.generate", **LONG)
    for number in range(30):
        machine.step()
        machine.pass_time(0.1)
        if machine.sampled_pids:
            pids = machine.sampled_pids[-1]
            machine.event(ProcessSample(machine.now_ns, tuple((pid, float(number), 1) for pid in pids)))
    for peer in (holder, held):
        peer.call("proc.ps")
    machine.event(ProcessSample(machine.now_ns, ()))
    assert len(machine.sampled_pids) > 3
    assert {pid for pids in machine.sampled_pids for pid in pids} == machine.kernel.table.tasks.keys() - {held.task}
    assert {pid for pid, _ in machine.signals} <= {holder.pid, agent.pid}
    assert agent.pid in {pid for pid, _ in machine.signals}, "a busy process is held back"
    assert not machine.kernel.governor.is_held(held.task)


def test_a_kernel_that_goes_down_ends_held_tasks_first_and_halts_once():
    machine = Machine()
    operator = machine.operator()
    held = [operator.hold() for _ in range(3)]
    calls = [peer.call("llm.generate", **LONG) for peer in held]
    machine.step()
    effects = machine.kernel.handle(ShutdownAsked(machine.now_ns))
    machine.carry_out(effects)
    assert [peer.error(call) for peer, call in zip(held, calls, strict=True)] == ["ESHUTDOWN"] * 3
    assert all(is_over(machine, peer) for peer in held)
    assert sum(isinstance(effect, Halt) for effect in effects) == 1
    assert machine.halted == 0


def test_a_kernel_that_goes_down_still_gives_processes_beside_held_tasks_their_time():
    machine = Machine()
    holder = capable(machine)
    held = holder.hold()
    held.call("ipc.recv")
    machine.event(ShutdownAsked(machine.now_ns))
    assert is_over(machine, held)
    assert machine.signals == [(holder.pid, signal.SIGTERM)]
    assert machine.halted is None
    assert held.error(held.call("sys.info")) == "ESRCH"
    assert holder.error(holder.call("task.create")) == "ESHUTDOWN"
    machine.ends(holder.pid)
    assert machine.halted == 0


def test_an_operator_that_holds_tasks_may_end_the_kernel():
    machine = Machine()
    operator = machine.operator()
    held = operator.hold()
    assert operator.ask("sys.shutdown") == {}
    assert is_over(machine, held)
    assert machine.halted == 0


def test_held_tasks_outlive_the_llm_core():
    machine = Machine(slots=1, quantum_tokens=2)
    holder = capable(machine)
    held = [holder.hold() for _ in range(3)]
    calls = [peer.call("llm.generate", **SHORT) for peer in held]
    for _ in range(4):
        machine.step()
    machine.core_dies()
    machine.core_up()
    machine.run()
    replies = [peer.reply(call)["tokens"] for peer, call in zip(held, calls, strict=True)]
    assert replies[0] == replies[1] == replies[2]
