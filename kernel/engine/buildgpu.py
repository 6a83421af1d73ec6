"""Which GPU this machine has, whether llama.cpp can be compiled for it here, and the flags for that.

Called by build.py before anything is installed, so: standard library only, no side effect on import.
`choose_gpu` is a pure function of what `look` saw, so every machine can be tested on any other. A tool chain
alone is no reason to build for a GPU (the build takes many times as long): the device has to be here too.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import SubprocessError

from kernel.engine.buildrun import output_of

OWN_FLAGS = re.compile(r"GGML_(CUDA|VULKAN|METAL|HIP|SYCL)\b")  # of a user who knows what to build for
SOFTWARE_DRIVERS = ("lvp", "llvmpipe", "swrast", "swiftshader")  # Vulkan computed by the CPU
HEADERS = {"vulkan": "vulkan/vulkan.h", "spirv": "spirv/unified1/spirv.h"}
INCLUDE_FOLDERS = ("usr/include", "usr/local/include")
DRIVER_FOLDERS = ("usr/share/vulkan/icd.d", "usr/local/share/vulkan/icd.d", "etc/vulkan/icd.d")

Run = Callable[[Sequence[str]], str]  # a short command: what it prints


@dataclass(frozen=True, slots=True)
class Seen:
    """What is on a machine. Empty: it is not there."""

    system: str = "Linux"
    nvcc: str = ""  # CUDA compiler's version: "13.0"
    nvcc_path: str = ""  # where it is, if CMake would not find it by itself
    nvidia: tuple[str, ...] = ()  # GPUs, with their compute capability: "NVIDIA H100 80GB HBM3, 9.0"
    glslc: bool = False  # the shader compiler that Vulkan's kernels need
    headers: tuple[str, ...] = ()  # names of HEADERS
    vulkan_drivers: tuple[str, ...] = ()  # for hardware
    render_nodes: tuple[str, ...] = ()  # "/dev/dri/renderD128"


@dataclass(frozen=True, slots=True)
class Gpu:
    """What to build for. Without a kind: for the CPU alone."""

    kind: str  # "CUDA", "Vulkan" or ""
    cmake_args: tuple[str, ...]
    facts: str  # what else the binary depends on; part of the wheel's key
    reason: str  # for people


def find_gpu(environment: Mapping[str, str]) -> Gpu:
    """What to build for on this machine."""
    return choose_gpu(look(environment), environment.get("CMAKE_ARGS", ""))


def choose_gpu(seen: Seen, cmake_args: str = "") -> Gpu:
    """What to build for, and why; `cmake_args` are the user's own, which may have decided already."""
    if OWN_FLAGS.search(cmake_args):
        return Gpu("", (), "", "CMAKE_ARGS says which GPU to build for")
    if seen.system == "Darwin":
        return Gpu("", (), "", "llama.cpp builds for Metal by itself; agentix was not tried on macOS")
    if seen.nvcc and seen.nvidia:
        facts = f"cuda {seen.nvcc} {' '.join(sorted(set(seen.nvidia)))}"
        reason = f"for CUDA: nvcc {seen.nvcc} and {'; '.join(seen.nvidia)} are here"
        compiler = (f"-DCMAKE_CUDA_COMPILER={seen.nvcc_path}",) if seen.nvcc_path else ()
        return Gpu("CUDA", ("-DGGML_CUDA=ON", *compiler), facts, reason)
    reasons = []
    if seen.nvcc:
        reasons.append(f"no CUDA: nvcc {seen.nvcc} is here, but no NVIDIA GPU with a driver")
    elif seen.nvidia:
        reasons.append(f"no CUDA: {'; '.join(seen.nvidia)} is here, but no nvcc: install the CUDA toolkit")
    missing = [name for name in HEADERS if name not in seen.headers]
    has_device = bool(seen.vulkan_drivers and seen.render_nodes)
    if seen.glslc and not missing and has_device:
        reason = f"for Vulkan: glslc, its headers and {', '.join(seen.vulkan_drivers)} are here"
        facts = f"vulkan {' '.join(seen.vulkan_drivers)}"
        return Gpu("Vulkan", ("-DGGML_VULKAN=ON",), facts, "; ".join([*reasons, reason]))
    if seen.glslc and not has_device:
        reasons.append("no Vulkan: glslc is here, but no render node with a driver for hardware")
    elif has_device:
        lacking = [*([] if seen.glslc else ["glslc"]), *(f"the {name} headers" for name in missing)]
        drivers = ", ".join(seen.vulkan_drivers)
        reasons.append(f"no Vulkan: {drivers} is here, but not {' and '.join(lacking)}")
    return Gpu("", (), "", "; ".join(reasons) or "no GPU and no tool chain for one was found")


def look(
    environment: Mapping[str, str], root: Path = Path("/"), run: Run = output_of
) -> Seen:
    """See what is on this machine; `root` and `run` are others in tests."""
    nvcc = environment.get("CUDACXX") or _found("nvcc", environment)
    aside = root / "usr/local/cuda/bin/nvcc"  # where NVIDIA's installer puts it, on nobody's PATH
    nvcc_path = str(aside) if not nvcc and aside.exists() else ""
    said = _said([nvcc or nvcc_path, "--version"], run) if nvcc or nvcc_path else ""
    release = re.search(r"release (\d+\.\d+)", said)
    includes = [root / folder for folder in INCLUDE_FOLDERS]
    if sdk := environment.get("VULKAN_SDK"):
        includes.append(Path(sdk) / "include")
    return Seen(
        system=platform.system(),
        nvcc=release[1] if release else "",
        nvcc_path=nvcc_path,
        nvidia=_nvidia(root, environment, run),
        glslc=bool(_found("glslc", environment)),
        headers=tuple(name for name, file in HEADERS.items() if any((at / file).exists() for at in includes)),
        vulkan_drivers=_vulkan_drivers(root),
        render_nodes=tuple(str(node) for node in sorted((root / "dev/dri").glob("renderD*"))),
    )


def _nvidia(root: Path, environment: Mapping[str, str], run: Run) -> tuple[str, ...]:
    """The GPUs that the driver names; with no tool to ask it, their device files if the driver is loaded."""
    if tool := _found("nvidia-smi", environment):
        said = _said([tool, "--query-gpu=name,compute_cap", "--format=csv,noheader"], run)
        if names := tuple(line.strip() for line in said.splitlines() if line.strip()):
            return names
    if not (root / "proc/driver/nvidia/version").exists():
        return ()
    return tuple(str(node) for node in sorted((root / "dev").glob("nvidia[0-9]*")))


def _vulkan_drivers(root: Path) -> tuple[str, ...]:
    found = []
    for folder in DRIVER_FOLDERS:
        for file in sorted((root / folder).glob("*.json")):
            try:
                library = json.loads(file.read_text())["ICD"]["library_path"]
            except (OSError, ValueError, LookupError, TypeError):
                continue
            if not any(name in str(library) for name in SOFTWARE_DRIVERS):
                found.append(Path(str(library)).name)
    return tuple(dict.fromkeys(found))


def _found(command: str, environment: Mapping[str, str]) -> str | None:
    return shutil.which(command, path=environment.get("PATH"))


def _said(command: Sequence[str], run: Run) -> str:
    """What a command prints; nothing when it fails, as nvidia-smi does without a driver."""
    try:
        return run(command)
    except (OSError, SubprocessError):
        return ""
