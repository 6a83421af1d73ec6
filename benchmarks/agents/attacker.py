"""Attacks the kernel over its sockets until a file exists; records what it did and what it was told.

Settings: attack (a name in ATTACKS; "burn" uses CPU and talks to nobody), until (the file), share (of a CPU,
for "burn"). It goes through its own socket and the one that all agents share, in turn, without the SDK, and
sends without waiting for what is answered. The kernel may kill it, which is no failure.
"""

from __future__ import annotations

import os
import random
import select
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count, cycle, islice

from bombs import INLINE_BOMBS, long_bombs, ring_bombs
from hostile import Line, doors, is_over, tally
from record import settings, write

from benchmarks.rawpeer import COMMAND, GREETING, LONG, MORE, READY, Cut, RawPeer, framed, head
from kernel.abi.codec import PROTOCOL_VERSION, encode_call
from kernel.abi.descriptors import ANSWER, HELLO, READ_ONLY, REQUEST, RING, WRITABLE

LINES = 8  # as many connections as a process may have
ASKED = 16  # requests on a side channel before its answers are read
OPEN_S = 0.025  # from one connect to the next, but where the attack is to connect: about as often as it may
OPENS_AT_A_TIME = 32
STALL_S = 0.3  # that a peer which never reads is given before it comes anew
PAUSE_MS = 5
PERIOD_S = 0.01  # of the burning
LOG_BYTES = 40_000  # of a log or a message: its answer fits into a frame
RECEIVES = 100
draw = random.Random(1)
hello = framed(encode_call(1, "sys.hello", {"version": PROTOCOL_VERSION, "name": "attacker"}))


def always(_: Line) -> bool:
    return True


def drive(
    data_of: Callable[[Line], bytes],
    *,
    most: int = LINES,
    speaks_zmtp: bool = True,
    reads: Callable[[Line], bool] = always,
) -> None:
    """Keep connections, each sending what `data_of` makes, as fast as the kernel takes it."""
    lines: list[Line] = []
    open_at_s = 0.0
    while not is_over():
        if len(lines) < most and time.monotonic() >= open_at_s:
            open_at_s = time.monotonic() + OPEN_S
            line = Line.open(GREETING + READY if speaks_zmtp else b"")
            if line is not None:
                lines.append(line)
        has_moved = False
        for line in list(lines):
            has_moved |= line.push(data_of)
            if reads(line):
                has_moved |= line.pull()
            elif line.stalled_s() > STALL_S:
                line.is_cut = True
            if line.is_cut:
                line.close()
                lines.remove(line)
        if not has_moved:
            wait_for(lines, reads)
    for line in lines:
        line.close()


def wait_for(lines: list[Line], reads: Callable[[Line], bool]) -> None:
    poll = select.poll()
    for line in lines:
        poll.register(line.socket, select.POLLOUT | (select.POLLIN if reads(line) else 0))
    poll.poll(PAUSE_MS)


# -- the attacks ------------------------------------------------------------------------------------


def descriptors() -> None:
    """Connections without end, kept; every other batch says nothing."""
    held: dict[int, Line] = {}
    watch = select.epoll()
    for number in count():
        if is_over():
            break
        for _ in range(OPENS_AT_A_TIME):
            line = Line.open(GREETING + READY if number % 2 else b"")
            if line is None:
                break
            held[line.socket.fileno()] = line
            watch.register(line.socket, select.EPOLLIN)
        for fd, _ in watch.poll(0):
            held[fd].pull()
            if held[fd].is_cut:
                watch.unregister(fd)
                held.pop(fd).close()
        tally.most("connections in its hands at once", len(held))


def endless() -> None:
    """A message whose every frame says that another follows."""
    sizes = cycle((0, 1, 255, 4096, 60_000))
    drive(lambda _: framed(bytes(next(sizes)), MORE) * 16)


def lengths() -> None:
    """Frames that announce more than there can be, as messages and as commands."""
    lies = cycle([head(size, flags) for size in (1 << 17, 1 << 33, 1 << 63, (1 << 64) - 1)
                  for flags in (0, COMMAND, LONG | COMMAND)])  # fmt: skip
    drive(lambda _: next(lies) + bytes(1000))


def slow_reader() -> None:
    """Calls whose answers are long, never read; when nothing moves any more, again on new connections."""
    print("x" * LOG_BYTES, flush=True)
    calls = hello + framed(encode_call(2, "proc.logs", {"pid": os.getpid()})) * 50
    drive(lambda _: calls, reads=lambda _: False)


def unread_mail() -> None:
    """Messages to itself, taken by calls whose answers it never reads: more and more until it is killed."""
    reader, writer = RawPeer(next(doors)), RawPeer(next(doors))
    own_pid = reader.hello("attacker")["pid"]
    writer.hello("attacker")
    for call_id in range(10, 10 + RECEIVES):
        reader.send(encode_call(call_id, "ipc.recv", {}))
    with suppress(Cut):
        for _ in range(RECEIVES):
            writer.call("ipc.send", to=own_pid, data=bytes(LOG_BYTES))
    while not is_over():
        time.sleep(PERIOD_S)


def churn() -> None:
    """Connect and disconnect, with a handshake and without."""
    for number in count():
        if is_over():
            break
        line = Line.open(GREETING + READY if number % 2 else b"")
        if line is not None:
            line.push(lambda _: b"")
            line.close()


def tiny() -> None:
    """Frames of one byte that are no call."""
    garbage = framed(b"x") * 4096
    tally.unit, tally.unit_bytes = "tiny frames", len(framed(b"x"))
    drive(lambda _: garbage)


def tiny_calls() -> None:
    """Null calls, well-formed, as many as the kernel takes on every connection."""
    calls = [framed(encode_call(1000 + number, "sched.getattr", {})) for number in range(128)]
    block = b"".join(calls)
    tally.unit, tally.unit_bytes = "tiny calls", len(calls[0])
    drive(lambda line: block if line.sent_bytes > len(GREETING + READY) else hello + block)


def inline_bombs() -> None:
    """Messages that fit into a frame and cost as much as they can to read."""
    drive(lambda line: framed(INLINE_BOMBS[line.turn() % len(INLINE_BOMBS)]))


def side_channel() -> None:
    """The side channel: right and wrong kinds and numbers; of every other one the answers are not read."""
    peer = RawPeer(next(doors))
    connection = peer.hello("attacker")["connection"]
    own = [connection, peer.call("mem.create", name="mine", size_bytes=4096)["segment"]]

    def requests() -> Iterator[bytes]:
        while True:
            kind = draw.choice((0, WRITABLE, READ_ONLY, RING, 4, 255))
            yield REQUEST.pack(kind, draw.choice((*own, 0, 1, 2, draw.getrandbits(16), draw.getrandbits(64))))

    made = requests()
    floods = cycle([b"".join(islice(made, 500)) for _ in range(20)])
    few = cycle([b"".join(islice(made, ASKED)) for _ in range(500)])

    def data_of(line: Line) -> bytes:
        hello = b"" if line.sent_bytes else HELLO
        if not reads(line):
            return hello + next(floods)
        asked = (line.sent_bytes - len(HELLO)) // REQUEST.size
        return hello + next(few) if line.received_bytes >= asked * ANSWER.size else b""

    def reads(line: Line) -> bool:
        return line.number % 2 == 0

    tally.unit, tally.unit_bytes = "requests", REQUEST.size
    drive(data_of, most=LINES - 1, speaks_zmtp=False, reads=reads)
    peer.close()


def burn() -> None:
    while not is_over():
        end_s = time.perf_counter() + PERIOD_S * settings["share"]
        while time.perf_counter() < end_s:
            pass
        time.sleep(max(0.0, PERIOD_S * (1 - settings["share"])))


ATTACKS: dict[str, Callable[[], None]] = {
    "descriptors": descriptors,
    "endless": endless,
    "lengths": lengths,
    "slow_reader": slow_reader,
    "unread_mail": unread_mail,
    "churn": churn,
    "tiny": tiny,
    "tiny_calls": tiny_calls,
    "bombs": inline_bombs,
    "ring_bombs": ring_bombs,
    "side_channel": side_channel,
    "burn": burn,
}


def cpu_s() -> float:
    times = os.times()
    return times.user + times.system


if settings["attack"] == "ring_bombs":
    long_bombs()  # which takes a while to make
write("ready", {})
began_s, used_s = time.monotonic(), cpu_s()
with suppress(KeyboardInterrupt):
    ATTACKS[settings["attack"]]()
share = (cpu_s() - used_s) / (time.monotonic() - began_s)
write("json", {"share": share, "did": tally.did(), "said": tally.said()})
