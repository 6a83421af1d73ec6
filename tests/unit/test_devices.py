"""What is free: the host's memory within control groups, and a table of devices in ggml's place.

There is no GPU where these tests must pass: the table is made up, and what is decided from it is test_fit's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kernel.engine.devices import free_memory, host_free_bytes
from kernel.engine.fit import Device

CPU, GPU, IGPU, ACCEL = 0, 1, 2, 3
GIB = 1 << 30
PROCESSOR = ("CPU", "AMD EPYC", CPU, 0, 0)


def files(root: Path, **contents: str) -> Path:
    for name, content in contents.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.fixture
def proc(tmp_path):
    root = files(tmp_path / "proc", meminfo="MemTotal: 9000000 kB\nMemAvailable:    8000000 kB\n")
    return files(root, self__cgroup="0::/\n")


# --- the host -------------------------------------------------------------------------------------


def test_without_a_limit_all_that_linux_calls_available_is_free(proc, tmp_path):
    groups = files(tmp_path / "cg", memory_max="max\n", memory_current="5")
    assert host_free_bytes(proc, groups) == 8_000_000 << 10
    assert host_free_bytes(proc, tmp_path / "no groups") == 8_000_000 << 10


def test_a_containers_limit_counts_less_what_it_uses_but_not_the_files_it_caches(proc, tmp_path):
    groups = files(
        tmp_path / "cg",
        memory_max=f"{4 * GIB}\n",
        memory_current=f"{3 * GIB}\n",
        memory_stat=f"anon 1\ninactive_file {GIB}\n",
    )
    assert host_free_bytes(proc, groups) == 2 * GIB


def test_the_limit_of_a_group_above_ours_holds_as_well(proc, tmp_path):
    files(proc, self__cgroup="0::/user/ours\n")
    groups = tmp_path / "cg"
    for name, limit in (("user", GIB), ("user/ours", 3 * GIB)):
        files(groups / name, memory_max=str(limit), memory_current="0", memory_stat="inactive_file 0\n")
    assert host_free_bytes(proc, groups) == GIB


def test_groups_of_the_older_kind_count_too(proc, tmp_path):
    files(proc, self__cgroup="5:cpu,memory:/box\n4:devices:/\n0::/\n")
    box = tmp_path / "cg" / "memory" / "box"
    box.mkdir(parents=True)
    (box / "memory.limit_in_bytes").write_text(str(2 * GIB))
    (box / "memory.usage_in_bytes").write_text(str(GIB))
    (box / "memory.stat").write_text(f"cache 9\ntotal_inactive_file {GIB // 2}\n")
    (box.parent / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert host_free_bytes(proc, tmp_path / "cg") == 3 * GIB // 2


def test_a_group_over_its_limit_has_nothing_free(proc, tmp_path):
    groups = files(tmp_path / "cg", memory_max="5", memory_current="9", memory_stat="inactive_file 0\n")
    assert host_free_bytes(proc, groups) == 0


def test_this_machine_has_some_memory_free():
    assert 0 < host_free_bytes() < 1 << 50


# --- devices --------------------------------------------------------------------------------------


def test_a_machine_without_a_gpu_has_no_devices():
    assert free_memory(lambda: [PROCESSOR]).devices == ()


def test_gpus_are_listed_in_order_and_nothing_else_is():
    cuda = [("CUDA0", "H100", GPU, 70, 80), ("CUDA1", "A10", GPU, 20, 24)]
    table = [cuda[0], ("BLAS", "OpenBLAS", ACCEL, 0, 0), PROCESSOR, cuda[1]]
    found = free_memory(lambda: table).devices
    assert found == (Device("CUDA0", "H100", 70, 80), Device("CUDA1", "A10", 20, 24))


def test_a_gpu_inside_the_processor_counts_only_where_there_is_no_other():
    inside = ("Vulkan0", "Radeon", IGPU, 8, 16)
    shared = Device("Vulkan0", "Radeon", 8, 16, is_shared=True)
    assert free_memory(lambda: [PROCESSOR, inside]).devices == (shared,)
    both = free_memory(lambda: [inside, ("Vulkan1", "RX", GPU, 15, 16)]).devices
    assert [device.name for device in both] == ["Vulkan1"]


def test_a_device_that_does_not_say_what_memory_it_has_is_not_used():
    assert free_memory(lambda: [("GPU0", "", GPU, 0, 0)]).devices == ()


def test_ggml_is_asked_in_its_own_words_and_importing_alone_loads_no_library():
    program = (
        "import sys; from kernel.engine import devices; assert 'llama_cpp' not in sys.modules;"
        "print([row[2] for row in devices._ggml_devices()])"
    )
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert CPU in eval(told)
