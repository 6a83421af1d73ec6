"""kill -9 of a real kernel: durable sessions go on with the tokens that they would have had."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from live import PATIENCE_S, Live, assert_gone, live

TALKER = """
import sys
from pathlib import Path
from agentix import Agent

name, turns, book = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
options = {"max_tokens": 24, "ignore_end": True, "temperature": 0.8, "seed": 5}
with Agent(name) as me, me.session(system="be brief " * 30, name="plan", durable=True, **options) as talk:
    with book.open("a") as file:
        print("opened", talk.turns, len(talk.messages), file=file, flush=True)
        for number in range(talk.turns, turns):
            reply = talk.say(f"{name} {number} " * 9)
            assert reply.raw.durable
            print(number, *reply.raw.tokens, file=file, flush=True)
"""
NAMES, TURNS, WINDOW = ("anna", "bert", "carl"), 6, 2048


@pytest.fixture
def talker(tmp_path: Path) -> Path:
    script = tmp_path / "talker.py"
    script.write_text(TALKER)
    return script


def spawn_all(machine: Live, talker: Path, folder: Path) -> list[int]:
    folder.mkdir(exist_ok=True)
    return [machine.spawn(talker, name, str(TURNS), str(folder / name)) for name in NAMES]


def wait_all(machine: Live, pids: list[int]) -> None:
    for pid in pids:
        ended = machine.wait(pid)
        assert ended["status"] == 0, ended["tail"]


def read(book: Path) -> tuple[list[int], dict[int, str]]:
    """Return how many turns the session had whenever it was opened, and each turn's tokens."""
    opened, turns = [], {}
    for line in book.read_text().splitlines():
        first, _, rest = line.partition(" ")
        if first == "opened":
            opened.append(int(rest.split()[0]))
        else:
            assert int(first) not in turns, "a turn was said twice"
            turns[int(first)] = rest
    return opened, turns


def test_sessions_go_on_after_kill_9_of_the_kernel_as_if_nothing_had_been(talker, tmp_path):
    state = tmp_path / "state"
    shared = set(os.listdir("/dev/shm"))
    with live(state_folder=str(tmp_path / "undisturbed"), window_tokens=WINDOW) as machine:
        wait_all(machine, spawn_all(machine, talker, tmp_path / "wanted"))
    with live(state_folder=str(state), window_tokens=WINDOW) as machine:
        name = machine.name
        spawn_all(machine, talker, tmp_path / "found")
        while len(list(state.glob("*.session"))) < len(NAMES):  # a turn of each is on the disk
            assert machine.kernel.poll() is None
        processes = machine.processes()
        machine.kernel.kill()
        machine.kernel.wait(PATIENCE_S)
        assert_gone(processes)
    assert set(os.listdir("/dev/shm")) == shared
    said = [len(read(tmp_path / "found" / one)[1]) for one in NAMES]
    with live(name=name, state_folder=str(state), window_tokens=WINDOW) as machine:
        wait_all(machine, spawn_all(machine, talker, tmp_path / "found"))
    for one, count in zip(NAMES, said, strict=True):
        opened, tokens = read(tmp_path / "found" / one)
        assert opened[0] == 0
        assert max(1, count) <= opened[1] <= count + 1  # what was answered is there, and at most one turn more
        _, wanted = read(tmp_path / "wanted" / one)
        assert {number: tokens[number] for number in range(opened[1], TURNS)} == {
            number: wanted[number] for number in range(opened[1], TURNS)
        }
        assert tokens.items() <= wanted.items()
    assert len(list(state.iterdir())) == len(NAMES)
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(talker) in (one.info["cmdline"] or ())]


def test_another_file_under_the_models_name_is_refused_by_both_fingerprints(talker, tmp_path):
    from benchmarks.models import model_path

    state, spoilt = tmp_path / "state", tmp_path / "model.gguf"
    raw = bytearray(model_path().read_bytes())
    spoilt.write_bytes(raw)
    config = {"state_folder": str(state), "models": [{"name": "m", "path": str(spoilt)}], "window_tokens": WINDOW}
    with live(**config) as machine:
        wait_all(machine, spawn_all(machine, talker, tmp_path / "found")[:1])
    raw[-1] ^= 1
    spoilt.write_bytes(raw)
    with live(**config) as machine:
        ended = machine.wait(spawn_all(machine, talker, tmp_path / "found")[0])
        assert ended["status"] != 0
        assert "was made with another file of model 'm'" in ended["tail"]
