"""Builds the kernel's parts one after the other and runs the loop. Read it top to bottom.

Who calls it: `python -m kernel`. What must hold: whatever can be found wrong is found before the model
is loaded, and said in one sentence that names the thing, its value and what to do: Refused.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import resource
import select
import sys
from dataclasses import replace
from pathlib import Path

import psutil

from kernel.abi.address import kernel_pid
from kernel.abi.errors import KernelError
from kernel.config import Config
from kernel.console import say
from kernel.core import Kernel
from kernel.engine.build import PACKAGE, tested_version_error
from kernel.ipc.doors import AddressInUse
from kernel.ipc.server import Server
from kernel.loop import INTERRUPTED, Loop
from kernel.proc.launcher import Launcher
from kernel.sched.policy import POLICIES
from kernel.segments import Segments
from kernel.signals import Wakeup

USAGE, RUNS_ALREADY, ADDRESS_TAKEN, BAD_MODEL, NO_MEMORY, NO_LLAMA, CORE_DIES = 2, 3, 4, 5, 6, 7, 8
MAX_SLOTS = 256  # LLAMA_MAX_SEQ
PROCESS_NAME = b"agentix-kernel"  # 15 characters at most
_PR_SET_DUMPABLE, _PR_SET_NAME = 4, 15


class Refused(Exception):
    """The kernel cannot run: exit status and the sentence why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def run(config: Config, engine: str | None = None) -> int:
    """Run a kernel until it is asked to stop; return 0. Raises Refused.

    engine: "module:Class" instead of llama.cpp, for tests.
    """
    if config.policy not in POLICIES:
        raise Refused(USAGE, f"policy {config.policy!r} is not one of {', '.join(POLICIES)}")
    launcher = Launcher(config.name)
    launcher.set_child_open_files(_raise_open_files())
    _become_private()
    epoll = select.epoll()
    segments = Segments()
    server = _bind(config.name, epoll, segments)
    wakeup = Wakeup()
    try:
        if engine is None:
            _check_llama_cpp()
            config = replace(config, model=_check_model(config.model))
        config = _fit_to_machine(config)
        say(
            f"kernel {config.name!r} (pid {os.getpid()}): {config.slots} slots of"
            f" {config.window_tokens} tokens, {config.threads} threads, policy {config.policy}"
        )
        say(f"loading {config.model}")
        loop = Loop(
            Kernel(config, os.getpid()),
            epoll,
            server,
            segments,
            launcher,
            wakeup,
            lambda extra_buffers: core_command(config, extra_buffers, engine),
        )
        try:
            status = loop.run()
        finally:
            loop.close()
        return _last_words(status, config, loop.last_loss)
    finally:
        server.close()
        wakeup.close()
        epoll.close()


def core_command(config: Config, extra_buffers: bool, engine: str | None) -> list[str]:
    """Return the command of an LLM core; its end of the link is appended by CoreProcess."""
    command = [sys.executable, "-m", "kernel.engine.worker", "--model", config.model]
    command += ["--slots", str(config.slots), "--window-tokens", str(config.window_tokens)]
    command += ["--threads", str(config.threads), "--extra-buffers", str(int(extra_buffers))]
    command += ["--flash-attention", config.flash_attention]
    return command if engine is None else [*command, "--engine", engine]


def _raise_open_files() -> int:
    """Allow as many descriptors as the system lets us (two for each agent); return the former limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


def _become_private() -> None:
    """Take the name that tells kernels from others, and close /proc and ptrace to our own user.

    Else an agent could open the kernel's segments, which hold every agent's context.
    """
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_NAME, PROCESS_NAME)
    prctl(_PR_SET_DUMPABLE, 0)


def _bind(name: str, epoll: select.epoll, segments: Segments) -> Server:
    try:
        return Server(name, epoll, segments.owned)
    except AddressInUse as error:
        role = error.role
    try:
        pid = kernel_pid(role, name)
    except KernelError as error:
        raise Refused(ADDRESS_TAKEN, f"{error.text}: choose another name with --name") from None
    if pid is None:  # it ended just now
        return _bind_again(name, epoll, segments)
    if _process_name(pid) == PROCESS_NAME:
        text = f"kernel {name!r} runs already, as process {pid}: use it, end it with `agentix down`,"
        raise Refused(RUNS_ALREADY, f"{text} or choose another name with --name")
    text = f"the address of kernel {name!r} is taken by process {pid}, which is no kernel:"
    raise Refused(ADDRESS_TAKEN, f"{text} end it or choose another name with --name")


def _bind_again(name: str, epoll: select.epoll, segments: Segments) -> Server:
    try:
        return Server(name, epoll, segments.owned)
    except AddressInUse as error:
        text = f"the {error.role} address of kernel {name!r} is taken, and nobody answers on it"
        raise Refused(ADDRESS_TAKEN, f"{text}: choose another name with --name") from None


def _process_name(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/comm").read_bytes().strip()
    except OSError:
        return b""


def _check_llama_cpp() -> None:
    """Read the installed version without importing it: that may crash on this machine."""
    try:
        problem = tested_version_error(importlib.metadata.version(PACKAGE))
    except importlib.metadata.PackageNotFoundError:
        problem = f"{PACKAGE} is not installed for {sys.executable}: run `make setup`"
    if problem:
        raise Refused(NO_LLAMA, problem)


def _check_model(path: str) -> str:
    """Return the model's absolute path after looking at what can be seen without loading it."""
    file = Path(path).expanduser().absolute()
    advice = "give --model the path of a GGUF file"
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        raise Refused(BAD_MODEL, f"model {path!r}: {error.strerror}: {advice}") from None
    if magic != b"GGUF":
        raise Refused(BAD_MODEL, f"model {path!r} starts with {magic!r}, not b'GGUF': {advice}")
    size, free = file.stat().st_size, _free_bytes()
    if size > free:
        text = f"model {path!r} is {_mib(size)} and {_mib(free)} of memory are free"
        raise Refused(NO_MEMORY, f"{text}: free some or take a smaller model")
    return str(file)


def _free_bytes() -> int:
    """Return the memory that may still be used: the machine's, or our control group's if less."""
    free = psutil.virtual_memory().available
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return max(0, free)


def _fit_to_machine(config: Config) -> Config:
    """Replace the zeros that mean "as this machine has it"; refuse numbers that mean nothing."""
    for name in ("slots", "window_tokens", "quantum_tokens", "prefill_tokens"):
        if getattr(config, name) < 1:
            raise Refused(USAGE, f"{name} is {getattr(config, name)}: wanted at least 1")
    if config.flash_attention not in ("auto", "on", "off"):
        raise Refused(USAGE, f"flash_attention {config.flash_attention!r} is not one of auto, on, off")
    if config.slots > MAX_SLOTS:
        raise Refused(USAGE, f"slots is {config.slots}: llama.cpp holds at most {MAX_SLOTS} sequences")
    allowed = len(os.sched_getaffinity(0))
    threads = config.threads or max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))
    snapshot_bytes = config.snapshot_bytes
    if not snapshot_bytes:
        model = Path(config.model)
        size = model.stat().st_size if model.exists() else 0
        snapshot_bytes = max(0, _free_bytes() - size) // 2
    return replace(config, threads=threads, snapshot_bytes=snapshot_bytes)


def _last_words(status: int, config: Config, last_loss: str) -> int:
    if status in (0, INTERRUPTED):
        return status
    if status in (BAD_MODEL, NO_MEMORY):
        raise Refused(status, f"the LLM core refused: {last_loss}")
    if status == CORE_DIES:
        text = f"the LLM core for {config.model!r} keeps dying (last: {last_loss})"
        raise Refused(status, f"{text}: run `agentix doctor`")
    raise Refused(status, f"kernel {config.name!r} halted with status {status} ({last_loss})")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
