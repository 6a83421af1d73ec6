"""An engine for tests of the worker and the loop: does at once what its model's name asks for."""

from __future__ import annotations

import mmap
import os
import signal
import sys
import time

from kernel.engine.base import (
    EngineError,
    EngineInfo,
    EngineMemoryError,
    Sampled,
    StepPlan,
    StepResult,
)


class ScriptedEngine:
    """Model names: "plain"; "refused"; "too-big"; "killed" (at load); "buggy", "stuck", "aborts" (at a step)."""

    def __init__(
        self, path: str, *, slots: int, window_tokens: int, threads: int, extra_buffers: bool, **_: str
    ) -> None:
        if path == "refused":
            raise EngineError("model 'refused': not for serving")
        if path == "too-big":
            raise EngineMemoryError("2 slots of 64 tokens need 9 MiB and 1 MiB of memory are free")
        if path == "killed":
            os.kill(os.getpid(), signal.SIGILL)
        self._path = path
        self._segments: dict[int, mmap.mmap] = {}
        self.info = EngineInfo(
            path, "scripted", 256, window_tokens, slots, threads, 1, 0, extra_buffers, False, True, 0.0
        )

    def tokenize(self, text: str, with_special: bool) -> list[int]:
        if text == "bug":
            raise ZeroDivisionError("scripted")
        return ([0] if with_special else []) + list(text.encode())

    def render(self, messages: list[tuple[str, str]]) -> str:
        return "".join(f"<{role}>{content}" for role, content in messages)

    def piece(self, token: int) -> bytes:
        return bytes([token])

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
            plan.number,
            tuple(Sampled(row.slot, row.tokens[0], b"x", False) for row in plan.decodes),
            tuple((save.segment, 1) for save in plan.saves),
            (),
            1,
            2,
            3,
        )
