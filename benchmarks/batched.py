"""llama.cpp's own llama-batched-bench, run.

Who calls it: streaming32.py.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import NamedTuple

from benchmarks.llamatool import ToolError, binary

TARGET = "llama-batched-bench"
RUN_LIMIT_S = 900


class Rates(NamedTuple):
    """What one run measured."""

    prefill: float  # tokens per second
    decode: float
    flash_attention: bool


def measure(
    model: str, *, sequences: int, prompt: int, generated: int, threads: int, flash_attention: bool
) -> Rates:
    """Prefill `sequences` prompts and decode them together, with split KV; return its own figures."""
    command = [
        str(binary(TARGET)), "-m", model, "-c", str(sequences * (prompt + generated)),
        "-npp", str(prompt), "-ntg", str(generated), "-npl", str(sequences),
        "-t", str(threads), "-tb", str(threads), "-b", "2048", "-ub", "512",
        "-fa", "on" if flash_attention else "off", "--no-kv-unified", "--output-format", "jsonl",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ToolError(f"{shlex.join(command)} takes longer than {RUN_LIMIT_S} s") from None
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not found:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise ToolError(f"{shlex.join(command)} ended with {done.returncode}:\n{tail}")
    return Rates(found[-1]["speed_pp"], found[-1]["speed_tg"], flash_attention)
