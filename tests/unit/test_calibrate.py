"""What calibration decides from measured speeds, the file that keeps it, what `agentix calibrate` prints."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentix.cli import calibrate as command
from agentix.cli.__main__ import main
from agentix.cli.exits import CommandError, Exit
from kernel.engine import calibration, calibrationfile
from kernel.engine.base import F16, Q8_0
from kernel.engine.calibration import Choice, Measured
from kernel.engine.hostcpu import usable_cores, usable_cpus


def mode(step: float = 0.02, chunk: float = 0.05, **fields: object) -> Measured:
    plain = Measured(threads=2, flash_attention=True, depth=512, chunk_s=chunk, step_s={1: step / 2, 8: step})
    return replace(plain, **fields)


# --- decisions ------------------------------------------------------------------------------------


def test_the_first_guess_is_a_thread_a_core_and_flash_attention_where_no_tiles_are():
    assert calibration.prior({"avx2"}, 4) == Choice(threads=4, flash_attention=True)
    assert calibration.prior({"avx2", "amx_tile"}, 8) == Choice(threads=8, flash_attention=False)


@pytest.mark.parametrize(
    ("cores", "cpus", "expected"),
    [(1, 1, (1,)), (2, 2, (1, 2)), (4, 8, (1, 2, 4, 8)), (16, 32, (1, 8, 16, 32)), (8, 2, (1, 2, 4))],
)
def test_one_thread_half_the_cores_all_cores_and_all_hardware_threads_are_tried(cores, cpus, expected):
    assert calibration.thread_counts(cores, cpus) == expected


def test_the_first_guess_stays_unless_another_is_plainly_faster():
    guess = mode()
    slightly, plainly = mode(step=0.0185, chunk=0.047), mode(step=0.01, flash_attention=False)
    assert calibration.best(guess, [slightly]) is guess
    assert calibration.best(guess, [slightly, plainly]) is plainly
    assert calibration.best(guess, []) is guess


def test_a_mode_that_prefills_faster_and_decodes_slower_is_judged_by_a_whole_turn():
    guess = mode(step=0.02, chunk=0.05)  # 0.1 s of prompt and 0.32 s of reply
    assert calibration.best(guess, [mode(step=0.03, chunk=0.01)]) is guess
    lopsided = mode(step=0.021, chunk=0.01)
    assert calibration.best(guess, [lopsided]) is lopsided


def test_a_disturbed_measurement_decides_nothing():
    guess, faster = mode(), mode(step=0.001)
    assert calibration.best(replace(guess, cpu_share=0.5), [faster]) is not faster
    assert calibration.best(guess, [replace(faster, cpu_share=0.5)]) is guess
    assert calibration.best(replace(guess, cpu_share=0.95), [faster]) is faster


def test_the_fewest_slots_that_come_near_the_best_throughput_are_chosen():
    assert calibration.knee({8: 0.04, 16: 0.06, 32: 0.12, 64: 0.24}) == 16
    assert calibration.knee({8: 0.04, 16: 0.08, 32: 0.16}) == 8
    assert calibration.knee({8: 0.04, 16: 0.05, 32: 0.06, 64: 0.07}) == 64
    assert calibration.knee({1: 0.001, 8: 0.1}) == 8, "one slot is none of the choices"


def test_prompts_get_what_keeps_a_step_short_but_always_one_chunk():
    assert calibration.prefill_budget(chunk_s=0.05, step_s=0.04) == 3 * 64
    assert calibration.prefill_budget(chunk_s=1.0, step_s=0.04) == 64
    assert calibration.prefill_budget(chunk_s=0.05, step_s=3.0) == 64
    assert calibration.prefill_budget(chunk_s=0.001, step_s=0.01) == 512


@given(st.dictionaries(st.sampled_from(calibration.SLOT_COUNTS), st.floats(1e-6, 1e3), min_size=1))
def test_the_number_of_slots_is_one_that_was_measured(step_s):
    assert calibration.knee(step_s) in step_s


# --- the machine ----------------------------------------------------------------------------------


def test_a_containers_share_of_cpus_counts(tmp_path):
    allowed = len(os.sched_getaffinity(0))
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cpus(tmp_path) == allowed
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert usable_cpus(tmp_path) == 1
    old = tmp_path / "old" / "cpu"
    old.mkdir(parents=True)
    (old / "cpu.cfs_period_us").write_text("100000\n")
    for quota, expected in (("-1", allowed), ("30000", 1)):
        (old / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert usable_cpus(tmp_path / "old") == expected


def test_two_hardware_threads_of_one_core_count_once(tmp_path):
    for cpu in os.sched_getaffinity(0):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text("0\n")
        (topology / "core_id").write_text("7\n")
    assert usable_cores(tmp_path) == 1
    assert usable_cores(tmp_path / "nothing") == usable_cpus()


# --- the file -------------------------------------------------------------------------------------

CHOICE = Choice(threads=4, flash_attention=False, slots=16, prefill_tokens=128, is_fast=True)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + bytes(5000))
    return path


def test_a_choice_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "calibration" / "x.json"
    assert calibrationfile.read(path) is None
    for choice in (CHOICE, Choice(), Choice(threads=1)):
        assert calibrationfile.write(path, choice, "m", replace=True) == choice
        assert calibrationfile.read(path) == choice
    assert [file.name for file in path.parent.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"choice": {}}', b'{"choice": 3}', b"\xff\xfe"],
)
def test_a_file_that_makes_no_sense_counts_as_absent(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    assert calibrationfile.read(tmp_path / "x.json") is None


@pytest.mark.parametrize(
    "wrong",
    [{"threads": "2"}, {"threads": -1}, {"flash_attention": 7}, {"slots": 999}, {"is_fast": 3}],
)
def test_a_choice_with_a_value_that_means_nothing_counts_as_absent(tmp_path, wrong):
    fields = {"threads": 2, "flash_attention": True, "slots": 0, "prefill_tokens": 0, "is_fast": False}
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"choice": fields}))
    assert calibrationfile.read(path) == Choice(threads=2, flash_attention=True)
    path.write_text(json.dumps({"choice": fields | wrong}))
    assert calibrationfile.read(path) is None


def test_of_cores_that_write_at_once_one_wins_and_all_have_its_choice(tmp_path):
    path = tmp_path / "x.json"
    barrier = threading.Barrier(8)
    kept = []

    def write(threads: int) -> None:
        barrier.wait()
        kept.append(calibrationfile.write(path, Choice(threads=threads), "m", replace=False))

    cores = [threading.Thread(target=write, args=(number,)) for number in range(1, 9)]
    for core in cores:
        core.start()
    for core in cores:
        core.join()
    assert set(kept) == {calibrationfile.read(path)}


def test_a_damaged_file_is_replaced_by_the_first_core_that_measures(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("half")
    assert calibrationfile.write(path, CHOICE, "m", replace=False) == CHOICE
    assert calibrationfile.read(path) == CHOICE


def test_each_model_has_a_file_of_its_own_wherever_it_lies(model, tmp_path):
    place = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    first = calibrationfile.choices_path(model, F16, place)
    assert first.parent == tmp_path / "cache/agentix/calibration"
    moved = model.rename(tmp_path / "other.gguf")
    assert calibrationfile.choices_path(moved, F16, place) == first
    assert calibrationfile.choices_path(moved, Q8_0, place) != first, "other KV is measured by itself"
    moved.write_bytes(b"GGUF" + bytes(5001))
    assert calibrationfile.choices_path(moved, F16, place) != first


def test_a_model_that_is_not_there_has_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        calibrationfile.choices_path(tmp_path / "absent", F16)


# --- the command ----------------------------------------------------------------------------------


def shown(
    threads: int, flash: bool, rates: dict[int, float], is_disturbed: bool = False
) -> dict[str, object]:
    return {
        "threads": threads,
        "flash_attention": flash,
        "depth_tokens": 512,
        "prefill_tokens_s": 1000.4,
        "decode_tokens_s": {str(rows): rate for rows, rate in rates.items()},
        "step_s": {str(rows): rows / rate for rows, rate in rates.items()},
        "is_disturbed": is_disturbed,
    }


LINES = [
    {"progress": "threads 2, flash attention on"},
    {"measured": shown(2, True, {1: 60.2, 8: 250, 32: 300})},
    {"measured": shown(2, False, {1: 50, 8: 200, 32: 250})},
    {"slots": shown(2, True, {8: 250, 16: 290, 32: 300})},
    {
        "choice": asdict(Choice(threads=2, flash_attention=True, slots=16, prefill_tokens=128)),
        "kv_type": F16,
        "path": "/c.json",
    },
]


@pytest.fixture
def told(monkeypatch):
    """What the measuring child says, and how it was asked."""
    lines, asked = [*LINES], []

    def ask(module: str, *arguments: str):
        asked.append((module, *arguments))
        yield from lines

    monkeypatch.setattr(command, "ask", ask)
    lines_and_asked = (lines, asked)
    return lines_and_asked


def test_the_table_and_the_choice_are_printed_and_progress_goes_elsewhere(told, capsys):
    assert main(["calibrate", "m.gguf"]) == Exit.OK
    out, err = capsys.readouterr()
    assert err == "threads 2, flash attention on\n"
    heading, *rows = out.splitlines()
    assert heading.split() == [
        "THREADS", "FLASH", "DEPTH", "PREFILL/s", "DECODE/s", "1", "DECODE/s", "8", "DECODE/s", "16",
        "DECODE/s", "32", "STEP", "ms",
    ]  # fmt: skip
    assert rows[0].split() == ["2", "on", "512", "1000", "60", "250", "-", "300", "32.0"]
    assert rows[2].split() == ["2", "on", "512", "1000", "-", "250", "290", "300", "32.0"]
    assert "chosen: 2 threads, flash attention on, KV f16, 16 slots, 128 prompt tokens a step\n" in out
    assert "kept in /c.json" in out
    assert "busy" not in out
    assert told[1] == [("kernel.engine.calibrate", "--kv-type", "f16", "--", "m.gguf")]


def test_options_are_passed_on_and_json_has_everything(told, capsys):
    assert main(["calibrate", "--fast", "--kv-type", "q8_0", "--json", "m.gguf"]) == Exit.OK
    report = json.loads(capsys.readouterr().out)
    assert [mode["flash_attention"] for mode in report["modes"]] == [True, False]
    assert (report["choice"]["slots"], report["path"]) == (16, "/c.json")
    assert report["slots"]["decode_tokens_s"]["16"] == 290
    assert told[1] == [("kernel.engine.calibrate", "--fast", "--kv-type", "q8_0", "--", "m.gguf")]


def test_figures_of_a_busy_machine_are_marked(told, capsys):
    told[0][1] = {"measured": shown(2, True, {1: 5, 8: 9, 32: 10}, is_disturbed=True)}
    assert main(["calibrate", "m.gguf"]) == Exit.OK
    out = capsys.readouterr().out
    assert out.splitlines()[1].endswith("!")
    assert "measure again on a quiet machine" in out


def test_an_error_of_the_child_is_the_commands_after_what_was_measured(told, capsys):
    told[0][2:] = [{"error": "model m.gguf needs 9.1 GiB", "status": 6}]
    assert main(["calibrate", "m.gguf"]) == Exit.NO_MEMORY
    out, err = capsys.readouterr()
    assert err.endswith("agentix calibrate: model m.gguf needs 9.1 GiB\n")
    assert len(out.splitlines()) == 2


def test_without_a_model_the_default_one_is_measured(told, monkeypatch):
    monkeypatch.setattr(command, "default_model", lambda: "/default.gguf")
    assert main(["calibrate"]) == Exit.OK
    assert told[1][0][-1] == "/default.gguf"


def test_without_a_default_model_there_is_one_sentence(monkeypatch, capsys):
    def none() -> str:
        raise CommandError(Exit.NO_MODEL, "there is none")

    monkeypatch.setattr(command, "default_model", none)
    assert main(["calibrate"]) == Exit.NO_MODEL
    assert capsys.readouterr().err == "agentix calibrate: there is none\n"
