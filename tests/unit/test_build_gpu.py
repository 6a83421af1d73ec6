"""Which GPU llama.cpp is built for: told by what is on a machine, real or made up, and given up when it
fails.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from test_build import ZEN4, fake_pip, recipe, silent

from kernel.engine import build, buildgpu
from kernel.engine.buildgpu import Seen, choose_gpu, look
from kernel.engine.buildlog import Exit
from kernel.engine.hostcpu import Cpu

H100 = "NVIDIA H100 80GB HBM3, 9.0"
VULKAN = Seen(
    glslc=True,
    headers=("vulkan", "spirv"),
    vulkan_drivers=("libvulkan_radeon.so",),
    render_nodes=("/dev/dri/renderD128",),
)


def gpu_recipe(**changes: object) -> build.Recipe:
    gpu = choose_gpu(Seen(nvcc="13.0", nvidia=(H100,)))
    return recipe(
        gpu=gpu.kind, gpu_args=gpu.cmake_args, gpu_facts=gpu.facts, gpu_reason=gpu.reason, **changes
    )


# --- the decision ---------------------------------------------------------------------------------


def test_cuda_is_built_for_where_its_compiler_and_a_gpu_are():
    gpu = choose_gpu(Seen(nvcc="13.0", nvidia=(H100,)))
    assert (gpu.kind, gpu.cmake_args) == ("CUDA", ("-DGGML_CUDA=ON",))
    assert gpu.reason == f"for CUDA: nvcc 13.0 and {H100} are here"


def test_a_cuda_compiler_that_cmake_would_not_find_is_named_to_it():
    gpu = choose_gpu(Seen(nvcc="13.0", nvcc_path="/usr/local/cuda/bin/nvcc", nvidia=(H100,)))
    assert "-DCMAKE_CUDA_COMPILER=/usr/local/cuda/bin/nvcc" in gpu.cmake_args


def test_a_cuda_compiler_without_a_gpu_is_no_reason_to_build_for_one():
    gpu = choose_gpu(Seen(nvcc="13.0"))
    assert (gpu.kind, gpu.cmake_args, gpu.facts) == ("", (), "")
    assert gpu.reason == "no CUDA: nvcc 13.0 is here, but no NVIDIA GPU with a driver"


def test_a_gpu_without_a_cuda_compiler_says_what_to_install():
    assert "but no nvcc: install the CUDA toolkit" in choose_gpu(Seen(nvidia=(H100,))).reason


def test_vulkan_is_built_for_where_its_compiler_headers_driver_and_device_are():
    assert choose_gpu(VULKAN).cmake_args == ("-DGGML_VULKAN=ON",)
    assert "libvulkan_radeon.so" in choose_gpu(VULKAN).facts


def test_cuda_goes_before_vulkan():
    both = replace(VULKAN, nvcc="13.0", nvidia=(H100,))
    assert choose_gpu(both).kind == "CUDA"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"glslc": False}, "but not glslc"),
        ({"headers": ("vulkan",)}, "but not the spirv headers"),
        ({"headers": (), "glslc": False}, "but not glslc and the vulkan headers and the spirv headers"),
        ({"vulkan_drivers": ()}, "glslc is here, but no render node with a driver for hardware"),
        ({"render_nodes": ()}, "glslc is here, but no render node with a driver for hardware"),
    ],
)
def test_vulkan_that_lacks_something_is_not_built_for_and_says_what(change, reason):
    gpu = choose_gpu(replace(VULKAN, **change))
    assert gpu.kind == ""
    assert reason in gpu.reason


def test_a_machine_with_nothing_says_so():
    assert choose_gpu(Seen()).reason == "no GPU and no tool chain for one was found"


def test_a_user_who_says_what_to_build_for_is_not_overruled():
    for given in ("-DGGML_CUDA=OFF", "-DGGML_VULKAN=on -DX=1", "-DGGML_HIP=ON"):
        assert choose_gpu(Seen(nvcc="13.0", nvidia=(H100,)), given).kind == ""
    assert choose_gpu(Seen(nvcc="13.0", nvidia=(H100,)), "-DGGML_CUDA_FA=OFF").kind == "CUDA"


def test_macos_is_left_to_llama_cpp():
    assert "Metal" in choose_gpu(Seen(system="Darwin")).reason


# --- what is seen ---------------------------------------------------------------------------------


def tool(folder: Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)


def answers(texts: dict[str, str]):
    """A runner of commands: what each tool prints; any other fails."""

    def run(argv):
        name = Path(argv[0]).name
        if name not in texts:
            raise subprocess.CalledProcessError(9, argv)
        return texts[name]

    return run


NVCC = "Cuda compilation tools, release 12.4, V12.4.131\n"


def test_the_cuda_compiler_is_seen_on_the_path_and_where_its_installer_puts_it(tmp_path):
    tool(tmp_path / "bin", "nvcc")
    seen = look({"PATH": str(tmp_path / "bin")}, tmp_path, answers({"nvcc": NVCC}))
    assert (seen.nvcc, seen.nvcc_path) == ("12.4", "")
    aside = tmp_path / "usr/local/cuda/bin"
    aside.mkdir(parents=True)
    tool(aside, "nvcc")
    seen = look({"PATH": "/nowhere"}, tmp_path, answers({"nvcc": NVCC}))
    assert (seen.nvcc, seen.nvcc_path) == ("12.4", str(aside / "nvcc"))


def test_gpus_are_those_that_the_driver_names(tmp_path):
    tool(tmp_path / "bin", "nvidia-smi")
    environment = {"PATH": str(tmp_path / "bin")}
    assert look(environment, tmp_path, answers({"nvidia-smi": f"{H100}\n{H100}\n"})).nvidia == (H100, H100)
    assert look(environment, tmp_path, answers({})).nvidia == (), "the tool fails without a driver"


def test_without_the_tool_device_files_count_where_the_driver_is_loaded(tmp_path):
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidiactl"):
        (tmp_path / "dev" / name).touch()
    environment = {"PATH": "/nowhere"}
    assert look(environment, tmp_path, answers({})).nvidia == ()
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").touch()
    assert look(environment, tmp_path, answers({})).nvidia == (str(tmp_path / "dev/nvidia0"),)


def test_vulkan_drivers_that_compute_on_the_cpu_do_not_count(tmp_path):
    folder = tmp_path / "usr/share/vulkan/icd.d"
    folder.mkdir(parents=True)
    for name, library in (("a", "/usr/lib/libvulkan_lvp.so"), ("b", "/usr/lib/libvulkan_radeon.so")):
        (folder / f"{name}.json").write_text(json.dumps({"ICD": {"library_path": library}}))
    (folder / "c.json").write_text("no json")
    assert look({}, tmp_path, answers({})).vulkan_drivers == ("libvulkan_radeon.so",)


def test_headers_and_render_nodes_are_seen(tmp_path):
    sdk = tmp_path / "sdk"
    vulkan, spirv = tmp_path / "usr/include/vulkan/vulkan.h", sdk / "include/spirv/unified1/spirv.h"
    for path in (vulkan, spirv, tmp_path / "dev/dri/renderD128"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert look({}, tmp_path, answers({})).headers == ("vulkan",)
    seen = look({"VULKAN_SDK": str(sdk)}, tmp_path, answers({}))
    assert seen.headers == ("vulkan", "spirv")
    assert seen.render_nodes == (str(tmp_path / "dev/dri/renderD128"),)


# --- the wheel ------------------------------------------------------------------------------------


def test_what_is_known_of_gpus_changes_no_wheel_for_the_cpu():
    assert recipe(gpu_reason="no CUDA: ...").key == recipe().key
    assert gpu_recipe().without_gpu().key == recipe().key
    assert len({recipe().key, gpu_recipe().key}) == 2


def test_the_key_of_a_wheel_for_a_cpu_is_the_one_that_it_always_was():
    fixed = recipe(cpu=Cpu("x86_64", "Zen 4", ZEN4), cmake_args=("-DLLAVA_BUILD=OFF",), user_flags=())
    assert fixed.key == "0.3.36-d5e2a2f84621-gcc12.2.0"


def test_a_wheel_for_one_gpu_is_not_one_for_another():
    other = choose_gpu(Seen(nvcc="13.0", nvidia=("NVIDIA A10, 8.6",)))
    others = recipe(gpu="CUDA", gpu_args=other.cmake_args, gpu_facts=other.facts)
    assert others.key != gpu_recipe().key


def test_the_flags_for_the_gpu_reach_cmake(tmp_path):
    assert "-DGGML_CUDA=ON" in build.build_environment(gpu_recipe(), tmp_path)["CMAKE_ARGS"].split()


def test_a_build_for_a_gpu_that_fails_gives_a_wheel_for_the_cpu_says_so_and_is_not_tried_again(tmp_path):
    cache, said = build.Cache(tmp_path / "cache"), []
    pip = fake_pip(tmp_path, "if 'GGML_CUDA' in os.environ['CMAKE_ARGS']: sys.exit('no cublas')")
    built, wheel = build.ensure_best_wheel(gpu_recipe(), cache, pip, said.append)
    assert wheel.parent.name == recipe().key
    assert built.key == recipe().key
    marker = cache.failure(gpu_recipe().key)
    (line,) = [text for text in said if "failed" in text]
    assert line.startswith("the build for CUDA failed (")
    assert line.endswith(f"building for the CPU alone; delete {marker} to try it again")
    tried = cache.tried(gpu_recipe())
    assert (tried.key, tried.gpu) == (recipe().key, "")
    assert tried.gpu_reason == f"a build for CUDA failed before: delete {marker} to try it again"
    marker.unlink()
    assert cache.tried(gpu_recipe()) == gpu_recipe()


def test_a_failure_that_has_nothing_to_do_with_the_gpu_is_reported_and_not_hidden(tmp_path):
    cache = build.Cache(tmp_path / "cache")
    pip = fake_pip(tmp_path, "print('No space left on device'); sys.exit(1)")
    with pytest.raises(build.BuildError) as caught:
        build.ensure_best_wheel(gpu_recipe(), cache, pip, silent)
    assert caught.value.kind is Exit.DISK_FULL
    assert not cache.failure(gpu_recipe().key).exists()


def test_a_wheel_with_kernels_for_a_gpu_needs_more_room(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "GPU_ROOM_BYTES", 1 << 80)
    with pytest.raises(build.BuildError, match="MB free"):
        build.ensure_wheel(gpu_recipe(), build.Cache(tmp_path / "cache"), ["/no/such/pip"], silent)
    build.ensure_wheel(recipe(), build.Cache(tmp_path / "cache"), fake_pip(tmp_path), silent)


def test_this_machine_is_explained(monkeypatch):
    monkeypatch.setattr(build, "find_gpu", lambda _: choose_gpu(Seen(nvcc="13.0")))
    assert build.describe()["gpu"] == "no CUDA: nvcc 13.0 is here, but no NVIDIA GPU with a driver"
    assert isinstance(buildgpu.find_gpu({"PATH": "/usr/bin"}).reason, str)
