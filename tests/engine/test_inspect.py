"""What is found out of a model without its weights, for every family, against what llama.cpp then takes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import llama_cpp
import pytest

from benchmarks.model_shapes import SHAPES
from benchmarks.model_write import write_model
from benchmarks.models import model_path, split_model_path
from kernel.engine import inspect
from kernel.engine.base import F16, KV_TYPES, Q8_0, EngineError, EngineOptions
from kernel.engine.fit import FreeMemory, ModelFacts, decide

FAMILIES = (
    "default", "tiny-qwen3moe", "tiny-gemma3", "tiny-gpt-oss", "tiny-mamba", "tiny-granite", "tiny-lfm2"
)  # fmt: skip


def child(*arguments: object) -> list[dict]:
    command = [sys.executable, "-m", "kernel.engine.inspect", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def taken(path: Path, streams: int, window: int, flash: bool, kv_type: str, rows: int) -> int:
    """Bytes that llama.cpp says a context takes, cells, states and work space, when it makes one for real."""
    lines: list[str] = []
    log = llama_cpp.llama_log_callback(lambda level, text, _: lines.append(text.decode()))
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
    llama_cpp.llama_log_set(log, None)
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_seq_max = streams * window, streams
    options.n_batch = options.n_ubatch = rows
    options.flash_attn_type, options.kv_unified = int(flash), False
    options.type_k = options.type_v = KV_TYPES[kv_type]
    context = llama_cpp.llama_init_from_model(model, options)
    llama_cpp.llama_log_set(inspect._SILENT, None)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    sizes = re.findall(r" (?:KV|RS|compute|output) buffer size = +([\d.]+) MiB", "".join(lines))
    return round(sum(map(float, sizes)) * (1 << 20))


@pytest.mark.parametrize("shape", FAMILIES)
@pytest.mark.parametrize(("mode", "kv_type"), [("on", F16), ("off", F16), ("on", Q8_0), ("auto", Q8_0)])
def test_banks_take_what_was_foreseen_and_never_more(shape, mode, kv_type):
    path = model_path(shape)
    facts = inspect.gather(str(path), kv_type)
    options = EngineOptions(slots=8, slot_tokens=1000, window_tokens=4096, flash_attention=mode, kv_type=kv_type)
    fit = decide(facts, options, FreeMemory(2 << 30))
    for bank in fit.banks:
        streams = bank.slots + facts.spare_streams
        rows = max(facts.work.batch_rows, streams + 1)
        actual = taken(path, streams, bank.window_tokens, mode != "off", kv_type, rows)
        assert 0.6 * bank.size_bytes < actual <= bank.size_bytes * 1.01


@pytest.mark.parametrize("shape", [*FAMILIES, "tiny-bert"])
def test_the_family_and_the_sizes_of_every_shape_are_told(shape):
    expected = SHAPES[shape]
    (told,) = child(model_path(shape))
    assert (told["family"], told["architecture"]) == (expected.family, expected.architecture)
    assert (told["layers"], told["vocab"]) == (expected.layers, expected.vocab)
    assert (told["experts"], told["experts_used"]) == (expected.experts, expected.experts_used)
    assert told["sliding_window"] == expected.sliding_window
    assert told["quantisation"] == "Q8_0"
    assert told["trained_tokens"] == expected.window_tokens
    assert told["fits"] is True
    assert told["exactness"].split(":")[0] in ("exact", "whole", "no contexts")
    assert (told["state_bytes"] > 0) == (expected.family in ("recurrent", "hybrid"))
    assert (told["kv_bytes_per_token"] > 0) == (expected.family not in ("recurrent", "embedding"))


@pytest.mark.parametrize(("kv_type", "block_bytes"), [(F16, 64), (Q8_0, 34)])
def test_a_dense_models_cells_are_counted_to_the_byte(kv_type, block_bytes):
    shape = SHAPES["default"]
    facts = inspect.gather(str(model_path("default")), kv_type)
    assert facts.kv_bytes_per_token == 2 * shape.layers * shape.kv_width * block_bytes // 32
    assert (facts.state_bytes, facts.trained_tokens) == (0, shape.window_tokens)
    assert len(facts.layer_bytes) == shape.layers
    assert len(set(facts.layer_bytes)) == 1
    embedding = facts.weight_bytes - sum(facts.layer_bytes) - 4 * shape.width
    assert facts.output_bytes == embedding + 4 * shape.width, "one matrix is embedding and output"


def test_heads_that_are_no_whole_blocks_are_refused_for_q8_0_with_their_width(tmp_path):
    path = tmp_path / "narrow.gguf"
    write_model(replace(SHAPES["default"], head=48), "f16", path)
    assert inspect.gather(str(path), F16).kv_bytes_per_token > 0
    (told,) = child("--kv-type", "q8_0", path)
    assert re.match(r"model narrow.gguf: llama.cpp cannot keep its contexts as q8_0 \(.*32.*48.*\)", told["error"])
    assert told["error"].endswith("leave --kv-type out")


def test_half_the_memory_of_a_token_is_told_for_q8_0():
    (f16,), (q8_0,) = (child("--kv-type", kv_type, model_path("default")) for kv_type in (F16, Q8_0))
    assert (f16["kv_type"], q8_0["kv_type"]) == (F16, Q8_0)
    assert q8_0["kv_bytes_per_token"] / f16["kv_bytes_per_token"] == 34 / 64
    (embedding,) = child("--kv-type", "q8_0", model_path("tiny-bert"))
    assert embedding["kv_type"] == F16


def test_a_split_model_has_the_facts_of_the_same_model_in_one_file():
    whole, split = (
        inspect.gather(str(path)) for path in (model_path("default"), split_model_path("default", files=3))
    )
    assert isinstance(whole, ModelFacts)
    for name in ("layer_bytes", "output_bytes", "weight_bytes", "kv_bytes_per_token", "work", "flash_work"):
        assert getattr(split, name) == getattr(whole, name)


def test_looking_at_a_small_model_takes_less_than_a_second():
    path = str(model_path("default"))
    inspect.gather(path)
    began = time.process_time()  # another test may have the CPU
    inspect.gather(path)
    assert time.process_time() - began < 1.0


def test_files_are_told_of_in_order_and_a_bad_one_is_a_line_like_the_others(tmp_path):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(model_path("default").read_bytes()[:100_000])
    unknown = tmp_path / "unknown.gguf"
    unknown.write_bytes(model_path("default").read_bytes().replace(b"llama", b"lamma"))
    good, *bad = child("--brief", model_path("default"), damaged, unknown, tmp_path / "absent.gguf")
    assert good["family"] == "dense"
    assert "kv_bytes_per_token" not in good
    for line, reason in zip(bad, ("not within the file bounds", "unknown", "No such file"), strict=True):
        assert reason in line["error"], line


def test_a_file_of_an_unknown_kind_raises_what_llama_cpp_says_of_it(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(EngineError, match="cannot load this file as a GGUF model"):
        inspect.gather(str(path))


def test_a_model_too_large_for_this_machine_does_not_fit_and_says_why(monkeypatch):
    monkeypatch.setattr(inspect, "free_memory", lambda: FreeMemory(100 << 20))
    told = inspect.describe(str(model_path("default")), EngineOptions(), False)
    assert told["fits"] is False
    assert re.match(r"model default-q8_0-\d+.gguf needs \d+", told["fit"])
    assert told["banks"] == []


def test_a_chat_template_is_told_of_with_the_format_of_its_tool_calls():
    (told,) = child(model_path("default"))
    assert told["has_template"] is True
    assert isinstance(told["chat_format"], str)
    assert isinstance(told["takes_tools"], bool)
