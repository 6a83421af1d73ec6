"""Finding the default model and starting kernels, for `up` and `demo`.

What must hold: whatever the kernel says of why it does not run is passed on, with its exit status; a kernel
started here ends with the process that started it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

from agentix import calls
from agentix.cli.exits import CommandError, Exit
from agentix.client import Connection
from agentix.errors import AgentixError
from kernel.abi.address import kernel_pid

CHECKOUT = Path(__file__).resolve().parents[3]
BOOT_S = 300.0  # a large model from a slow disk
POLL_S = 0.02
GRACE_S = 10.0  # for a kernel to go down before it is killed
SUFFIXES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_PR_SET_PDEATHSIG = 1


def default_model() -> str:
    """Path of the small default model, made first when it is missing. Raises CommandError."""
    if not (CHECKOUT / "benchmarks" / "models.py").exists():
        text = "there is no default model outside a checkout: give --model the path of a GGUF file"
        raise CommandError(Exit.NO_MODEL, text)
    command = [sys.executable, "-m", "benchmarks.models", "default"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = last_line(done.stderr) or f"exit status {done.returncode}"
        text = f"the default model could not be made ({reason}): run `make setup`, or give --model"
        raise CommandError(Exit.NO_MODEL, text)
    return last_line(done.stdout)


def add_kernel_options(parser: argparse.ArgumentParser) -> None:
    """The options that become fields of the kernel's configuration; what is left out is its default."""
    parser.add_argument(
        "--model", dest="models", type=chat_model, action="append", metavar="[NAME=]PATH",
        help="a GGUF file or a name that `ls` shows; may be repeated; the small default model if left out",
    )  # fmt: skip
    parser.add_argument(
        "--embed", dest="models", type=embedding_model, action="append", metavar="[NAME=]PATH",
        help="the same for a model that makes embeddings",
    )  # fmt: skip
    parser.add_argument("--keep-alive", type=float, metavar="SECONDS", help="unload a model idle for so long; 0: never")
    parser.add_argument("--slots", type=int, metavar="N", help="short contexts resident in a model at once")
    parser.add_argument("--slot-window", type=quantity, metavar="TOKENS", help="length of a short context, such as 2k")
    parser.add_argument("--window", type=quantity, metavar="TOKENS", help="length of the longest context, such as 32k")
    parser.add_argument("--kv-memory", type=quantity, metavar="BYTES", help="for resident contexts, such as 2g")
    parser.add_argument("--swap", type=quantity, metavar="BYTES", help="for contexts on disk, such as 16g; 0: none")
    parser.add_argument("--swap-folder", metavar="PATH", help="of the file for them; in the cache if left out")
    parser.add_argument("--state-folder", metavar="PATH", help="of durable sessions; in the user's state if left out")
    parser.add_argument("--gpu-layers", type=layers, metavar="N", help="on the GPU; auto: as many as fit")
    parser.add_argument(
        "--flash-attention", choices=("auto", "on", "off"), help="auto: as decodes faster on this machine"
    )
    add_kv_type(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="of an LLM core; as calibrated if left out")
    parser.add_argument("--policy", metavar="NAME", help="of the group \"/\"; `policies` lists them")
    parser.add_argument("--quantum", type=int, metavar="TOKENS", help="a turn's, of policies that count in tokens")


def add_kv_type(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    text = "of keys and values in contexts: q8_0 takes half the memory, and answers differ"
    parser.add_argument("--kv-type", choices=("f16", "q8_0"), default=default, help=text)


def chat_model(text: str) -> dict[str, Any]:
    """A model as the kernel's configuration has it, of PATH or NAME=PATH. A path may hold a "=", a name no "/"."""
    name, separator, path = text.partition("=")
    if not separator or "/" in name or os.path.exists(text):
        return {"path": text}
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not PATH or NAME=PATH")
    return {"name": name, "path": path}


def embedding_model(text: str) -> dict[str, Any]:
    return chat_model(text) | {"embedding": True}


def quantity(text: str) -> int:
    """A number with a binary suffix: 32k is 32,768, 2g is 2 GiB."""
    factor = SUFFIXES.get(text[-1:].lower(), 1)
    try:
        return int(float(text[:-1] if factor > 1 else text) * factor)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no number like 512, 8k or 2g") from None


def layers(text: str) -> int:
    """A number of layers; "auto" is the kernel's own choice."""
    if text == "auto":
        return -1
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto") from None


def kernel_command(options: argparse.Namespace, name: str) -> list[str]:
    """The command of a kernel with these options. -P: a folder `kernel` where the user stands is not ours."""
    fields = {
        "models": options.models or [{"path": default_model()}],
        "name": name,
        "keep_alive_s": options.keep_alive,
        "slots": options.slots,
        "slot_tokens": options.slot_window,
        "window_tokens": options.window,
        "kv_bytes": options.kv_memory,
        "swap_bytes": options.swap,
        "swap_folder": options.swap_folder,
        "state_folder": options.state_folder,
        "gpu_layers": options.gpu_layers,
        "threads": options.threads,
        "flash_attention": options.flash_attention,
        "kv_type": options.kv_type,
        "policy": options.policy,
        "quantum_tokens": options.quantum,
    }
    config = json.dumps({field: value for field, value in fields.items() if value is not None})
    return [sys.executable, "-P", "-m", "kernel", "--config-json", config]


def become_kernel(options: argparse.Namespace, name: str) -> NoReturn:
    """Turn this process into a kernel: Ctrl-C and the exit status are then the kernel's own."""
    command = kernel_command(options, name)
    sys.stdout.flush()
    os.execv(command[0], command)


class ChildKernel:
    """A kernel of our own, for the time of a `with` block."""

    def __init__(self, options: argparse.Namespace, name: str, *, is_shown: bool = False) -> None:
        """is_shown: what it prints goes to our own terminal."""
        self.name = name
        command = kernel_command(options, name)
        self._blamed = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed in __exit__
        prctl, ourselves = ctypes.CDLL(None).prctl, os.getpid()

        def die_with_parent() -> None:
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
            if os.getppid() != ourselves:
                os._exit(1)

        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=None if is_shown else subprocess.DEVNULL,
            stderr=self._blamed,  # its last line says why it ended
            process_group=0,  # Ctrl-C is ours: the agents end first
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no thread of ours runs yet
        )

    def __enter__(self) -> ChildKernel:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._blamed.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def status(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def connect(self) -> Connection:
        """An operator's connection, once the model is loaded. Raises CommandError when the kernel gives up."""
        until_s = time.monotonic() + BOOT_S
        while kernel_pid("operator", self.name) != self._process.pid:
            if self._process.poll() is not None:
                raise self.failure()
            if time.monotonic() > until_s:
                text = f"kernel {self.name!r} does not listen after {BOOT_S:g} s"
                raise CommandError(Exit.TIMED_OUT, text)
            time.sleep(POLL_S)
        try:
            connection = Connection("operator", self.name, "demo", BOOT_S)
        except AgentixError as error:
            raise self.failure(error) from None
        try:
            while not connection.call(calls.plain("sys.info"), BOOT_S).get("is_ready", True):
                time.sleep(POLL_S)
        except BaseException as error:
            connection.close()
            if isinstance(error, AgentixError):
                raise self.failure(error) from None
            raise
        return connection

    def failure(self, error: AgentixError | None = None) -> CommandError:
        """Why the kernel is no more, by its own last line; `error`, if it is still there."""
        try:
            status = self._process.wait(GRACE_S if error is not None else None)
        except subprocess.TimeoutExpired:
            return CommandError(Exit.FAILED, str(error))
        self._blamed.seek(0)
        reason = last_line(self._blamed.read())
        if status < 0:
            ended = f"kernel {self.name!r} was ended by {signal.Signals(-status).name}"
            return CommandError(Exit.NO_KERNEL, f"{ended}: run `agentix doctor`")
        text = reason.removeprefix("kernel: ") or f"kernel {self.name!r} ended with status {status}"
        return CommandError(status or Exit.NO_KERNEL, text)


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
