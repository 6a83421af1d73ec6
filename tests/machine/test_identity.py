"""Who speaks: a process is its pid and its birth, a task is all connections of its process, and ends with it."""

from __future__ import annotations

import pytest
from machine import Machine, Peer

from kernel.abi.codec import PROTOCOL_VERSION
from kernel.states import TaskState

LONG = {"prompt": "hello", "max_tokens": 400, "ignore_end": True, "stream": True}
CAPABLE = {"capabilities": ["task.create"]}


def holder(machine: Machine) -> Peer:
    return machine.child(machine.operator(), **CAPABLE)


# -- a pid that came round again --------------------------------------------------------------


def test_a_process_that_has_the_pid_of_a_living_task_has_not_said_hello():
    machine = Machine()
    peer = machine.agent()
    again = peer.another(birth=2)
    for method in ("sys.info", "proc.ps", "ipc.recv", "proc.exit"):
        assert again.error(again.call(method)) == "EPROTO"
    task = machine.task(peer.pid)
    assert task.exit_declared is None
    assert again.connection not in task.peers


def test_its_hello_is_refused_for_now_and_changes_nothing():
    machine = Machine()
    peer = machine.child(machine.operator(), says_hello=False)
    again = peer.another(birth=2)
    assert again.error(again.call("sys.hello", version=PROTOCOL_VERSION, name="new")) == "EAGAIN"
    task = machine.task(peer.pid)
    assert (task.name, task.state, task.speaker) == ("child", TaskState.NEW, (peer.pid, peer.birth))
    assert not task.peers
    peer.hello()
    assert again.error(again.call("sys.info")) == "EPROTO"


def test_after_the_old_tasks_end_it_is_a_new_task():
    machine = Machine()
    peer = machine.agent("old")
    peer.ask("log.write", text="a secret")
    peer.ask("sched.setattr", nice=7)
    again = peer.another(birth=2)
    machine.ends(peer.pid)
    assert again.error(again.call("sys.info")) == "EPROTO"
    again.hello("new")
    task = machine.task(peer.pid)
    assert (task.name, task.priority, task.state) == ("new", 0, TaskState.READY)
    assert task.peers == {again.connection}
    assert again.ask("proc.logs", pid=again.pid)["text"] == ""
    assert peer.error(peer.call("sys.info")) == "EPROTO", "the old process has no task any more"


def test_the_new_task_has_none_of_the_old_ones_mail_and_segments():
    machine = Machine()
    peer, other = machine.agent(), machine.agent()
    other.ask("ipc.send", to=peer.pid, data=b"for the old one")
    late = peer.call("ipc.send", to=other.pid, data=bytes(60_000))
    while not peer.waits(late):
        late = peer.call("ipc.send", to=other.pid, data=bytes(60_000))
    peer.ask("mem.create", name="a", size_bytes=10)
    machine.ends(peer.pid)
    again = peer.another(birth=2)
    again.hello()
    assert again.error(again.call("ipc.recv", timeout_ms=0)) == "ETIMEDOUT"
    assert again.ask("mem.stat")["segments"] == []
    assert machine.segments == {}
    assert again.ask("ipc.send", to=other.pid, data=b"") == {}, "what the old one had under way is not its"


def test_the_new_task_has_none_of_the_old_ones_children_and_held_tasks():
    machine = Machine()
    peer = holder(machine)
    child, dead_child, held = machine.child(peer), machine.child(peer), peer.hold()
    machine.ends(dead_child.pid)
    machine.ends(peer.pid)
    again = peer.another(birth=2)
    again.hello()
    assert again.error(again.call("proc.wait")) == "ECHILD"
    for pid in (child.pid, dead_child.pid, held.task):
        assert again.error(again.call("proc.wait", pid=pid)) == "ECHILD"
        assert again.error(again.call("proc.logs", pid=pid)) == "EPERM"
    assert again.error(again.call("proc.kill", pid=child.pid)) == "EPERM"
    name = again.speaking_for(held.task)
    assert name.error(name.call("sys.info")) == "ESRCH"
    assert again.error(again.call("task.create")) == "EPERM", "the capability was the old one's"


def test_a_launch_that_the_old_one_asked_for_is_no_child_of_the_new_one():
    machine = Machine()
    peer = machine.agent()
    peer.call("proc.spawn", script="a.py")
    machine.ends(peer.pid)
    again = peer.another(birth=2)
    again.hello()
    assert machine.task(machine.launched()).ppid == 0
    assert again.error(again.call("proc.wait")) == "ECHILD"


def test_a_child_whose_pid_came_round_again_keeps_nothing_for_its_parent_to_reap():
    machine = Machine()
    parent = machine.agent()
    child = machine.child(parent)
    machine.ends(child.pid, status=3)
    child.another(birth=2).hello()
    assert parent.error(parent.call("proc.wait", pid=child.pid)) == "ECHILD"
    assert machine.task(child.pid).state is TaskState.READY


# -- the end of a process ---------------------------------------------------------------------


def test_connections_of_a_process_that_ended_are_cut_off_and_get_nothing_more():
    machine = Machine()
    peer, other = machine.agent(), machine.agent()
    second, silent = peer.another(), peer.another()
    second.hello()
    calls = [(one, one.call("llm.generate", **LONG)) for one in (peer, second)]
    machine.step()
    machine.ends(peer.pid)
    assert set(machine.closed) == {peer.connection, second.connection}, "those that spoke for the task"
    assert silent.connection not in machine.closed
    assert all(error.number.name == "EPIPE" for error in machine.closed.values())
    assert [one.error(call) for one, call in calls] == ["EPIPE", "EPIPE"]
    before = [len(one.chunks(call)) for one, call in calls]
    other.call("llm.generate", **LONG)
    machine.run()
    assert [len(one.chunks(call)) for one, call in calls] == before


def test_a_connection_that_only_said_hello_is_cut_off_with_its_process_too():
    machine = Machine()
    peer = machine.agent()
    machine.ends(peer.pid)
    assert list(machine.closed) == [peer.connection]


def test_what_inherited_a_dead_processes_connection_does_not_revive_its_task():
    machine = Machine()
    parent = machine.agent()
    child = machine.child(parent)
    machine.ends(child.pid, status=3)
    for method, body in (("sys.hello", {"version": PROTOCOL_VERSION}), ("sys.info", {})):
        assert child.error(child.call(method, **body)) == "EPROTO"
    assert parent.ask("proc.wait", pid=child.pid)["status"] == 3


# -- several connections of one process -------------------------------------------------------


def test_two_connections_of_a_process_are_one_task():
    machine = Machine()
    peer = machine.agent("me")
    second = peer.another()
    assert second.ask("sched.getattr")["pid"] == peer.pid
    assert second.hello("another name")["connection"] == second.connection != peer.connection
    assert machine.task(peer.pid).name == "me"
    assert len(machine.kernel.table.tasks) == 1
    machine.agent().ask("ipc.send", to=peer.pid, data=b"x")
    assert second.ask("ipc.recv")["data"] == b"x"
    assert machine.task(peer.pid).peers == {peer.connection, second.connection}


def test_call_ids_are_a_connections_own():
    machine = Machine()
    peer = machine.agent()
    second = peer.another()
    second.hello()
    calls = [one.call("ipc.recv") for one in (peer, second)]
    assert calls[0] == calls[1]
    for data in (b"a", b"b"):
        machine.agent().ask("ipc.send", to=peer.pid, data=data)
    assert [one.reply(call)["data"] for one, call in zip((peer, second), calls, strict=True)] == [b"a", b"b"]


def test_a_request_is_cancelled_over_its_own_connection_only():
    machine = Machine()
    peer = machine.agent()
    second = peer.another()
    second.hello()
    call = peer.call("llm.generate", **LONG)
    assert second.ask("llm.cancel", call=call) == {"cancelled": False}
    assert peer.ask("llm.cancel", call=call) == {"cancelled": True}


# -- the end of a connection ------------------------------------------------------------------


def test_the_end_of_a_connection_ends_its_calls_and_takes_its_requests_off_the_model_at_once():
    machine = Machine(slots=2)
    peer = machine.agent()
    second = peer.another()
    second.hello()
    gone, kept = (one.call("llm.generate", **LONG) for one in (peer, second))
    while not (peer.chunks(gone) and second.chunks(kept)):
        machine.step()
    waits = [peer.call("ipc.recv"), peer.call("proc.ps"), peer.call("llm.tokenize", text="a")]
    waits.append(peer.call("proc.spawn", script="a.py"))
    assert machine.task(peer.pid).running == 2
    peer.closes()
    assert [peer.error(call) for call in (gone, *waits)] == ["EPIPE"] * 5
    assert machine.task(peer.pid).running == 1
    assert len(machine.task(peer.pid).requests) == 1
    chunks = len(peer.chunks(gone))
    machine.run()
    assert len(peer.chunks(gone)) == chunks
    assert second.reply(kept)["usage"]["generated_tokens"] == 400
    assert machine.store.lent_bytes == 0


def test_the_task_outlives_its_connections():
    machine = Machine()
    peer, other = machine.agent(), machine.agent()
    peer.closes()
    other.ask("ipc.send", to=peer.pid, data=b"x")
    again = peer.another()
    assert again.ask("ipc.recv")["data"] == b"x", "the process is the same, so no hello is needed"
    assert machine.task(peer.pid).peers == {again.connection}


def test_a_spawn_whose_connection_closed_still_makes_a_child():
    machine = Machine()
    peer = machine.agent()
    peer.call("proc.spawn", script="a.py")
    peer.closes()
    assert machine.task(machine.launched()).ppid == peer.pid


@pytest.mark.parametrize("steps", range(8))
def test_the_end_of_a_connection_in_any_step_leaves_others_tokens_as_they_are(steps):
    wanted = tokens_beside(None)
    assert tokens_beside(steps) == wanted


def tokens_beside(steps: int | None) -> list[int]:
    """What a neighbour is told whose fellow's connection ends after so many steps."""
    machine = Machine(slots=1, quantum_tokens=2)
    peer, neighbour = machine.agent(), machine.agent()
    peer.call("llm.generate", **LONG | {"max_tokens": 9})
    call = neighbour.call("llm.generate", prompt="world", max_tokens=9, ignore_end=True)
    if steps is not None:
        for _ in range(steps):
            machine.step()
        peer.closes()
    machine.run()
    assert machine.store.lent_bytes == 0
    return neighbour.reply(call)["tokens"]


def test_connections_that_come_and_go_leave_nothing_in_the_kernel():
    machine = Machine()
    agent, operator = machine.agent(), machine.operator()
    kernel = machine.kernel
    before = len(kernel.table.tasks)
    most = 0
    for number in range(10_000):
        peer = (agent if number % 2 else operator).another()
        if number % 3:
            peer.hello()
        if number % 5 == 0:
            peer.raw(b"noise")
        if number % 2:
            peer.call("ipc.recv", deadline_ms=1_000_000)
        elif number % 100 == 0:
            peer.hold()
        peer.closes()
        machine.answers.pop(peer.connection, None)
        most = max(most, len(kernel.calls._deadlines))
    assert most < 2_000
    assert kernel.table._by_peer.keys() == machine.task(agent.pid).peers == {agent.connection}
    assert kernel.calls._waiting == {}
    assert kernel.calls._count == 0
    assert kernel.table._held == {}
    assert kernel.table.living() == before == 1


def test_processes_that_connect_and_never_say_hello_leave_nothing_in_the_kernel():
    machine = Machine()
    for pid in range(200, 700):
        stranger = Peer(machine, pid)
        assert stranger.error(stranger.call("sys.info")) == "EPROTO"
        stranger.raw(b"noise")
        stranger.closes()
    assert machine.kernel.table._by_peer == {}
    assert machine.kernel.table.tasks == {}
