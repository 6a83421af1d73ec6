"""llama.cpp's own llama-batched-bench, built once from the same source package as our wheel, and run.

Who calls it: streaming32.py. What must hold: it is compiled with the flags that the wheel's recipe chose
and kept beside the wheel under the same key, so that both sides of a ratio are the same llama.cpp.

    python -m benchmarks.batched            # build it if the cache lacks it, print its path
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from kernel.engine.build import Cache, count_jobs, fetch_sdist, find_recipe
from kernel.engine.buildrun import Runner

TARGET = "llama-batched-bench"
OPTIONS = (  # a library of everything and no more of the tools than we run
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_COMMON=ON",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
)
NOT_FOR_US = ("-DLLAVA_BUILD",)  # the Python package's own switch, unknown to llama.cpp
BUILD_LIMIT_S = 3600
RUN_LIMIT_S = 900


class BatchedError(Exception):
    """The tool could not be built or run; the text says which command failed and its last lines."""


class Rates(NamedTuple):
    """What one run measured."""

    prefill: float  # tokens per second
    decode: float
    flash_attention: bool


def binary() -> Path:
    """Return the tool's path, compiling it first (minutes) when the cache lacks it. Raises BatchedError."""
    recipe, cache = find_recipe(), Cache.of_user()
    kept = cache.root / "tools" / recipe.key / TARGET
    if kept.exists():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".building-{TARGET}-", dir=kept.parent) as scratch:
        work = Path(scratch)
        sdist = _source(recipe.version, cache, work)
        with tarfile.open(sdist) as archive:
            archive.extractall(work / "source", filter="data")
        (tree,) = (work / "source").glob("*/vendor/llama.cpp")
        flags = [flag for flag in recipe.cmake_args if not flag.startswith(NOT_FOR_US)]
        environment = os.environ | {"CC": recipe.compiler.c_command, "CXX": recipe.compiler.cxx_command}
        out = work / "out"
        print(f"{TARGET} {recipe.version} is compiled once: {shlex.join([*flags, *OPTIONS])}", flush=True)
        _command(["cmake", "-S", str(tree), "-B", str(out), *OPTIONS, *flags], environment)
        jobs = str(count_jobs())
        _command(["cmake", "--build", str(out), "--target", TARGET, "-j", jobs], environment)
        (made,) = [path for path in out.rglob(TARGET) if path.is_file() and os.access(path, os.X_OK)]
        staged = kept.with_name(f".{TARGET}-{os.getpid()}")
        shutil.copy2(made, staged)
        staged.replace(kept)  # whole or absent
    return kept


def _source(version: str, cache: Cache, work: Path) -> Path:
    sdist = cache.sdist(version)
    if not sdist.exists():
        cache.sdists.mkdir(parents=True, exist_ok=True)
        cache.logs.mkdir(parents=True, exist_ok=True)
        runner = Runner(cache.logs / f"{TARGET}.log", dict(os.environ))
        fetch_sdist(version, cache, [sys.executable, "-m", "pip"], work, runner)
    return sdist


def _command(command: list[str], environment: dict[str, str]) -> None:
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
                print(f"  {TARGET}: {percent} % after {time.monotonic() - began:.0f} s", flush=True)
            if time.monotonic() - began > BUILD_LIMIT_S:
                raise BatchedError(f"{shlex.join(command)} takes longer than {BUILD_LIMIT_S} s")
    finally:
        if process.poll() is None and sys.exc_info()[0] is not None:
            process.kill()
        status = process.wait()
    if status:
        raise BatchedError(f"{shlex.join(command)} ended with {status}:\n" + "\n".join(last))


def measure(
    model: str, *, sequences: int, prompt: int, generated: int, threads: int, flash_attention: bool
) -> Rates:
    """Prefill `sequences` prompts and decode them together, with split KV; return its own figures."""
    command = [
        str(binary()), "-m", model, "-c", str(sequences * (prompt + generated)),
        "-npp", str(prompt), "-ntg", str(generated), "-npl", str(sequences),
        "-t", str(threads), "-tb", str(threads), "-b", "2048", "-ub", "512",
        "-fa", "on" if flash_attention else "off", "--no-kv-unified", "--output-format", "jsonl",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise BatchedError(f"{shlex.join(command)} takes longer than {RUN_LIMIT_S} s") from None
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not found:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise BatchedError(f"{shlex.join(command)} ended with {done.returncode}:\n{tail}")
    return Rates(found[-1]["speed_pp"], found[-1]["speed_tg"], flash_attention)


if __name__ == "__main__":
    print(binary())
