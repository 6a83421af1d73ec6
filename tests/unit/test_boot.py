"""What a kernel is told at boot becomes what its cores are told, or one sentence that says what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kernel import boot
from kernel.boot import Refused, core_command, name_of
from kernel.config import DEFAULT_PREFILL_TOKENS, DEFAULT_SLOTS, Config, ModelConfig, read_config
from kernel.effects import StartCore
from kernel.engine.base import EngineOptions

CHAT = ModelConfig("/m/chat.gguf", "chat")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/Qwen2.5-0.5B-Q8_0.gguf", "Qwen2.5-0.5B-Q8_0"),
        ("hf:owner/repo/model-00001-of-00003.gguf", "model"),
        ("ollama:llama3.2:3b", "llama3.2:3b"),
        ("x", "x"),
        ("/m/my model (1).gguf", "my-model--1-"),
        ("/m/模型.gguf", "--"),
        ("/m/.gguf", "model"),
        (f"/m/{'x' * 100}.gguf", "x" * 64),
    ],
)
def test_a_model_without_a_name_is_called_as_its_file_is(path, name):
    assert name_of(path) == name
    assert boot._named((ModelConfig(path),)) == (ModelConfig(path, name),)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ((), "no model is given"),
        ((ModelConfig("/a/x.gguf"), ModelConfig("/b/x.gguf")), "two models are called 'x'"),
        ((ModelConfig("/a", "a b"),), "cannot be called 'a b'"),
        ((ModelConfig("/a", "x" * 65),), "at most 64"),
    ],
)
def test_models_that_cannot_be_told_apart_or_named_are_refused(models, words):
    with pytest.raises(Refused, match=words) as refused:
        boot._named(models)
    assert refused.value.status == boot.USAGE


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("slots", 0, "slots is 0: wanted at least 1"),
        ("slots", 257, "at most 256"),
        ("slot_tokens", 63, "slot_tokens is 63: wanted at least 64"),
        ("window_tokens", -1, "window_tokens is -1"),
        ("kv_bytes", -1, "kv_bytes is -1"),
        ("gpu_layers", -2, "gpu_layers is -2: wanted at least -1"),
        ("keep_alive_s", -0.5, "keep_alive_s is -0.5"),
        ("prefill_tokens", 0, "prefill_tokens is 0"),
        ("quantum_tokens", 0, "quantum_tokens is 0"),
        ("flash_attention", "perhaps", "'perhaps' is not one of auto, on, off"),
        ("kv_type", "q4_0", "kv_type 'q4_0' is not one of f16, q8_0"),
    ],
)
def test_a_number_that_means_nothing_is_refused(field, value, words):
    with pytest.raises(Refused, match=words) as refused:
        boot._fit_to_machine(replace(Config((CHAT,)), **{field: value}), 0)
    assert refused.value.status == boot.USAGE


def test_a_quantised_kv_without_flash_attention_is_refused_and_both_are_named():
    for config in (Config((CHAT,), kv_type="q8_0"), Config((CHAT,), kv_type="f16", flash_attention="off")):
        boot._fit_to_machine(config, 0)
    with pytest.raises(Refused, match="kv_type q8_0 needs flash attention, and flash_attention is off") as refused:
        boot._fit_to_machine(Config((CHAT,), kv_type="q8_0", flash_attention="off"), 0)
    assert refused.value.status == boot.USAGE


def test_parked_contexts_get_a_part_of_what_the_weights_leave(monkeypatch):
    monkeypatch.setattr(boot, "_free_bytes", lambda: 1000)
    assert boot._fit_to_machine(Config((CHAT,)), 200).snapshot_bytes == 200
    assert boot._fit_to_machine(Config((CHAT,)), 2000).snapshot_bytes == 0
    assert boot._fit_to_machine(Config((CHAT,), snapshot_bytes=7), 200).snapshot_bytes == 7


def options_of(command: list[str]) -> EngineOptions:
    return EngineOptions(**json.loads(command[command.index("--options-json") + 1]))


def test_a_core_is_told_the_options_of_its_model():
    embed = ModelConfig("/m/embed.gguf", "embed", embedding=True, choices="/c.json")
    settings = {
        "slots": 3, "slot_tokens": 128, "window_tokens": 4096, "kv_bytes": 1 << 20, "threads": 2,
        "gpu_layers": 5, "flash_attention": "on", "kv_type": "q8_0",
    }  # fmt: skip
    config = Config((CHAT, embed), **settings)
    first, second = (core_command(config, StartCore(core == 0, core), None) for core in (0, 1))
    assert options_of(first) == EngineOptions(**settings, extra_buffers=True)
    assert options_of(second) == EngineOptions(
        **settings, extra_buffers=False, embedding=True, choices="/c.json"
    )
    assert [command[command.index("--model") + 1] for command in (first, second)] == [CHAT.path, embed.path]
    assert core_command(config, StartCore(True), "a:B")[-2:] == ["--engine", "a:B"]
    again = options_of(core_command(config, StartCore(True, 0, "off"), None))
    assert again.flash_attention == "off", "a successor has what its predecessor had"


def test_what_was_not_asked_for_is_as_calibrated_or_the_default():
    calibrated = replace(CHAT, slots=16, prefill_tokens=512)
    for config, model, slots, prefill in (
        (Config((CHAT,)), CHAT, DEFAULT_SLOTS, DEFAULT_PREFILL_TOKENS),
        (Config((CHAT,)), calibrated, 16, 512),
        (Config((CHAT,), slots=2, prefill_tokens=64), calibrated, 2, 64),
    ):
        assert (config.slots_of(model), config.prefill_of(model)) == (slots, prefill)


def test_a_configuration_is_read_from_json():
    text = json.dumps({"models": [{"path": "/m"}, {"path": "/e", "name": "e", "embedding": True}], "slots": 3})
    assert read_config(text) == Config((ModelConfig("/m"), ModelConfig("/e", "e", embedding=True)), slots=3)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"models": 1}', '{"models": [{}]}', '{"models": [], "x": 1}'])
def test_json_that_is_no_configuration_is_wrong_usage(text, capsys):
    from kernel.__main__ import main

    assert main(["--config-json", text]) == 2
    assert "--config-json" in capsys.readouterr().err
