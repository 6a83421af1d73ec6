"""The loop carries out effects in order, tells what happens, and lets nobody delay the LLM core.

A scripted stand-in is the kernel here: each test says what it does about an event.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import zmq

from kernel.abi.address import endpoint, socket_name
from kernel.abi.codec import decode_answer
from kernel.abi.errors import Errno, KernelError
from kernel.clock import now_ns
from kernel.context.recordfile import RecordFiles
from kernel.effects import (
    AskCore,
    Disconnect,
    DropSegment,
    Effect,
    Halt,
    Launch,
    LoadRecord,
    MakeSegment,
    RemoveRecord,
    RunStep,
    SampleProcesses,
    Say,
    Send,
    SetAsideRecord,
    SetTimer,
    Signal,
    StartCore,
    StopCore,
    StoreRecord,
    Watch,
)
from kernel.engine.base import EngineOptions, Row, Save, StepPlan
from kernel.events import (
    CoreAnswer,
    CoreLost,
    CoreReady,
    Event,
    Message,
    Output,
    PeerGone,
    PeerStalled,
    ProcessEnded,
    ProcessSample,
    RecordDone,
    ShutdownAsked,
    Spawned,
    SpawnFailed,
    StepDone,
    TimerFired,
)
from kernel.identity import birth_of
from kernel.ipc.server import Server
from kernel.limits import UNREAD_HARD_BYTES
from kernel.loop import INTERRUPTED, MESSAGES_PER_TURN, Loop
from kernel.proc.launcher import Launcher
from kernel.segments import Segments
from kernel.signals import Wakeup

DEADLINE_S = 20
NAME = f"loop{os.getpid()}"
ENDPOINT = endpoint(socket_name("agent", NAME))
Decide = Callable[[Event], list[Effect]]


class Scripted:
    """A kernel whose decisions a test makes. It halts with 99 when nothing ends the test in time."""

    def __init__(self, first: list[Effect], decide: Decide) -> None:
        self._first = first
        self._decide = decide
        self.events: list[Event] = []
        self.step_handling_ns = 0
        self._until_ns = 0
        self.loop: Loop | None = None

    def start(self, now: int) -> list[Effect]:
        self._until_ns = now + DEADLINE_S * 10**9
        return [SetTimer(self._until_ns), *self._first]

    def handle(self, event: Event) -> list[Effect]:
        self.events.append(event)
        if isinstance(event, TimerFired) and event.now_ns >= self._until_ns:
            return [Halt(99)]
        return self._decide(event)

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., tuple[int, Scripted]]]:
    """Run a loop to its end; afterwards nothing may be left of it."""
    before = sorted(os.listdir("/proc/self/fd"))

    def go(
        first: list[Effect], decide: Decide, model: str = "plain", kernel: Scripted | None = None
    ) -> tuple[int, Scripted]:
        kernel, wakeup = kernel or Scripted(first, decide), Wakeup()
        epoll, segments = select.epoll(), Segments()
        loop = Loop(
            kernel,
            epoll,
            Server(NAME, epoll, segments.owned),
            segments,
            Launcher(NAME),
            wakeup,
            lambda start: command(model, start.extra_buffers),
            RecordFiles(tmp_path / "state"),
        )
        kernel.loop = loop
        try:
            status = loop.run()
        finally:
            loop.close()
            wakeup.close()
            epoll.close()
        assert status != 99, f"not within {DEADLINE_S} s; it saw {kernel.events}"
        return status, kernel

    yield go
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.fixture
def dealer() -> Iterator[zmq.Socket[bytes]]:
    """A peer, in this very thread: zmq connects and sends in its own."""
    context = zmq.Context()
    made = context.socket(zmq.DEALER)
    made.setsockopt(zmq.RCVTIMEO, DEADLINE_S * 1000)
    made.setsockopt(zmq.RECONNECT_IVL, 10)  # it connects before there is a kernel
    made.connect(ENDPOINT)
    yield made
    made.close(linger=0)
    context.term()


def command(model: str, extra_buffers: bool) -> list[str]:
    """A core of the model asked for; one without extra buffers is always a plain one."""
    model = model if extra_buffers else "plain"
    options = EngineOptions(slots=2, slot_tokens=64, window_tokens=64, threads=1, extra_buffers=extra_buffers)
    words = [sys.executable, "-m", "kernel.engine.worker", "--model", model]
    words += ["--options-json", json.dumps(asdict(options))]
    return [*words, "--engine", "tests.engine.scripted_engine:ScriptedEngine"]


def halt_on(kind: type[Event], *before: Effect) -> Decide:
    return lambda event: [*before, Halt(0)] if isinstance(event, kind) else []


def python(script: str) -> Launch:
    return Launch(7, ("-c", script), (), None)


# -- time, signals, words -------------------------------------------------------------------------


def test_effects_are_carried_out_in_order_and_halt_carries_the_status(
    run: Callable[..., tuple[int, Scripted]], capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = run([Say("one"), Halt(5), Say("two")], lambda event: [])
    assert status == 5
    assert capsys.readouterr().out == "one\ntwo\n"


def test_records_are_written_and_read_by_another_thread_and_answered_in_order(
    run: Callable[..., tuple[int, Scripted]], tmp_path: Path
) -> None:
    first = [StoreRecord(1, "a.session", b"one"), LoadRecord(2, "a.session"), RemoveRecord(3, "a.session")]
    first += [LoadRecord(4, "a.session"), SetAsideRecord(5, "a.session")]
    _, kernel = run(first, lambda event: [Halt(0)] if isinstance(event, RecordDone) and event.ticket == 5 else [])
    done = kernel.of(RecordDone)
    assert [(one.ticket, one.body, one.error) for one in done] == [
        (1, None, ""), (2, b"one", ""), (3, None, ""), (4, None, ""), (5, None, "No such file or directory"),
    ]  # fmt: skip
    assert {one.path for one in done} == {str(tmp_path / "state" / "a.session")}


def test_the_last_timer_set_is_the_one_that_fires_and_it_fires_once(
    run: Callable[..., tuple[int, Scripted]],
) -> None:
    at = now_ns() + 30_000_000
    first = [SetTimer(at - 20_000_000), SetTimer(None), SetTimer(at)]
    _, kernel = run(first, halt_on(TimerFired))
    (fired,) = kernel.events
    assert at <= fired.now_ns < at + 2 * 10**9


def test_a_signal_asks_for_shutdown(run: Callable[..., tuple[int, Scripted]]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        pid = os.getpid()
        first = [python(f"import os; os.kill({pid}, {int(number)})")]
        status, kernel = run(first, halt_on(ShutdownAsked))
        assert status == 0
        assert len(kernel.of(ShutdownAsked)) == 1


def test_a_second_ctrl_c_leaves_at_once(run: Callable[..., tuple[int, Scripted]]) -> None:
    def again(event: Event) -> list[Effect]:
        if isinstance(event, ShutdownAsked):
            os.kill(os.getpid(), signal.SIGINT)
        return []

    script = f"import os, signal; os.kill({os.getpid()}, 2); signal.pause()"
    status, kernel = run([python(script)], again)
    assert status == INTERRUPTED
    assert len(kernel.of(ShutdownAsked)) == 1


# -- messages --------------------------------------------------------------------------------------


def test_a_message_comes_in_and_its_answer_goes_out(
    run: Callable[..., tuple[int, Scripted]], dealer: zmq.Socket[bytes]
) -> None:
    def echo(event: Event) -> list[Effect]:
        assert isinstance(event, Message)
        assert (event.pid, event.birth) == (os.getpid(), birth_of(os.getpid()))
        return [Send(event.peer, b"re" + event.frame), Halt(0)]

    dealer.send(b"ab")
    run([], echo)
    assert dealer.recv() == b"reab"


def test_a_bug_met_by_one_message_is_logged_and_the_next_is_served(
    run: Callable[..., tuple[int, Scripted]],
    dealer: zmq.Socket[bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def decide(event: Event) -> list[Effect]:
        assert isinstance(event, Message)
        if event.frame == b"bad":
            raise ZeroDivisionError("scripted")
        return [Halt(0)]

    dealer.send(b"bad")
    dealer.send(b"good")
    status, kernel = run([], decide)
    assert status == 0
    assert len(kernel.of(Message)) == 2
    assert "ZeroDivisionError: scripted" in capsys.readouterr().err


def test_a_peer_that_is_cut_off_reads_why_and_its_end_is_told_once(
    run: Callable[..., tuple[int, Scripted]], dealer: zmq.Socket[bytes]
) -> None:
    def decide(event: Event) -> list[Effect]:
        if isinstance(event, Message):
            return [Disconnect(event.peer, KernelError(Errno.EPIPE, "scripted"))]
        return [Halt(0)] if isinstance(event, PeerGone) else []

    dealer.setsockopt(zmq.RECONNECT_IVL, -1)
    dealer.send(b"x")
    _, kernel = run([], decide)
    (message,), (gone,) = kernel.of(Message), kernel.of(PeerGone)
    assert isinstance(message, Message)
    assert isinstance(gone, PeerGone)
    assert gone.peer == message.peer
    assert decode_answer(dealer.recv()).body == {"errno": 32, "name": "EPIPE", "text": "scripted"}


def test_a_peer_that_does_not_read_is_reported_once_and_then_gone(
    run: Callable[..., tuple[int, Scripted]],
) -> None:
    """Its process is another one: this thread could not connect before there is a kernel."""
    script = (
        "from benchmarks.rawpeer import RawPeer; import signal\n"
        f"peer = RawPeer({socket_name('agent', NAME)!r}); peer.send(b'x'); signal.pause()"
    )

    def decide(event: Event) -> list[Effect]:
        if isinstance(event, Message):
            return [Send(event.peer, bytes(60_000))] * (4 * UNREAD_HARD_BYTES // 60_000)
        return [Halt(0)] if isinstance(event, PeerGone) else []

    _, kernel = run([python(script)], decide)
    assert len(kernel.of(PeerStalled)) == 1


def test_a_launched_process_has_a_socket_of_its_own_that_serves_no_other(
    run: Callable[..., tuple[int, Scripted]],
) -> None:
    """A child of its inherits the name of the socket, and is told whose that is."""
    child = "import os; from benchmarks.rawpeer import RawPeer; RawPeer(os.environ['AGENTIX_SOCKET'])"
    script = f"{child}; print('served', flush=True)\n"
    script += f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    _, kernel = run([python(script)], halt_on(ProcessEnded))
    said = b"".join(event.data for event in kernel.of(Output) if isinstance(event, Output))
    (spawned,) = kernel.of(Spawned)
    assert isinstance(spawned, Spawned)
    assert said.startswith(b"served\n")
    assert b"this socket is task %d's" % spawned.pid in said


# -- processes -------------------------------------------------------------------------------------


def test_a_launched_process_is_spawned_then_heard_then_ended(
    run: Callable[..., tuple[int, Scripted]],
) -> None:
    script = "import sys; print('x' * 200_000); sys.exit(3)"
    _, kernel = run([python(script)], halt_on(ProcessEnded))
    spawned, *outputs, ended = kernel.events
    assert isinstance(spawned, Spawned)
    assert spawned.ticket == 7
    text = b"".join(event.data for event in outputs if isinstance(event, Output))
    assert text == b"x" * 200_000 + b"\n"
    assert ended == ProcessEnded(ended.now_ns, spawned.pid, 3, None)


def test_a_process_that_cannot_be_started_is_a_failed_spawn(
    run: Callable[..., tuple[int, Scripted]],
) -> None:
    _, kernel = run([Launch(8, ("a.py",), (), "/no/where")], halt_on(SpawnFailed))
    (failed,) = kernel.events
    assert isinstance(failed, SpawnFailed)
    assert (failed.ticket, failed.reason) == (
        8,
        "cannot start 'a.py' in '/no/where': No such file or directory",
    )


def test_a_signalled_process_ends_by_that_signal_and_is_sampled_before(
    run: Callable[..., tuple[int, Scripted]],
) -> None:
    def decide(event: Event) -> list[Effect]:
        if isinstance(event, Output):
            return [SampleProcesses((event.pid,))]
        if isinstance(event, ProcessSample):
            ((pid, _, rss),) = event.usage
            return [Signal(pid, signal.SIGTERM)] if rss > 1 << 20 else []
        return [Halt(0)] if isinstance(event, ProcessEnded) else []

    _, kernel = run([python("import signal; print('up', flush=True); signal.pause()")], decide)
    (ended,) = kernel.of(ProcessEnded)
    assert isinstance(ended, ProcessEnded)
    assert (ended.status, ended.signal) == (None, signal.SIGTERM)


def test_what_a_process_leaves_behind_in_its_session_is_swept_without_anybody_asking(
    run: Callable[..., tuple[int, Scripted]],
) -> None:
    script = (
        "import subprocess; p = subprocess.Popen(['sleep', '1000'], process_group=0, stdout=-3)\n"
        "import os; os.write(1, b'%d' % p.pid)"
    )

    def decide(event: Event) -> list[Effect]:
        if isinstance(event, Output):
            return [Watch(int(event.data), birth_of(int(event.data)) or 0)]
        is_over = isinstance(event, ProcessEnded) and event.status is None
        return [Halt(0)] if is_over else []

    _, kernel = run([python(script)], decide)
    assert len(kernel.of(ProcessEnded)) == 2


def test_watching_a_process_that_is_gone_reports_its_end(
    run: Callable[..., tuple[int, Scripted]],
) -> None:
    pid = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(pid, 0)
    _, kernel = run([Watch(pid, 1)], halt_on(ProcessEnded))
    (ended,) = kernel.events
    assert ended == ProcessEnded(ended.now_ns, pid, None, None)


def test_halting_leaves_no_process_alive(run: Callable[..., tuple[int, Scripted]]) -> None:
    _, kernel = run([python("import time; time.sleep(1000)"), StartCore(True)], halt_on(CoreReady))
    (spawned,) = kernel.of(Spawned)
    assert isinstance(spawned, Spawned)
    assert not Path(f"/proc/{spawned.pid}").exists()


# -- the core --------------------------------------------------------------------------------------


def test_a_core_is_started_asked_and_stepped(run: Callable[..., tuple[int, Scripted]]) -> None:
    def decide(event: Event) -> list[Effect]:
        if isinstance(event, CoreReady):
            assert not event.info.extra_buffers
            wrong = {"text": 1 << 70, "with_special": False, "sender": 1}
            return [AskCore(3, "tokenize", wrong | {"text": "ab"}), AskCore(4, "tokenize", wrong)]
        if isinstance(event, CoreAnswer) and event.ticket == 3:
            return [RunStep(StepPlan(1, decodes=(Row(0, 0, (97,), is_last=True),)))]
        return [Halt(0)] if isinstance(event, StepDone) else []

    _, kernel = run([StartCore(False)], decide)
    unasked, answer = kernel.of(CoreAnswer)
    assert isinstance(unasked, CoreAnswer)
    assert (unasked.ticket, unasked.value) == (4, None)
    assert isinstance(answer, CoreAnswer)
    assert answer.value == (97, 98)


def test_a_core_killed_in_a_step_is_lost_once_and_the_next_has_the_segments_again(
    run: Callable[..., tuple[int, Scripted]],
) -> None:
    save = RunStep(StepPlan(5, saves=(Save(0, 11, 1, 0),)))

    def decide(event: Event) -> list[Effect]:
        if isinstance(event, CoreReady) and event.info.extra_buffers:
            segments = [MakeSegment(11, 4096, True), MakeSegment(12, 4096, False)]
            return [*segments, save, Signal(event.pid, signal.SIGKILL)]
        if isinstance(event, CoreLost):
            return [StartCore(False)]
        if isinstance(event, CoreReady):
            return [DropSegment(12), DropSegment(99), save]
        return [DropSegment(11), Halt(0)]

    _, kernel = run([StartCore(True)], decide, model="stuck")
    _, lost, _, done = kernel.events
    assert lost == CoreLost(lost.now_ns, "signal SIGKILL", was_ready=True, is_fatal=False)
    assert isinstance(done, StepDone)
    assert done.result.saved == ((11, 1),)


def test_a_core_that_cannot_even_start_is_lost(run: Callable[..., tuple[int, Scripted]]) -> None:
    _, kernel = run([StartCore(True)], halt_on(CoreLost), model="killed")
    (lost,) = kernel.events
    assert isinstance(lost, CoreLost)
    assert (lost.reason, lost.was_ready) == ("signal SIGILL", False)


def test_what_a_core_prints_goes_to_the_kernels_log(
    run: Callable[..., tuple[int, Scripted]], capsys: pytest.CaptureFixture[str]
) -> None:
    def decide(event: Event) -> list[Effect]:
        if isinstance(event, CoreReady):
            return [AskCore(1, "tokenize", {"text": "bug", "with_special": False, "sender": 1})]
        return [SetTimer(now_ns() + 10**8)] if isinstance(event, CoreAnswer) else [Halt(0)]

    run([StartCore(True)], decide)
    assert "core: ZeroDivisionError: scripted" in capsys.readouterr().err


def test_cores_of_several_models_are_told_apart(run: Callable[..., tuple[int, Scripted]]) -> None:
    """Each has its own segments and steps; one is stopped, and the other goes on."""

    def decide(event: Event) -> list[Effect]:
        if isinstance(event, CoreReady) and event.core == 0:
            return [MakeSegment(11, 4096, True, core=1), StartCore(False, core=1)]
        if isinstance(event, CoreReady):
            return [MakeSegment(12, 4096, True, core=0), *(step(core) for core in (0, 1)), step(7)]
        if isinstance(event, StepDone):
            return [StopCore(1), StopCore(7)] if len(kernel.of(StepDone)) == 2 else []
        if isinstance(event, CoreLost):
            return [DropSegment(11), DropSegment(12), RunStep(StepPlan(6), core=0), RunStep(StepPlan(6), core=1)]
        return [Halt(0)]

    def step(core: int) -> RunStep:
        return RunStep(StepPlan(5, saves=(Save(0, 12 - core, 1, 0),)), core=core)

    def until_the_last(event: Event) -> list[Effect]:
        if isinstance(event, StepDone) and event.result.number == 6:
            return [Halt(0)]
        return decide(event)

    kernel = Scripted([StartCore(False, core=0)], until_the_last)
    run([], until_the_last, kernel=kernel)
    done = [(event.core, event.result.saved) for event in kernel.of(StepDone) if isinstance(event, StepDone)]
    assert sorted(done[:2]) == [(0, ((12, 1),)), (1, ((11, 1),))]
    assert done[2:] == [(0, ())]
    (lost,) = kernel.of(CoreLost)
    assert lost == CoreLost(lost.now_ns, "signal SIGKILL", was_ready=True, is_fatal=False, core=1)


def test_a_flooding_agent_does_not_delay_steps(
    run: Callable[..., tuple[int, Scripted]], dealer: zmq.Socket[bytes]
) -> None:
    """With a step's result waiting and ever more messages, few of these are handled before it."""
    rounds = 20

    def decide(event: Event) -> list[Effect]:
        if isinstance(event, CoreReady):
            for _ in range(900):
                dealer.send(b"flood")
        if isinstance(event, Message):
            dealer.send(b"flood")  # there is always one more
            if len(kernel.of(Message)) == 1:
                return [RunStep(StepPlan(1))]
            if isinstance(kernel.events[-2], StepDone | CoreReady):
                assert kernel.loop is not None
                (link,) = kernel.loop.cores.all_links()
                assert select.select([link], [], [], DEADLINE_S)[0]
        if isinstance(event, StepDone):
            number = event.result.number
            return [RunStep(StepPlan(number + 1))] if number < rounds else [Halt(0)]
        return []

    kernel = Scripted([StartCore(True)], decide)
    run([], decide, kernel=kernel)
    waited = 0  # messages handled while a result was waiting
    for event in kernel.events[kernel.events.index(kernel.of(StepDone)[0]) :]:
        waited = waited + 1 if isinstance(event, Message) else 0
        assert waited <= MESSAGES_PER_TURN
    assert len(kernel.of(StepDone)) == rounds
    assert len(kernel.of(Message)) >= rounds


def test_an_idle_loop_with_waiting_agents_costs_no_cpu_time(
    run: Callable[..., tuple[int, Scripted]],
) -> None:
    used: list[float] = []

    def decide(event: Event) -> list[Effect]:
        if isinstance(event, CoreReady):
            used.append(time.process_time())
            return [SetTimer(now_ns() + 500_000_000)]
        if isinstance(event, TimerFired):
            used.append(time.process_time())
            return [Halt(0)]
        return []

    run([StartCore(True)], decide)
    assert used[1] - used[0] < 0.005
