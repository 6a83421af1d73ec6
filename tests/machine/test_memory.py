"""Segments of tasks: names are a task's own, room comes back, all goes with the task."""

from __future__ import annotations

import machine as machine_module
import numpy as np
from machine import Machine

from kernel.effects import MakeSegment
from kernel.limits import MAX_TASK_MEMORY_BYTES


def test_two_tasks_may_use_the_same_name():
    machine = Machine()
    one, two = machine.agent(), machine.agent()
    one.ask("mem.create", name="a", size_bytes=1)
    two.ask("mem.create", name="a", size_bytes=2)
    one.ask("mem.unlink", name="a")
    assert two.ask("mem.stat")["used_bytes"] == 2


def test_the_whole_limit_may_be_used_and_comes_back(monkeypatch):
    made = []

    def note(machine: Machine, effect: MakeSegment) -> None:  # no need for 256 MiB of zeros
        made.append(effect.size_bytes)
        machine.segments[effect.segment] = np.zeros(0, np.uint8)

    monkeypatch.setitem(machine_module._EFFECTS, MakeSegment, note)
    peer = Machine().agent()
    half = MAX_TASK_MEMORY_BYTES // 2
    peer.ask("mem.create", name="a", size_bytes=half)
    peer.ask("mem.create", name="b", size_bytes=half)
    assert peer.error(peer.call("mem.create", name="c", size_bytes=1)) == "ENOMEM"
    peer.ask("mem.unlink", name="a")
    peer.ask("mem.create", name="c", size_bytes=1)
    assert made == [half, half, 1]


def test_a_tasks_segments_go_with_it_and_nobody_elses():
    machine = Machine()
    one, two = machine.agent(), machine.agent()
    for name in "abc":
        one.ask("mem.create", name=name, size_bytes=10)
    two.ask("mem.create", name="a", size_bytes=20)
    machine.ends(one.pid)
    assert [len(array) for array in machine.segments.values()] == [20]
