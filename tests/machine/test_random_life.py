"""Tasks, operators and cores that do whatever they like: no bug, and one answer for every call."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from machine import Machine, Peer

from kernel.abi.codec import PROTOCOL_VERSION
from kernel.events import PeerStalled, ProcessSample
from kernel.limits import MAX_BAD_BURST
from kernel.sched.policy import POLICIES
from kernel.states import TaskState

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("llm.generate", {"prompt": "hello", "max_tokens": 9, "ignore_end": True, "stream": True}),
    ("llm.generate", {"tokens": [1, 2, 3], "max_tokens": 5, "temperature": 1.0}),
    ("llm.generate", {"prompt": "x" * 100, "max_tokens": 3, "stop": ["w"]}),
    ("llm.generate", {"prompt": "x" * 50, "max_tokens": 3, "model": "other"}),
    ("llm.generate", {"prompt": "a", "max_tokens": 3, "grammar": "none"}),
    ("llm.generate", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 30, "json_schema": "{}"}),
    ("llm.embed", {"texts": ["a"] * 20}),
    ("llm.embed", {"tokens": [[1]]}),
    ("llm.tokenize", {"text": "abc"}),
    ("llm.tokenize", {"text": "abc", "model": "other"}),
    ("llm.detokenize", {"tokens": b"\1\0\0\0"}),
    ("llm.cancel", {"call": 2}),
    ("proc.spawn", {"script": "a.py"}),
    ("proc.spawn", {"script": "a.py", "capabilities": ["task.create"]}),
    ("proc.wait", {}),
    ("proc.wait", {"timeout_ms": 20}),
    ("proc.exit", {"status": 3}),
    ("proc.ps", {}),
    ("ipc.recv", {}),
    ("ipc.recv", {"timeout_ms": 10}),
    ("mem.create", {"name": "a", "size_bytes": 64}),
    ("mem.unlink", {"name": "a"}),
    ("sched.setattr", {"nice": 3}),
]
AIMED: list[tuple[str, dict[str, Any]]] = [
    ("ipc.send", {"data": b"x"}),
    ("ipc.send", {"data": bytes(60_000)}),
    ("proc.wait", {}),
    ("proc.kill", {"signal": "STOP"}),
    ("proc.kill", {"signal": "CONT"}),
    ("proc.kill", {"signal": "TERM"}),
    ("proc.kill", {"signal": "KILL"}),
    ("proc.logs", {}),
    ("sched.setattr", {"nice": 5}),
]


class Life:
    """A machine, and all who speak to its kernel. Each happening takes a number that says which and how."""

    def __init__(self, **config: Any) -> None:
        self.machine = Machine.of_three(quantum_tokens=2, keep_alive_s=0.15, **config)
        self.operator = self.machine.operator()  # lives to the end
        self.peers = [self.machine.agent(), self.operator]
        self.made: list[tuple[Peer, int]] = []

    def call(self, peer: Peer, method: str, value: int = 1, **body: Any) -> int:
        call = peer.call(method, deadline_ms=value % 50 if value % 5 == 0 else None, **body)
        self.made.append((peer, call))
        return call

    def pids(self) -> list[int]:
        return list(self.machine.kernel.table.tasks) or [1]

    def processes(self) -> list[int]:
        tasks = self.machine.kernel.table.tasks.values()
        return [task.pid for task in tasks if task.has_process and task.state is not TaskState.ZOMBIE]

    def closed(self, connection: int) -> None:
        """The server closed a connection, or its peer did."""
        if connection != self.operator.connection:
            gone = [peer for peer in self.peers if peer.connection == connection]
            self.peers = [peer for peer in self.peers if peer.connection != connection]
            if gone:
                gone[0].closes()

    # -- happenings ---------------------------------------------------------------------------

    def calls(self, peer: Peer, value: int) -> None:
        method, body = CALLS[value // 3 % len(CALLS)]
        self.call(peer, method, value, **body)

    def aims(self, peer: Peer, value: int) -> None:
        method, body = AIMED[value // 3 % len(AIMED)]
        pids = self.pids()
        aim = {"to" if method == "ipc.send" else "pid": pids[value // 7 % len(pids)]}
        self.call(peer, method, value, **body, **aim)

    def holds(self, peer: Peer, value: int) -> None:
        end = peer.end(self.call(peer, "task.create"))
        if end is not None and end[0] == "reply":
            self.peers.append(peer.speaking_for(end[1]["pid"]))

    def names_anyone(self, peer: Peer, value: int) -> None:
        pids = self.pids()
        self.call(peer.speaking_for(pids[value // 7 % len(pids)]), "ipc.recv", value)

    def connects_again(self, peer: Peer, value: int) -> None:
        self.peers.append(peer.another())

    def is_another_process(self, peer: Peer, value: int) -> None:
        if not peer.is_operator:
            again = peer.another(birth=peer.birth + 1)
            again.task = None
            self.peers.append(again)
            self.call(again, "sys.hello", version=PROTOCOL_VERSION, name="again")

    def says_hello(self, peer: Peer, value: int) -> None:
        self.call(peer, "sys.hello", version=PROTOCOL_VERSION)

    def makes_noise(self, peer: Peer, value: int) -> None:
        peer.raw(b"noise", burst=value % (2 * MAX_BAD_BURST))

    def leaves(self, peer: Peer, value: int) -> None:
        self.closed(peer.connection)

    def stalls(self, peer: Peer, value: int) -> None:
        self.machine.event(PeerStalled(self.machine.now_ns, peer.connection))
        self.closed(peer.connection)

    def step(self, peer: Peer, value: int) -> None:
        self.machine.step()

    def agent_comes(self, peer: Peer, value: int) -> None:
        self.peers.append(self.machine.agent())

    def operator_comes(self, peer: Peer, value: int) -> None:
        self.peers.append(self.machine.operator())

    def launch_succeeds(self, peer: Peer, value: int) -> None:
        if self.machine.launches:
            self.peers.append(Peer(self.machine, self.machine.launched()))
            if value % 3:
                self.says_hello(self.peers[-1], value)

    def launch_fails(self, peer: Peer, value: int) -> None:
        if self.machine.launches:
            self.machine.launch_fails("no")

    def process_ends(self, peer: Peer, value: int) -> None:
        pids = self.processes()
        if pids:
            self.machine.ends(pids[value // 7 % len(pids)], *((0, None) if value % 2 else (None, 9)))

    def time_passes(self, peer: Peer, value: int) -> None:
        self.machine.pass_time(value % 100 / 1000)

    def processes_are_sampled(self, peer: Peer, value: int) -> None:
        now_ns = self.machine.now_ns
        usage = tuple((pid, now_ns / 1e9, 1) for pid in self.processes())
        self.machine.event(ProcessSample(now_ns, usage))

    def core_dies(self, peer: Peer, value: int) -> None:
        alive = [*self.machine.engines, *self.machine.loading]
        if alive:
            core = alive[value // 7 % len(alive)]
            was_ready = core in self.machine.engines
            self.machine.stopping = [one for one in self.machine.stopping if one != core]
            self.machine.core_dies(core, was_ready=was_ready)

    def core_comes(self, peer: Peer, value: int) -> None:
        loading = self.machine.loading
        if loading:
            self.machine.core_up(loading[value // 7 % len(loading)])

    def core_stops(self, peer: Peer, value: int) -> None:
        if self.machine.stopping:
            self.machine.core_stops(self.machine.stopping[0])

    def model_is_refused(self, peer: Peer, value: int) -> None:
        """Not for the first time: that may end the kernel."""
        loading = [core for core in self.machine.loading if self.machine.kernel.cores[core].info]
        if loading:
            self.machine.core_dies(loading[0], was_ready=False, is_fatal=True)

    def policy_changes(self, peer: Peer, value: int) -> None:
        policy = list(POLICIES)[value % len(POLICIES)]
        turn = {"quantum_tokens": 1 + value % 5, "slice_ms": 1 + value % 50}
        params = {name: size for name, size in turn.items() if name in POLICIES[policy].params}
        self.call(self.operator, "group.setattr", path="/", attr={"policy": policy, "params": params})


COMMON = [Life.calls] * 8 + [Life.aims] * 5 + [Life.step] * 7 + [Life.holds] * 3 + [Life.launch_succeeds] * 2
RARE = [
    Life.agent_comes, Life.connects_again, Life.core_comes, Life.core_comes, Life.core_dies, Life.core_stops,
    Life.is_another_process, Life.launch_fails, Life.leaves, Life.makes_noise, Life.model_is_refused,
    Life.names_anyone, Life.operator_comes,
    Life.policy_changes, Life.process_ends, Life.processes_are_sampled, Life.says_hello, Life.stalls,
    Life.time_passes,
]  # fmt: skip

happenings = st.tuples(st.sampled_from(COMMON + RARE), st.integers(0, 1 << 20))


@settings(max_examples=250, deadline=None)
@given(
    acts=st.lists(happenings, max_size=30) | st.lists(happenings, min_size=80, max_size=200),
    room=st.sampled_from([0, 1 << 17, 1 << 24]),
    slots=st.integers(1, 3),
)
def test_whatever_happens_every_call_is_answered_once(acts, room, slots):
    life = Life(slots=slots, snapshot_bytes=room)
    machine = life.machine
    for act, value in acts:
        act(life, life.peers[value % len(life.peers)], value)
        for connection in list(machine.closed):
            life.closed(connection)
        assert not [text for text in machine.said if "bug" in text], machine.said
    while machine.loading or machine.stopping:
        life.core_stops(life.operator, 0)
        life.core_comes(life.operator, 0)
    machine.run()
    for task in list(machine.kernel.table.tasks.values()):
        if task.state not in (TaskState.STOPPED, TaskState.ZOMBIE):
            assert not [request for request in task.requests if request.prompt_tokens], "a request is stuck"
    life.operator.ask("sys.shutdown")
    while machine.launches:
        machine.launched()
    for pid in life.processes():
        machine.ends(pid)
    machine.run()
    assert machine.halted == 0
    assert all(peer.end(call) is not None for peer, call in life.made)
    assert not any(core.store.lent_bytes for core in machine.kernel.cores)
    assert machine.kernel.calls._waiting == {}
    assert not machine.segments.keys() & machine.owners.keys(), "a task's segment outlived it"
    for peer in list(life.peers):
        life.closed(peer.connection)
    assert machine.kernel.table._by_peer == {}
