"""Builds the kernel's parts one after the other and runs the loop. Read it top to bottom.

Who calls it: `python -m kernel`. What must hold: whatever can be found wrong is found before the model
is loaded, and said in one sentence that names the thing, its value and what to do: Refused.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import re
import resource
import select
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import psutil

from kernel.abi.address import kernel_pid
from kernel.abi.calls import MAX_NAME_CHARS
from kernel.abi.errors import KernelError
from kernel.config import Config, ModelConfig
from kernel.console import say
from kernel.context.recordfile import RecordFiles, default_folder
from kernel.context.swapfile import SwapFile
from kernel.core import Kernel
from kernel.effects import StartCore
from kernel.engine import calibrationfile
from kernel.engine.base import F16, KV_TYPES
from kernel.engine.build import PACKAGE, tested_version_error
from kernel.engine.calibration import Choice
from kernel.engine.devices import host_free_bytes
from kernel.engine.modelfile import OLLAMA, ModelFileError, fingerprint, resolve
from kernel.ipc.doors import AddressInUse
from kernel.ipc.server import Server
from kernel.loop import INTERRUPTED, Loop
from kernel.proc.launcher import Launcher
from kernel.sched.policy import POLICIES
from kernel.segments import Segments
from kernel.signals import Wakeup

USAGE, RUNS_ALREADY, ADDRESS_TAKEN, BAD_MODEL, NO_MEMORY, NO_LLAMA, CORE_DIES = 2, 3, 4, 5, 6, 7, 8
MAX_SLOTS = 256  # LLAMA_MAX_SEQ
DEFAULT_SWAP_BYTES = 8 << 30
SWAP_SHARE = 4  # contexts on disk get one part in so many of what is free there, and no more than that
SNAPSHOT_SHARE = 4  # parked contexts get one part in so many of the memory that weights leave
_LEAST = {
    "slots": 1, "slot_tokens": 64, "window_tokens": 0, "kv_bytes": 0, "threads": 0, "gpu_layers": -1,
    "quantum_tokens": 1, "prefill_tokens": 1, "keep_alive_s": 0, "swap_bytes": 0,
}  # fmt: skip
_NAME = re.compile(rf"[\w.:+-]{{1,{MAX_NAME_CHARS}}}", re.ASCII)
_NOT_IN_NAMES = re.compile(r"[^\w.:+-]", re.ASCII)
_TAIL = re.compile(r"(-\d{5}-of-\d{5})?\.gguf$")
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
        config = replace(config, models=_named(config.models))
        weight_bytes = 0
        if engine is None:
            _check_llama_cpp()
            config, weight_bytes = _find_models(config)
        config = _fit_to_machine(config, weight_bytes)
        config, swap = _open_swap(config)
        say(f"kernel {config.name!r} (pid {os.getpid()}), policy {config.policy}")
        for model in config.models:
            say(f"loading {model.path} as {model.name}{' for embeddings' if model.embedding else ''}")
        loop = Loop(
            Kernel(config, os.getpid()),
            epoll,
            server,
            segments,
            launcher,
            wakeup,
            lambda start: core_command(config, start, engine),
            RecordFiles(_state_folder(config)),
            swap,
        )
        try:
            status = loop.run()
        finally:
            loop.close()
        return _last_words(status, config, loop.cores.last_losses.get(0, "it was not started"))
    finally:
        server.close()
        wakeup.close()
        epoll.close()


def core_command(config: Config, start: StartCore, engine: str | None) -> list[str]:
    """Return the command of a model's LLM core; its end of the link is appended by CoreProcess."""
    model = config.models[start.core]
    options = config.engine_options(model, start.extra_buffers)
    if start.flash_attention:
        options = replace(options, flash_attention=start.flash_attention)
    command = [sys.executable, "-m", "kernel.engine.worker", "--model", model.path]
    command += ["--options-json", json.dumps(asdict(options))]
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


def _named(models: tuple[ModelConfig, ...]) -> tuple[ModelConfig, ...]:
    """Give every model a name of its own, or refuse."""
    if not models:
        raise Refused(USAGE, "no model is given: give --model the path of a GGUF file")
    named = tuple(replace(model, name=model.name or name_of(model.path)) for model in models)
    for place, model in enumerate(named):
        if not _NAME.fullmatch(model.name):
            text = f"a model cannot be called {model.name!r}: give --model NAME=PATH with a name of letters,"
            raise Refused(USAGE, f"{text} digits and -_.:+, at most {MAX_NAME_CHARS}")
        if model.name in [other.name for other in named[:place]]:
            text = f"two models are called {model.name!r}: give one another name with --model NAME=PATH"
            raise Refused(USAGE, text)
    return named


def name_of(path: str) -> str:
    """Return what a model is called that was given no name: its file's, less what all such names have."""
    last = path.rpartition("/")[2].removeprefix(OLLAMA)
    return _NOT_IN_NAMES.sub("-", _TAIL.sub("", last))[:MAX_NAME_CHARS] or "model"


def _find_models(config: Config) -> tuple[Config, int]:
    """Return the models with their files' absolute paths and what calibration chose; and bytes of all weights."""
    found, weight_bytes = [], 0
    for model in config.models:
        try:
            file = resolve(model.path)
            choices = calibrationfile.choices_path(file.path, config.kv_type)
            mark = fingerprint(file)
        except ModelFileError as error:
            raise Refused(BAD_MODEL, str(error)) from None
        except OSError as error:
            raise Refused(BAD_MODEL, f"model {model.path!r}: {error.strerror}") from None
        choice = calibrationfile.read(choices) or Choice()
        weight_bytes += file.size_bytes
        found.append(
            replace(
                model,
                path=str(file.path),
                choices=str(choices),
                slots=choice.slots,
                prefill_tokens=choice.prefill_tokens,
                fingerprint=mark,
            )
        )
    return replace(config, models=tuple(found)), weight_bytes


def _free_bytes() -> int:
    """Return the memory that may still be used: the machine's, or our control group's if less."""
    return min(psutil.virtual_memory().available, host_free_bytes())


def _fit_to_machine(config: Config, weight_bytes: int) -> Config:
    """Refuse numbers that mean nothing; replace what means "as this machine has it"."""
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if value is not None and value < least:
            raise Refused(USAGE, f"{name} is {value}: wanted at least {least}")
    if config.flash_attention not in ("auto", "on", "off"):
        raise Refused(USAGE, f"flash_attention {config.flash_attention!r} is not one of auto, on, off")
    if config.kv_type not in KV_TYPES:
        raise Refused(USAGE, f"kv_type {config.kv_type!r} is not one of {', '.join(KV_TYPES)}")
    if config.kv_type != F16 and config.flash_attention == "off":
        text = f"kv_type {config.kv_type} needs flash attention, and flash_attention is off"
        raise Refused(USAGE, f"{text}: give --kv-type {F16}, or leave --flash-attention out")
    if config.slots is not None and config.slots > MAX_SLOTS:
        raise Refused(USAGE, f"slots is {config.slots}: llama.cpp holds at most {MAX_SLOTS} sequences")
    if config.snapshot_bytes:
        return config
    return replace(config, snapshot_bytes=max(0, _free_bytes() - weight_bytes) // SNAPSHOT_SHARE)


def _state_folder(config: Config) -> Path:
    """Return where durable sessions are kept."""
    given = config.state_folder
    return Path(given).expanduser().absolute() if given else default_folder(config.name)


def _open_swap(config: Config) -> tuple[Config, SwapFile | None]:
    """Return the swap file and its size; where there can be none, say so and go on without one."""
    if config.swap_bytes == 0:
        return config, None
    folder = Path(config.swap_folder or calibrationfile.cache_folder() / "swap").expanduser()
    try:
        file = SwapFile(folder)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        say(f"no contexts go to disk: {folder}: {error.strerror}")
        return replace(config, swap_bytes=0), None
    most = min(DEFAULT_SWAP_BYTES, free // SWAP_SHARE)
    return replace(config, swap_bytes=most if config.swap_bytes is None else config.swap_bytes), file


def _last_words(status: int, config: Config, last_loss: str) -> int:
    if status in (0, INTERRUPTED):
        return status
    if status in (BAD_MODEL, NO_MEMORY):
        raise Refused(status, f"the LLM core refused: {last_loss}")
    if status == CORE_DIES:
        text = f"the LLM core for {config.models[0].path!r} keeps dying (last: {last_loss})"
        raise Refused(status, f"{text}: run `agentix doctor`")
    raise Refused(status, f"kernel {config.name!r} halted with status {status} ({last_loss})")
