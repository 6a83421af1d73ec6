"""Does llama.cpp, as installed, run a model on this machine? Asked of a child, which may crash.

Run by set-up and `agentix doctor`: `python -m kernel.engine.preflight MODEL`. Prints one JSON line
{"ok": bool, "extra_buffers": bool, "text": str}; exit status 0 when ok. What must hold: this process
never loads llama.cpp. A build that dies by a signal (GCC 12 and AMX: docs/adr/0001-build-flags.md) is
tried once more without its repacked weights.
"""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from kernel.engine.base import EngineOptions, Row, StepPlan
from kernel.engine.link import CoreProcess, plan_message
from kernel.events import CoreLost, CoreReady, Event, StepDone

LIMIT_S = 300  # to load a large model from a slow disk
_OPTIONS = EngineOptions(slots=2, slot_tokens=128, window_tokens=128, threads=2)
_PLAN = StepPlan(1, chunks=(Row(0, 0, (1, 2, 3, 4), False),))


def check(command: Sequence[str]) -> tuple[bool, bool, str]:
    """Return (it works, it was ended by a signal, what to say)."""
    core = CoreProcess(command)
    until = time.monotonic() + LIMIT_S
    try:
        while time.monotonic() < until:
            fds = [fd for fd in (core.link_fd, core.stderr_fd) if fd >= 0]
            select.select(fds, [], [], max(0, until - time.monotonic()))
            core.read_stderr()  # a pipe that nobody reads would stop the core
            for event in core.read(0):
                if isinstance(event, CoreReady):
                    core.send(plan_message(_PLAN))
                if isinstance(event, StepDone | CoreLost):
                    return _judge(event)
        return False, False, f"no step within {LIMIT_S} s"
    finally:
        core.close()


def _judge(event: Event) -> tuple[bool, bool, str]:
    if isinstance(event, CoreLost):
        return False, event.reason.startswith("signal "), event.reason
    return True, False, "it decodes"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m kernel.engine.preflight MODEL", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "kernel.engine.worker", "--model", arguments[0]]
    for extra_buffers in (True, False):
        options = json.dumps(asdict(replace(_OPTIONS, extra_buffers=extra_buffers)))
        is_ok, is_signal, text = check([*command, "--options-json", options])
        if is_ok or not is_signal:
            break
    print(json.dumps({"ok": is_ok, "extra_buffers": extra_buffers, "text": text}))
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
