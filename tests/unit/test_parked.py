"""A segment in the core: written the first time, mapped after it, and nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from kernel.engine import snapshot
from kernel.engine.parked import ParkedMemory
from shm.segment import Segment

SIZE = 1 << 20
OURS = b"0123456789abcdef"


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create("test", SIZE)
    yield made
    made.close()


def sealed(payload_bytes: int, seed: int = 1) -> np.ndarray:
    memory = np.random.default_rng(seed).integers(0, 256, SIZE, np.uint8)
    return memory[: snapshot.seal(memory, OURS, 7, 99, payload_bytes)]


def test_what_was_written_first_is_read_and_written_over_through_a_mapping(segment):
    parked = ParkedMemory(segment.fd, SIZE)
    assert parked.is_fresh
    first = sealed(500_000)
    parked.write(first)
    assert not parked.is_fresh
    assert snapshot.unseal(parked.array, OURS, 7, 99).tobytes() == first[snapshot.HEADER_BYTES :].tobytes()
    second = sealed(900_000, seed=2)
    parked.array[: len(second)] = second
    assert segment.read(0, len(second)) == second.tobytes()
    parked.close()


def test_memory_that_was_only_mapped_is_fresh_no_more(segment):
    parked = ParkedMemory(segment.fd, SIZE)
    with pytest.raises(snapshot.SnapshotError, match="magic"):
        snapshot.unseal(parked.array, OURS, 7, 99)
    assert not parked.is_fresh
    parked.close()


@pytest.mark.parametrize("most", [1, 4096, 100_000])
def test_a_write_that_takes_little_at_a_time_is_gone_on_with_and_the_header_is_last(segment, monkeypatch, most):
    calls = []
    real = os.pwrite

    def little(fd: int, data: memoryview, at: int) -> int:
        calls.append(at)
        return real(fd, bytes(data[:most]), at) if at else real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", little)
    parked = ParkedMemory(segment.fd, SIZE)
    content = sealed(3000 if most == 1 else 300_000)
    parked.write(content)
    assert segment.read(0, len(content)) == content.tobytes()
    assert calls[0] == snapshot.HEADER_BYTES
    assert calls.index(0) == len(calls) - 1
    parked.close()


@pytest.mark.parametrize("how", ["fresh", "written", "mapped"])
def test_nothing_stays_open(segment, how):
    before = len(os.listdir("/proc/self/fd"))
    parked = ParkedMemory(segment.fd, SIZE)
    if how == "written":
        parked.write(sealed(1000))
    elif how == "mapped":
        assert parked.array[0] == 0
    assert len(os.listdir("/proc/self/fd")) == before + 1
    parked.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert segment.read(0, 1) is not None, "the caller's descriptor is the caller's"
