"""Programs of llama.cpp's own, built once from the same source package as our wheel.

Who calls it: batched.py and peers_servers.py. What must hold: they are compiled with the flags that the wheel's recipe
chose and kept beside the wheel under the same key, so that both sides of a ratio are the same llama.cpp.

    python -m benchmarks.llamatool llama-server       # build it if the cache lacks it, print its path
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from kernel.engine.build import Cache, count_jobs, fetch_sdist, find_recipe
from kernel.engine.buildrun import Runner

OPTIONS = (  # a library of everything and no more of the tools than we run
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_COMMON=ON",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
)
NOT_FOR_US = ("-DLLAVA_BUILD",)  # the Python package's own switch, unknown to llama.cpp
BUILD_LIMIT_S = 3600


class ToolError(Exception):
    """A program could not be built or run; the text says which command failed and its last lines."""


def binary(target: str) -> Path:
    """Return the program's path, compiling it first (minutes) when the cache lacks it. Raises ToolError."""
    recipe, cache = find_recipe(), Cache.of_user()
    kept = cache.root / "tools" / recipe.key / target
    if kept.exists():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".building-{target}-", dir=kept.parent) as scratch:
        work = Path(scratch)
        sdist = _source(recipe.version, cache, work)
        with tarfile.open(sdist) as archive:
            archive.extractall(work / "source", filter="data")
        (tree,) = (work / "source").glob("*/vendor/llama.cpp")
        flags = [flag for flag in recipe.cmake_args if not flag.startswith(NOT_FOR_US)]
        environment = os.environ | {"CC": recipe.compiler.c_command, "CXX": recipe.compiler.cxx_command}
        out = work / "out"
        print(f"{target} {recipe.version} is compiled once: {shlex.join([*flags, *OPTIONS])}", flush=True)
        server = f"-DLLAMA_BUILD_SERVER={'ON' if target == 'llama-server' else 'OFF'}"
        _command(["cmake", "-S", str(tree), "-B", str(out), *OPTIONS, server, *flags], environment, target)
        jobs = str(count_jobs())
        _command(["cmake", "--build", str(out), "--target", target, "-j", jobs], environment, target)
        (made,) = [path for path in out.rglob(target) if path.is_file() and os.access(path, os.X_OK)]
        staged = kept.with_name(f".{target}-{os.getpid()}")
        shutil.copy2(made, staged)
        staged.replace(kept)  # whole or absent
    return kept


def _source(version: str, cache: Cache, work: Path) -> Path:
    sdist = cache.sdist(version)
    if not sdist.exists():
        cache.sdists.mkdir(parents=True, exist_ok=True)
        cache.logs.mkdir(parents=True, exist_ok=True)
        runner = Runner(cache.logs / "llamatool.log", dict(os.environ))
        fetch_sdist(version, cache, [sys.executable, "-m", "pip"], work, runner)
    return sdist


def _command(command: list[str], environment: dict[str, str], target: str) -> None:
    """Run a step of the build quietly, but for a line every ten percent."""
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    last, shown = [], -1
    assert process.stdout is not None
    try:
        for line in process.stdout:
            last = [*last[-11:], line.rstrip()]
            percent = line[1:4].strip() if line.startswith("[") else ""
            if percent.isdigit() and int(percent) // 10 > shown:
                shown = int(percent) // 10
                print(f"  {target}: {percent} % after {time.monotonic() - began:.0f} s", flush=True)
            if time.monotonic() - began > BUILD_LIMIT_S:
                raise ToolError(f"{shlex.join(command)} takes longer than {BUILD_LIMIT_S} s")
    finally:
        if process.poll() is None and sys.exc_info()[0] is not None:
            process.kill()
        status = process.wait()
    if status:
        raise ToolError(f"{shlex.join(command)} ended with {status}:\n" + "\n".join(last))


if __name__ == "__main__":
    print(binary(sys.argv[1]))
