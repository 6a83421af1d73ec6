"""What two of channel_attack.py's attacks do to a bare libzmq ROUTER, such as the kernel once had.

The victim is a child that echoes over a ROUTER, with 256 descriptors, MAXMSGSIZE of 1 MiB and RCVHWM of 16:
all that libzmq lets a server limit. First connections are opened to it and kept; then one connection sends
a message whose frames each say that another follows, until the victim takes 512 MiB.

    python -m benchmarks.libzmq_kill victim NAME        # serves until it is killed
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from benchmarks.rawpeer import GREETING, MORE, READY, RawPeer, connect, framed
from benchmarks.report import Row, only
from benchmarks.rss import rss_bytes
from benchmarks.stand import ROOT
from kernel.abi.address import endpoint

DESCRIPTORS, MESSAGE_BYTES, QUEUE_MESSAGES = 256, 1 << 20, 16
FLOOD = 2 * DESCRIPTORS
STOP_BYTES, QUICK_STOP_BYTES = 512 << 20, 64 << 20
FRAME_BYTES, FRAMES_AT_A_TIME = 32 << 10, 16
LIMIT_S = 30.0
END_S = 3.0  # for a victim that dies of it
_PR_SET_PDEATHSIG = 1


def run(quick: bool) -> list[Row]:
    return [
        only(f"{FLOOD} connections, {DESCRIPTORS} descriptors", _flood()),
        only("a message that never ends", _endless(QUICK_STOP_BYTES if quick else STOP_BYTES)),
    ]


def _flood() -> str:
    """Open connections and keep them; return what became of the victim."""
    held: list[socket.socket] = []
    with _victim() as (process, name):
        try:
            with suppress(OSError):
                while len(held) < FLOOD and process.poll() is None:
                    held.append(connect(name, 1.0))
                    held[-1].sendall(GREETING + READY)
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
            return f"{_state(process)} with {len(held)} connections{_last_words(process)}"
        finally:
            for peer in held:
                peer.close()


def _endless(stop_bytes: int) -> str:
    """Send frames of one message without end; return how the victim's memory grew."""
    block = framed(bytes(FRAME_BYTES), MORE) * FRAMES_AT_A_TIME
    with _victim() as (process, name):
        before, began, sent = rss_bytes(process.pid), time.monotonic(), 0
        peer = RawPeer(name)
        growth = 0
        with suppress(OSError):  # it is dead, or has closed the connection
            while growth < stop_bytes and time.monotonic() - began < LIMIT_S:
                peer.socket.sendall(block)
                sent += len(block)
                growth = rss_bytes(process.pid) - before
        peer.close()
        seconds = time.monotonic() - began
        what = f"{growth >> 20} MiB more after {sent >> 20} MiB in {seconds:.1f} s"
        return f"{_state(process)}, {what}{', stopped here' if growth >= stop_bytes else ''}"


@contextmanager
def _victim() -> Iterator[tuple[subprocess.Popen[str], str]]:
    name = f"agentix-victim-{os.getpid()}-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "benchmarks.libzmq_kill", "victim", name]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(f"the victim ended with {process.wait()}")
            yield process, name
        finally:
            process.kill()


def _state(process: subprocess.Popen[str]) -> str:
    status = process.poll()
    if status is None:
        return "alive"
    return f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"


def _last_words(process: subprocess.Popen[str]) -> str:
    if process.poll() is None:
        return ""
    assert process.stderr is not None
    lines = [line.strip() for line in process.stderr if line.strip()]
    return f": {lines[0]}" if lines else ""


def serve(name: str) -> None:
    """Echo for ever."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import zmq

    listener = zmq.Context().socket(zmq.ROUTER)
    listener.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES)
    listener.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES)
    listener.bind(endpoint(name))
    print("serves", flush=True)
    while True:
        listener.send_multipart(listener.recv_multipart())


if __name__ == "__main__":
    serve(sys.argv[2])
