"""The kernel goes down: TERM first, KILL after a grace period, every call answered."""

from __future__ import annotations

import signal

from machine import Machine

from kernel.events import ShutdownAsked


def test_a_kernel_without_tasks_halts_at_once():
    machine = Machine()
    machine.event(ShutdownAsked(machine.now_ns))
    assert machine.halted == 0


def test_tasks_are_told_first_and_the_kernel_halts_when_the_last_has_ended():
    machine = Machine()
    peers = [machine.agent() for _ in range(2)]
    machine.event(ShutdownAsked(machine.now_ns))
    assert machine.signals == [(peer.pid, signal.SIGTERM) for peer in peers]
    machine.ends(peers[0].pid)
    assert machine.halted is None
    machine.ends(peers[1].pid)
    assert machine.halted == 0
    machine.pass_time(10)
    assert (peers[0].pid, signal.SIGKILL) not in machine.signals


def test_a_task_that_ignores_term_is_killed_after_the_grace_period():
    machine = Machine()
    peer = machine.agent()
    machine.event(ShutdownAsked(machine.now_ns))
    machine.pass_time(0.999)
    assert machine.halted is None
    machine.pass_time(0.001)
    assert machine.signals[-1] == (peer.pid, signal.SIGKILL)
    assert machine.halted == 0


def test_a_stopped_task_is_continued_so_that_it_can_end():
    machine = Machine()
    peer = machine.agent()
    peer.call("proc.kill", pid=peer.pid, signal="STOP")
    machine.event(ShutdownAsked(machine.now_ns))
    assert machine.signals[-2:] == [(peer.pid, signal.SIGTERM), (peer.pid, signal.SIGCONT)]


def test_every_waiting_call_is_answered():
    machine = Machine()
    peer, operator = machine.agent(), machine.operator()
    calls = [
        peer.call("ipc.recv"),
        peer.call("llm.generate", prompt="hello", max_tokens=50, ignore_end=True),
        peer.call("llm.generate", prompt="hello", max_tokens=50, ignore_end=True),
        peer.call("proc.ps"),
        peer.call("proc.spawn", script="a.py"),
    ]
    machine.step()
    waiting = operator.call("proc.wait", pid=peer.pid)
    operator.ask("sys.shutdown")
    assert [peer.error(call) for call in calls] == ["ESHUTDOWN"] * len(calls)
    assert operator.error(waiting) == "ESHUTDOWN"


def test_a_child_that_starts_during_the_shutdown_is_killed():
    machine = Machine()
    peer = machine.agent()
    peer.call("proc.spawn", script="a.py")
    machine.event(ShutdownAsked(machine.now_ns))
    pid = machine.launched()
    assert machine.signals[-1] == (pid, signal.SIGKILL)
    machine.ends(peer.pid)
    assert machine.halted is None
    machine.ends(pid)
    assert machine.halted == 0


def test_asking_twice_is_as_asking_once():
    machine = Machine()
    machine.agent()
    for _ in range(2):
        machine.event(ShutdownAsked(machine.now_ns))
    assert len(machine.signals) == 1


def test_settings_are_still_told_while_the_kernel_goes_down():
    machine = Machine()
    peer = machine.agent()
    machine.event(ShutdownAsked(machine.now_ns))
    assert peer.ask("sys.info")["kernel_pid"] == 1
