"""Whatever is killed with -9, nothing is left behind and the next boot needs no cleaning."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from live import PATIENCE_S, ROOT, assert_gone, live

from agentix import calls
from agentix.client import Connection

TALKER = """
import sys
from agentix import Agent
with Agent() as me:
    for piece in me.llm.stream("go on", max_tokens=int(sys.argv[1]), ignore_end=True):
        print(piece, end="", flush=True)
"""


@pytest.fixture
def talker(tmp_path: Path) -> Path:
    script = tmp_path / "talker.py"
    script.write_text(TALKER)
    return script


def segments() -> set[str]:
    return set(os.listdir("/dev/shm"))


def unix_sockets(name: str) -> list[str]:
    return [line for line in Path("/proc/net/unix").read_text().splitlines() if f"/{name}/" in line]


def test_a_killed_agent_leaves_no_call_and_its_slot_goes_to_another(talker):
    with live(slots=1) as machine:
        first = machine.spawn(talker, "400")
        second = machine.spawn(talker, "20")
        machine.call("proc.kill", pid=first, signal="KILL")
        assert machine.wait(first)["signal"] == signal.SIGKILL
        assert machine.wait(second)["status"] == 0
        assert machine.call("sys.stat")["requests"] == {}
        assert machine.call("sys.stat")["snapshot_bytes"] == 0


def test_a_killed_core_is_replaced_and_no_agent_notices(talker):
    def texts(kills: int) -> list[str]:
        with live(slots=2, quantum_tokens=8) as machine:
            pids = [machine.spawn(talker, "120") for _ in range(4)]
            for _ in range(kills):
                os.kill(machine.core_pid(), signal.SIGKILL)
                machine.read_until("the LLM core died (signal SIGKILL)")
                while not machine.call("sys.info")["is_ready"]:
                    pass
            records = [machine.wait(pid) for pid in pids]
            assert [record["status"] for record in records] == [0] * 4
            assert machine.call("sys.info")["core_restarts"] == kills
            return [record["tail"] for record in records]

    assert texts(2) == texts(0)


def test_a_killed_kernel_takes_everything_with_it_and_the_next_one_boots(talker):
    before = segments()
    with live() as machine:
        name = machine.name
        for _ in range(3):
            machine.spawn(talker, "500")
        processes = machine.processes()
        machine.kernel.kill()
        machine.kernel.wait(PATIENCE_S)
        assert_gone(processes)
        assert unix_sockets(name) == []
    assert segments() == before
    with live(name=name) as machine:
        assert machine.wait(machine.spawn(talker, "5"))["status"] == 0


def test_everything_killed_at_once_leaves_nothing(talker):
    before = segments()
    with live() as machine:
        for _ in range(3):
            machine.spawn(talker, "500")
        processes = machine.processes()
        assert len(processes) >= 5
        for process in processes:
            process.send_signal(signal.SIGKILL)
        machine.kernel.wait(PATIENCE_S)
        assert_gone(processes)
        assert unix_sockets(machine.name) == []
    assert segments() == before


def test_an_agent_that_started_by_itself_ends_when_its_kernel_is_killed(talker):
    with live() as machine:
        environment = os.environ | {
            "AGENTIX_KERNEL": machine.name,
            "PYTHONPATH": f"{ROOT / 'agents'}{os.pathsep}{ROOT}",
        }
        agent = subprocess.Popen(
            [sys.executable, str(talker), "500"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert agent.stdout is not None
        assert agent.stdout.read(1)  # it streams
        machine.kernel.kill()
        _, errors = agent.communicate(timeout=PATIENCE_S)
        assert agent.returncode == 75
        assert b"Traceback" not in errors


def test_ctrl_c_ends_the_kernel_and_all_agents_with_status_0(talker):
    with live() as machine:
        machine.spawn(talker, "500")
        processes = machine.processes()
        machine.kernel.send_signal(signal.SIGINT)
        assert machine.kernel.wait(PATIENCE_S) == 0
        assert_gone(processes)


def test_grandchildren_of_a_killed_agent_are_gone_too(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import subprocess, sys\n"
        "from agentix import Agent\n"
        "with Agent() as me:\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        "    me.send(int(sys.argv[1]), child.pid)\n"
        "    me.recv()\n"
    )
    listener = tmp_path / "listener.py"
    listener.write_text(
        "from agentix import Agent\nwith Agent() as me:\n    print(me.recv().data)\n"
    )
    with live() as machine:
        ear = machine.spawn(listener)
        parent = machine.spawn(script, str(ear))
        grandchild = psutil.Process(int(machine.wait(ear)["tail"]))
        machine.call("proc.kill", pid=parent, signal="KILL")
        machine.wait(parent)
        assert_gone([grandchild])


def test_two_kernels_of_one_name_are_one_too_many():
    with live() as machine:
        second = subprocess.run(
            [sys.executable, "-m", "agentix.cli", "up", "--name", machine.name],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT / 'agents'}{os.pathsep}{ROOT}"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert second.returncode == 3
        assert f"process {machine.kernel.pid}" in second.stderr
        assert "Traceback" not in second.stderr


def test_a_core_that_dies_of_its_own_kernels_is_started_without_repacked_weights():
    with live("--engine", "tests.system.brittle_engine:BrittleEngine") as machine:
        info = machine.call("sys.info")
        assert info["extra_buffers"] is False
        assert any("signal SIGILL" in line for line in machine.lines)
        assert any("without repacked weights" in line for line in machine.lines)


def test_a_connection_of_a_dead_kernel_ends_with_its_name():
    with live() as machine:
        connection = Connection("operator", machine.name, "", PATIENCE_S)
        machine.kernel.kill()
        machine.kernel.wait(PATIENCE_S)
        with pytest.raises(Exception, match=machine.name):
            connection.call(calls.plain("sys.info"), PATIENCE_S)
        connection.close()
