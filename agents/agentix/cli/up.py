"""`up`: a kernel in the foreground, with a gateway if one is asked for; `gateway`: one for a kernel that runs.

What must hold: without --http this process becomes the kernel; with it, the gateway is started again when it dies, and
whatever ends this process ends the gateway and the kernel.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from agentix import calls
from agentix.cli.boot import ChildKernel, become_kernel
from agentix.cli.exits import CommandError, Exit
from agentix.cli.tasks import ANSWER_S, end_task, is_zombie, log_text, news, obituary
from agentix.client import Connection
from agentix.errors import AgentixError, KernelGone, NoSuchTask

SCRIPT = Path(__file__).resolve().parents[1] / "gateway" / "__main__.py"
NEEDS = ("starlette", "uvicorn", "prometheus_client")
PRIORITY = (
    -20
)  # of the gateway's task: it generates nothing, and its callers' tasks may have any below
CAPABILITIES = ("task.create", "sched.group")  # it makes its callers' tasks, and their group
READY = "gateway: "  # its line, then where it serves
LOOK_S = 0.1
PAUSE_S, MAX_PAUSE_S = 0.5, 30.0  # before a gateway that died is started again; doubled each time
CALM_S = 60.0  # after so long without a death the pause is short again


def up(options: argparse.Namespace) -> int:
    if options.http is None:
        if options.keys is not None:
            raise CommandError(Exit.USAGE, "up: --keys needs --http")
        become_kernel(options, options.kernel)
    check_extra()
    signal.signal(signal.SIGTERM, _interrupt)
    with ChildKernel(options, options.kernel, is_shown=True) as kernel:
        connection = kernel.connect()
        try:
            keep_gateway(connection, options, lambda: kernel.status() is not None)
        except KernelGone:
            pass
        except KeyboardInterrupt:
            print(flush=True)
            with suppress(AgentixError):
                connection.call(calls.plain("sys.shutdown"), ANSWER_S)
            return Exit.OK
        finally:
            connection.close()
        raise kernel.failure()


def gateway(connection: Connection, options: argparse.Namespace) -> int:
    check_extra()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        keep_gateway(connection, options, lambda: False)
    except KeyboardInterrupt:
        print(flush=True)
    return Exit.OK


def check_extra() -> None:
    """Raises CommandError when the gateway's packages are not installed."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        text = f"the gateway needs {', '.join(missing)}: pip install 'agentix[http]'"
        raise CommandError(Exit.FAILED, text)


def keep_gateway(
    connection: Connection, options: argparse.Namespace, is_over: Callable[[], bool]
) -> None:
    """Run a gateway, and again whenever it dies. Ends by KeyboardInterrupt, KernelGone or when is_over() says so.

    Raises CommandError when it cannot run at all.
    """
    pause_s, has_served = PAUSE_S, False
    while not is_over():
        began_s = time.monotonic()
        pid = _spawn(connection, options)
        try:
            if url := _follow(connection, pid, is_over):
                has_served = True
                options.http = url.removeprefix("http://").removesuffix(
                    "/v1"
                )  # the next one is where this one was
            end = connection.call(calls.wait(pid, ANSWER_S), ANSWER_S)
        except (KeyboardInterrupt, SystemExit):
            end_task(connection, pid)
            raise
        if not has_served:
            reason = (end.tail.strip().splitlines() or [f"exit status {end.status}"])[-1]
            status = Exit.ADDRESS_TAKEN if "cannot listen" in reason else Exit.FAILED
            raise CommandError(status, reason.removeprefix("gateway: "))
        if time.monotonic() - began_s > CALM_S:
            pause_s = PAUSE_S
        print(
            f"{obituary(end)}\nthe gateway starts again in {pause_s:g} s",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, MAX_PAUSE_S)


def _spawn(connection: Connection, options: argparse.Namespace) -> int:
    arguments = ["--http", options.http, *(["--keys", options.keys] if options.keys else [])]
    call = calls.spawn(
        connection.kernel, SCRIPT, arguments, "gateway", None, PRIORITY, CAPABILITIES
    )
    return connection.call(call, ANSWER_S)


def _follow(connection: Connection, pid: int, is_over: Callable[[], bool]) -> str:
    """Show what the gateway prints until it has ended; return where it served, "" if it never did."""
    shown = ""
    while not is_over():
        has_ended = is_zombie(connection, pid)
        try:
            text = log_text(connection, pid)
        except NoSuchTask:
            break
        sys.stdout.write(news(shown, text))
        sys.stdout.flush()
        shown = text
        if has_ended:
            break
        time.sleep(LOOK_S)
    return next(
        (
            line.removeprefix(READY)
            for line in shown.splitlines()
            if line.startswith(f"{READY}http")
        ),
        "",
    )


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
