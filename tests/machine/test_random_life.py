"""Tasks, operators and cores that do whatever they like: no bug, and one answer for every call."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from machine import Machine, Peer

from kernel.abi.codec import PROTOCOL_VERSION
from kernel.events import PeerStalled, ProcessSample
from kernel.states import TaskState

WORDS = ["a", "b"]
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("llm.generate", {"prompt": "hello", "max_tokens": 9, "ignore_end": True, "stream": True}),
    ("llm.generate", {"tokens": [1, 2, 3], "max_tokens": 5, "temperature": 1.0}),
    ("llm.generate", {"prompt": "x" * 100, "max_tokens": 3, "stop": ["w"]}),
    ("llm.tokenize", {"text": "abc"}),
    ("llm.detokenize", {"tokens": [1]}),
    ("llm.cancel", {"call": 2}),
    ("proc.spawn", {"script": "a.py"}),
    ("proc.wait", {}),
    ("proc.wait", {"timeout_ms": 20}),
    ("proc.ps", {}),
    ("ipc.recv", {}),
    ("ipc.recv", {"timeout_ms": 10}),
    ("mem.create", {"name": "a", "size_bytes": 64}),
    ("mem.unlink", {"name": "a"}),
    ("sched.setattr", {"priority": 3}),
]
AIMED: list[tuple[str, dict[str, Any]]] = [
    ("ipc.send", {"data": b"x"}),
    ("proc.wait", {}),
    ("proc.kill", {"signal": "STOP"}),
    ("proc.kill", {"signal": "CONT"}),
    ("proc.kill", {"signal": "TERM"}),
    ("proc.kill", {"signal": "KILL"}),
    ("proc.logs", {}),
    ("sched.setattr", {"priority": 5}),
]
HAPPENINGS = ["call"] * 6 + ["aimed"] * 4 + ["step"] * 6 + ["agent", "launch", "end", "time", "sample"]
HAPPENINGS += ["core dies", "core up", "policy", "operator", "stall", "launch fails", "hello"]


@settings(max_examples=150, deadline=None)
@given(
    acts=st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.integers(0, 1 << 20)), max_size=120),
    room=st.sampled_from([0, 1 << 17, 1 << 24]),
    slots=st.integers(1, 3),
)
def test_whatever_happens_every_call_is_answered_once(acts, room, slots):
    machine = Machine(slots=slots, snapshot_bytes=room, quantum_tokens=2)
    operator = machine.operator()
    peers = [machine.agent(), operator]
    made: list[tuple[Peer, int]] = []
    for act, value in acts:
        peer, now = peers[value % len(peers)], machine.now_ns
        pids = list(machine.kernel.table.tasks) or [1]
        pid = pids[value // 7 % len(pids)]
        if act == "call" or act == "aimed":
            method, body = (CALLS if act == "call" else AIMED)[value // 3 % len(CALLS if act == "call" else AIMED)]
            aim = {} if act == "call" else {"to" if method == "ipc.send" else "pid": pid}
            deadline_ms = value % 50 if value % 5 == 0 else None
            made.append((peer, peer.call(method, deadline_ms=deadline_ms, **body, **aim)))
        elif act == "step":
            machine.step()
        elif act in ("agent", "hello"):
            peers.append(machine.agent())
        elif act == "operator":
            peers.append(machine.operator())
        elif act == "launch" and machine.launches:
            pid = machine.launched()
            peers.append(Peer(machine, b"peer-%d" % pid, pid))
            if value % 2:
                peers[-1].call("sys.hello", version=PROTOCOL_VERSION)
        elif act == "launch fails" and machine.launches:
            machine.launch_fails("no")
        elif act == "end":
            machine.ends(pid, *((0, None) if value % 2 else (None, 9)))
        elif act == "time":
            machine.pass_time(value % 100 / 1000)
        elif act == "sample":
            usage = tuple((pid, now / 1e9, 1) for pid in pids)
            machine.event(ProcessSample(now, usage))
        elif act == "stall":
            machine.event(PeerStalled(now, peer.name))
        elif act == "core dies" and machine.engine is not None:
            machine.core_dies()
        elif act == "core up" and machine.engine is None:
            machine.core_up()
        elif act == "policy":
            operator.call("sched.setattr", policy=("fcfs", "rr", "prio")[value % 3], quantum_tokens=1 + value % 5)
        assert not [text for text in machine.said if "bug" in text], machine.said
    if machine.engine is None:
        machine.core_up()
    machine.run()
    for task in list(machine.kernel.table.tasks.values()):
        if task.state not in (TaskState.STOPPED, TaskState.ZOMBIE):
            assert not [request for request in task.requests if request.prompt_tokens], "a request is stuck"
    operator.ask("sys.shutdown")
    while machine.launches:
        machine.launched()
    for pid in list(machine.kernel.table.tasks):
        machine.ends(pid)
    machine.run()
    assert machine.halted == 0
    assert all(peer.end(call) is not None for peer, call in made)
    assert machine.kernel.store.lent_bytes == 0
    assert machine.kernel.calls._waiting == {}
    held = [array for segment, array in machine.segments.items() if segment not in machine.kernel.store._sizes]
    assert held == [], "a task's segment outlived it"
