"""The channel between real processes: a live kernel, agents that misbehave, tasks that die with their holder."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from live import PATIENCE_S, Live, live

from agentix import Task
from agentix.client import Connection
from agentix.errors import NoSuchTask
from benchmarks.rawpeer import MORE, Cut, RawPeer, framed, head
from kernel.abi.address import socket_name

HOLDER = """
from agentix import Agent
with Agent("holder") as me:
    tasks = [me.task(f"held-{number}") for number in range(8)]
    streams = [task.llm.stream("go on", max_tokens=400, ignore_end=True) for task in tasks]
    for stream in streams:
        next(stream)
    print("all began", flush=True)
    me.recv()
"""
LONG = """
from agentix import Agent
with Agent("long") as me:
    numbers = me.mem.array("numbers", (1000, 100), "int32")
    numbers[:] = 7
    print(len(me.detokenize([5] * 200_000)), me.mem.array("numbers", writable=False).sum())
"""
VICTIM = """
import os
from agentix import Agent
with Agent("victim") as me:
    print(os.environ["AGENTIX_SOCKET"], me.task("held").pid, flush=True)
    me.recv()
"""
THIEF = """
import os, sys
from benchmarks.rawpeer import RawPeer
own, held, victim, public = sys.argv[1:]
def refused(act):
    try:
        act()
    except Exception as error:
        return error
print(refused(lambda: RawPeer(own)))
peer = RawPeer(public)
print(peer.hello("victim")["pid"] == os.getpid())
print(refused(lambda: peer.call("llm.generate", task=int(held), prompt="x")))
print(refused(lambda: peer.call("proc.kill", pid=int(victim))))
"""


def rows(machine: Live) -> dict[int, dict]:
    return {row["pid"]: row for row in machine.call("proc.ps")["tasks"] if row["state"] != "zombie"}


def until(is_true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE_S} s"
        os.sched_yield()


def test_tasks_without_a_process_are_killed_one_by_one_and_end_with_their_holder(tmp_path: Path):
    script = tmp_path / "holder.py"
    script.write_text(HOLDER)
    with live(slots=4, policy="rr") as machine:
        call = {"script": str(script), "capabilities": ["task.create"]}
        holder = machine.call("proc.spawn", **call)["pid"]
        until(lambda: "all began" in machine.call("proc.logs", pid=holder)["text"], "eight streams")
        held = [pid for pid, row in rows(machine).items() if not row["has_process"]]
        assert len(held) == 8
        assert {rows(machine)[pid]["ppid"] for pid in held} == {holder}
        machine.call("proc.kill", pid=held[0], signal="KILL")
        before = rows(machine)
        assert held[0] not in before
        until(
            lambda: all(rows(machine)[pid]["generated_tokens"] > before[pid]["generated_tokens"] for pid in held[1:]),
            "the others go on",
        )
        os.kill(holder, signal.SIGKILL)
        until(lambda: not rows(machine), "all end with their holder")


def test_an_operators_tasks_end_with_its_connection():
    with live() as machine:
        second = Connection("operator", machine.name, "", PATIENCE_S)
        task = Task(second, "held")
        assert task.llm.generate("a", max_tokens=3, ignore_end=True).usage["generated_tokens"] == 3
        assert task.pid in rows(machine)
        second.close()
        until(lambda: task.pid not in rows(machine), "its end")


def test_a_task_that_was_killed_says_so_to_who_speaks_for_it():
    with live() as machine:
        task = Task(machine.operator, "held")
        machine.call("proc.kill", pid=task.pid, signal="KILL")
        with pytest.raises(NoSuchTask):
            task.llm.generate("a", max_tokens=3)


def test_long_messages_and_arrays_pass_between_an_agent_and_the_kernel(tmp_path: Path):
    script = tmp_path / "long.py"
    script.write_text(LONG)
    with live() as machine:
        end = machine.wait(machine.spawn(script))
        assert end["status"] == 0, end["tail"]
        characters, total = end["tail"].split()
        assert int(characters) >= 200_000
        assert int(total) == 700_000


@pytest.mark.parametrize(
    "attack",
    [framed(b"x" * 100, MORE) * 1000, head((1 << 64) - 1) + bytes(1000), framed(b"no call") * 1000],
    ids=["endless", "lengths", "garbage"],
)
def test_who_misbehaves_is_told_why_and_others_are_served(attack: bytes):
    with live() as machine:
        hostile = RawPeer(socket_name("agent", machine.name))
        with contextlib.suppress(OSError):  # it is closed by then: the reason is there to be read
            hostile.socket.sendall(attack)
        with pytest.raises(Cut, match="EBADMSG"):
            read_to_the_end(hostile)
        assert machine.call("sys.stat")["cut_connections"] == 1
        hostile.close()


def read_to_the_end(peer: RawPeer) -> None:
    while True:
        peer.receive()


def test_another_process_gets_nothing_by_an_agents_socket_or_number(tmp_path: Path):
    """The thief is an agent as well, and knows the victim's socket, its pid and the number of its task."""
    victims, thiefs = tmp_path / "victim.py", tmp_path / "thief.py"
    victims.write_text(VICTIM)
    thiefs.write_text(THIEF)
    with live() as machine:
        call = {"script": str(victims), "capabilities": ["task.create"]}
        victim = machine.call("proc.spawn", **call)["pid"]
        until(lambda: "\n" in machine.call("proc.logs", pid=victim)["text"], "its words")
        own, held = machine.call("proc.logs", pid=victim)["text"].split()
        thief = machine.spawn(thiefs, own, held, str(victim), socket_name("agent", machine.name))
        end = machine.wait(thief)
        assert end["status"] == 0, end["tail"]
        refused, is_itself, generated, killed = end["tail"].splitlines()
        assert f"this socket is task {victim}'s" in refused
        assert is_itself == "True"
        assert f"the caller holds no task {held}" in generated
        assert f"task {victim} is neither the caller nor a child" in killed
        machine.call("proc.kill", pid=victim, signal="KILL")
