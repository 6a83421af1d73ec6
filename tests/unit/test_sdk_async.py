"""AsyncAgent: the same names as Agent, and the same behaviour with async and await."""

import asyncio
import contextlib
import inspect
import os

import pytest
from test_sdk_agent import mortal  # noqa: F401
from test_sdk_fake_kernel import PATIENCE_S, reply_of, running_kernel

from agentix import (
    AsyncAgent,
    KernelGone,
    NoKernel,
    agent,
    aio,
    aio_llm,
    aio_sched,
    aio_session,
    errors,
    llm,
    memory,
    sched,
    session,
)
from kernel.abi import codec
from kernel.abi.errors import Errno
from kernel.limits import MAX_PROCESS_RINGS

MAIL = {"sender": 3, "data": codec.pack("kept")}
TWINS = [
    (agent.Agent, aio.AsyncAgent),
    (agent.Task, aio.AsyncTask),
    (sched.Sched, aio_sched.AsyncSched),
    (sched.Groups, aio_sched.AsyncGroups),
    (session.Session, aio_session.AsyncSession),
    (agent.Child, aio.AsyncChild),
    (llm.Llm, aio_llm.AsyncLlm),
    (llm.Pending, aio_llm.AsyncPending),
    (llm.Stream, aio_llm.AsyncStream),
    (memory.Mem, aio.AsyncMem),
]


@pytest.fixture
def kernel():
    with running_kernel() as fake:
        yield fake


def run(body):
    asyncio.run(asyncio.wait_for(body, PATIENCE_S))


def public(kind):
    return {name: value for name, value in inspect.getmembers(kind) if not name.startswith("_")}


@pytest.mark.parametrize(("sync", "twin"), TWINS, ids=lambda kind: kind.__name__)
def test_names_and_parameters_agree_with_the_synchronous_class(sync, twin):
    assert public(sync).keys() == public(twin).keys()
    for name, method in public(sync).items():
        if not inspect.isfunction(method):
            continue
        ours, theirs = (inspect.signature(kind) for kind in (method, public(twin)[name]))
        assert ours.parameters == theirs.parameters, name
    assert inspect.signature(sync.__init__).parameters.keys() == inspect.signature(
        twin.__init__
    ).parameters.keys()


def test_two_streams_and_a_call_run_side_by_side(kernel):
    async def body():
        async with AsyncAgent("a", kernel=kernel.name) as me:
            kernel.on["llm.tokenize"] = lambda call: call.reply({"tokens": [1]})
            first, second = me.llm.stream("1"), me.llm.stream("2")
            one, two = kernel.take("llm.generate"), kernel.take("llm.generate")
            assert await me.tokenize("x") == [1]
            two.chunk(0, "b")
            two.reply(reply_of("b"))
            assert [piece async for piece in second] == ["b"]
            one.chunk(0, "a")
            one.reply(reply_of("a"))
            assert [piece async for piece in first] == ["a"]
            assert (await first.result()).text == "a"

    run(body())
    assert kernel.seen[-1].method == "proc.exit"


def test_texts_are_embedded_and_models_listed(kernel):
    kernel.on["llm.embed"] = lambda call: call.reply({"vectors": [b"\0\0\x80?"] * len(call.body["texts"]), "width": 1})
    kernel.on["llm.models"] = lambda call: call.reply({"models": [{"name": "chat"}]})

    async def body():
        async with AsyncAgent("a", kernel=kernel.name) as me:
            assert (await me.llm.embed(["x"] * 65)).tolist() == [[1.0]] * 65
            assert await me.llm.models() == [{"name": "chat"}]

    run(body())


def test_cancelling_the_task_that_generates_cancels_the_request(kernel):
    async def body():
        async with AsyncAgent("a", kernel=kernel.name) as me:
            task = asyncio.create_task(me.llm.generate("x"))
            await asyncio.to_thread(kernel.take, "llm.generate")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(kernel.wait_seen, "llm.cancel")

    run(body())


def test_leaving_a_stream_early_cancels_it(kernel):
    kernel.on["llm.generate"] = lambda call: call.chunk(0, "a")

    async def body():
        async with AsyncAgent("a", kernel=kernel.name) as me:
            async for _ in me.llm.stream("x"):
                break
            await asyncio.to_thread(kernel.wait_seen, "llm.cancel")

    run(body())


def test_a_message_for_a_receive_that_was_cancelled_is_not_lost(kernel):
    async def body():
        async with AsyncAgent("a", kernel=kernel.name) as me:
            task = asyncio.create_task(me.recv())
            call = await asyncio.to_thread(kernel.take, "ipc.recv")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            call.reply({"sender": 3, "data": codec.pack("kept")})
            assert await me.recv() == (3, "kept")

    run(body())


def test_a_message_that_comes_together_with_the_cancellation_is_not_lost(kernel):
    async def body():
        async with AsyncAgent("a", kernel=kernel.name) as me:
            task = asyncio.create_task(me.recv())
            call = await asyncio.to_thread(kernel.take, "ipc.recv")
            kernel.on["proc.ps"] = lambda ps: (call.reply(MAIL), ps.reply({"tasks": []}))
            before = asyncio.create_task(me.ps())
            await before  # its reply came after the message, and the receiver has not run since
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            received = [] if task.cancelled() else [task.result()]
            assert (received or [await me.recv(timeout=PATIENCE_S)]) == [(3, "kept")]

    run(body())


def test_errors_and_timeouts_are_the_same_classes(kernel, monkeypatch):
    monkeypatch.setattr("agentix.aio_client.GRACE_S", 0.01)
    kernel.on["proc.kill"] = lambda call: call.fail(Errno.ESRCH, "no task 9")

    async def body():
        async with AsyncAgent("a", kernel=kernel.name) as me:
            with pytest.raises(errors.NoSuchTask, match="no task 9"):
                await me.kill(9)
            with pytest.raises(errors.TimedOut):
                await me.wait(5, timeout=0.01)
            pending = me.llm.submit("x")
            assert await pending.cancel()

    run(body())


@pytest.mark.parametrize("size", [codec.MAX_INLINE_BYTES, codec.MAX_FRAME_BYTES, 3 << 20])
def test_messages_of_any_length_arrive_whole_and_in_order(kernel, size):
    kernel.on["llm.generate"] = lambda call: call.reply(reply_of("") | {"text": call.body["prompt"]})
    kernel.on["llm.tokenize"] = lambda call: call.reply({"tokens": [1]})

    async def body():
        async with AsyncAgent("a", kernel=kernel.name) as me:
            prompts = [str(number) * size for number in range(4)]
            replies = [me.llm.generate(prompt) for prompt in prompts]
            *replies, tokens = await asyncio.gather(*replies, me.tokenize("x"))
            assert [reply.text for reply in replies] == prompts
            assert tokens == [1]
        assert [call.method for call in kernel.seen][1:-1] == ["llm.generate"] * 4 + ["llm.tokenize"]

    run(body())


def test_a_long_message_that_gets_no_ring_fails_alone(kernel):
    kernel.on["proc.ps"] = lambda call: call.reply({"tasks": []})
    kernel.on["llm.generate"] = lambda call: call.reply(reply_of("x"))

    async def body():
        async with contextlib.AsyncExitStack() as stack:
            agents = [
                await stack.enter_async_context(AsyncAgent(str(number), kernel=kernel.name))
                for number in range(MAX_PROCESS_RINGS + 1)
            ]
            prompt = "x" * codec.MAX_FRAME_BYTES
            for me in agents[:-1]:
                assert (await me.llm.generate(prompt)).text == "x"
            refused, short, tasks = await asyncio.gather(
                agents[-1].llm.generate(prompt), agents[-1].llm.generate("x"), agents[-1].ps(),
                return_exceptions=True,
            )  # fmt: skip
            assert isinstance(refused, errors.TryAgain)
            assert (short.text, tasks) == ("x", [])

    run(body())


def test_long_messages_wait_for_room_that_comes_without_news(kernel):
    kernel.on["llm.generate"] = lambda call: None

    async def body():
        async with AsyncAgent("a", kernel=kernel.name) as me:
            requests = [me.llm.submit("x" * 3_900_000) for _ in range(5)]  # the ring holds two
            await asyncio.to_thread(kernel.wait_seen, "llm.generate", len(requests))

    run(body())


def test_the_reason_why_the_kernel_closes_ends_every_await(kernel):
    async def body():
        async with AsyncAgent("a", kernel=kernel.name) as me:
            pending = me.llm.submit("x")
            task = asyncio.create_task(me.recv())
            call = await asyncio.to_thread(kernel.take, "ipc.recv")
            call.close(Errno.EPIPE, "it does not read its answers")
            for waiting in (task, pending.result(), me.ps()):
                with pytest.raises(errors.BrokenPipe, match="it does not read its answers"):
                    await waiting

    run(body())


def test_a_connection_that_is_lost_ends_every_await_after_what_came(kernel):
    async def body():
        async with AsyncAgent("a", kernel=kernel.name) as me:
            pending = me.llm.submit("x")
            task = asyncio.create_task(me.recv())
            await asyncio.to_thread(kernel.take, "ipc.recv")
            call = kernel.take("llm.generate")
            for seq in range(100):
                call.chunk(seq, "x")
            call.reply(reply_of("x" * 100))
            await asyncio.to_thread(kernel.close)
            assert [piece async for piece in pending] == ["x"] * 100
            with pytest.raises(KernelGone, match="the kernel closed this connection"):
                await task
            with pytest.raises(KernelGone, match="the kernel closed this connection"):
                await me.ps()

    run(body())


def test_without_a_kernel_entering_raises_and_leaves_nothing(kernel):
    async def body():
        with pytest.raises(NoKernel):
            async with AsyncAgent("a", kernel="nowhere"):
                pass

    run(body())


def test_a_killed_kernel_ends_every_await(mortal):  # noqa: F811
    name, process = mortal
    fds = len(os.listdir("/proc/self/fd"))

    async def body():
        async with AsyncAgent("a", kernel=name) as me:
            pending = me.llm.submit("x")
            task = asyncio.create_task(me.recv())
            await asyncio.to_thread(process.stdout.readline)
            process.kill()
            with pytest.raises(KernelGone):
                await task
            with pytest.raises(KernelGone):
                await pending.result()
            with pytest.raises(KernelGone):
                await me.ps()

    run(body())
    assert len(os.listdir("/proc/self/fd")) == fds
