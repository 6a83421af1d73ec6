"""Messages survive the link, whatever pieces they arrive in; a broken core becomes one CoreLost."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.engine import link
from kernel.engine.base import (
    Bank,
    Base,
    Constraint,
    EngineInfo,
    Opening,
    Restore,
    Row,
    Sampled,
    Sampling,
    Save,
    StepPlan,
    StepResult,
)
from kernel.engine.link import CoreProcess, LinkError, Unframer, frame
from kernel.events import CoreAnswer, CoreLost, CoreReady, Event, StepDone

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 20

ids = st.integers(0, 2**31)
many = st.lists(ids, max_size=5).map(tuple)
numbers = st.floats(-100, 100)
rows = st.builds(Row, slot=ids, position=ids, tokens=many, is_last=st.booleans())
samplings = st.builds(
    Sampling,
    *[numbers, ids, numbers, numbers, numbers, numbers, numbers, numbers, ids],
    logit_bias=st.lists(st.tuples(ids, numbers), max_size=3).map(tuple),
    logprobs=st.integers(-1, 20),
    seed=st.integers(0, 2**64 - 1),
)
openings = st.builds(
    Opening,
    request=ids,
    slot=ids,
    sampling=samplings,
    constraint=st.none() | st.builds(Constraint, st.sampled_from(["gbnf", "json_schema"]), st.text(max_size=9)),
    tokens=many,
    generated=ids,
    max_tokens=ids,
    with_special=st.booleans(),
)
digests = st.integers(0, 2**64 - 1)
plans = st.builds(
    StepPlan,
    number=ids,
    closes=many,
    saves=st.lists(st.builds(Save, ids, ids, ids, digests, ids, ids), max_size=3).map(tuple),
    clears=many,
    banks=many,
    restores=st.lists(
        st.builds(Restore, ids, ids, ids, digests, ids, st.none() | st.builds(Base, ids, ids, digests)), max_size=3
    ).map(tuple),
    openings=st.lists(openings, max_size=3).map(tuple),
    decodes=st.lists(rows, max_size=3).map(tuple),
    chunks=st.lists(rows, max_size=3).map(tuple),
)
results = st.builds(
    StepResult,
    number=ids,
    sampled=st.lists(
        st.builds(
            Sampled,
            *[ids, ids, st.binary(max_size=8), st.booleans(), st.none() | numbers],
            top=st.lists(st.tuples(ids, numbers), max_size=3).map(tuple),
        )
    ).map(tuple),
    saved=st.lists(st.tuples(ids, ids)).map(tuple),
    failed_restores=st.lists(st.tuples(ids, st.text(max_size=5))).map(tuple),
    failed_requests=st.lists(st.tuples(ids, st.text(max_size=5))).map(tuple),
    began_ns=ids,
    ended_ns=ids,
    switch_ns=ids,
    runs=ids,
    moves=ids,
    sampling_ns=ids,
)
INFO = EngineInfo(
    model="m",
    description="d",
    family="dense",
    exactness="exact",
    can_trim=True,
    can_part=True,
    vocab=9,
    window_tokens=256,
    trained_tokens=512,
    banks=(Bank(2, 64, 128), Bank(1, 256, 256)),
    kv_bytes=384,
    threads=1,
    devices="CPU",
    kv_bytes_per_token=128,
    snapshot_overhead_bytes=64,
    extra_buffers=False,
    flash_attention=True,
    kv_type="q8_0",
    chat_format="hermes",
    takes_tools=True,
    embedding_width=0,
    load_s=0.5,
)
TIMES = (1, 2, 3, 1, 0, 0)  # of a result, and its counts


def carried(message: tuple[object, ...], piece_bytes: int = 1 << 20) -> tuple[object, ...]:
    """What comes out of the other end, less its kind, when it arrives in pieces."""
    raw, unframer, found = frame(message), Unframer(), []
    for start in range(0, len(raw), piece_bytes):
        unframer.feed(raw[start : start + piece_bytes])
        found += unframer.messages()
    (only,) = found
    return only[1:]


@given(plans, st.integers(1, 50))
def test_a_plan_comes_out_as_it_went_in_whatever_the_pieces(plan: StepPlan, piece: int) -> None:
    assert link.read_plan(carried(link.plan_message(plan), piece)) == plan


@given(results)
def test_a_result_comes_out_as_it_went_in(result: StepResult) -> None:
    assert link.read_result(carried(link.result_message(result))) == result


def test_engine_info_comes_out_as_it_went_in() -> None:
    assert link.read_info(carried(link.ready_message(INFO))) == INFO


@pytest.mark.parametrize("raw", [b"\xff\xff\xff\xff", b"\x01\0\0\0\xc1", b"\x01\0\0\0\x07", b"\x01\0\0\0\x90"])
def test_what_is_no_message_is_an_error(raw: bytes) -> None:
    unframer = Unframer()
    unframer.feed(raw)
    with pytest.raises(LinkError):
        list(unframer.messages())


@contextmanager
def core(script: str, number: int = 0) -> Iterator[CoreProcess]:
    """A core that runs a few lines of Python; `link` is its socket, `say` sends a message."""
    before = len(os.listdir("/proc/self/fd"))
    text = (
        "import os, signal, socket, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from kernel.engine.link import *\n"
        "link = socket.socket(fileno=int(sys.argv[-1]))\n"
        "say = lambda *message: link.sendall(frame(message))\n" + script
    )
    with closing(CoreProcess([sys.executable, "-c", text], core=number)) as process:
        yield process
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)


def events(process: CoreProcess, wanted: type[Event]) -> list[Event]:
    """All events up to the first of a kind."""
    until, found = time.monotonic() + DEADLINE_S, []
    while time.monotonic() < until:
        writers = [process.link_fd] if process.is_sending else []
        readable, writable, _ = select.select([process.link_fd], writers, [], until - time.monotonic())
        if writable:
            process.flush()
        if readable:
            found += process.read(5)
        if any(isinstance(event, wanted) for event in found):
            return found
    raise AssertionError(f"no {wanted.__name__} within {DEADLINE_S} s, but {found}")


def test_a_core_that_exits_before_it_is_ready_is_lost_with_its_status_and_last_line() -> None:
    with core("print('first'); print('no weights here'); sys.exit(3)") as process:
        assert events(process, CoreLost) == [
            CoreLost(5, "exit status 3: no weights here", was_ready=False, is_fatal=False)
        ]


def test_a_core_that_is_killed_is_lost_with_its_signal() -> None:
    with core("os.kill(os.getpid(), signal.SIGKILL)") as process:
        assert events(process, CoreLost) == [CoreLost(5, "signal SIGKILL", False, False)]


def test_what_a_core_said_before_it_died_still_counts() -> None:
    with core("say(ANSWER, 7, b'x', None); os.kill(os.getpid(), signal.SIGSEGV)") as process:
        answer, lost = events(process, CoreLost)
        assert answer == CoreAnswer(5, 7, b"x", None)
        assert lost == CoreLost(5, "signal SIGSEGV", False, False)


def test_a_core_that_refuses_the_model_is_lost_for_good_with_its_words() -> None:
    with core("say(FATAL, 'model x: too odd', False); signal.pause()") as process:
        assert events(process, CoreLost) == [CoreLost(5, "model x: too odd", False, is_fatal=True)]


@pytest.mark.parametrize(
    "nonsense",
    [
        "link.sendall(b'GET / HTTP/1.1')",
        "say(99)",
        "say(DONE, 1)",
        "say(ANSWER)",
        "say('x', 1)",
        "say(DONE, 1, 2, 3, 4, 5, 6, 7)",
        "say(DONE, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)",
        "say(READY, 1)",
        "say(READY, *[1] * 19)",
    ],
)
def test_a_core_that_talks_nonsense_is_killed_and_lost(nonsense: str) -> None:
    with core(nonsense + "; signal.pause()") as process:
        (lost,) = events(process, CoreLost)
        assert isinstance(lost, CoreLost)
        assert lost.reason.startswith("it sent what is no message: ")


def test_a_core_that_closes_its_link_but_lives_on_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "END_MS", 20)
    with core("link.close(); signal.pause()") as process:
        assert events(process, CoreLost) == [CoreLost(5, "signal SIGKILL", False, False)]


def test_ready_carries_the_pid_and_the_engines_info() -> None:
    with core(f"say(*{link.ready_message(INFO)!r}); signal.pause()") as process:
        assert events(process, CoreReady) == [CoreReady(5, process.pid, INFO)]


def test_what_a_core_says_is_told_with_the_number_of_its_model() -> None:
    script = f"say(*{link.ready_message(INFO)!r}); say(DONE, 4, [], [], [], [], *{TIMES}); sys.exit(0)"
    with core(script, number=7) as process:
        assert [event.core for event in events(process, CoreLost)] == [7, 7, 7]
    with core("say(FATAL, 'no', True)", number=7) as process:
        assert events(process, CoreLost) == [CoreLost(5, "no", False, True, is_memory=True, core=7)]


def test_a_write_to_a_core_that_does_not_read_neither_blocks_nor_is_lost() -> None:
    script = (
        "link.recv(1, socket.MSG_PEEK)\n"
        "signal.signal(signal.SIGALRM, lambda *_: None)\n"
        "say(DONE, 1, [], [], [], [], 0, 0, 0, 0, 0, 0)\n"
        "u, found = Unframer(), []\n"
        "while len(found) < 21:\n"
        "    data, fds, _, _ = socket.recv_fds(link, 1 << 20, 8)\n"
        "    u.feed(data); found += u.messages()\n"
        "    for fd in fds: found.append((os.read(fd, 9),)); os.close(fd)\n"
        "order = [m[1] if len(m) > 1 else m[0] for m in found]\n"
        "say(ANSWER, len(found), repr(order), None); signal.pause()\n"
    )
    read_end, write_end = os.pipe()
    os.write(write_end, b"inside")
    with core(script) as process:
        for number in range(20):
            is_last = number == 19
            process.send((link.ASK, number, "tokenize", "x" * 200_000), read_end if is_last else -1)
        assert process.is_sending
        os.close(read_end)  # the core gets it all the same
        answer = events(process, CoreAnswer)[-1]
        assert isinstance(answer, CoreAnswer)
        order = eval(str(answer.value))
        assert [entry for entry in order if isinstance(entry, int)] == list(range(20))
        assert b"inside" in order
        assert not process.is_sending
        os.close(write_end)
        read_end, write_end = os.pipe()  # core() counts descriptors
    os.close(read_end)
    os.close(write_end)


def test_a_plan_for_32_streams_takes_well_under_200_us_each_way() -> None:
    plan = StepPlan(1, decodes=tuple(Row(n, 700 + n, (1234,), True) for n in range(32)))
    result = StepResult(1, tuple(Sampled(n, 1234, b" word", False) for n in range(32)), (), (), (), *TIMES)
    for write, read, value in (
        (link.plan_message, link.read_plan, plan),
        (link.result_message, link.read_result, result),
    ):
        best = [1.0, 1.0]
        for _ in range(200):
            began = time.perf_counter()
            raw = frame(write(value))
            written = time.perf_counter()
            unframer = Unframer()
            unframer.feed(raw)
            (message,) = unframer.messages()
            read(message[1:])
            best = [min(best[0], written - began), min(best[1], time.perf_counter() - written)]
        assert max(best) < 200e-6, best
        print(write.__name__, [f"{one * 1e6:.0f} us" for one in best])


def test_step_done_of_the_running_core_reaches_the_loop() -> None:
    with core(f"say(DONE, 4, [(0, 1, b'a', False)], [], [], [], *{TIMES}); signal.pause()") as process:
        expected = StepResult(4, (Sampled(0, 1, b"a", False),), (), (), (), *TIMES)
        assert events(process, StepDone) == [StepDone(5, expected)]
