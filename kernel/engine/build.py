"""Builds llama-cpp-python once for this machine and keeps the wheel in the user's cache.

Run by install.py (`make setup`) and by hand: `python3 kernel/engine/build.py [--explain [--json]]`. The kernel
imports it for `tested_version_error`, `agentix doctor` for `describe`. Standard library only; importing it has
no side effect. Why not simply pip install: docs/adr/0001-build-flags.md.

Invariant: a wheel in `wheels/<key>/` is whole and fits this machine. It arrives there by one rename, after the
build that made it has succeeded; whatever a killed build leaves has another name, and the next build removes it.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # before anything is installed: import from this checkout, and from no other place
    if sys.version_info < (3, 11):
        sys.exit(f"build: Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    sys.path[0] = __file__.rsplit("/kernel/", 1)[0] if "/kernel/" in __file__ else "."

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import SubprocessError

from kernel.engine.buildgpu import find_gpu
from kernel.engine.buildlog import (
    ADVICE,
    Exit,
    Progress,
    ProgressLine,
    clock_text,
)
from kernel.engine.buildrun import BuildError, Runner, die_tidily, locked, output_of, stop_strays
from kernel.engine.hostcpu import (
    AMX_FLAGS,
    Compiler,
    Cpu,
    choose_flags,
    parse_compiler,
    read_cpu,
)

PACKAGE = "llama-cpp-python"
TESTED = ("0.3.36", "0.3.36")  # oldest and newest version that our tests ran against; THE place to change it

ROOM_BYTES = 700_000_000  # source, objects and wheel of one build, with a margin
GPU_ROOM_BYTES = 3_000_000_000  # the same with kernels for a GPU
BYTES_PER_JOB = 1_000_000_000  # what one C++ compiler may need at its peak

# Read by CMake just after llama.cpp's project() call. The Python package insists on llama-common (option
# parsing, chat templates, downloads), which nothing in the wheel loads. Without it and without the multimodal
# library 83 compile steps are left of 193, and less than half of the compile time.
CMAKE_HOOK = "set(LLAMA_BUILD_COMMON OFF)\n"
CMAKE_HOOK_VARIABLE = "CMAKE_PROJECT_llama.cpp_INCLUDE"

BUILD_VARIABLES = ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS", "LDFLAGS")  # a user's own; they change the binary


def version_numbers(version: str) -> tuple[int, ...] | None:
    """(0, 3, 36) for "0.3.36", "0.3.36+cu121" or "0.3.36.post1"; None for what is no version."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else None


def tested_version_error(version: str, tested: tuple[str, str] = TESTED) -> str | None:
    """Why this version of llama-cpp-python is refused; None when it is in the tested range."""
    found = version_numbers(version)
    oldest, newest = (version_numbers(bound) or () for bound in tested)
    if found is None:
        problem = "is no version number"
    elif found < oldest:
        problem = "is older than"
    elif found > newest:
        problem = "is newer than"
    else:
        return None
    span = tested[0] if oldest == newest else f"{tested[0]} to {tested[1]}"
    return f"{PACKAGE} {version!r} {problem} the tested {span}: run `make setup`, which installs {tested[1]}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what the built binary is: two equal recipes may share one wheel."""

    version: str
    cmake_args: tuple[str, ...]
    reason: str  # for the user; no part of the key
    cpu: Cpu
    compiler: Compiler
    libc: str
    user_flags: tuple[str, ...] = ()  # "CFLAGS=-g": what the environment adds
    gpu: str = ""  # "CUDA" or "Vulkan": what it is built for besides the CPU
    gpu_args: tuple[str, ...] = ()  # CMake arguments for it
    gpu_facts: str = ""  # tool chain and devices, which the binary depends on
    gpu_reason: str = ""  # for the user

    @property
    def machine_digest(self) -> str:
        """All but the compiler: a wheel with another digest must not run here."""
        facts: list[object] = [self.version, self.cmake_args, self.cpu.machine, sorted(self.cpu.features),
                               self.libc, self.user_flags, CMAKE_HOOK]
        if self.gpu:  # and only then: a wheel for the CPU is the same whatever is known of GPUs
            facts += [self.gpu_args, self.gpu_facts]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]

    @property
    def key(self) -> str:
        """Name of the wheel's directory. No Python version in it: the wheel is py3-none and works with all."""
        return f"{self.version}-{self.machine_digest}-{str(self.compiler).replace(' ', '')}"

    def without_gpu(self) -> Recipe:
        return replace(self, gpu="", gpu_args=(), gpu_facts="")


def find_compiler(environment: Mapping[str, str]) -> Compiler:
    """The compiler pair to build with: CC and CXX where set, else what the machine calls cc, gcc or clang."""
    pairs = [("cc", "c++"), ("gcc", "g++"), ("clang", "clang++")]
    if environment.get("CC") or environment.get("CXX"):
        pairs = [(environment.get("CC") or "cc", environment.get("CXX") or "c++")]
    for c_command, cxx_command in pairs:
        try:
            texts = [output_of([*shlex.split(command), "--version"]) for command in (c_command, cxx_command)]
        except (OSError, ValueError, SubprocessError):
            continue
        return parse_compiler(texts[0], c_command, cxx_command)
    tried = ", ".join(f"{c}/{cxx}" for c, cxx in pairs)
    raise BuildError(Exit.NO_COMPILER, f"{ADVICE[Exit.NO_COMPILER]} (tried {tried})")


def find_recipe(environment: Mapping[str, str] = os.environ) -> Recipe:
    """The recipe for this machine."""
    cpu, compiler = read_cpu(), find_compiler(environment)
    flags = choose_flags(cpu.features, compiler)
    user_flags = tuple(f"{name}={environment[name]}" for name in BUILD_VARIABLES if environment.get(name))
    libc = " ".join(platform.libc_ver())
    gpu = find_gpu(environment)
    return Recipe(
        TESTED[1], flags.cmake_args, flags.reason, cpu, compiler, libc, user_flags,
        gpu.kind, gpu.cmake_args, gpu.facts, gpu.reason,
    )  # fmt: skip


class Cache:
    """Where wheels, sources and logs are kept: outside every checkout, shared by all of a user's clones."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.wheels, self.sdists, self.logs = root / "wheels", root / "sdist", root / "logs"

    @classmethod
    def of_user(cls, environment: Mapping[str, str] = os.environ) -> Cache:
        base = environment.get("XDG_CACHE_HOME") or "~/.cache"
        return cls(Path(base).expanduser() / "agentix")

    def wheel(self, key: str) -> Path | None:
        """The trusted wheel of this key, if it is there and readable as a wheel."""
        found = sorted((self.wheels / key).glob("*.whl"))
        return found[0] if len(found) == 1 and zipfile.is_zipfile(found[0]) else None

    def sdist(self, version: str) -> Path:
        """Where this version's source archive is, once fetched; the benchmarks build their tools from it."""
        return self.sdists / f"{PACKAGE.replace('-', '_')}-{version}.tar.gz"

    def log(self, key: str) -> Path:
        return self.logs / f"{key}.log"

    def failure(self, key: str) -> Path:
        """The file that is there when a build for a GPU failed: none is tried again until it is deleted."""
        return self.wheels / f"{key}.failed"

    def tried(self, recipe: Recipe) -> Recipe:
        """The recipe, or the one for the CPU alone when this one failed before."""
        if not recipe.gpu or not self.failure(recipe.key).exists():
            return recipe
        reason = f"a build for {recipe.gpu} failed before: delete {self.failure(recipe.key)} to try it again"
        return replace(recipe.without_gpu(), gpu_reason=reason)


def ensure_wheel(recipe: Recipe, cache: Cache, pip: Sequence[str], say: Callable[[str], None] = print) -> Path:
    """The wheel for this recipe: from the cache, else built now. `pip` is the command to run pip by."""
    if wheel := cache.wheel(recipe.key):
        return wheel
    for directory in (cache.wheels, cache.sdists, cache.logs):
        directory.mkdir(parents=True, exist_ok=True)
    with locked(cache.wheels / f".lock-{recipe.key}", say):
        if wheel := cache.wheel(recipe.key):  # built by another process while this one waited
            return wheel
        return build_wheel(recipe, cache, pip, say)


def ensure_best_wheel(
    recipe: Recipe, cache: Cache, pip: Sequence[str], say: Callable[[str], None] = print
) -> tuple[Recipe, Path]:
    """The wheel and the recipe that it was made by: for the CPU alone when it does not compile for a GPU."""
    try:
        return recipe, ensure_wheel(recipe, cache, pip, say)
    except BuildError as error:
        if not recipe.gpu or error.kind not in (Exit.BUILD_FAILED, Exit.OUT_OF_MEMORY, Exit.NO_COMPILER):
            raise
        cache.failure(recipe.key).write_text(f"{error}\n")
        plain = cache.tried(recipe)
        say(f"the build for {recipe.gpu} failed ({cache.log(recipe.key)}): building for the CPU alone;"
            f" delete {cache.failure(recipe.key)} to try it again")
        return plain, ensure_wheel(plain, cache, pip, say)


def build_wheel(recipe: Recipe, cache: Cache, pip: Sequence[str], say: Callable[[str], None]) -> Path:
    """Fetch the source if need be, compile it, and move the wheel to its trusted place. Needs the key's lock."""
    free_bytes = shutil.disk_usage(cache.root).free
    room_bytes = GPU_ROOM_BYTES if recipe.gpu else ROOM_BYTES
    if free_bytes < room_bytes:
        raise BuildError(Exit.DISK_FULL, f"{cache.root} has {free_bytes // 10**6} MB free and building"
                         f" {PACKAGE} takes {room_bytes // 10**6}: {ADVICE[Exit.DISK_FULL]}")
    prefix = f".building-{recipe.key}-"
    for leftover in cache.wheels.glob(f"{prefix}*"):  # of a killed build, as we hold the lock
        stop_strays(leftover / "tmp")
        shutil.rmtree(leftover, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=cache.wheels))
    say(f"{PACKAGE} {recipe.version} is compiled once for this machine ({recipe.compiler}; {recipe.reason})")
    if recipe.gpu:
        say(f"{recipe.gpu_reason}; that takes several times as long as a build for the CPU alone")
    try:
        runner = Runner(cache.log(recipe.key), build_environment(recipe, work))
        start_s = time.monotonic()
        progress = Progress(start_s)
        line = ProgressLine(sys.stdout, f"llama.cpp {recipe.version}", progress)
        try:
            sdist = fetch_sdist(recipe.version, cache, pip, work, runner)
            runner.run(
                # pip's own wheel cache goes by the source's path alone: it would serve a wheel made with other flags
                [*pip, "wheel", "-v", "--no-cache-dir", "--no-deps", "--wheel-dir", str(work / "out"), str(sdist)],
                f"{PACKAGE} {recipe.version} did not compile",
                on_line=lambda text: progress.feed(text, time.monotonic()),
                on_tick=lambda: line.draw(time.monotonic()),
            )
        finally:
            line.finish()
        wheel = trust(work / "out", cache, recipe.key)
        say(f"compiled in {clock_text(time.monotonic() - start_s)}, kept as {wheel}")
        return wheel
    finally:
        shutil.rmtree(work, ignore_errors=True)


def fetch_sdist(version: str, cache: Cache, pip: Sequence[str], work: Path, runner: Runner) -> Path:
    """The source archive of this version, downloaded if the cache lacks it."""
    sdist = cache.sdist(version)
    if not sdist.exists():
        source = work / "sdist"
        runner.run(
            [*pip, "download", "--no-deps", "--no-binary", PACKAGE, "--dest", str(source), f"{PACKAGE}=={version}"],
            f"the source of {PACKAGE} {version} could not be fetched",
        )
        os.replace(only_file(source, "*.tar.gz"), sdist)
    return sdist


def trust(out: Path, cache: Cache, key: str) -> Path:
    """Give the directory of a finished wheel its trusted name: the one step that makes it count."""
    wheel = only_file(out, "*.whl")
    if not zipfile.is_zipfile(wheel):
        raise BuildError(Exit.BUILD_FAILED, f"pip succeeded but {wheel.name} is not a readable wheel")
    with wheel.open("rb") as file:
        os.fsync(file.fileno())  # a rename may reach the disk before the data it names
    shutil.rmtree(cache.wheels / key, ignore_errors=True)  # only ever an unreadable one: see Cache.wheel
    os.replace(out, cache.wheels / key)
    return cache.wheels / key / wheel.name


def only_file(directory: Path, pattern: str) -> Path:
    found = list(directory.glob(pattern))
    if len(found) != 1:
        raise BuildError(Exit.BUILD_FAILED, f"expected one {pattern} from pip, found {[f.name for f in found]}")
    return found[0]


def build_environment(recipe: Recipe, work: Path) -> dict[str, str]:
    """The environment for pip, in which CMake finds our arguments first and a user's own after them."""
    hook, scratch = work / "libraries_only.cmake", work / "tmp"  # "tmp": see stop_strays
    hook.write_text(CMAKE_HOOK)
    scratch.mkdir()
    cmake_args = shlex.join([*recipe.cmake_args, *recipe.gpu_args, f"-D{CMAKE_HOOK_VARIABLE}={hook}"])
    return os.environ | {
        "CC": recipe.compiler.c_command,
        "CXX": recipe.compiler.cxx_command,
        "CMAKE_ARGS": f"{cmake_args} {os.environ.get('CMAKE_ARGS', '')}".strip(),
        "CMAKE_BUILD_PARALLEL_LEVEL": os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(count_jobs()),
        "TMPDIR": str(scratch),  # so that a killed build's scratch goes with its directory
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
    }


def count_jobs() -> int:
    """Compilers to run side by side: a core each, as far as memory goes."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory_bytes // BYTES_PER_JOB))


def describe(environment: Mapping[str, str] = os.environ) -> dict[str, object]:
    """What a build on this machine would use and whether it is done, for people and `agentix doctor`. Never raises."""
    cache, cpu = Cache.of_user(environment), read_cpu()
    try:
        installed: str | None = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        installed = None
    found: dict[str, object] = {
        "python": platform.python_version(),
        "machine": cpu.machine,
        "cpu": cpu.model,
        "amx": sorted(cpu.features & AMX_FLAGS),
        "tested": list(TESTED),
        "installed": installed,
        "installed_error": None if installed is None else tested_version_error(installed),
        "cache": str(cache.root),
    }
    try:
        recipe = cache.tried(find_recipe(environment))
    except BuildError as error:
        return found | {"compiler": None, "error": str(error)}
    wheel = cache.wheel(recipe.key)
    return found | {
        "compiler": str(recipe.compiler),
        "flags": [*recipe.cmake_args, *recipe.gpu_args],
        "user_flags": list(recipe.user_flags),
        "reason": recipe.reason,
        "gpu": recipe.gpu_reason,
        "wheel": str(wheel or cache.wheels / recipe.key),
        "is_cached": wheel is not None,
        "sdist": str(cache.sdist(recipe.version)),
        "log": str(cache.log(recipe.key)),
    }


def explain_text(found: Mapping[str, object]) -> str:
    """`describe` as aligned lines."""
    return "\n".join(
        f"{name:<16}{' '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in found.items()
    )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="build.py", description="Build llama-cpp-python for this machine, once.")
    parser.add_argument("--explain", action="store_true", help="print what was found and chosen; build nothing")
    parser.add_argument("--json", action="store_true", help="with --explain: as JSON")
    options = parser.parse_args(arguments)
    if options.explain:
        found = describe()
        print(json.dumps(found, indent=2) if options.json else explain_text(found))
        return Exit.OK
    cache = Cache.of_user()
    _, wheel = ensure_best_wheel(cache.tried(find_recipe()), cache, [sys.executable, "-m", "pip"])
    print(wheel)
    return Exit.OK


def exit_status(body: Callable[[], int]) -> int:
    """Run a command's body and turn the ways it can end into an exit status and a message."""
    die_tidily()
    try:
        return body()
    except BuildError as error:
        print(f"agentix set-up: {error}", file=sys.stderr)
        return error.kind
    except KeyboardInterrupt:
        print("agentix set-up: interrupted; nothing half-made is kept", file=sys.stderr)
        return Exit.INTERRUPTED


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(sys.argv[1:])))
