"""Calls that wait: how many a task may have, until when they wait, what they leave behind."""

from __future__ import annotations

from machine import Machine

from kernel.abi.codec import encode_call
from kernel.limits import MAX_CALLS, MAX_TASK_CALL_BYTES


def test_a_task_may_have_only_so_many_calls_in_flight_over_all_its_connections():
    machine = Machine()
    peer, other = machine.agent(), machine.agent()
    second, third = peer.another(), peer.another()
    for number in range(MAX_CALLS):
        (second if number % 2 else peer).call("ipc.recv")
    for one in (peer, second, third):
        assert one.error(one.call("ipc.recv")) == "EAGAIN"
    other.ask("ipc.send", to=peer.pid, data=b"")
    assert third.waits(third.call("ipc.recv")), "one was answered, so there is room for one"
    assert second.error(second.call("ipc.recv")) == "EAGAIN"
    assert other.waits(other.call("ipc.recv")), "another task has its own"


def test_an_operators_connection_may_have_only_so_many_calls_in_flight():
    machine = Machine()
    box, operator = machine.agent(), machine.operator()
    for _ in range(MAX_CALLS):
        operator.call("proc.wait", pid=box.pid)
    assert operator.error(operator.call("sys.info")) == "EAGAIN"
    assert operator.another().ask("sys.info")["kernel_pid"] == 1


def test_the_bytes_of_a_tasks_calls_in_flight_are_limited_over_all_its_connections():
    machine = Machine()
    peer, box = machine.agent(), machine.agent()
    second = peer.another()
    text = "x" * (1 << 20)
    calls = [(peer if number % 2 else second).call("llm.tokenize", text=text) for number in range(7)]
    assert all(peer.waits(call) or second.waits(call) for call in calls)
    for one in (peer, second, peer.another()):
        assert one.error(one.call("llm.tokenize", text=text)) == "EAGAIN"
    assert machine.task(peer.pid).call_bytes < MAX_TASK_CALL_BYTES
    assert box.waits(box.call("llm.tokenize", text=text)), "another task has its own"
    machine.answer_asks()
    assert machine.task(peer.pid).call_bytes == 0
    assert peer.waits(peer.call("llm.tokenize", text=text))


def test_the_shorter_of_timeout_and_deadline_counts():
    machine = Machine()
    peer = machine.agent()
    calls = [
        peer.call("ipc.recv", deadline_ms=10, timeout_ms=1000),
        peer.call("ipc.recv", deadline_ms=1000, timeout_ms=10),
    ]
    machine.pass_time(0.010)
    assert [peer.error(call) for call in calls] == ["ETIMEDOUT", "ETIMEDOUT"]


def test_a_deadline_of_zero_has_passed_at_once():
    machine = Machine()
    peer = machine.agent()
    call = peer.call("ipc.recv", deadline_ms=0)
    machine.pass_time(0)
    assert peer.error(call) == "ETIMEDOUT"


def test_a_task_waits_while_a_call_of_its_does_and_says_for_what():
    machine = Machine()
    peer = machine.agent()
    task = machine.task(peer.pid)
    assert (task.state.name, task.waits_for) == ("READY", "")
    peer.call("ipc.recv")
    assert (task.state.name, task.waits_for) == ("BLOCKED", "ipc.recv")
    machine.agent().ask("ipc.send", to=peer.pid, data=b"")
    assert (task.state.name, task.waits_for) == ("READY", "")


def test_a_kernel_without_a_timer_to_wait_for_sets_none():
    machine = Machine()
    peer = machine.agent()
    peer.call("ipc.recv", timeout_ms=5)
    assert machine.timer_ns == machine.now_ns + 5_000_000
    machine.agent().ask("ipc.send", to=peer.pid, data=b"")
    assert machine.timer_ns is None


def test_a_call_id_in_flight_may_not_be_used_again_and_the_first_call_goes_on():
    machine = Machine()
    peer = machine.agent()
    first = peer.call("ipc.recv")
    ends = machine.answers[peer.connection].ends
    for frame in (
        encode_call(first, "sys.info", {}),
        encode_call(first, "no.such", {}),
        encode_call(first, "sys.info", {"wrong": 1}),
    ):
        peer.raw(frame)
        assert [body["name"] for _, body in ends.pop(first)] in (["EINVAL"], ["ENOSYS"])
    task = machine.task(peer.pid)
    assert peer.waits(first)
    machine.agent().ask("ipc.send", to=peer.pid, data=b"late")
    assert peer.reply(first)["data"] == b"late"
    assert task.calls == {}
    assert task.state.name == "READY"


# -- what calls that were answered leave behind -----------------------------------------------


def test_deadlines_of_answered_calls_do_not_pile_up():
    machine = Machine()
    peer, sender = machine.agent(), machine.agent()
    kept = peer.call("ipc.recv", deadline_ms=1_000_000)
    most = 0
    for _ in range(10_000):
        call = sender.call("ipc.recv", deadline_ms=2_000_000)
        sender.ask("ipc.send", to=sender.pid, data=b"")
        assert sender.reply(call)
        most = max(most, len(machine.kernel.calls._deadlines))
    assert most < 2_000
    assert machine.timer_ns == machine.now_ns + 1_000_000_000_000, "the call that waits keeps its deadline"
    machine.pass_time(1_000)
    assert peer.error(kept) == "ETIMEDOUT"
    assert machine.timer_ns is None


def test_deadlines_of_many_calls_that_wait_are_all_kept():
    machine = Machine()
    peers = [machine.agent() for _ in range(3)]
    calls = [
        (peer, peer.call("ipc.recv", timeout_ms=10_000 - number))
        for number in range(MAX_CALLS)
        for peer in peers
    ]
    machine.pass_time(10.0 - MAX_CALLS / 1000)
    assert not any(peer.end(call) for peer, call in calls)
    machine.pass_time(MAX_CALLS / 2000)
    assert sum(peer.end(call) is None for peer, call in calls) == len(calls) // 2
    machine.pass_time(1)
    assert all(peer.error(call) == "ETIMEDOUT" for peer, call in calls)
    assert machine.kernel.calls._deadlines == []


def test_an_answered_calls_deadline_does_not_end_a_later_call_with_its_id():
    machine = Machine()
    peer, sender = machine.agent(), machine.agent()
    ends = machine.answers[peer.connection].ends
    peer.raw(encode_call(500, "ipc.recv", {}, 10))
    sender.ask("ipc.send", to=peer.pid, data=b"")
    assert ends.pop(500)[0][0] == "reply"
    peer.raw(encode_call(500, "ipc.recv", {}, 1000))
    machine.pass_time(0.5)
    assert peer.waits(500)
    machine.pass_time(0.5)
    assert peer.error(500) == "ETIMEDOUT"
