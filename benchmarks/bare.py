"""What the kernel's null call is compared with: a libzmq ROUTER that only answers, and a pair of sockets.

    python -m benchmarks.bare router NAME       # answers every call on an abstract name until it is killed
    python -m benchmarks.bare pair COUNT CPU    # round trips of a forked pair, pinned; prints JSON, ns
    python -m benchmarks.bare peer COUNT CPU NAME   # the same with a kernel, by a ZMTP peer without libzmq

Who starts it: nullcall.py. What must hold: the router does for a call what no kernel can do without, decode
it and encode an answer of the same size, and nothing else; both end with whoever started them.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import time

from benchmarks.rawpeer import RawPeer
from kernel.abi.address import endpoint
from kernel.abi.codec import decode_answer, decode_call, encode_answer, encode_call, pack, unpack

ANSWER = {  # as sched.getattr's
    "pid": 123456, "group": "/", "policy": "eevdf", "nice": 0, "weight": 100, "slice_ms": 40, "sched_class": "fair",
    "rt_priority": 1, "quota": {},
}  # fmt: skip
MESSAGE_BYTES = 4096
WARM_UP = 200
_PR_SET_PDEATHSIG = 1


def router(name: str) -> None:
    """Serve for ever."""
    import zmq

    listener = zmq.Context().socket(zmq.ROUTER)
    listener.bind(endpoint(name))
    print("serves", flush=True)
    while True:
        peer, frame = listener.recv_multipart()
        listener.send_multipart((peer, encode_answer(decode_call(frame).id, "reply", ANSWER)))


def pair(count: int, cpu: int) -> list[int]:
    """Return the nanoseconds of `count` round trips to a forked child over a SEQPACKET pair, on one CPU."""
    os.sched_setaffinity(0, {cpu})
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        ours.close()
        try:
            _echo(theirs)
        finally:
            os._exit(0)
    theirs.close()
    taken = []
    for call_id in range(1, WARM_UP + count + 1):
        began = time.monotonic_ns()
        ours.send(pack((call_id, "sched.getattr", {})))
        answered, _, _ = unpack(ours.recv(MESSAGE_BYTES))
        taken.append(time.monotonic_ns() - began)
        assert answered == call_id
    ours.close()
    os.waitpid(child, 0)
    return taken[WARM_UP:]


def peer(count: int, cpu: int, name: str) -> list[int]:
    """Return the nanoseconds of `count` null calls over a socket that speaks ZMTP by hand."""
    os.sched_setaffinity(0, {cpu})
    line = RawPeer(name)
    line.hello("bare")
    taken = []
    for call_id in range(2, WARM_UP + count + 2):
        began = time.monotonic_ns()
        line.send(encode_call(call_id, "sched.getattr", {}))
        answer = decode_answer(line.receive())
        taken.append(time.monotonic_ns() - began)
        assert answer.id == call_id
    line.close()
    return taken[WARM_UP:]


def _echo(peer: socket.socket) -> None:
    while message := peer.recv(MESSAGE_BYTES):
        call_id, _, _ = unpack(message)
        peer.send(pack((call_id, "reply", ANSWER)))


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if sys.argv[1] == "router":
        router(sys.argv[2])
    elif sys.argv[1] == "pair":
        print(json.dumps(pair(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        print(json.dumps(peer(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
