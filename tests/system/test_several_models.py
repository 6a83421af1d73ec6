"""Several models in real processes: chats beside embeddings, one that cannot be served, one that is unloaded."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from live import PATIENCE_S, Live, live

from agentix import Task, errors
from benchmarks.models import model_path

TOKENS = {"max_tokens": 9, "ignore_end": True}


def models(machine: Live) -> dict[str, dict]:
    return {row["name"]: row for row in machine.call("llm.models")["models"]}


def until_state(machine: Live, name: str, state: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while models(machine)[name]["state"] != state:
        assert time.monotonic() < end, f"{name} is {models(machine)[name]}"
        os.sched_yield()


def test_a_chat_and_an_embedding_model_answer_side_by_side():
    embed = {"path": str(model_path("tiny-bert")), "name": "embed", "embedding": True}
    two = [{"path": str(model_path()), "name": "chat"}, embed]
    with live(models=two) as machine, Task(machine.operator, "held") as task:
        found = models(machine)
        assert [(name, row["state"]) for name, row in found.items()] == [("chat", "ready"), ("embed", "ready")]
        assert found["chat"]["embedding_width"] == 0
        vectors = task.llm.embed([f"text {number % 69}" for number in range(70)])
        assert vectors.shape == (70, found["embed"]["embedding_width"])
        assert (vectors[0] == vectors[69]).all()
        assert abs(float((vectors**2).sum()) - 70) < 1e-3, "each is of length 1"
        assert task.llm.generate("hello", **TOKENS).usage["generated_tokens"] == 9
        with pytest.raises(errors.InvalidValue, match="'embed' is not one that generates"):
            task.llm.generate("hello", model="embed")
        with pytest.raises(errors.NoSuchModel, match="'other' is not one of chat, embed"):
            task.llm.generate("hello", model="other")
        pids = {row["core_pid"] for row in machine.call("sys.info")["models"]}
        assert len(pids) == 2


def test_a_second_model_that_cannot_be_served_leaves_the_first_in_peace(tmp_path: Path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(5000))
    served = [{"path": str(model_path()), "name": "good"}]
    with live(models=served) as machine:
        alone = Task(machine.operator, "a").llm.generate("hello", **TOKENS).text
    with live(models=[*served, {"path": str(broken), "name": "bad"}], is_whole=False) as machine:
        until_state(machine, "bad", "failed")
        task = Task(machine.operator, "b")
        assert task.llm.generate("hello", **TOKENS).text == alone
        with pytest.raises(errors.ModelFailed, match=r"model bad cannot be served: .*broken\.gguf"):
            task.llm.generate("hello", model="bad")


def test_an_idle_model_gives_its_memory_back_and_is_loaded_again_for_who_asks():
    with live(keep_alive_s=0.3) as machine, Task(machine.operator, "held") as task:
        (name,) = models(machine)
        first = task.llm.generate("Once upon a time", **TOKENS)
        core = machine.core_pid()
        machine.read_until(f"model {name} unloaded: nothing was asked of it for 0.3 s")
        until_state(machine, name, "unloaded")
        assert not Path(f"/proc/{core}").exists()
        assert task.llm.generate("Once upon a time", **TOKENS).text == first.text
        assert machine.core_pid() not in (core, None)
        assert machine.call("sys.info")["core_restarts"] == 0
