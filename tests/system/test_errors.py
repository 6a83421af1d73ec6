"""docs/errors.md row by row: one sentence on stderr, its own exit status, and never a traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from live import PATIENCE_S, ROOT, Live, live

from benchmarks.models import model_path
from kernel.abi.address import socket_name

NOBODY = f"nobody-{os.getpid()}"


def command(*arguments: str, kernel: str = NOBODY, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    ours = {"AGENTIX_KERNEL": kernel, "PYTHONPATH": f"{ROOT / 'agents'}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, "-m", "agentix.cli", *arguments],
        cwd=ROOT,
        env=os.environ | ours | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def agentix(*arguments: str, kernel: str = NOBODY, **environment: str) -> tuple[int, str, str]:
    """Run the command line; return (exit status, stdout, last line of stderr)."""
    ended = command(*arguments, kernel=kernel, **environment)
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stdout, ended.stderr.strip().rpartition("\n")[2]


@pytest.fixture(scope="module")
def machine():
    with live() as running:
        yield running


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("nosuch",), 2, ["invalid choice", "nosuch"]),
        (("up", "--policy", "nosuch"), 2, ["policy 'nosuch'", "eevdf, fcfs, hrrn"]),
        (("up", "--slots", "0"), 2, ["slots is 0"]),
        (("up", "--slots", "257"), 2, ["slots is 257", "256"]),
        (("up", "--window", "many"), 2, ["--window", "'many' is no number"]),
        (("up", "--model", f"a={__file__}", "--embed", "a=/x"), 2, ["two models are called 'a'"]),
        (("up", "--model", "a b=/x"), 2, ["a model cannot be called 'a b'"]),
        (("up", "--model", "/no/such.gguf"), 5, ["/no/such.gguf", "No such file"]),
        (("up", "--model", __file__), 5, ["not b'GGUF'"]),
        (("ps",), 9, [NOBODY, "agentix up"]),
        (("kill", "1"), 9, [NOBODY, "agentix up"]),
        (("down",), 9, [NOBODY]),
    ],
)
def test_without_a_kernel(arguments, status, words):
    code, _, sentence = agentix(*arguments)
    assert code == status, sentence
    for word in words:
        assert word in sentence


def test_a_script_that_is_not_there(machine):
    code, _, sentence = agentix("run", "/no/such.py", kernel=machine.name)
    assert code == 2
    assert "/no/such.py" in sentence


def test_a_task_that_is_not_there(machine):
    code, _, sentence = agentix("kill", "999999", kernel=machine.name)
    assert code == 10
    assert "999999" in sentence


def test_an_address_that_another_program_holds():
    name = f"taken-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as holder:
        holder.bind("\0" + socket_name("agent", name))
        holder.listen()
        code, _, sentence = agentix("up", "--name", name, "--model", str(model_path()))
    assert code == 4
    assert f"process {os.getpid()}" in sentence


def test_a_gguf_file_that_llama_cpp_refuses(tmp_path: Path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(5000))
    code, _, sentence = agentix("up", "--model", str(broken))
    assert code == 5
    assert "cannot load" in sentence


def test_a_model_that_may_not_be_read(tmp_path: Path):
    if os.getuid() == 0:  # root reads everything: a folder is what even root cannot read
        locked = tmp_path
        wanted = "directory"
    else:
        locked = tmp_path / "locked.gguf"
        locked.touch(0o000)
        wanted = "Permission denied"
    code, _, sentence = agentix("up", "--model", str(locked))
    assert code == 5
    assert wanted in sentence


def test_contexts_larger_than_the_memory_that_they_may_take():
    code, _, sentence = agentix("up", "--model", str(model_path()), "--kv-memory", "1k")
    assert code == 6
    assert "the LLM core refused: contexts of model" in sentence
    assert "--kv-memory allows" in sentence


@pytest.mark.parametrize(("version", "words"), [(None, "not installed"), ("0.2.90", "0.2.90")])
def test_llama_cpp_python_that_is_missing_or_untested(tmp_path: Path, version, words):
    """A metadata folder earlier on the path stands for another installation."""
    shadow = tmp_path / "sitecustomize.py"
    shadow.write_text(
        "import importlib.metadata as metadata\n"
        "real = metadata.version\n"
        "def version(name):\n"
        "    if name != 'llama-cpp-python':\n"
        "        return real(name)\n"
        f"    if {version!r} is None:\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        f"    return {version!r}\n"
        "metadata.version = version\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(ROOT / "agents"), str(ROOT)])
    code, _, sentence = agentix("up", "--model", str(model_path()), PYTHONPATH=paths)
    assert code == 7
    assert words in sentence
    assert "make setup" in sentence


@pytest.mark.parametrize(
    ("model", "status", "words"),
    [
        ("killed", 8, ["keeps dying", "agentix doctor"]),
        ("refused", 5, ["the LLM core refused", "not for serving"]),
        ("too-big", 6, ["1 MiB of memory are free"]),
    ],
)
def test_a_core_that_cannot_serve(model, status, words):
    config = json.dumps({"models": [{"path": model}], "name": f"{model}-{os.getpid()}"})
    engine = "tests.engine.scripted_engine:ScriptedEngine"
    ended = subprocess.run(
        [sys.executable, "-m", "kernel", "--config-json", config, "--engine", engine],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )
    assert ended.returncode == status
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in ended.stderr


def test_an_agent_that_crashed_shows_its_last_lines(machine: Live):
    ended = command("run", str(ROOT / "agents" / "crasher.py"), kernel=machine.name)
    assert ended.returncode == 1
    assert "died: exit status 1" in ended.stderr
    assert "RuntimeError: crasher crashed" in ended.stdout + ended.stderr


def test_wait_shows_the_last_lines_of_a_crashed_agent(machine: Live):
    pid = machine.spawn(ROOT / "agents" / "crasher.py")
    ended = command("wait", str(pid), kernel=machine.name)
    assert ended.returncode == 1
    assert f"(pid {pid}) died: exit status 1; its last lines:" in ended.stderr + ended.stdout


def test_a_wait_that_takes_too_long(machine: Live):
    pid = machine.spawn(ROOT / "agents" / "hog.py", "3600")
    code, _, sentence = agentix("wait", str(pid), "--timeout", "0.2", kernel=machine.name)
    machine.call("proc.kill", pid=pid, signal="KILL")
    assert code == 12, sentence
