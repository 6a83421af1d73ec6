"""An engine for tests of the worker and the loop: does at once what its model's name asks for."""

from __future__ import annotations

import mmap
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kernel.engine.base import (
    EngineError,
    EngineInfo,
    EngineMemoryError,
    EngineOptions,
    Sampled,
    StepPlan,
    StepResult,
)
from kernel.engine.fake import FakeEngine


class ScriptedEngine:
    """Model names: "plain"; "refused"; "too-big"; "killed" (at load); "buggy", "stuck", "aborts" (at a step)."""

    def __init__(self, path: str, options: EngineOptions) -> None:
        if path == "refused":
            raise EngineError("model 'refused': not for serving")
        if path == "too-big":
            raise EngineMemoryError("2 slots of 64 tokens need 9 MiB and 1 MiB of memory are free")
        if path == "killed":
            os.kill(os.getpid(), signal.SIGILL)
        self._path = path
        self._segments: dict[int, mmap.mmap] = {}
        self.info: EngineInfo = replace(FakeEngine(path, options).info, description="scripted")
        self.text = self

    def ask(self, what: str, value: dict[str, Any], reply: Callable[[Any, str | None], None]) -> None:
        if value["text"] == "bug":
            raise ZeroDivisionError("scripted")
        reply(([0] if value["with_special"] else []) + list(value["text"].encode()), None)

    def embed(self, texts: list[list[int]]) -> list[bytes]:
        if not all(texts):
            raise EngineError("a text of 0 tokens")
        return [bytes(tokens) for tokens in texts]

    def attach(self, segment: int, fd: int, size_bytes: int) -> None:
        self._segments[segment] = mmap.mmap(fd, size_bytes)

    def detach(self, segment: int) -> None:
        self._segments.pop(segment).close()

    def step(self, plan: StepPlan) -> StepResult:
        """Write the plan's number into each segment that it saves to; echo each decode's token."""
        if self._path == "buggy":
            raise RuntimeError("scripted bug")
        if self._path == "aborts":
            print("GGML_ASSERT(scripted) failed", file=sys.stderr, flush=True)
            os.abort()
        if self._path == "stuck":
            time.sleep(3600)
        for save in plan.saves:
            self._segments[save.segment][0] = plan.number % 256
        return StepResult(
            number=plan.number,
            sampled=tuple(Sampled(row.slot, row.tokens[0], b"x", False) for row in plan.decodes),
            saved=tuple((save.segment, 1) for save in plan.saves),
            failed_restores=(),
            failed_requests=(),
            began_ns=1,
            ended_ns=2,
            switch_ns=3,
            runs=1,
            moves=0,
            sampling_ns=0,
        )
