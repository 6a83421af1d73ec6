"""The LLM core process: carries out plans in order, answers beside them, and dies when it should."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.models import model_path
from kernel.engine import preflight
from kernel.engine.base import (
    CHUNK_TOKENS,
    F16,
    KV_TYPES,
    Q8_0,
    EngineOptions,
    Opening,
    Restore,
    Row,
    Sampling,
    Save,
    StepPlan,
)
from kernel.engine.link import ASK, ATTACH, DETACH, CoreProcess, plan_message
from kernel.events import CoreAnswer, CoreLost, CoreReady, Event, StepDone
from shm.segment import Segment

DEADLINE_S = 60
SCRIPTED = "tests.engine.scripted_engine:ScriptedEngine"


def worker_command(model: str, engine: str | None = SCRIPTED, kv_type: str = F16) -> list[str]:
    options = EngineOptions(slots=2, slot_tokens=256, window_tokens=256, threads=1, kv_type=kv_type)
    command = [sys.executable, "-m", "kernel.engine.worker", "--model", model]
    command += ["--options-json", json.dumps(asdict(options))]
    return command if engine is None else [*command, "--engine", engine]


class Core:
    """A worker under test: `take` waits for what it says."""

    def __init__(self, process: CoreProcess) -> None:
        self.process = process
        self.seen: list[Event] = []

    def take(self, is_wanted: Callable[[Event], bool]) -> Event:
        until = time.monotonic() + DEADLINE_S
        while True:
            for index, event in enumerate(self.seen):
                if is_wanted(event):
                    return self.seen.pop(index)
            left = until - time.monotonic()
            assert left > 0, f"not within {DEADLINE_S} s; seen: {self.seen}"
            writers = [self.process.link_fd] if self.process.is_sending else []
            _, writable, _ = select.select([self.process.link_fd], writers, [], left)
            if writable:
                self.process.flush()
            self.seen += self.process.read(0)

    def next(self, kind: type[Event]) -> Event:
        return self.take(lambda event: isinstance(event, kind))

    def ask(self, what: str, value: object) -> CoreAnswer:
        self.process.send((ASK, 9, what, value))
        answer = self.next(CoreAnswer)
        assert isinstance(answer, CoreAnswer)
        return answer

    def step(self, plan: StepPlan) -> StepDone:
        self.process.send(plan_message(plan))
        done = self.next(StepDone)
        assert isinstance(done, StepDone)
        return done


@contextmanager
def core(model: str, engine: str | None = SCRIPTED, kv_type: str = F16) -> Iterator[Core]:
    before = len(os.listdir("/proc/self/fd"))
    with closing(CoreProcess(worker_command(model, engine, kv_type))) as process:
        yield Core(process)
    assert len(os.listdir("/proc/self/fd")) == before
    assert not Path(f"/proc/{process.pid}").exists()


@pytest.fixture(scope="module")
def model() -> str:
    return str(model_path())


def asking(text: str, with_special: bool = False) -> dict[str, object]:
    """What tokenize is asked."""
    return {"text": text, "with_special": with_special, "sender": 1}


def opening(slot: int = 0) -> Opening:
    return Opening(slot + 1, slot, Sampling(), None, (), 0, 9, False)


# -- llama.cpp --------------------------------------------------------------------------------


def test_the_real_model_says_what_it_is_and_answers_questions_about_text(model: str) -> None:
    with core(model, engine=None) as llama:
        ready = llama.next(CoreReady)
        assert isinstance(ready, CoreReady)
        assert (ready.pid, ready.info.slots, ready.info.model) == (llama.process.pid, 2, model)
        tokens = llama.ask("tokenize", asking("to be or not")).value
        assert isinstance(tokens, tuple)
        text = llama.ask("detokenize", {"tokens": tokens}).value
        assert isinstance(text, bytes)
        assert text.decode().strip() == "to be or not"
        chat = {"messages": [{"role": "user", "content": "hello"}], "tools": None, "thinking": None}
        assert llama.ask("chat", chat).value["tokens"]
        assert "not in the vocabulary" in (llama.ask("detokenize", {"tokens": [-1]}).error or "")
        assert "not one of" in (llama.ask("guess", {}).error or "")
        assert "does not embed" in (llama.ask("embed", {"texts": [[1]]}).error or "")


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_a_context_saved_by_one_real_core_goes_on_in_the_next(model: str, kv_type: str) -> None:
    prompt = tuple(range(5, 5 + CHUNK_TOKENS))
    fill = StepPlan(1, chunks=(Row(0, 0, prompt, True),), openings=(opening(),))
    segment = Segment.create("test", 4 << 20)
    goes_on = []
    for is_first in (True, False):
        with core(model, None, kv_type) as llama:
            llama.process.send((ATTACH, 3, segment.size_bytes), segment.fd)
            if is_first:
                (token,) = [one.token for one in llama.step(fill).result.sampled]
            begin = {"saves": (Save(0, 3, len(prompt), 77),)} if is_first else {}
            if not is_first:
                begin = {"restores": (Restore(0, 3, len(prompt), 77, len(prompt)),)}
            row = Row(0, len(prompt), (token,), True)
            result = llama.step(StepPlan(2, decodes=(row,), openings=(opening(),), **begin)).result
            assert result.failed_restores == ()
            goes_on.append([one.token for one in result.sampled])
    segment.close()
    assert goes_on[0] == goes_on[1]
    assert len(goes_on[0]) == 1


def test_a_context_of_another_type_of_kv_is_refused_and_its_slot_is_empty(model: str) -> None:
    prompt = tuple(range(5, 5 + CHUNK_TOKENS))
    fill = StepPlan(1, chunks=(Row(0, 0, prompt, True),), openings=(opening(),))
    segment = Segment.create("test", 4 << 20)
    with core(model, None, F16) as llama:
        llama.process.send((ATTACH, 3, segment.size_bytes), segment.fd)
        llama.step(fill)
        llama.step(StepPlan(2, saves=(Save(0, 3, len(prompt), 77),)))
    with core(model, None, Q8_0) as llama:
        llama.process.send((ATTACH, 3, segment.size_bytes), segment.fd)
        restore = Restore(0, 3, len(prompt), 77, len(prompt))
        ((slot, reason),) = llama.step(StepPlan(1, restores=(restore,))).result.failed_restores
        assert (slot, reason.split(" is ")[0]) == (0, "snapshot model fingerprint")
        assert len(llama.step(fill).result.sampled) == 1, "it takes another context"
    segment.close()


def test_questions_are_answered_while_a_real_step_runs(model: str) -> None:
    chunks = tuple(
        Row(0, at, (7,) * CHUNK_TOKENS, False) for at in range(0, 256 - CHUNK_TOKENS, CHUNK_TOKENS)
    )
    many = StepPlan(1, chunks=chunks, decodes=(Row(1, 0, (5,), True),), openings=(opening(1),))
    with core(model, engine=None) as llama:
        llama.next(CoreReady)
        assert llama.ask("tokenize", asking("a b")).value
        llama.process.send(plan_message(many))
        assert llama.ask("tokenize", asking("a b")).value
        assert not any(isinstance(event, StepDone) for event in llama.seen), "the step was over first"
        llama.next(StepDone)


def test_a_file_that_is_no_model_is_refused_for_good(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with core(str(path), engine=None) as llama:
        lost = llama.next(CoreLost)
    assert isinstance(lost, CoreLost)
    assert lost.is_fatal
    assert str(path) in lost.reason


def test_preflight_decodes_the_real_model_and_says_why_another_will_not_do(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preflight.main([model]) == 0
    assert capsys.readouterr().out == '{"ok": true, "extra_buffers": true, "text": "it decodes"}\n'
    assert preflight.main(["/dev/null"]) == 1
    assert '"ok": false' in capsys.readouterr().out


# -- a scripted engine -------------------------------------------------------------------------


def test_segments_are_attached_and_detached_in_order_with_the_plans() -> None:
    segments = [Segment.create("test", 4096) for _ in range(20)]
    with core("plain") as plain:
        for number, segment in enumerate(segments):  # all before it is even ready
            plain.process.send((ATTACH, 5, segment.size_bytes), segment.fd)
            plain.process.send(plan_message(StepPlan(number + 1, saves=(Save(0, 5, 1, 0),))))
            plain.process.send((DETACH, 5))
        for number in range(20):
            done = plain.next(StepDone)
            assert isinstance(done, StepDone)
            assert done.result.number == number + 1
    for number, segment in enumerate(segments):
        memory = segment.map()
        assert memory[0] == number + 1
        memory.close()
        segment.close()


def test_a_question_asked_before_the_core_is_ready_is_answered_after() -> None:
    with core("plain") as plain:
        assert plain.ask("tokenize", asking("a", True)).value == (0, 97)
        assert [type(event) for event in plain.seen] == [CoreReady]


def test_a_bug_in_a_question_is_an_answer_and_no_death() -> None:
    with core("plain") as plain:
        assert plain.ask("tokenize", asking("bug")).error == "tokenize: ZeroDivisionError: scripted"
        assert plain.ask("tokenize", asking("a")).value == (97,)


def test_embeddings_come_in_order_with_the_plans_and_their_errors_are_answers() -> None:
    with core("plain") as plain:
        plain.process.send(plan_message(StepPlan(1)))
        assert plain.ask("embed", {"texts": [[1, 2], [3]]}).value == (b"\x01\x02", b"\x03")
        assert [type(event) for event in plain.seen] == [CoreReady, StepDone]
        assert plain.ask("embed", {"texts": [[]]}).error == "a text of 0 tokens"


def test_a_core_refused_by_its_engine_says_so_and_is_not_to_be_restarted() -> None:
    with core("refused") as refused:
        expected = CoreLost(0, "model 'refused': not for serving", was_ready=False, is_fatal=True)
        assert refused.next(CoreLost) == expected


def test_an_engine_that_cannot_be_imported_is_fatal_and_named() -> None:
    with core("plain", engine="no.such:Engine") as missing:
        lost = missing.next(CoreLost)
    assert isinstance(lost, CoreLost)
    assert lost.is_fatal
    assert "no.such:Engine" in lost.reason


@pytest.mark.parametrize(
    ("model_name", "reason"),
    [
        ("buggy", "exit status 1: RuntimeError: scripted bug"),
        ("aborts", "signal SIGABRT: GGML_ASSERT(scripted) failed"),
    ],
)
def test_a_core_that_fails_in_a_step_is_lost_with_its_last_line(model_name: str, reason: str) -> None:
    with core(model_name) as failing:
        failing.next(CoreReady)
        failing.process.send(plan_message(StepPlan(1)))
        assert failing.next(CoreLost) == CoreLost(0, reason, was_ready=True, is_fatal=False)


def test_a_core_killed_while_it_loads_was_never_ready() -> None:
    with core("killed") as killed:
        assert killed.next(CoreLost) == CoreLost(0, "signal SIGILL", False, False)


def test_a_core_killed_in_a_step_is_lost_once_with_the_signals_name() -> None:
    with core("stuck") as stuck:
        stuck.next(CoreReady)
        stuck.process.send(plan_message(StepPlan(1)))
        assert stuck.ask("tokenize", asking("a")).value == (97,)  # the step has it by now or soon
        os.kill(stuck.process.pid, 9)
        assert stuck.next(CoreLost) == CoreLost(0, "signal SIGKILL", True, False)
        assert stuck.seen == []


def test_a_core_exits_at_once_when_the_kernel_closes_its_end_even_in_a_step() -> None:
    with core("stuck") as stuck:
        stuck.next(CoreReady)
        stuck.process.send(plan_message(StepPlan(1)))
        pidfd = os.pidfd_open(stuck.process.pid)
        stuck.process._link.shutdown(2)
        assert select.select([pidfd], [], [], DEADLINE_S)[0]
        os.close(pidfd)


def test_a_core_is_named_ignores_ctrl_c_and_hides_its_memory() -> None:
    with core("plain") as plain:
        plain.next(CoreReady)
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{plain.process.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert status["Name"] == "agentix-core"
        assert int(status["SigIgn"], 16) & 2
        assert os.stat(f"/proc/{plain.process.pid}/environ").st_uid == 0
