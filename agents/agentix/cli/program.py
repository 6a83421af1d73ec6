"""`run -- PROGRAM ARGS`: any program, whose calls to OpenAI's or Ollama's API are those of a task of its own.

What must hold: the program has the terminal as if it had been started without us; it ends with its own status; its key
ends with it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

from agentix.cli.exits import CommandError, Exit
from agentix.cli.tasks import SIGNAL_STATUS
from agentix.gateway import rundir
from agentix.gateway.rundir import Door

ANSWER_S = 10.0


def run(options: argparse.Namespace) -> int:
    """Get a key, run the program with it, give the key back."""
    if options.group or options.policy is not None or options.sched_class is not None:
        text = "run: --group, --policy and --class are a script's; a program's calls are in the gateway's group"
        raise CommandError(Exit.USAGE, text)
    door = find_gateway(options.kernel)
    name = options.name or os.path.basename(options.program[0])
    made = ask(door, "POST", "", {"name": name, "priority": options.priority, "pid": os.getpid()})
    try:
        return _run(options.program, environment(door, made["key"]))
    finally:
        with suppress(CommandError):
            ask(door, "DELETE", f"/{made['id']}")


def environment(door: Door, key: str) -> dict[str, str]:
    """What makes the usual clients call the gateway."""
    base = f"{door.url}/v1"
    return os.environ | {
        "OPENAI_BASE_URL": base,
        "OPENAI_API_BASE": base,
        "OPENAI_API_KEY": key,
        "OLLAMA_HOST": door.url,
        "OLLAMA_API_KEY": key,
    }


def find_gateway(kernel: str) -> Door:
    """Raises CommandError."""
    try:
        return rundir.find(kernel)
    except FileNotFoundError:
        text = f"kernel {kernel!r} has no gateway: start it with `agentix up --http 127.0.0.1:8080`"
        raise CommandError(Exit.NO_KERNEL, text) from None
    except (OSError, ValueError) as error:
        raise CommandError(Exit.FAILED, f"the gateway of kernel {kernel!r}: {error}") from None


def ask(door: Door, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Make a call about keys. Raises CommandError."""
    data = (
        None
        if body is None
        else json.dumps({name: value for name, value in body.items() if value is not None}).encode()
    )
    request = urllib.request.Request(f"{door.url}/agentix/keys{path}", data, method=method)
    request.add_header("Authorization", f"Bearer {door.secret}")
    request.add_header("Content-Type", "application/json")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
    try:
        with opener.open(request, timeout=ANSWER_S) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        raise CommandError(Exit.FAILED, f"the gateway at {door.url}: {_reason(error)}") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise CommandError(
            Exit.NO_KERNEL, f"the gateway at {door.url} does not answer: {reason}"
        ) from None


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return json.loads(error.read())["error"]["message"]
    except (OSError, ValueError, KeyError, TypeError):
        return str(error)


def _run(program: list[str], environ: dict[str, str]) -> int:
    try:
        process = subprocess.Popen(program, env=environ)
    except OSError as error:
        raise CommandError(Exit.USAGE, f"{program[0]}: {error.strerror}") from None
    # The terminal's own signals reach the program too, and it decides what to make of them.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: process.send_signal(number))
    status = process.wait()
    return status if status >= 0 else SIGNAL_STATUS - status
