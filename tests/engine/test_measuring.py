"""Calibration with a real model: at a core's first boot, and as `agentix calibrate` runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import pytest

from benchmarks.models import model_path
from kernel.engine import calibrate, calibrationfile
from kernel.engine.bank import prepare
from kernel.engine.base import F16, Q8_0, EngineMemoryError, EngineOptions
from kernel.engine.calibration import SLOT_COUNTS, Choice, prior
from kernel.engine.fit import FreeMemory
from kernel.engine.hostcpu import read_cpu, usable_cores
from kernel.engine.inspect import gather


@pytest.fixture(scope="module", autouse=True)
def one_cpu() -> Iterator[None]:
    """Measure with one thread: two wait for each other for ever where another test has a CPU."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.fixture(scope="module", params=["default", "tiny-mamba"])
def model(request: pytest.FixtureRequest) -> Iterator[llama_cpp.llama_model_p]:
    prepare()
    path = model_path(request.param)
    loaded = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
    yield loaded
    llama_cpp.llama_model_free(loaded)


def guess() -> Choice:
    return prior(read_cpu().features, usable_cores())


def test_without_a_file_for_it_nothing_is_measured_and_the_first_guess_holds(model):
    assert calibrate.choose(model, EngineOptions(), "") == guess()
    chosen = calibrate.choose(model, EngineOptions(threads=3, flash_attention="off"), "")
    assert (chosen.threads, chosen.flash_attention) == (3, False)


def test_the_first_boot_keeps_what_it_chose_and_later_ones_obey(model, tmp_path):
    path = tmp_path / "x.json"
    first = calibrate.choose(model, EngineOptions(), str(path))
    assert calibrationfile.read(path) == first
    assert first.flash_attention in (True, False)
    assert first.threads >= 1
    assert (first.slots, first.prefill_tokens) == (0, 0), "which a boot has no time to measure"
    assert calibrate.choose(model, EngineOptions(), str(path)) == first


def test_a_quantised_kv_has_flash_attention_whatever_is_faster(model, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate.calibration, "prior", lambda *_: Choice(threads=1, flash_attention=False))
    options = EngineOptions(kv_type=Q8_0)
    assert calibrate.choose(model, options, "").flash_attention is True
    path = tmp_path / "x.json"
    assert calibrate.choose(model, options, str(path)).flash_attention is True
    assert calibrationfile.read(path).threads >= 1, "which there was to choose"


def test_a_choice_that_is_kept_is_obeyed_whatever_is_faster(model, tmp_path):
    path = tmp_path / "x.json"
    kept = Choice(threads=1, flash_attention=not guess().flash_attention, slots=32, is_fast=True)
    calibrationfile.write(path, kept, "m", replace=True)
    assert calibrate.choose(model, EngineOptions(), str(path)) == kept


def test_what_the_options_say_goes_before_what_is_kept_and_is_not_kept_itself(model, tmp_path):
    path = tmp_path / "x.json"
    options = EngineOptions(threads=1, flash_attention="off")
    chosen = calibrate.choose(model, options, str(path))
    assert (chosen.threads, chosen.flash_attention) == (1, False)
    assert not path.exists(), "both were given: there was nothing to choose"
    calibrationfile.write(path, Choice(threads=2, flash_attention=True), "m", replace=True)
    chosen = calibrate.choose(model, options, str(path))
    assert (chosen.threads, chosen.flash_attention) == (1, False)


def test_what_a_boot_left_open_is_measured_by_the_first_that_needs_it(model, tmp_path):
    path = tmp_path / "x.json"
    assert calibrate.choose(model, EngineOptions(threads=1), str(path)).threads == 1
    halfway = calibrationfile.read(path)
    assert halfway.threads == 0
    assert halfway.flash_attention is not None
    chosen = calibrate.choose(model, EngineOptions(), str(path))
    assert chosen.threads >= 1
    assert chosen.flash_attention == halfway.flash_attention
    assert calibrationfile.read(path) == chosen


def test_a_machine_with_no_time_to_measure_keeps_the_first_guess(model, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "BOOT_BUDGET_S", 0.0)
    assert calibrate.choose(model, EngineOptions(), str(tmp_path / "x.json")) == guess()
    assert calibrationfile.read(tmp_path / "x.json") == guess()


def test_a_choice_that_cannot_be_kept_is_used_all_the_same(model, tmp_path):
    (tmp_path / "file").touch()
    chosen = calibrate.choose(model, EngineOptions(), str(tmp_path / "file" / "x.json"))
    assert chosen.flash_attention is not None


def test_numbers_of_slots_that_do_not_fit_are_not_tried():
    facts = gather(str(model_path("default")))
    assert calibrate.fitting_slots(facts, EngineOptions(), FreeMemory(8 << 30)) == list(SLOT_COUNTS)
    some = calibrate.fitting_slots(facts, EngineOptions(), FreeMemory(340 << 20))
    assert some == [8, 16]
    with pytest.raises(EngineMemoryError, match="try "):
        calibrate.fitting_slots(facts, EngineOptions(), FreeMemory(265 << 20))


def run(*arguments: str, cache: Path) -> tuple[int, list[dict]]:
    command = [sys.executable, "-m", "kernel.engine.calibrate", *arguments]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_thorough_measurement_tells_each_mode_and_keeps_its_choice(tmp_path):
    path = model_path("default")
    status, lines = run("--fast", str(path), cache=tmp_path)
    assert status == 0
    modes = [line["measured"] for line in lines if "measured" in line]
    assert {mode["flash_attention"] for mode in modes} == {True, False}
    assert all(mode["decode_tokens_s"].keys() == {"1", "8", "32"} for mode in modes)
    (slots,) = (line["slots"] for line in lines if "slots" in line)
    assert list(slots["step_s"]) == [str(count) for count in SLOT_COUNTS]
    choice = Choice(**lines[-1]["choice"])
    assert choice.is_fast
    assert choice.slots in SLOT_COUNTS
    assert calibrationfile.read(Path(lines[-1]["path"])) == choice
    assert Path(lines[-1]["path"]) == calibrationfile.choices_path(path, F16, {"XDG_CACHE_HOME": str(tmp_path)})


def test_a_thorough_measurement_of_a_quantised_kv_has_flash_attention_in_every_mode(tmp_path):
    path = model_path("default")
    status, lines = run("--fast", "--kv-type", "q8_0", str(path), cache=tmp_path)
    assert status == 0
    assert {line["measured"]["flash_attention"] for line in lines if "measured" in line} == {True}
    kept = calibrationfile.choices_path(path, Q8_0, {"XDG_CACHE_HOME": str(tmp_path)})
    assert (lines[-1]["kv_type"], Path(lines[-1]["path"])) == (Q8_0, kept)


def test_what_cannot_be_measured_is_one_error_with_a_status(tmp_path):
    damaged = tmp_path / "m.gguf"
    damaged.write_bytes(model_path("default").read_bytes()[:100_000])
    status, lines = run(str(damaged), cache=tmp_path)
    assert (status, lines[-1]["status"]) == (5, 5)
    assert "cannot load this file" in lines[-1]["error"]
    status, lines = run(str(model_path("tiny-bert")), cache=tmp_path)
    assert status == 5
    assert "computes embeddings" in lines[-1]["error"]
