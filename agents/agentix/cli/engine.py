"""Asks llama.cpp about models, in a child process: `python -m kernel.engine.inspect` and `.calibrate`.

Who uses it: models.py, calibrate.py. What must hold: llama.cpp is never in this process, for a bad file may
end it; the child ends with us.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from agentix.cli.boot import last_line
from agentix.cli.exits import CommandError, Exit


def ask(module: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """Run a module of the kernel's and yield the JSON objects that it prints, one a line.

    Raises CommandError when it ends by a signal, or badly without having said why.
    """
    command = [sys.executable, "-P", "-m", module, *arguments]
    with tempfile.TemporaryFile("w+", errors="replace") as blamed:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=blamed, text=True
        )
        assert process.stdout is not None
        line: dict[str, Any] = {}
        try:
            for text in process.stdout:
                line = json.loads(text)
                yield line
            status = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if status < 0:
            ended = f"llama.cpp was ended by {signal.Signals(-status).name}"
            raise CommandError(Exit.CORE_DIES, f"{ended}: run `agentix doctor`")
        if status and "error" not in line:
            blamed.seek(0)
            reason = last_line(blamed.read()) or f"exit status {status}"
            raise CommandError(Exit.FAILED, f"{module}: {reason}")
