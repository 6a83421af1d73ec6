"""The connection itself: long messages, connections that the kernel closes, and the side channel."""

import os
import select
import subprocess
import sys
import threading

import pytest
from test_sdk_agent import in_thread
from test_sdk_fake_kernel import HELLO, PATIENCE_S, FakeKernel, reply_of, running_kernel, watch_full

from agentix import Agent, AgentixError, KernelGone, NoKernel, calls, descriptors, errors
from agentix.client import Connection
from agentix.descriptors import SideChannel
from kernel.abi import codec
from kernel.abi.address import socket_name
from kernel.abi.descriptors import RING, WRITABLE
from kernel.abi.errors import Errno
from kernel.limits import MAX_PROCESS_CONNECTIONS, MAX_PROCESS_RINGS

INLINE, FRAME = codec.MAX_INLINE_BYTES, codec.MAX_FRAME_BYTES
HEAD_BYTES = len(codec.encode_call(1, "llm.generate", {"prompt": "x" * INLINE})) - INLINE


@pytest.fixture
def kernel():
    with running_kernel() as fake:
        yield fake


@pytest.fixture
def me(kernel):
    agent = Agent("writer", kernel=kernel.name)
    yield agent
    agent.close()


def echo(call):
    call.reply(reply_of("") | {"text": call.body["prompt"][::-1]})


# --- long messages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [INLINE - 1, INLINE, INLINE + 1, FRAME, FRAME + 1, 3 << 20])
def test_a_message_of_any_length_arrives_whole_and_so_does_its_answer(kernel, me, size):
    kernel.on["llm.generate"] = echo
    prompt = "".join(chr(97 + number % 26) for number in range(size - HEAD_BYTES))
    for _ in range(3):
        assert me.llm.generate(prompt).text == prompt[::-1]


def test_a_long_answer_comes_also_to_an_agent_that_never_sent_a_long_message(kernel, me):
    kernel.on["llm.generate"] = lambda call: call.reply(reply_of("x" * (2 * FRAME)))
    assert me.llm.generate("Say").text == "x" * (2 * FRAME)


def test_a_message_at_the_limit_arrives_and_one_byte_more_is_refused_here(kernel, me):
    kernel.on["llm.tokenize"] = lambda call: call.reply({"tokens": [len(call.body["text"])]})
    head = len(codec.encode_call(2, "llm.tokenize", {"text": "x" * (1 << 20), "with_special": True})) - (1 << 20)
    longest = codec.MAX_MESSAGE_BYTES - head
    assert me.tokenize("x" * longest) == [longest]
    with pytest.raises(errors.MessageTooLong, match="message is 4194305 bytes, the limit is 4194304"):
        me.tokenize("x" * (longest + 1))
    assert me.tokenize("x") == [1]


def test_long_messages_wait_while_the_kernel_does_not_read_and_none_is_lost(kernel, me, monkeypatch):
    kernel.on["llm.tokenize"] = lambda call: call.reply({"tokens": [call.body["text"].count("x")]})
    lengths = [3_900_000 + number for number in range(5)]  # the ring holds two
    assert me.tokenize("x" * lengths[0]) == lengths[:1]
    go_on, inflight = kernel.halt(), []
    is_full = watch_full(monkeypatch)

    def send_all() -> None:
        for length in lengths:
            inflight.append(me._connection.submit(calls.tokenize("x" * length, False)))

    sender = in_thread(send_all)
    assert is_full.wait(PATIENCE_S)
    assert len(inflight) == 2
    go_on.set()
    sender.join()
    assert [me._connection.finish(call, None) for call in inflight] == [[length] for length in lengths]


def test_a_long_message_takes_no_room_in_the_ring_while_the_queue_before_it_is_full(kernel, me, monkeypatch):
    kernel.on |= {
        "log.write": lambda call: call.reply({}),
        "llm.tokenize": lambda call: call.reply({"tokens": [len(call.body["text"])]}),
    }
    length = 3_900_000  # the ring holds two
    assert me.tokenize("x" * length) == [length]
    has_filled, go_on = watch_full(monkeypatch), kernel.halt()

    def fill() -> None:
        for _ in range(5000):
            me._connection.submit(calls.log("short"))

    filler = in_thread(fill)
    assert has_filled.wait(PATIENCE_S)
    is_refused, lengths = watch_full(monkeypatch, FRAME, times=4), []
    sender = in_thread(lambda: lengths.extend(me.tokenize("x" * length)))
    assert is_refused.wait(PATIENCE_S)
    go_on.set()
    for thread in (filler, sender):
        thread.join(PATIENCE_S)
    me.close()  # ends a thread that would wait for ever
    assert lengths == [length]


def test_threads_that_send_their_first_long_messages_at_once_share_one_ring(kernel, me):
    kernel.on["llm.generate"] = echo
    wrong = []

    def ask(letter: str) -> None:
        for length in range(INLINE, INLINE + 20):
            if me.llm.generate(letter * length + "!").text != "!" + letter * length:
                wrong.append((letter, length))

    for thread in [in_thread(ask, letter) for letter in "abcd"]:
        thread.join()
    assert wrong == []


def test_a_kernel_that_has_no_ring_left_refuses_the_message_and_the_connection_goes_on(kernel):
    kernel.on |= {"llm.generate": echo, "proc.ps": lambda call: call.reply({"tasks": []})}
    agents = [Agent(str(number), kernel=kernel.name) for number in range(MAX_PROCESS_RINGS + 1)]
    prompt = "x" * FRAME
    for agent in agents[:-1]:
        assert agent.llm.generate(prompt).text == prompt
    with pytest.raises(errors.TryAgain, match="a payload ring, for messages over 48 KiB"):
        agents[-1].llm.generate(prompt)
    assert agents[-1].ps() == []
    agents[0].close()
    kernel.wait_gone(agents[0])
    assert agents[-1].llm.generate(prompt).text == prompt
    for agent in agents[1:]:
        agent.close()


def test_a_kernel_that_hands_out_no_ring_in_time_is_a_timeout(kernel, me, monkeypatch):
    monkeypatch.setattr(descriptors, "WAIT_S", 0.05)
    kernel.on["llm.generate"] = echo
    prompt = "x" * FRAME
    go_on = kernel.halt()
    with pytest.raises(errors.TimedOut, match=r"no descriptor came within 0\.05 s"):
        me.llm.generate(prompt)
    go_on.set()
    monkeypatch.undo()
    assert me.llm.generate(prompt).text == prompt


# --- connections that end --------------------------------------------------------------------------------------


def test_the_reason_why_the_kernel_closes_a_connection_ends_its_calls_and_those_to_come(kernel, me):
    caught = []

    def receive() -> None:
        try:
            me.recv()
        except AgentixError as error:
            caught.append((type(error), error.text))

    waiters = [in_thread(receive) for _ in range(3)]
    taken = [kernel.take("ipc.recv") for _ in waiters]
    taken[0].close(Errno.EPIPE, "it does not read its answers")
    for waiter in waiters:
        waiter.join()
    assert caught == [(errors.BrokenPipe, "it does not read its answers")] * 3
    with pytest.raises(errors.BrokenPipe, match="it does not read its answers"):
        me.ps()


def test_a_connection_that_is_lost_without_a_reason_ends_its_calls(kernel, me):
    closer = in_thread(lambda: kernel.take("ipc.recv") and kernel.close())
    with pytest.raises(KernelGone, match="the kernel closed this connection"):
        me.recv(timeout=PATIENCE_S)
    closer.join()
    with pytest.raises(KernelGone, match="the kernel closed this connection"):
        me.ps()


def wait_lost(agent: Agent) -> None:
    """Wait until libzmq has seen the connection end, reading nothing."""
    assert select.select([agent._connection._transport.loss_fd], [], [], PATIENCE_S)[0]


def test_what_came_before_the_loss_is_read_however_late(kernel, me):
    pending = me.llm.submit("Write:")
    call = kernel.take("llm.generate")
    for seq in range(100):
        call.chunk(seq, "x")
    call.reply(reply_of("x" * 100))
    kernel.close()
    wait_lost(me)
    assert list(pending) == ["x"] * 100
    assert pending.result().text == "x" * 100


def test_a_reason_that_is_read_after_the_loss_is_the_reason_all_the_same(kernel, me):
    pending = me.llm.submit("Write:")
    kernel.take("llm.generate").close(Errno.EBADMSG, "a connection starts with nonsense")
    wait_lost(me)
    with pytest.raises(errors.BadMessage, match="starts with nonsense"):
        pending.result()


def test_a_lost_connection_is_not_made_again_behind_the_agents_back(kernel, me):
    pending = me.llm.submit("Write:")
    kernel.take("llm.generate")
    kernel.close()
    another = FakeKernel(kernel.name)
    try:
        with pytest.raises(KernelGone):
            pending.result()
        with pytest.raises(KernelGone):
            me.ps()
        with Agent("next", kernel=kernel.name):
            assert [call.method for call in another.seen] == ["sys.hello"]
    finally:
        another.close()


def test_a_kernel_that_takes_no_more_connections_is_an_error_and_no_wait(kernel):
    kept = []

    def take_all() -> None:
        for _ in range(MAX_PROCESS_CONNECTIONS + 1):
            kept.append(Connection("operator", kernel.name, "a", PATIENCE_S))

    with pytest.raises(KernelGone, match="the kernel closed this connection"):
        take_all()
    for connection in kept:
        connection.close()


# --- which socket ----------------------------------------------------------------------------------------------

LAUNCHED = """
import os, subprocess, sys
from agentix import Agent, NoKernel
with Agent("own"):
    print("connected", flush=True)
if sys.argv[1:]:
    sys.exit(subprocess.call([sys.executable, "-c", sys.argv[1]]))
"""


def test_a_launched_agent_uses_the_socket_that_is_its_own_and_its_children_do_not(kernel):
    doors, opened = kernel.server.doors, []
    public = next(door for door in doors.by_fd.values() if door.name == socket_name("agent", kernel.name))
    ready = threading.Event()

    def leave_only_its_own() -> None:
        opened.append(doors.open_own())
        doors.close(public)
        ready.set()

    kernel.later(leave_only_its_own)
    assert ready.wait(PATIENCE_S)
    env = os.environ | {"AGENTIX_KERNEL": kernel.name, "AGENTIX_SOCKET": opened[0].name}
    command = [sys.executable, "-c", "import sys; sys.stdin.read(1); exec(sys.argv.pop(1))", LAUNCHED, LAUNCHED]
    with subprocess.Popen(
        command, env=env, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        opened[0].owner = process.pid  # as the kernel does before it lets an agent start
        out, err = process.communicate("x", timeout=PATIENCE_S)
    assert out == "connected\n"
    assert err.endswith("is running: start one with `agentix up` (NoKernel)\n")
    assert process.returncode == 1


def test_a_kernel_other_than_the_launching_one_is_looked_for_where_it_listens(kernel, monkeypatch):
    monkeypatch.setattr("kernel.abi.address.own_socket", lambda: "agentix/nobody-listens-here")
    monkeypatch.setenv("AGENTIX_KERNEL", "the-launching-one")
    with Agent("a", kernel=kernel.name) as agent:
        assert agent.pid == HELLO["pid"]
    monkeypatch.setenv("AGENTIX_KERNEL", kernel.name)
    with pytest.raises(NoKernel):
        Agent("a")


# --- the side channel ------------------------------------------------------------------------------------------


def test_a_process_that_took_the_kernels_place_is_not_asked_for_memory(kernel):
    channel = SideChannel(socket_name("agent", kernel.name), os.getppid())
    text = f"process {os.getpid()} listens there, the kernel is {os.getppid()}"
    with pytest.raises(KernelGone, match=text):
        channel.map(WRITABLE, 1, "a segment")
    channel.close()


def test_an_answer_without_memory_is_an_error_that_names_what_was_asked_for(kernel):
    channel = SideChannel(socket_name("agent", kernel.name), os.getpid())
    for kind, what in ((WRITABLE, "segment 'a'"), (RING, "a ring")):
        with pytest.raises(errors.NoSuchSegment, match=f"{what}: no such file or directory"):
            channel.map(kind, 99, what)
    channel.close()
    with pytest.raises(KernelGone, match="this connection was closed"):
        channel.map(WRITABLE, 1, "a segment")


def test_closing_a_connection_ends_the_request_that_another_thread_waits_for(kernel, me):
    go_on, caught, asking = kernel.halt(), [], threading.Event()

    def ask() -> None:
        asking.set()
        try:
            me._connection.map(WRITABLE, 1, "a segment")
        except AgentixError as error:
            caught.append(type(error))

    asker = in_thread(ask)
    assert asking.wait(PATIENCE_S)
    while me._connection._transport.side_channel._socket is None:
        asker.join(0.001)
    me.close()
    asker.join(PATIENCE_S)
    go_on.set()
    assert caught == [KernelGone]
