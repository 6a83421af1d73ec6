"""`agentix doctor`: looks at everything that a kernel needs, and really decodes a few tokens.

Who uses it: __main__.py. What must hold: it needs no kernel and changes nothing; the exit status is that of the
first thing found wrong; llama.cpp, which may crash, runs in a child.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from agentix import calls
from agentix.cli.boot import CHECKOUT, default_model, last_line
from agentix.cli.exits import CommandError, Exit
from agentix.cli.table import pairs, size, table
from agentix.cli.tasks import ANSWER_S
from agentix.client import Connection
from agentix.errors import AgentixError, NoKernel
from kernel.engine import build
from kernel.engine.modelfile import ModelFileError, resolve

OLDEST_PYTHON = (3, 11)
SPARE_BYTES = 256 << 20  # beside the model: contexts, the kernel, the agents


class Finding(NamedTuple):
    what: str
    is_ok: bool
    text: str
    status: Exit = Exit.OK  # when it is not ok


def doctor(options: argparse.Namespace) -> int:
    found = build.describe()
    findings = [look_at_python(), look_at_compiler(found), look_at_llama(found)]
    model, finding = look_at_model(options.model)
    findings.append(finding)
    findings.append(look_at_memory(model))
    if model and findings[2].is_ok:
        findings.append(preflight(model))
    kernel, facts = look_at_kernel(options.kernel)
    findings.append(kernel)
    if options.json:
        listed = [finding._asdict() | {"status": int(finding.status)} for finding in findings]
        print(json.dumps({"findings": listed, "build": found, "kernel": facts}, indent=2))
    else:
        rows = [("ok" if item.is_ok else "WRONG", item.what, item.text) for item in findings]
        print(table(("", "WHAT", "FOUND"), rows))
        if facts:
            print(f"\nthe running kernel\n{pairs(facts)}")
    return next((finding.status for finding in findings if not finding.is_ok), Exit.OK)


def look_at_python() -> Finding:
    version = sys.version.split()[0]
    text = f"{version}, {sys.executable}"
    return Finding("python", sys.version_info >= OLDEST_PYTHON, text, Exit.FAILED)


def look_at_compiler(found: dict[str, object]) -> Finding:
    """Only building needs one: without it nothing is wrong as long as llama.cpp is there."""
    cpu = f"{found['cpu']} ({found['machine']})"
    if found["compiler"] is None:
        is_built = found["installed"] is not None
        return Finding("compiler", is_built, f"none; {found['error']}; on {cpu}", Exit.NO_LLAMA)
    flags = " ".join(map(str, found["flags"])) or "no flags of ours"  # type: ignore[call-overload]
    why = f"{found['reason']}; {found['gpu']}"
    return Finding("compiler", True, f"{found['compiler']} for {cpu}: {flags}; {why}")


def look_at_llama(found: dict[str, object]) -> Finding:
    if found["installed"] is None:
        text = f"{build.PACKAGE} is not installed for {sys.executable}: run `make setup`"
        return Finding("llama.cpp", False, text, Exit.NO_LLAMA)
    error = found["installed_error"]
    text = str(error) if error else f"{build.PACKAGE} {found['installed']}, which we test with"
    return Finding("llama.cpp", not error, text, Exit.NO_LLAMA)


def look_at_model(name: str | None) -> tuple[str | None, Finding]:
    try:
        file = resolve(name or default_model())
    except (CommandError, ModelFileError) as error:
        return None, Finding("model", False, str(error), Exit.NO_MODEL)
    return str(file.path), Finding("model", True, f"{file.path}, {size(file.size_bytes)}")


def look_at_memory(model: str | None) -> Finding:
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(meminfo[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
    needed = SPARE_BYTES + (os.path.getsize(model) if model else 0)
    text = f"{size(free)} of {size(total)} are free, a kernel with this model needs about {size(needed)}"
    return Finding("memory", free >= needed, text, Exit.NO_MEMORY)


def preflight(model: str) -> Finding:
    """Have a child load the model and decode."""
    command = [sys.executable, "-m", "kernel.engine.preflight", os.path.abspath(model)]
    done = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, errors="replace", check=False
    )
    try:
        told = json.loads(last_line(done.stdout))
        is_ok, text = bool(told["ok"]), str(told["text"])
        if is_ok and not told["extra_buffers"]:
            text += ", but only without llama.cpp's repacked weights: slower"
    except (ValueError, KeyError, TypeError):
        is_ok, text = False, last_line(done.stderr) or f"exit status {done.returncode}"
    return Finding("decoding", is_ok, text, Exit.CORE_DIES)


def look_at_kernel(name: str) -> tuple[Finding, dict[str, object] | None]:
    try:
        connection = Connection("operator", name, "doctor", ANSWER_S)
    except NoKernel:
        return Finding("kernel", True, f"none named {name!r} is running"), None
    except AgentixError as error:
        return Finding("kernel", False, str(error), Exit.FAILED), None
    try:
        facts = connection.call(calls.plain("sys.info"), ANSWER_S)
    except AgentixError as error:
        return Finding("kernel", False, str(error), Exit.FAILED), None
    finally:
        connection.close()
    return Finding("kernel", True, f"{name!r} runs as process {facts['kernel_pid']}"), facts
