"""Tasks without a process: whose name a call is made in, whose mail is whose, and how a task ends."""

import asyncio
import itertools

import pytest
from test_sdk_fake_kernel import PATIENCE_S, reply_of, running_kernel
from test_sdk_sched import SCHEDULE

from agentix import Agent, AsyncAgent, Task, errors
from agentix.client import Connection
from kernel.abi import codec
from kernel.abi.errors import Errno

FIRST_PID = 5_000_000
ENDED = {"name": "critic", "status": 0, "signal": None, "reason": "exit", "tail": "", "usage": {}}


@pytest.fixture
def kernel():
    pids = itertools.count(FIRST_PID)
    with running_kernel() as fake:
        fake.on |= {
            "task.create": lambda call: call.reply({"pid": next(pids)}),
            "proc.wait": lambda call: call.reply(ENDED | {"pid": call.body["pid"]}),
        }
        yield fake


@pytest.fixture
def me(kernel):
    with Agent("writer", kernel=kernel.name) as agent:
        yield agent


def seen(kernel, *methods):
    """Which calls came, and in whose name."""
    return [(call.method, call.task) for call in kernel.seen if call.method in methods]


def answer_all(kernel):
    kernel.on |= {
        "llm.generate": lambda call: call.reply(reply_of("x")),
        "mem.stat": lambda call: call.reply({"segments": [], "used_bytes": 0, "limit_bytes": 0}),
        "sched.setattr": lambda call: call.reply(SCHEDULE),
        "ipc.send": lambda call: call.reply({}),
        "ipc.recv": lambda call: call.reply({"sender": 1, "data": codec.pack("hello")}),
        "log.write": lambda call: call.reply({}),
    }


METHODS = ("llm.generate", "mem.stat", "sched.setattr", "ipc.send", "ipc.recv", "log.write")


def test_every_call_of_a_task_is_made_in_its_name_and_the_holders_are_not(kernel, me):
    answer_all(kernel)
    with me.task("critic", priority=3) as critic:
        assert kernel.wait_seen("task.create").body == {"name": "critic", "priority": 3}
        assert (critic.name, critic.pid) == ("critic", FIRST_PID)
        assert critic.llm.generate("x").text == "x"
        critic.mem.stat()
        critic.sched.set(nice=5)
        critic.send(9, "hi")
        assert critic.recv().data == "hello"
        critic.log("line")
        me.log("mine")
    assert seen(kernel, *METHODS) == [*((method, critic.pid) for method in METHODS), ("log.write", None)]


def test_a_task_ends_in_its_own_name_and_is_reaped_by_its_holder_once(kernel, me):
    with me.task() as task:
        pass
    task.close()
    ends = [("proc.exit", task.pid), ("proc.wait", None)]
    assert seen(kernel, "proc.exit", "proc.wait") == ends
    assert kernel.wait_seen("proc.wait").body["pid"] == task.pid


def test_a_task_ends_with_its_block_also_when_that_fails(kernel, me):
    with pytest.raises(ZeroDivisionError), me.task() as task:
        _ = 1 / 0
    assert seen(kernel, "proc.exit") == [("proc.exit", task.pid)]


def test_closing_a_task_that_was_killed_and_waited_for_is_no_error(kernel, me):
    task = me.task()
    kernel.on |= {
        "proc.exit": lambda call: call.fail(Errno.ESRCH, "no task"),
        "proc.wait": lambda call: call.fail(Errno.ECHILD, "no child"),
    }
    task.close()
    assert seen(kernel, "proc.wait") == [("proc.wait", None)]


def test_without_the_capability_no_task_is_made(kernel, me):
    kernel.on["task.create"] = lambda call: call.fail(Errno.EPERM, "the caller lacks task.create")
    with pytest.raises(errors.PermissionDenied, match=r"lacks task\.create"):
        me.task()
    assert seen(kernel, "proc.exit", "proc.wait") == []


def test_a_request_of_a_task_is_cancelled_in_its_name(kernel, me):
    with me.task() as first, me.task() as second:
        first.llm.stream("x").close()
        pending = second.llm.submit("x")
        assert pending.cancel()
    assert seen(kernel, "llm.cancel") == [("llm.cancel", first.pid), ("llm.cancel", second.pid)]


def test_mail_for_a_receive_that_was_given_up_goes_to_that_task_alone(kernel, me, monkeypatch):
    monkeypatch.setattr("agentix.client.GRACE_S", 0.01)
    with me.task() as first, me.task() as second:
        with pytest.raises(errors.TimedOut):
            first.recv(timeout=0.01)
        kernel.take("ipc.recv").reply({"sender": 1, "data": codec.pack("for the first")})
        kernel.on["ipc.recv"] = lambda call: call.reply({"sender": 1, "data": codec.pack(call.task)})
        assert me.recv(timeout=PATIENCE_S).data is None
        assert second.recv(timeout=PATIENCE_S).data == second.pid
        assert first.recv(timeout=PATIENCE_S).data == "for the first"
        assert first.recv(timeout=PATIENCE_S).data == first.pid


def test_an_operator_holds_tasks_on_its_bare_connection(kernel):
    answer_all(kernel)
    connection = Connection("operator", kernel.name, "bench", PATIENCE_S)
    with Task(connection, "critic") as critic:
        assert critic.llm.generate("x").text == "x"
    connection.close()
    assert seen(kernel, "llm.generate", "proc.exit") == [("llm.generate", critic.pid), ("proc.exit", critic.pid)]


def test_a_child_may_be_given_capabilities(kernel, me):
    kernel.on["proc.spawn"] = lambda call: call.reply({"pid": 5})
    me.spawn("worker.py", capabilities=["task.create"])
    assert kernel.wait_seen("proc.spawn").body["capabilities"] == ["task.create"]
    me.spawn("worker.py")
    assert "capabilities" not in kernel.seen[-1].body


def test_tasks_are_the_same_when_awaited(kernel):
    answer_all(kernel)

    async def body():
        async with AsyncAgent("writer", kernel=kernel.name) as me:
            async with me.task("critic", priority=3) as critic:
                assert (await critic.llm.generate("x")).text == "x"
                await critic.mem.stat()
                await critic.sched.set(nice=5)
                await critic.send(9, "hi")
                assert (await critic.recv()).data == "hello"
                await critic.log("line")
            assert seen(kernel, *METHODS) == [(method, critic.pid) for method in METHODS]
            assert seen(kernel, "proc.exit", "proc.wait") == [("proc.exit", critic.pid), ("proc.wait", None)]
            await critic.close()
            kernel.on["llm.generate"] = lambda call: call.chunk(0, "a")
            async with me.task() as other:
                async for _ in other.llm.stream("x"):
                    break
                assert await other.llm.submit("x").cancel()
            await asyncio.to_thread(kernel.wait_seen, "llm.cancel")
            kernel.on |= {
                "proc.exit": lambda call: call.fail(Errno.ESRCH, "no task"),
                "proc.wait": lambda call: call.fail(Errno.ECHILD, "no child"),
            }
            async with me.task():
                pass
        assert set(seen(kernel, "llm.cancel")) == {("llm.cancel", other.pid)}

    asyncio.run(asyncio.wait_for(body(), PATIENCE_S))


def test_awaited_mail_of_one_task_is_never_another_ones(kernel):
    async def body():
        async with AsyncAgent("writer", kernel=kernel.name) as me, me.task() as first, me.task() as second:
            given_up = asyncio.create_task(first.recv())
            call = await asyncio.to_thread(kernel.take, "ipc.recv")
            given_up.cancel()
            await asyncio.gather(given_up, return_exceptions=True)
            call.reply({"sender": 1, "data": codec.pack("for the first")})
            kernel.on["ipc.recv"] = lambda call: call.reply({"sender": 1, "data": codec.pack(call.task)})
            assert (await second.recv()).data == second.pid
            assert (await me.recv()).data is None
            assert (await first.recv()).data == "for the first"

    asyncio.run(asyncio.wait_for(body(), PATIENCE_S))
