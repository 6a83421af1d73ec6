"""AsyncAgent: the same names as Agent, and the same behaviour with async and await."""

import asyncio
import inspect
import os

import pytest
from test_sdk_agent import mortal  # noqa: F401
from test_sdk_fake_kernel import PATIENCE_S, reply_of, running_kernel

from agentix import AsyncAgent, KernelGone, NoKernel, agent, aio, errors
from kernel.abi import codec
from kernel.abi.errors import Errno

MAIL = {"sender": 3, "data": codec.pack("kept")}
TWINS = [
    (agent.Agent, aio.AsyncAgent),
    (agent.Llm, aio.AsyncLlm),
    (agent.Mem, aio.AsyncMem),
    (agent.Sched, aio.AsyncSched),
    (agent.Child, aio.AsyncChild),
    (agent.Pending, aio.AsyncPending),
    (agent.Stream, aio.AsyncStream),
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
    monkeypatch.setattr("agentix.aio.GRACE_S", 0.01)
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
