"""The servers that peers.py loads: each started on a free port, waited for, and ended.

Who uses it: peers.py. What must hold: all have the same model, and as many threads where they are told; none outlives
this process; one that does not start is an error that shows its last lines.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.httpstream import Address
from benchmarks.llamatool import binary
from benchmarks.peers_dialects import Dialect, LlamaCppPython, LlamaServer, Ollama, OpenAi
from benchmarks.stand import ROOT, dying_with_us

BOOT_S, LOOK_S = 180.0, 0.1
GRACE_S = 20.0  # to end by itself
SLOT_TOKENS = 1024  # of each of llama-server's slots: the longest request has 768, a conversation 704
OLLAMA_MODEL = "bench"
EXTRA = ("fastapi", "pydantic_settings", "sse_starlette", "starlette_context", "uvicorn", "yaml")


class ServerError(Exception):
    """A server did not start; the text says which, and shows its last lines."""


@dataclass(frozen=True, slots=True)
class Server:
    """One way to run a server."""

    name: str
    command: tuple[str, ...]  # {port} stands for the port
    dialect: Dialect
    health: str  # a path that answers 200 once it serves
    end_signal: signal.Signals = signal.SIGTERM
    environment: dict[str, str] = field(default_factory=dict)  # here too
    prepare: Callable[[Address], None] = lambda address: None  # what is left to do when it serves

    @contextmanager
    def run(self) -> Iterator[Address]:
        """Start it, yield its address once it serves, end it. Raises ServerError."""
        address = ("127.0.0.1", _free_port())
        port = str(address[1])
        command = [part.replace("{port}", port) for part in self.command]
        environment = os.environ | {name: text.replace("{port}", port) for name, text in self.environment.items()}
        with tempfile.TemporaryFile("w+", errors="replace") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                start_new_session=True, preexec_fn=dying_with_us(),  # noqa: PLW1509
            )  # fmt: skip
            try:
                self._wait(process, address, log)
                self.prepare(address)
                yield address
            finally:
                process.send_signal(self.end_signal)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_S)
                process.kill()
                process.wait()

    def _wait(self, process: subprocess.Popen[bytes], address: Address, log: IO[str]) -> None:
        end_s = time.monotonic() + BOOT_S
        url = f"http://{address[0]}:{address[1]}{self.health}"
        while process.poll() is None and time.monotonic() < end_s:
            with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(LOOK_S)
        ended = "does not serve" if process.poll() is None else f"ended with {process.returncode}"
        log.seek(0)
        last = "\n".join(log.read().splitlines()[-8:])
        raise ServerError(f"{self.name} {ended}:\n{last}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def agentix(model: Path, *options: str) -> Server:
    """A kernel and its gateway, with the defaults."""
    program = str(Path(sys.executable).with_name("agentix"))
    name = f"peers-{os.getpid()}"
    command = (program, "up", "--name", name, "--model", str(model), "--http", "127.0.0.1:{port}", *options)
    return Server("agentix", command, OpenAi(), "/healthz", signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Flags:
    """Those of llama-server that decide how fast it is here."""

    slots: int
    has_flash_attention: bool
    is_unified: bool  # one KV cache for all slots

    def __str__(self) -> str:
        return f"-np {self.slots} -fa {'on' if self.has_flash_attention else 'off'} {self._kv}"

    @property
    def _kv(self) -> str:
        return "--kv-unified" if self.is_unified else "--no-kv-unified"

    def arguments(self, threads: int) -> tuple[str, ...]:
        attention = "on" if self.has_flash_attention else "off"
        return ("-np", str(self.slots), "-c", str(self.slots * SLOT_TOKENS), "-fa", attention, self._kv,
                "-t", str(threads), "--cache-prompt")  # fmt: skip

    @classmethod
    def of(cls, text: str) -> Flags:
        """Read "16,off,split". Raises ValueError."""
        parts = text.split(",")
        if len(parts) != 3 or parts[1] not in ("on", "off") or parts[2] not in ("split", "unified"):
            raise ValueError(f"{text!r} is not SLOTS,on|off,split|unified")
        return cls(int(parts[0]), parts[1] == "on", parts[2] == "unified")


def llama_server(model: Path, threads: int, flags: Flags) -> Server:
    command = (str(binary("llama-server")), "-m", str(model), "--port", "{port}", *flags.arguments(threads))
    return Server(f"llama-server {flags}", command, LlamaServer(), "/health")


def bare_llama_server(model: Path) -> Server:
    """Without any flags but those it cannot do without."""
    command = (str(binary("llama-server")), "-m", str(model), "--port", "{port}")
    return Server("llama-server, no flags", command, LlamaServer(), "/health")


def llama_cpp_python(model: Path, threads: int) -> Server:
    """llama-cpp-python's own server, which serves one request after the other. Raises ServerError where it cannot run.

    By default a new request ends the one that is being answered; with many clients nobody would ever be.
    """
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ServerError(f"{', '.join(missing)} missing: pip install 'agentix[peers]'")
    command = (sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--port", "{port}",
               "--n_threads", str(threads), "--n_threads_batch", str(threads), "--n_ctx", str(SLOT_TOKENS),
               "--interrupt_requests", "False", "--logits_all", "False")  # fmt: skip
    return Server("llama_cpp.server", command, LlamaCppPython(), "/v1/models")


def ollama(model: Path, threads: int, slots: int, folder: Path) -> Server:
    """Ollama with a store of its own in `folder`. Raises ServerError where it is not installed."""
    program = shutil.which("ollama")
    if program is None:
        raise ServerError("ollama is not on PATH")
    recipe = folder / "Modelfile"
    recipe.write_text(f"FROM {model}\nPARAMETER num_thread {threads}\nPARAMETER num_ctx {SLOT_TOKENS}\n")
    environment = {
        "OLLAMA_HOST": "127.0.0.1:{port}",
        "OLLAMA_MODELS": str(folder / "models"),
        "OLLAMA_NUM_PARALLEL": str(slots),
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_MAX_QUEUE": "4096",
    }

    def create(address: Address) -> None:
        host = os.environ | {"OLLAMA_HOST": f"{address[0]}:{address[1]}"}
        command = [program, "create", OLLAMA_MODEL, "-f", str(recipe)]
        done = subprocess.run(command, env=host, capture_output=True, text=True, timeout=BOOT_S, check=False)
        if done.returncode:
            raise ServerError(f"ollama create ended with {done.returncode}: {done.stderr[-300:]}")

    return Server("ollama", (program, "serve"), Ollama(OLLAMA_MODEL), "/api/version", environment=environment,
                  prepare=create)  # fmt: skip
