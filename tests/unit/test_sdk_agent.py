"""Agent against a scripted kernel: streams, threads, timeouts, cancellation, and kernels that die."""

import os
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from test_sdk_fake_kernel import PATIENCE_S, Call, FakeKernel, reply_of, running_kernel, watch_full

from agentix import Agent, AgentixError, KernelGone, NoKernel, calls, errors
from kernel.abi import codec
from kernel.abi.errors import Errno


@pytest.fixture
def kernel():
    with running_kernel() as fake:
        yield fake


@pytest.fixture
def me(kernel):
    with Agent("writer", kernel=kernel.name) as agent:
        yield agent


def in_thread(target, *args):
    thread = threading.Thread(target=target, args=args)
    thread.start()
    return thread


def test_a_stream_gives_the_pieces_in_order_and_then_the_reply(kernel: FakeKernel, me: Agent):
    stream = me.llm.stream("Write:", max_tokens=4)
    call = kernel.take("llm.generate")
    assert call.body == {"prompt": "Write:", "max_tokens": 4, "stream": True}
    for seq, text in enumerate(("a", "", "b")):
        call.chunk(seq, text)
    call.reply(reply_of("ab"))
    assert list(stream) == ["a", "b"]
    assert stream.result().text == "ab"


def test_two_streams_may_be_read_in_turn_by_one_thread(kernel: FakeKernel, me: Agent):
    first, second = me.llm.stream("1"), me.llm.stream("2")
    one, two = kernel.take("llm.generate"), kernel.take("llm.generate")
    for seq in range(3):
        two.chunk(seq, f"y{seq}")
    for seq in range(3):
        one.chunk(seq, f"x{seq}")
    one.reply(reply_of("x"))
    two.reply(reply_of("y"))
    assert list(zip(first, second, strict=True)) == [("x0", "y0"), ("x1", "y1"), ("x2", "y2")]


def test_generate_returns_the_reply_with_its_usage(kernel: FakeKernel, me: Agent):
    kernel.on["llm.generate"] = lambda call: call.reply(reply_of("hello"))
    reply = me.llm.generate("Say", temperature=0.8, seed=7)
    assert (reply.text, reply.finish_reason, reply.usage["generated_tokens"]) == ("hello", "stop", 5)
    assert reply.tokens == tuple(b"hello")
    assert (reply.chat_format, reply.logprobs) == ("content", None)


def test_a_reply_has_what_was_asked_for_beside_its_text(kernel: FakeKernel, me: Agent):
    logprobs = [{"token": 1, "logprob": -0.5, "top": [[1, -0.5]]}]
    told = {"logprobs": logprobs, "chat_format": "hermes", "opens_reasoning": True}
    kernel.on["llm.generate"] = lambda call: call.reply(reply_of("a") | told)
    reply = me.llm.generate([{"role": "user", "content": "hi"}], logprobs=1, model="other")
    assert (reply.chat_format, reply.opens_reasoning, reply.logprobs) == ("hermes", True, tuple(logprobs))
    assert kernel.seen[-1].body["model"] == "other"


def vector(text: str) -> bytes:
    return struct.pack("<2f", len(text), 1)


def embeds(call) -> None:
    call.reply({"vectors": [vector(text) for text in call.body["texts"]], "width": 2})


def test_many_texts_become_one_array_whatever_the_calls_that_they_took(kernel: FakeKernel, me: Agent):
    kernel.on["llm.embed"] = embeds
    found = me.llm.embed(["x" * (number % 7) for number in range(150)], model="embed")
    assert found.tolist() == [[number % 7, 1] for number in range(150)]
    assert [(call.method, call.body["model"]) for call in kernel.seen[-3:]] == [("llm.embed", "embed")] * 3
    assert me.llm.embed([]).shape == (0, 0)


def test_the_time_to_embed_is_that_of_all_calls_together(kernel: FakeKernel, me: Agent):
    kernel.on["llm.embed"] = embeds
    me.llm.embed(["x"] * 130, timeout=5)
    first, *others = (call.deadline_ms for call in kernel.seen if call.method == "llm.embed")
    assert 0 < max(others) <= first <= 5000
    del kernel.on["llm.embed"]
    with pytest.raises(errors.TimedOut):
        me.llm.embed(["x"], timeout=0.02)


def test_models_are_listed_and_an_unknown_one_has_its_own_error(kernel: FakeKernel, me: Agent):
    kernel.on["llm.models"] = lambda call: call.reply({"models": [{"name": "chat"}]})
    kernel.on["llm.tokenize"] = lambda call: call.fail(Errno.ENOENT, "llm.tokenize: no")
    assert me.llm.models() == [{"name": "chat"}]
    with pytest.raises(errors.NoSuchModel, match="no"):
        me.tokenize("a", model="other")
    assert kernel.seen[-1].body["model"] == "other"


def test_leaving_a_stream_early_cancels_its_request(kernel: FakeKernel, me: Agent):
    for _ in me.llm.stream("Write:"):  # the first chunk comes when the call does
        break
    assert kernel.wait_seen("llm.cancel").body == {"call": kernel.wait_seen("llm.generate").id}


@pytest.fixture(autouse=True)
def first_chunk_at_once(request, kernel):
    if "early" in request.node.name:
        kernel.on["llm.generate"] = lambda call: call.chunk(0, "a")


def test_closing_a_stream_that_was_never_read_cancels_it_and_reading_it_early_twice_is_no_error(
    kernel: FakeKernel, me: Agent
):
    stream = me.llm.stream("Write:")
    stream.close()
    stream.close()
    kernel.wait_seen("llm.cancel")


def test_an_interrupt_inside_a_stream_cancels_it(kernel: FakeKernel, me: Agent):
    stream = me.llm.stream("Write:")
    kernel.take("llm.generate")
    main = threading.main_thread().ident
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupter = threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGINT))
    try:
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    finally:
        interrupter.join()
        signal.signal(signal.SIGINT, previous)
    kernel.wait_seen("llm.cancel")


def test_a_pending_request_can_be_cancelled_and_then_raises_cancelled(kernel: FakeKernel, me: Agent):
    pending = me.llm.submit("Write:")
    call = kernel.take("llm.generate")

    def cancel(cancelling: Call):
        call.fail(Errno.EINTR, "cancelled")
        cancelling.reply({"cancelled": True})

    kernel.on["llm.cancel"] = cancel
    assert pending.cancel()
    with pytest.raises(errors.Cancelled):
        pending.result(timeout=PATIENCE_S)
    assert not pending.cancel()


def test_several_requests_in_flight_end_in_any_order(kernel: FakeKernel, me: Agent):
    pendings = [me.llm.submit(str(number)) for number in range(5)]
    for call in reversed([kernel.take("llm.generate") for _ in range(5)]):
        call.reply(reply_of(call.body["prompt"]))
    assert [pending.result().text for pending in pendings] == ["0", "1", "2", "3", "4"]


def test_an_error_reply_raises_the_class_of_its_number(kernel: FakeKernel, me: Agent):
    kernel.on["mem.unlink"] = lambda call: call.fail(Errno.ENOENT, "no segment 'x'")
    with pytest.raises(errors.NoSuchSegment, match="no segment 'x'") as raised:
        me.mem.unlink("x")
    assert raised.value.errno == Errno.ENOENT


def test_a_timeout_goes_to_the_kernel_and_bounds_the_wait_even_if_the_kernel_says_nothing(
    kernel: FakeKernel, me: Agent, monkeypatch
):
    monkeypatch.setattr("agentix.client.GRACE_S", 0.01)
    with pytest.raises(errors.TimedOut):
        me.llm.generate("Write:", timeout=0.02)
    assert kernel.take("llm.generate").deadline_ms == 20
    kernel.wait_seen("llm.cancel")


def test_a_result_that_is_late_may_be_asked_for_again(kernel: FakeKernel, me: Agent, monkeypatch):
    monkeypatch.setattr("agentix.client.GRACE_S", 0.0)
    pending = me.llm.submit("Write:")
    with pytest.raises(errors.TimedOut, match=r"no reply within 0\.01 s"):
        pending.result(timeout=0.01)
    kernel.take("llm.generate").reply(reply_of("x"))
    assert pending.result().text == "x"


def test_a_message_that_came_for_a_receive_that_timed_out_is_not_lost(
    kernel: FakeKernel, me: Agent, monkeypatch
):
    monkeypatch.setattr("agentix.client.GRACE_S", 0.01)
    with pytest.raises(errors.TimedOut):
        me.recv(timeout=0.01)
    kernel.take("ipc.recv").reply({"sender": 5, "data": codec.pack({"n": 1})})
    assert me.recv(timeout=PATIENCE_S) == (5, {"n": 1})


def test_a_receive_goes_on_when_only_the_earlier_ones_time_has_passed(
    kernel: FakeKernel, me: Agent, monkeypatch
):
    monkeypatch.setattr("agentix.client.GRACE_S", 0.01)
    with pytest.raises(errors.TimedOut):
        me.recv(timeout=0.01)
    early = kernel.take("ipc.recv")
    got = []
    receiver = in_thread(lambda: got.append(me.recv(timeout=PATIENCE_S)))
    early.fail(Errno.ETIMEDOUT, "none within 10 ms")
    kernel.take("ipc.recv").reply({"sender": 6, "data": codec.pack("late")})
    receiver.join()
    assert got == [(6, "late")]


def test_messages_carry_plain_data_and_name_their_sender(kernel: FakeKernel, me: Agent):
    kernel.on["ipc.send"] = lambda call: call.reply({})
    me.send(5, {"any": [1, None, b"x"]})
    assert codec.unpack(kernel.seen[-1].body["data"]) == {"any": (1, None, b"x")}
    kernel.on["ipc.recv"] = lambda call: call.reply({"sender": 9, "data": b"\xc1"})
    with pytest.raises(errors.BadMessage, match="message from 9 is not msgpack"):
        me.recv()


def test_a_child_is_spawned_by_absolute_path_and_waited_for(kernel: FakeKernel, me: Agent):
    end = {"pid": 5, "name": "w1", "status": 3, "signal": None, "reason": "exit", "tail": "x", "usage": {}}
    kernel.on["proc.spawn"] = lambda call: call.reply({"pid": 5})
    kernel.on["proc.wait"] = lambda call: call.reply(end)
    child = me.spawn("worker.py", "arg", 7, name="w1")
    body = kernel.wait_seen("proc.spawn").body
    assert body["script"] == os.path.join(os.getcwd(), "worker.py")
    assert (body["args"], body["env"]) == (["arg", "7"], {"AGENTIX_KERNEL": kernel.name})
    ended = child.wait(timeout=2)
    assert (ended.pid, ended.status, ended.tail) == (5, 3, "x")
    assert kernel.seen[-1].body == {"pid": 5, "timeout_ms": 2000}


def test_memory_calls_answer_named_values(kernel: FakeKernel, me: Agent):
    kernel.on |= {
        "mem.create": lambda call: call.reply(call.body | {"segment": 4}),
        "mem.stat": lambda call: call.reply(
            {"segments": [{"name": "s", "size_bytes": 9, "segment": 4}], "used_bytes": 9, "limit_bytes": 99}
        ),
    }
    assert me.mem.create("s", 1 << 20) == ("s", 1 << 20, 4)
    assert me.mem.stat().segments == (("s", 9, 4),)


def test_many_threads_share_one_agent_and_each_gets_its_own_answer(kernel: FakeKernel, me: Agent):
    kernel.on["llm.tokenize"] = lambda call: call.reply({"tokens": [int(call.body["text"])]})
    wrong = []

    def ask(base: int) -> None:
        for number in range(base, base + 50):
            if me.tokenize(str(number)) != [number]:
                wrong.append(number)

    for thread in [in_thread(ask, base * 1000) for base in range(8)]:
        thread.join()
    assert wrong == []


def test_a_thread_that_waits_long_gets_its_answer_though_others_come_and_go(kernel: FakeKernel, me: Agent):
    kernel.on["proc.ps"] = lambda call: call.reply({"tasks": []})
    got = []
    waiter = in_thread(lambda: got.append(me.recv(timeout=PATIENCE_S)))
    call = kernel.take("ipc.recv")
    for _ in range(20):
        me.ps()
    call.reply({"sender": 1, "data": codec.pack("x")})
    me.ps()  # this thread reads the other's answer too and has to wake it
    waiter.join()
    assert got == [(1, "x")]


def test_calls_wait_while_the_kernel_does_not_read_and_none_is_lost(
    kernel: FakeKernel, me: Agent, monkeypatch
):
    count = 5000  # more than the queues of both ends hold
    kernel.on["log.write"] = lambda call: call.reply({})
    is_full, go_on = watch_full(monkeypatch), kernel.halt()

    def send_all() -> None:
        for number in range(count):
            me._connection.submit(calls.log(str(number)))

    sender = in_thread(send_all)
    assert is_full.wait(PATIENCE_S)
    go_on.set()
    sender.join()
    me.log("last")
    lines = [call.body["text"] for call in kernel.seen if call.method == "log.write"]
    assert lines == [*map(str, range(count)), "last"]


def test_closing_an_agent_ends_the_calls_of_other_threads(kernel: FakeKernel):
    agent = Agent("a", kernel=kernel.name)
    caught = []

    def receive() -> None:
        try:
            agent.recv()
        except AgentixError as error:
            caught.append(error)

    waiter = in_thread(receive)
    kernel.take("ipc.recv")
    agent.close()
    waiter.join()
    assert [type(error) for error in caught] == [KernelGone]
    with pytest.raises(KernelGone, match="closed"):
        agent.ps()


def test_without_a_kernel_the_error_says_how_to_start_one():
    with pytest.raises(NoKernel) as raised:
        Agent("a", kernel="nowhere")
    assert str(raised.value) == "no kernel named 'nowhere' is running: start one with `agentix up`"


def test_a_wrong_kernel_name_in_the_environment_is_named(monkeypatch):
    monkeypatch.setenv("AGENTIX_KERNEL", "a/b")
    with pytest.raises(errors.InvalidValue, match="AGENTIX_KERNEL is 'a/b'"):
        Agent("a")


def test_an_agent_is_of_no_use_after_a_fork_and_says_so(me: Agent):
    pid = os.fork()
    if pid == 0:
        try:
            me.ps()
        except RuntimeError as error:
            os._exit(0 if "after a fork" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --- kernels and agents as processes of their own --------------------------------------------------------------

KERNEL = """
import sys
from test_sdk_fake_kernel import FakeKernel
kernel = FakeKernel(sys.argv[1])
print("up", flush=True)
kernel.take("ipc.recv")
print("called", flush=True)
"""


def start(code: str, *args: str, **options) -> subprocess.Popen:
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *args], stdout=subprocess.PIPE, env=env, text=True, **options
    )


@pytest.fixture
def mortal():
    """A kernel in a process of its own: (name, process)."""
    name = f"mortal-{os.getpid()}"
    with start(KERNEL, name) as process:
        assert process.stdout.readline() == "up\n"
        yield name, process
        process.kill()


def test_agents_of_a_killed_kernel_do_not_hang(mortal, monkeypatch):
    monkeypatch.setattr("agentix.transport.DYING_S", PATIENCE_S)  # however slowly it dies
    name, process = mortal
    agent = Agent("a", kernel=name)
    killer = in_thread(lambda: process.stdout.readline() and process.kill())
    with pytest.raises(KernelGone, match=f"kernel '{name}' .* has died"):
        agent.recv(timeout=PATIENCE_S)
    killer.join()
    with pytest.raises(KernelGone):
        agent.ps()
    agent.close()


def test_an_agent_script_whose_kernel_dies_exits_quietly_with_75(mortal):
    name, process = mortal
    code = f"from agentix import Agent\nwith Agent('a', kernel={name!r}) as me: me.recv()"
    with start(code, stderr=subprocess.PIPE) as script:
        process.stdout.readline()
        process.kill()
        assert script.communicate(timeout=PATIENCE_S) == ("", "")
    assert script.returncode == 75


def test_a_script_that_lets_an_agentix_error_escape_shows_one_line_and_no_traceback():
    code = "from agentix import Agent\nAgent('a', kernel='nowhere')"
    with start(code, stderr=subprocess.PIPE) as script:
        _, err = script.communicate(timeout=PATIENCE_S)
    line = "-c: no kernel named 'nowhere' is running: start one with `agentix up` (NoKernel)\n"
    assert (script.returncode, err) == (1, line)


def test_other_exceptions_keep_their_traceback(kernel: FakeKernel):
    code = f"from agentix import Agent\nwith Agent('a', kernel={kernel.name!r}) as me: 1 / 0"
    with start(code, stderr=subprocess.PIPE) as script:
        _, err = script.communicate(timeout=PATIENCE_S)
    assert script.returncode == 1
    assert err.startswith("Traceback")
    assert "ZeroDivisionError" in err
    assert all(call.method != "proc.exit" for call in kernel.seen)
