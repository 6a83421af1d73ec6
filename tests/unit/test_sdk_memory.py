"""Segments mapped into an agent, and arrays in them: over the real side channel, blocking and awaited."""

import asyncio
import gc
import os

import numpy as np
import pytest
from test_sdk_fake_kernel import PATIENCE_S, running_kernel

from agentix import Agent, AsyncAgent, errors
from kernel.abi.errors import Errno
from kernel.limits import CONNECT_BURST
from shm.segment import Segment


class Owner:
    """The kernel's side of mem.*: segments by name, as the memory manager keeps them."""

    def __init__(self, kernel) -> None:
        self.kernel, self.rows, self.is_generous = kernel, {}, True
        kernel.on |= {"mem.create": self.create, "mem.stat": self.stat, "mem.unlink": self.unlink}

    def create(self, call):
        number = len(self.rows) + 1
        self.rows[call.body["name"]] = row = call.body | {"segment": number}
        if self.is_generous:
            self.kernel.segments[number] = Segment.create("test", row["size_bytes"])
        call.reply(row)

    def stat(self, call):
        call.reply({"segments": list(self.rows.values()), "used_bytes": 0, "limit_bytes": 0})

    def unlink(self, call):
        row = self.rows.pop(call.body["name"], None)
        if row is None:
            call.fail(Errno.ENOENT, "no such segment")
            return
        if segment := self.kernel.segments.pop(row["segment"], None):
            segment.close()
        call.reply({})

    def methods(self):
        return [call.method for call in self.kernel.seen if call.method.startswith("mem.")]


@pytest.fixture
def kernel():
    with running_kernel() as fake:
        yield fake


@pytest.fixture
def owner(kernel):
    return Owner(kernel)


@pytest.fixture
def me(kernel, owner):
    with Agent("writer", kernel=kernel.name) as agent:
        yield agent


def fds():
    return len(os.listdir("/proc/self/fd"))


def test_a_mapped_segment_is_the_kernels_memory(kernel, me):
    segment = me.mem.create("notes", 10_000)
    with me.mem.map("notes") as memory:
        assert len(memory) == 10_000
        memory[9_990:] = b"0123456789"
        assert kernel.segments[segment.segment].read(9_990, 10) == b"0123456789"
        kernel.segments[segment.segment].write(0, b"hello")
        assert memory[:5] == b"hello"


def test_a_read_only_mapping_shows_the_memory_and_cannot_change_it(me):
    me.mem.create("notes", 4096)
    with me.mem.map("notes") as written, me.mem.map("notes", writable=False) as memory:
        written[:2] = b"ok"
        assert memory[:2] == b"ok"
        with pytest.raises(TypeError):
            memory[:2] = b"no"
        with memoryview(memory) as view:
            assert view.readonly


def test_more_segments_can_be_mapped_than_a_process_may_connect_at_once(me):
    me.mem.create("notes", 4096)
    before = fds()
    for _ in range(2 * CONNECT_BURST):
        me.mem.map("notes").close()
    assert fds() == before + 2  # the two ends of the side channel


def test_an_unknown_segment_is_named(me):
    with pytest.raises(errors.NoSuchSegment, match="no segment 'nothing'"):
        me.mem.map("nothing")
    with pytest.raises(errors.NoSuchSegment, match="no segment 'nothing'"):
        me.mem.array("nothing")


@pytest.mark.parametrize("dtype", ["float32", "<f8", "int16", "bool", np.uint64])
@pytest.mark.parametrize("shape", [(3, 4), (), (0, 5), 7])
def test_an_array_is_found_again_with_its_type_and_shape(me, shape, dtype):
    first = me.mem.array("weights", shape, dtype)
    assert first.dtype == np.dtype(dtype)
    assert first.shape == (shape if isinstance(shape, tuple) else (shape,))
    assert not first.any()
    first[...] = 1
    second = me.mem.array("weights")
    assert (second.dtype, second.shape) == (first.dtype, first.shape)
    second[...] = 0
    assert not first.any()


def test_a_read_only_array_cannot_be_changed_nor_made_writable(me):
    for array in (me.mem.array("new", 5, writable=False), me.mem.array("new", writable=False)):
        assert not array.any()
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def test_an_array_and_its_views_keep_their_memory_whatever_else_goes(kernel):
    Owner(kernel)
    agent = Agent("writer", kernel=kernel.name)
    array = agent.mem.array("weights", (1000, 1000))
    array[:] = 3
    view = array[10:20, ::7]
    agent.mem.unlink("weights")
    agent.close()
    kernel.wait_gone(agent)
    del array, agent
    gc.collect()
    assert view.sum() == 3 * view.size


def test_memory_that_is_no_array_is_named(me):
    me.mem.create("notes", 4096)
    with pytest.raises(errors.InvalidValue, match="segment 'notes'"):
        me.mem.array("notes")


@pytest.mark.parametrize(("shape", "dtype"), [((2,), "object"), ((-1,), "f4"), (3, "no type"), ((1,) * 9, "f4")])
def test_an_array_that_cannot_be_shared_is_refused_before_memory_is_taken(me, owner, shape, dtype):
    with pytest.raises(errors.InvalidValue, match=r"mem\.array: "):
        me.mem.array("weights", shape, dtype)
    assert owner.methods() == []


def test_a_segment_is_not_left_behind_by_an_array_that_could_not_be_placed(me, owner):
    owner.is_generous = False
    with pytest.raises(errors.NoSuchSegment, match="segment 'weights'"):
        me.mem.array("weights", 3)
    assert owner.methods() == ["mem.create", "mem.unlink"]


def test_a_segment_is_made_once_however_it_is_asked_for(me):
    me.mem.array("weights", 3)
    me.mem.unlink("weights")
    me.mem.array("weights", 4)
    assert me.mem.array("weights").shape == (4,)


def test_memory_is_the_same_when_awaited(kernel, owner):
    async def body():
        async with AsyncAgent("writer", kernel=kernel.name) as me:
            segment = await me.mem.create("notes", 4096)
            with await me.mem.map("notes") as memory:
                memory[:5] = b"hello"
            assert kernel.segments[segment.segment].read(0, 5) == b"hello"
            array = await me.mem.array("weights", (2, 3), "f8")
            array[:] = 2
            shown = await me.mem.array("weights", writable=False)
            assert (shown.sum(), shown.flags.writeable) == (12, False)
            assert not (await me.mem.array("new", 5, writable=False)).flags.writeable
            with pytest.raises(errors.InvalidValue, match="segment 'notes'"):
                await me.mem.array("notes")
            owner.is_generous = False
            with pytest.raises(errors.NoSuchSegment, match="segment 'late'"):
                await me.mem.array("late", 3)
            assert owner.methods()[-1] == "mem.unlink"

    asyncio.run(asyncio.wait_for(body(), PATIENCE_S))


def test_a_mapping_that_nobody_awaits_any_more_leaves_nothing(kernel, owner):
    async def body():
        async with AsyncAgent("writer", kernel=kernel.name) as me:
            await me.mem.create("notes", 4096)
            for turns in range(20):  # whichever step it is at when it is cancelled
                task = asyncio.create_task(me.mem.map("notes"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            with await me.mem.map("notes") as memory:
                assert memory[:1] == b"\0"

    asyncio.run(asyncio.wait_for(body(), PATIENCE_S))
