"""The LLM core: a process that holds one model and does what the kernel's plans say.

Who starts it: link.CoreProcess, by exec, with one end of a socketpair. What must hold: steps, embeddings, attach
and detach happen on the main thread in the order in which they came; questions about text go to the engine's text
side from the thread that reads the link, which waits for nothing; when the kernel's end closes, this process is
gone at once, whatever it was doing.

Exit status 0: the kernel went away or the model was refused (said as FATAL); 1: a bug, told on stderr.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from typing import Any

from kernel.engine.base import Engine, EngineError, EngineMemoryError, EngineOptions
from kernel.engine.link import (
    ANSWER,
    ASK,
    ATTACH,
    DETACH,
    FATAL,
    MAX_DESCRIPTORS,
    PLAN,
    READ_BYTES,
    Unframer,
    frame,
    read_plan,
    ready_message,
    result_message,
)

GENERATES, EMBEDS = "kernel.engine.llama:LlamaEngine", "kernel.engine.embedding:EmbeddingEngine"
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME = 1, 4, 15
_SWITCH_S = 0.001  # how long one thread may keep the other from the interpreter


class Worker:
    """The core's end of the link. Its reader thread starts before the model is loaded."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._write_lock = threading.Lock()
        self._work: queue.SimpleQueue[tuple[tuple[Any, ...], int]] = queue.SimpleQueue()
        self._engine: Engine | None = None
        threading.Thread(target=self._read, name="link", daemon=True).start()

    def say(self, message: tuple[Any, ...]) -> None:
        """Send one message; waits while the kernel is busy."""
        raw = frame(message)
        with self._write_lock:
            self._link.sendall(raw)

    def serve(self, engine: Engine) -> None:
        """Say ready, then carry out what comes, for ever."""
        with self._write_lock:  # so that no answer of the reader's overtakes this message
            self._engine = engine  # before it: what the kernel asks now is for the reader to answer
            self._link.sendall(frame(ready_message(engine.info)))
        while True:
            (kind, *fields), descriptor = self._work.get()
            if kind == PLAN:
                self.say(result_message(engine.step(read_plan(tuple(fields)))))
            elif kind == ATTACH:
                segment, size_bytes = fields
                engine.attach(segment, descriptor, size_bytes)
                os.close(descriptor)
            elif kind == DETACH:
                engine.detach(fields[0])
            elif kind == ASK and fields[1] == "embed":
                self._embed(engine, *fields)
            elif kind == ASK:  # it came before the engine was there
                self._ask(engine, *fields)
            else:
                raise ValueError(f"message of kind {kind!r} from the kernel")

    def _read(self) -> None:
        try:
            self._read_until_end()
        except ConnectionError:  # the kernel went away
            os._exit(0)
        except BaseException:  # without this thread the process would be deaf
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def _read_until_end(self) -> None:
        unframer = Unframer()
        descriptors: deque[int] = deque()  # each belongs to the next ATTACH in the stream
        while True:
            data, received, _, _ = socket.recv_fds(self._link, READ_BYTES, MAX_DESCRIPTORS)
            if not data:
                return
            descriptors.extend(received)
            unframer.feed(data)
            for message in unframer.messages():
                if message[0] == ASK and message[2] != "embed" and self._engine is not None:
                    self._ask(self._engine, *message[1:])
                else:
                    descriptor = descriptors.popleft() if message[0] == ATTACH else -1
                    self._work.put((message, descriptor))

    def _ask(self, engine: Engine, ticket: int, what: str, value: Any) -> None:
        def reply(answer: Any, error: str | None) -> None:
            self.say((ANSWER, ticket, answer, error))

        try:
            engine.text.ask(what, value, reply)
        except Exception as error:  # a question is no reason to lose every context
            traceback.print_exc()
            reply(None, f"{what}: {type(error).__name__}: {error}")

    def _embed(self, engine: Engine, ticket: int, what: str, value: Any) -> None:
        try:
            self.say((ANSWER, ticket, engine.embed(value["texts"]), None))
        except EngineError as error:
            self.say((ANSWER, ticket, None, str(error)))


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))  # the link's end says the same, but to Python
    libc.prctl(_PR_SET_DUMPABLE, 0)  # no reading of contexts through /proc or ptrace
    libc.prctl(_PR_SET_NAME, b"agentix-core")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the kernel
    sys.setswitchinterval(_SWITCH_S)
    link = socket.socket(fileno=options.fd)
    link.set_inheritable(False)
    worker = Worker(link)
    try:
        engine = _make_engine(options)
    except EngineError as error:
        worker.say((FATAL, str(error), isinstance(error, EngineMemoryError)))
        return 0
    try:
        worker.serve(engine)
    except ConnectionError:
        return 0
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _make_engine(options: argparse.Namespace) -> Engine:
    wanted = EngineOptions(**json.loads(options.options_json))
    chosen = options.engine or (EMBEDS if wanted.embedding else GENERATES)
    module, _, name = chosen.partition(":")
    try:
        make = getattr(importlib.import_module(module), name)
    except Exception as error:  # a missing package, or a library that does not load on this machine
        raise EngineError(f"{chosen} cannot be imported: {error}") from None
    engine: Engine = make(options.model, wanted)
    return engine


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kernel.engine.worker")
    parser.add_argument("--model", required=True)
    parser.add_argument("--options-json", required=True, help="the fields of kernel.engine.base.EngineOptions")
    parser.add_argument("--engine", metavar="MODULE:CLASS", help="instead of llama.cpp, for tests")
    parser.add_argument("--fd", type=int, required=True)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # no destructors: llama.cpp's may wait for threads, and the memory goes anyway
