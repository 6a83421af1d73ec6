"""The models that tests and benchmarks use: real files of every family, the same on each machine."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest

from benchmarks import models
from benchmarks.model_shapes import FAMILIES, SHAPES
from benchmarks.model_tensors import tensors
from benchmarks.model_write import QUANTISATIONS
from benchmarks.models import model_path, split_model_path
from tests.engine.model_checks import TEXT

TINY = [name for name in SHAPES if name.startswith("tiny-")]
LIMIT_S = 120
DEFAULT_Q8_0 = "89a9de1f20667130dcfbd419cf0f5aa890856bcdd41ef912fa3e45d0e84e9182"


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, Any]]:
    """What plain llama.cpp says of every file that is made here, by path."""
    paths = [str(model_path(name)) for name in TINY]
    paths += [str(model_path("default", quantisation)) for quantisation in QUANTISATIONS]
    paths += [str(model_path(name, "q4_k")) for name in TINY if name != "tiny-bert"]
    paths.append(str(split_model_path()))
    command = [sys.executable, "-m", "tests.engine.model_checks", *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    after = paths[len(found)] if len(found) < len(paths) else ""
    assert done.returncode == 0, f"ended with {done.returncode} at {after}: {done.stderr[-500:]}"
    return {report["path"]: report for report in found}


@pytest.mark.parametrize("name", TINY)
def test_a_small_model_loads_and_computes_with_and_without_flash_attention(reports, name):
    report, shape = reports[str(model_path(name))], SHAPES[name]
    assert report["loads"]
    assert report["finite"] == [True, True]
    assert (report["architecture"], report["layers"]) == (shape.architecture, shape.layers)
    assert report["sliding_window"] == shape.sliding_window
    assert report["is_recurrent"] == (shape.family == "recurrent")
    assert report["is_hybrid"] == (shape.family == "hybrid")


@pytest.mark.parametrize("name", TINY)
def test_a_text_comes_back_from_its_tokens(reports, name):
    shown = reports[str(model_path(name))]["text"]
    assert shown.lower().strip().replace(" ,", ",") == TEXT.lower()


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
def test_the_default_model_computes_in_every_quantisation(reports, quantisation):
    assert reports[str(model_path("default", quantisation))]["finite"] == [True, True]


def test_k_quants_of_every_architecture_compute(reports):
    for name in TINY:
        if name != "tiny-bert":
            assert reports[str(model_path(name, "q4_k"))]["finite"] == [True, True], name


def test_a_model_in_three_files_loads_from_the_first(reports):
    first = split_model_path()
    assert reports[str(first)]["finite"] == [True, True]
    names = sorted(path.name for path in first.parent.iterdir())
    assert names == [f"default-q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    held = [
        {tensor.name for tensor in gguf.GGUFReader(path).tensors} for path in sorted(first.parent.iterdir())
    ]
    assert all(held)
    assert sum(map(len, held)) == len(set().union(*held)) == len(tensors(SHAPES["default"]))


def test_every_family_has_a_small_model():
    assert {SHAPES[name].family for name in TINY} == set(FAMILIES)
    assert all(model_path(name).stat().st_size < 10 << 20 for name in TINY)


def test_k_quants_are_really_k_quants():
    read = gguf.GGUFReader(model_path("tiny-qwen3moe", "q4_k"))
    assert "Q4_K" in {tensor.tensor_type.name for tensor in read.tensors}


def test_a_file_has_the_same_bytes_whenever_it_is_made(tmp_path, monkeypatch):
    kept = [model_path("default"), model_path("tiny-granite", "q4_0")]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = [model_path("default"), model_path("tiny-granite", "q4_0")]
    assert all(tmp_path in path.parents for path in made)
    assert [_digest(path) for path in made] == [_digest(path) for path in kept]
    assert _digest(made[0]) == DEFAULT_Q8_0
    assert not list(made[0].parent.glob("tmp*"))


def test_what_cannot_be_made_is_refused_by_name():
    with pytest.raises(ValueError, match="shape 'tiny' is not one of default, "):
        model_path("tiny")
    with pytest.raises(ValueError, match="quantisation 'q2_k' is not one of q8_0, "):
        model_path("default", "q2_k")
    with pytest.raises(ValueError, match="q4_k needs widths that are multiples of 256; smollm2-135m has 576"):
        model_path("smollm2-135m", "q4_k")
    with pytest.raises(ValueError, match="default q8_0 is not made in 1 files"):
        split_model_path("default", "q8_0", 1)


def test_the_command_says_what_is_wrong_in_one_line(capsys):
    assert models.main(["smollm2-135m", "q4_k"]) == 1
    said = capsys.readouterr().err
    assert said == "models: q4_k needs widths that are multiples of 256; smollm2-135m has 576\n"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
