"""What fits: banks, layers on devices, and refusals, decided from facts alone."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kernel.engine.base import Bank, EngineMemoryError, EngineOptions
from kernel.engine.fit import (
    DEVICE_MARGIN_BYTES,
    HOST_MARGIN_BYTES,
    KV_SHARE,
    MAX_LONG_SLOTS,
    Device,
    FreeMemory,
    ModelFacts,
    Work,
    decide,
)

MIB, GIB = 1 << 20, 1 << 30


def model(**fields: object) -> ModelFacts:
    """A model of 7 billion weights in 4 bits, 28 layers, with 56 KiB for each token."""
    facts: dict[str, object] = {
        "name": "m.gguf",
        "family": "dense",
        "trained_tokens": 32768,
        "weight_bytes": 4 * GIB,
        "layer_bytes": (128 * MIB,) * 28,
        "output_bytes": 300 * MIB,
        "kv_bytes_per_token": 56 << 10,
        "state_bytes": 0,
        "work": Work(64 * MIB, 2048.0),
        "flash_work": Work(64 * MIB, 128.0),
    }
    return ModelFacts(**(facts | fields))


def host(gib: float) -> FreeMemory:
    return FreeMemory(int(gib * GIB))


def gpus(*gib: float, host_gib: float = 32) -> FreeMemory:
    free = [int(one * GIB) for one in gib]
    devices = tuple(Device(f"CUDA{n}", "H100", one, one) for n, one in enumerate(free))
    return FreeMemory(int(host_gib * GIB), devices)


def windows(fit: object) -> list[int]:
    return [bank.window_tokens for bank in fit.banks]


# --- banks ----------------------------------------------------------------------------------------


def test_banks_have_windows_four_times_apart_up_to_the_models_own():
    fit = decide(model(), EngineOptions(), host(24))
    assert windows(fit) == [2048, 8192, 32768]
    assert fit.banks[0].slots == 8
    assert all(1 <= bank.slots <= MAX_LONG_SLOTS for bank in fit.banks[1:])
    assert (fit.window_tokens, fit.gpu_layers, fit.devices) == (32768, 0, "CPU")


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (512, [512]),
        (2048, [2048]),
        (4096, [2048, 4096]),
        (8192, [2048, 8192]),
        (12000, [2048, 12000]),
        (16384, [2048, 8192, 16384]),
        (40960, [2048, 8192, 40960]),
        (131072, [2048, 8192, 32768, 131072]),
    ],
)
def test_the_last_bank_is_the_longest_window_and_no_other_is_near_it(trained, expected):
    fit = decide(model(trained_tokens=trained, kv_bytes_per_token=1024), EngineOptions(), host(24))
    assert windows(fit) == expected


def test_contexts_get_half_of_what_the_weights_leave():
    fit = decide(model(), EngineOptions(), host(24))
    assert fit.kv_bytes == int(KV_SHARE * (24 * GIB - HOST_MARGIN_BYTES - 4 * GIB))


def test_the_models_own_window_is_cut_to_what_memory_allows_for_one_context():
    facts = model(trained_tokens=1 << 20)
    fit = decide(facts, EngineOptions(), host(8))
    longest = fit.banks[-1]
    assert (longest.slots, longest.window_tokens) == (1, fit.window_tokens)
    assert 2048 < fit.window_tokens < 1 << 20
    assert fit.window_tokens % 256 == 0
    assert longest.size_bytes <= fit.kv_bytes
    more = longest.size_bytes + 2 * 256 * (facts.kv_bytes_per_token + 2048)
    assert more > fit.kv_bytes, "a longer one would not have fit"


def test_a_window_that_was_asked_for_is_the_longest():
    fit = decide(model(), EngineOptions(window_tokens=8192), host(24))
    assert windows(fit) == [2048, 8192]
    fit = decide(model(), EngineOptions(window_tokens=1024), host(24))
    assert windows(fit) == [1024]
    fit = decide(model(), EngineOptions(window_tokens=1 << 20), host(24))
    assert fit.window_tokens == 32768, "never longer than the model was made for"


def test_a_window_that_was_asked_for_may_take_more_than_the_default_share():
    free = host(7)
    share = decide(model(), EngineOptions(), free)
    assert share.window_tokens < 24576
    fit = decide(model(), EngineOptions(window_tokens=24576), free)
    assert fit.window_tokens == 24576
    assert fit.kv_bytes > share.kv_bytes


def test_slots_that_nobody_asked_for_are_halved_until_they_fit():
    wanted = EngineOptions(slots=16, slot_tokens=2048)
    with pytest.raises(EngineMemoryError, match="try --slots 10"):
        decide(model(), wanted, host(5.5))
    assert decide(model(), replace(wanted, may_shrink=True), host(5.5)).banks[0].slots == 8


def test_the_budget_that_was_given_is_kept_to():
    fit = decide(model(), EngineOptions(kv_bytes=1500 * MIB), host(24))
    assert fit.kv_bytes == 1500 * MIB
    assert all(bank.size_bytes <= fit.kv_bytes for bank in fit.banks)
    assert fit.window_tokens < 32768


def test_a_bank_counts_rounded_windows_company_states_and_work_space():
    facts = model(trained_tokens=1000, kv_bytes_per_token=100, state_bytes=7, work=Work(1000, 2.0))
    (bank,) = decide(facts, EngineOptions(slots=3), host(24)).banks
    assert bank == Bank(3, 1000, 3 * (1024 * 100 + 7) + 1000 + 2048)
    hybrid = model(trained_tokens=1000, kv_bytes_per_token=100, work=Work(1000, 2.0), spare_streams=1)
    (bank,) = decide(hybrid, EngineOptions(slots=3), host(24)).banks
    assert bank.size_bytes == 4 * 1024 * 100 + 1000 + 2048


def test_what_lone_rows_were_found_to_need_counts():
    facts = model(trained_tokens=1024, kv_bytes_per_token=100, work=Work(1000, 0.0))
    (bank,) = decide(facts, EngineOptions(slots=3), host(24), streams=lambda slots: 8).banks
    assert (bank.slots, bank.size_bytes) == (3, 8 * 1024 * 100 + 1000)
    (bank,) = decide(facts, EngineOptions(slots=3), host(24), spare_tokens=3).banks
    assert (bank.window_tokens, bank.size_bytes) == (1024, 3 * 1280 * 100 + 1000)


def test_work_space_grows_with_the_sequences_of_a_context():
    facts = model(trained_tokens=256, kv_bytes_per_token=0, work=Work(1000, 0.0, 10.0))
    sizes = [decide(facts, EngineOptions(slots=slots), host(24)).banks[0].size_bytes for slots in (1, 2, 40)]
    assert sizes == [1010, 1020, 1400]


def test_work_space_grows_with_the_rows_of_many_slots():
    facts = model(trained_tokens=256, kv_bytes_per_token=0, work=Work(64000, 0.0))
    fits = [decide(facts, EngineOptions(slots=slots), host(24)) for slots in (8, 63, 127)]
    sizes = [fit.banks[0].size_bytes for fit in fits]
    assert sizes == [64000, 64000, 128000]


def test_flash_attention_counts_the_work_space_that_it_needs_once_it_is_sure():
    sizes = {
        mode: decide(model(), EngineOptions(flash_attention=mode), host(24)).banks[0].size_bytes
        for mode in ("auto", "on", "off")
    }
    assert sizes["auto"] == sizes["off"] > sizes["on"]


def test_a_recurrent_model_has_long_windows_for_nothing():
    facts = model(kv_bytes_per_token=0, state_bytes=4 * MIB, trained_tokens=1 << 20, work=Work(MIB, 0.0))
    fit = decide(facts, EngineOptions(), host(24))
    assert fit.window_tokens == 1 << 20


def test_an_embedding_model_has_one_bank_with_work_space_for_a_whole_text():
    facts = model(trained_tokens=512, kv_bytes_per_token=0, work=Work(64 * 100, 0.0))
    fit = decide(facts, EngineOptions(embedding=True), host(24))
    assert fit.banks == (Bank(8, 512, 512 * 100),)
    assert "texts of up to 512 tokens" in fit.text
    facts = model(trained_tokens=8192, kv_bytes_per_token=10, work=Work(64, 0.0))
    for window, expected in ((0, 2048), (4096, 4096)):
        (bank,) = decide(facts, EngineOptions(embedding=True, window_tokens=window), host(24)).banks
        assert (bank.window_tokens, bank.size_bytes) == (expected, 10 * expected + expected)


# --- refusals -------------------------------------------------------------------------------------


def refusal(facts: ModelFacts, options: EngineOptions, free: FreeMemory) -> str:
    with pytest.raises(EngineMemoryError) as caught:
        decide(facts, options, free)
    return str(caught.value)


def test_weights_that_do_not_fit_are_refused_with_the_sizes():
    text = refusal(model(weight_bytes=8 * GIB), EngineOptions(), host(6))
    assert text.startswith("model m.gguf needs 9.2 GiB (weights 8.0, contexts 0.9, margin 0.2) and 6.0 are ")
    assert text.endswith("try a smaller quantisation or a smaller model")


def test_contexts_that_do_not_fit_are_refused_with_the_number_of_slots_that_would():
    text = refusal(model(), EngineOptions(slots=64), host(6))
    slots = int(re.search(r"try --slots (\d+), or a smaller quantisation", text)[1])
    assert 8 < slots < 64
    decide(model(), EngineOptions(slots=slots), host(6))
    refusal(model(), EngineOptions(slots=slots + 1), host(6))


def test_a_window_that_does_not_fit_is_refused_with_the_longest_that_would():
    options = EngineOptions(window_tokens=32768)
    text = refusal(model(), options, host(6))
    window = int(re.search(r"try --window (\d+)$", text)[1])
    assert 2048 <= window < 32768
    assert decide(model(), EngineOptions(window_tokens=window), host(6)).window_tokens == window
    refusal(model(), EngineOptions(window_tokens=window + 256), host(6))


def test_when_not_even_one_slot_fits_a_smaller_window_is_advised():
    free = host(4 + 0.25 + 0.15)
    text = refusal(model(), EngineOptions(slots=4), free)
    window = int(re.search(r"try --slots 1 --window (\d+)", text)[1])
    assert 256 <= window < 2048
    decide(model(), EngineOptions(slots=1, window_tokens=window), free)


def test_a_budget_that_the_first_bank_does_not_fit_is_refused():
    text = refusal(model(), EngineOptions(kv_bytes=100 * MIB), host(24))
    assert re.match(r"contexts of model m.gguf need \d+ MiB and --kv-memory allows 100 MiB: try --s", text)


# --- devices --------------------------------------------------------------------------------------


def test_a_model_that_fits_on_a_device_goes_there_whole():
    fit = decide(model(), EngineOptions(), gpus(71))
    assert fit.gpu_layers == 29
    assert fit.devices == "28 of 28 layers on CUDA0 (H100, 71.0 GiB free)"
    assert fit.text.startswith(fit.devices + "; 8 contexts of 2,048 tokens, the longest 32,768, in up to ")
    assert fit.kv_bytes == 71 * GIB - DEVICE_MARGIN_BYTES - 28 * 128 * MIB - 300 * MIB


def test_as_many_layers_go_to_a_small_device_as_leave_room_for_the_first_bank():
    fit = decide(model(), EngineOptions(), gpus(3))
    assert 1 < fit.gpu_layers < 29
    on_device = fit.gpu_layers - 1
    assert fit.devices == f"{on_device} of 28 layers on CUDA0 (H100, 3.0 GiB free), the others on the CPU"
    room = 3 * GIB - DEVICE_MARGIN_BYTES - 300 * MIB - 128 * MIB * on_device
    assert room > fit.banks[0].size_bytes * on_device / 28
    assert room - 128 * MIB < fit.banks[0].size_bytes * (on_device + 1) / 28 + 3 * 70 * MIB


def test_more_slots_leave_fewer_layers_on_a_small_device():
    few = decide(model(), EngineOptions(slots=4), gpus(3)).gpu_layers
    many = decide(model(), EngineOptions(slots=32), gpus(3)).gpu_layers
    assert many < few


def test_a_device_with_no_room_for_anything_is_left_alone():
    fit = decide(model(), EngineOptions(), gpus(0.4))
    assert (fit.gpu_layers, fit.devices) == (0, "CPU")
    assert fit.kv_bytes == decide(model(), EngineOptions(), host(32)).kv_bytes


def test_no_layers_go_to_a_device_when_none_are_asked_for():
    assert decide(model(), EngineOptions(gpu_layers=0), gpus(71)).devices == "CPU"


def test_a_number_of_layers_that_was_asked_for_is_obeyed_or_refused():
    assert decide(model(), EngineOptions(gpu_layers=10), gpus(71)).gpu_layers == 10
    assert decide(model(), EngineOptions(gpu_layers=99), gpus(71)).gpu_layers == 29
    text = refusal(model(), EngineOptions(gpu_layers=29), gpus(3))
    fitting = int(re.search(r"try --gpu-layers (\d+) or --gpu-layers auto$", text)[1])
    assert text.startswith("29 layers of model m.gguf do not fit on CUDA0 beside ")
    assert decide(model(), EngineOptions(gpu_layers=fitting), gpus(3)).gpu_layers == fitting


def test_two_devices_hold_what_one_cannot():
    one, two = (decide(model(), EngineOptions(), gpus(*free)) for free in ((3,), (3, 3)))
    assert two.gpu_layers > one.gpu_layers
    assert "on CUDA0 (H100, 3.0 GiB free), CUDA1 (H100, 3.0 GiB free)" in two.devices


def test_the_hosts_memory_is_not_needed_for_weights_on_a_device():
    fit = decide(model(), EngineOptions(), gpus(71, host_gib=2))
    assert fit.gpu_layers == 29
    refusal(model(), EngineOptions(gpu_layers=0), gpus(71, host_gib=2))


def test_a_gpu_inside_the_processor_takes_from_the_hosts_memory():
    shared = Device("Vulkan0", "Radeon", 20 * GIB, 20 * GIB, is_shared=True)
    fit = decide(model(), EngineOptions(), FreeMemory(20 * GIB, (shared,)))
    assert fit.gpu_layers == 29
    assert fit.kv_bytes <= KV_SHARE * (20 * GIB - HOST_MARGIN_BYTES - 4 * GIB)
    refusal(model(), EngineOptions(), FreeMemory(4 * GIB, (shared,)))


# --- whatever the numbers -------------------------------------------------------------------------

FACTS = st.builds(
    lambda layers, layer, output, rest, kv, state, base, slope, trained: model(
        layer_bytes=(layer,) * layers, output_bytes=output, weight_bytes=layers * layer + output + rest,
        kv_bytes_per_token=kv, state_bytes=state, work=Work(base, slope), trained_tokens=trained,
    ),
    st.integers(1, 80), st.integers(0, GIB), st.integers(0, GIB), st.integers(0, GIB),
    st.integers(0, 1 << 20), st.integers(0, 64 * MIB), st.integers(0, GIB), st.floats(0, 1 << 16),
    st.integers(1, 1 << 20),
)  # fmt: skip
OPTIONS = st.builds(
    EngineOptions,
    slots=st.integers(1, 256),
    slot_tokens=st.integers(1, 1 << 16),
    window_tokens=st.sampled_from((0, 0, 1000, 1 << 15)),
    kv_bytes=st.sampled_from((0, 0, GIB, 40 * GIB)),
    gpu_layers=st.sampled_from((-1, -1, 0, 5)),
)
MEMORY = st.builds(
    lambda host_bytes, devices: FreeMemory(
        host_bytes, tuple(Device(f"GPU{n}", "", free, free) for n, free in enumerate(devices))
    ),
    st.integers(0, 256 * GIB),
    st.lists(st.integers(0, 80 * GIB), max_size=3),
)


@given(FACTS, OPTIONS, MEMORY)
def test_what_is_let_through_fits_and_what_is_refused_says_what_to_try(facts, options, free):
    try:
        fit = decide(facts, options, free)
    except EngineMemoryError:
        assert re.search(r"try ", refusal(facts, options, free))
        return
    assert fit.banks[0].slots == options.slots
    assert fit.window_tokens == fit.banks[-1].window_tokens
    assert all(low < high for low, high in itertools.pairwise(windows(fit)))
    assert all(bank.size_bytes <= fit.kv_bytes for bank in fit.banks)
    assert fit.window_tokens <= facts.trained_tokens
    there = facts.layer_bytes[len(facts.layer_bytes) + 1 - fit.gpu_layers :] if fit.gpu_layers else ()
    on_device = sum(there) + facts.output_bytes if fit.gpu_layers else 0
    part = len(there) / len(facts.layer_bytes)
    assert on_device + fit.kv_bytes * part <= sum(device.free_bytes for device in free.devices) + 1
    assert facts.weight_bytes - on_device + fit.kv_bytes * (1 - part) <= free.host_bytes + 1


@given(FACTS, OPTIONS, st.integers(0, 128 * GIB), st.integers(0, 64 * GIB))
def test_more_memory_never_makes_a_context_shorter(facts, options, free, more):
    assume(options.kv_bytes == 0)
    try:
        less = decide(facts, options, FreeMemory(free))
    except EngineMemoryError:
        return
    assert decide(facts, options, FreeMemory(free + more)).window_tokens >= less.window_tokens
