"""What this machine computes and compiles with, and the compiler flags that llama.cpp needs here.

Called by build.py before anything is installed, and by the LLM core for its threads, so: standard library
only, no side effect on import.
`choose_flags` is a pure function of the two things it is given, so every machine can be tested on any other.
"""

from __future__ import annotations

import math
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

AMX_FLAGS = frozenset({"amx_tile", "amx_int8", "amx_bf16"})  # Linux's names for Intel's matrix units

# First GCC release known to keep the stores to the AMX tile configuration; None: no such release is known.
# GCC 12 takes them for dead, and the first matrix product dies of SIGILL or SIGSEGV.
FIRST_GOOD_GCC_FOR_AMX: tuple[int, ...] | None = None

KEEP_STORES = "-fno-tree-dse -fno-dse"  # dead-store elimination off, before and after register allocation

# The multimodal library is a quarter of the compile steps, and the kernel never loads it.
ALWAYS = ("-DLLAVA_BUILD=OFF",)


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor as Linux describes it. `features` holds what every core of it has."""

    machine: str  # x86_64, aarch64, ...
    model: str
    features: frozenset[str]


@dataclass(frozen=True, slots=True)
class Compiler:
    """The C compiler that CMake will be told to use, and the C++ compiler beside it."""

    family: str  # "gcc", "clang" or "unknown"
    version: str  # "12.2.0"; "" when it does not say
    c_command: str = "cc"
    cxx_command: str = "c++"

    def __str__(self) -> str:
        return f"{self.family} {self.version}".strip()


@dataclass(frozen=True, slots=True)
class Flags:
    """The CMake arguments for one machine and, in a sentence for a human, why these."""

    cmake_args: tuple[str, ...]
    reason: str


def read_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Cpu:
    """The processor of this machine; with no feature known where Linux's cpuinfo is missing."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        text = ""
    return parse_cpuinfo(text, platform.machine())


def usable_cpus(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """How many threads can run at once: the CPUs we are allowed to use, or our container's share if less."""
    allowed = len(os.sched_getaffinity(0))
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # both versions of groups
        try:
            quota, period = " ".join((groups / name).read_text() for name in names).split()
            if int(quota) > 0:
                allowed = min(allowed, math.ceil(int(quota) / int(period)))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return max(1, allowed)


def usable_cores(system: Path = Path("/sys/devices/system/cpu")) -> int:
    """The same in cores: two hardware threads of one core share what multiplies matrices."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        topology = system / f"cpu{cpu}" / "topology"
        try:
            core = [(topology / name).read_text().strip() for name in ("physical_package_id", "core_id")]
        except OSError:
            core = [str(cpu)]
        cores.add(tuple(core))
    return max(1, min(len(cores), usable_cpus()))


def parse_cpuinfo(text: str, machine: str) -> Cpu:
    """Read the text of /proc/cpuinfo, which names the same facts differently on each architecture."""
    model = ""
    features: frozenset[str] | None = None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        match name.strip().lower():
            case "flags" | "features":
                found = frozenset(value.split())
                # big and little cores differ: code may run on any of them, so keep what all have
                features = found if features is None else features & found
            case "model name" | "cpu part" | "processor 0" if not model:
                model = value.strip()
    return Cpu(machine, model or "unknown", features or frozenset())


def parse_compiler(version_text: str, c_command: str, cxx_command: str) -> Compiler:
    """Tell family and version from what `cc --version` printed."""
    first_line = version_text.partition("\n")[0]
    if "clang" in version_text:
        family = "clang"
    elif "Free Software Foundation" in version_text:
        family = "gcc"
    else:
        family = "unknown"
    # "gcc (Debian 12.2.0-14) 12.2.0": the packager's own number comes first, the compiler's last
    versions = re.findall(r"(?<![\w.])\d+(?:\.\d+)+", first_line)
    version = (versions[-1] if family == "gcc" else versions[0]) if versions else ""
    return Compiler(family, version, c_command, cxx_command)


def choose_flags(cpu_features: frozenset[str], compiler: Compiler) -> Flags:
    """The flags that make a build fast and correct on this processor with this compiler."""
    amx = sorted(cpu_features & AMX_FLAGS)
    if not amx:
        return Flags(ALWAYS, "this CPU has no AMX: llama.cpp's own flags are right")
    if compiler.family != "gcc":
        return Flags(ALWAYS, f"this CPU has AMX, but {compiler} is not known to break it")
    if is_gcc_good_for_amx(compiler.version):
        return Flags(ALWAYS, f"this CPU has AMX, and {compiler} is known to compile it correctly")
    return Flags(
        (*ALWAYS, f"-DCMAKE_C_FLAGS={KEEP_STORES}", f"-DCMAKE_CXX_FLAGS={KEEP_STORES}"),
        f"this CPU has AMX ({', '.join(amx)}) and {compiler} may drop the stores that configure its tiles,"
        f" which crashes the first matrix product: {KEEP_STORES} keeps them, and AMX with them",
    )


def is_gcc_good_for_amx(version: str) -> bool:
    """Whether this GCC is known to be free of the bug; a version that cannot be read is not."""
    if FIRST_GOOD_GCC_FOR_AMX is None or not version:
        return False
    return tuple(int(part) for part in version.split(".")) >= FIRST_GOOD_GCC_FOR_AMX
