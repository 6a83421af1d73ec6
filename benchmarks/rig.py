"""The real engine and the real kernel's core in one process, without sockets: steps as fast as they go.

Who calls it: context_switch.py and prove.py. What must hold: everything that decides or computes is the
product's own (kernel.core.Kernel, LlamaEngine, memfd segments); only the loop and the agents are played.
Effects that concern processes are ignored: nobody is launched here.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from kernel.abi.codec import PROTOCOL_VERSION, decode_answer, encode_call
from kernel.config import Config, ModelConfig
from kernel.core import Kernel
from kernel.effects import AskCore, DropSegment, Effect, MakeSegment, RunStep, Send
from kernel.engine.base import EngineOptions, StepPlan
from kernel.engine.llama import LlamaEngine
from kernel.events import CoreAnswer, CoreLost, CoreReady, Event, Message, StepDone
from shm.segment import Segment

BIRTH = 1  # of every process that the rig plays
ANSWER_S = 60.0


def make_engine(model: str, *, slots: int, window_tokens: int, threads: int = 2) -> LlamaEngine:
    """Return an engine with one bank."""
    options = EngineOptions(
        slots=slots, slot_tokens=window_tokens, window_tokens=window_tokens, threads=threads
    )
    return LlamaEngine(model, options)


class Rig:
    """A kernel over an engine that may have served other kernels before."""

    def __init__(self, engine: LlamaEngine, **config: Any) -> None:
        self.engine = engine
        info = engine.info
        given = {"slots": info.banks[0].slots, "slot_tokens": info.window_tokens, "snapshot_bytes": 1 << 30}
        self.kernel = Kernel(Config(models=(ModelConfig(info.model, "rig"),), **(given | config)), pid=1)
        self.segments: dict[int, Segment] = {}
        self.chunks: dict[int, list[dict[str, Any]]] = {}
        self.ends: dict[int, tuple[str, dict[str, Any]]] = {}
        self.pending: StepPlan | None = None
        self.deaths = 0
        self.before_step: Callable[[Rig, StepPlan], None] | None = None  # looks at a plan, or spoils it
        self._asks: list[AskCore] = []
        self._calls = 0
        self._requests = 0
        self._carry_out(self.kernel.start(time.monotonic_ns()))
        self._empty_slots()
        self._event(CoreReady(time.monotonic_ns(), 2, self._info()))

    def close(self) -> None:
        self._empty_slots()
        for number, segment in self.segments.items():
            self.engine.detach(number)
            segment.close()
        self.segments.clear()

    def agent(self, number: int) -> int:
        """Return a connection that has said hello."""
        peer = number
        self.call(peer, 100 + number, "sys.hello", version=PROTOCOL_VERSION, name="agent")
        self.ends.pop(peer)
        return peer

    def call(
        self, peer: int, sender: int, method: str, /, *, is_operator: bool = False, **body: Any
    ) -> int:
        """Make a call as process `sender`; return its id."""
        self._calls += 1
        self._requests += method == "llm.generate"
        frame = encode_call(self._calls, method, body)
        self._event(Message(time.monotonic_ns(), peer, sender, BIRTH, is_operator, 1, frame))
        return self._calls

    def step(self) -> bool:
        """Let the core finish a step; False when it has none."""
        asks, self._asks = self._asks, []
        for ask in asks:
            self._event(CoreAnswer(time.monotonic_ns(), ask.ticket, *self._answer(ask)))
        if self.pending is None:
            return False
        plan, self.pending = self.pending, None
        if self.before_step is not None:
            self.before_step(self, plan)
        self._event(StepDone(time.monotonic_ns(), self.engine.step(plan)))
        return True

    def core_dies(self, after_its_work: bool = False) -> None:
        """The core dies in a step, before or after it did the work; another comes, with empty slots."""
        if after_its_work and self.pending is not None:
            self.engine.step(self.pending)  # its saves are in the segments, its result is lost
        self.pending = None
        self._asks.clear()
        self.deaths += 1
        self._event(CoreLost(time.monotonic_ns(), "signal SIGKILL", True, False))
        self._empty_slots()
        self._event(CoreReady(time.monotonic_ns(), 2 + self.deaths, self._info()))

    def segment_array(self, number: int) -> np.ndarray:
        """Return a segment's bytes; the mapping lives as long as the array."""
        return np.frombuffer(self.segments[number].map(), np.uint8)

    # -- inside -------------------------------------------------------------------------------

    def _info(self) -> Any:
        first, *others = self.engine.info.banks
        if others:  # slots are numbered through all banks: these keep theirs
            return self.engine.info
        return replace(self.engine.info, banks=(replace(first, slots=self.kernel.config.slots),))

    def _empty_slots(self) -> None:
        closes = tuple(range(1, self._requests + 1))
        self.engine.step(StepPlan(0, closes=closes, clears=tuple(range(self.engine.info.slots))))

    def _answer(self, ask: AskCore) -> tuple[Any, str | None]:
        """Return what the engine's text side says: an answer, or an error."""
        said: queue.SimpleQueue[tuple[Any, str | None]] = queue.SimpleQueue()
        self.engine.text.ask(ask.what, ask.value, lambda answer, error: said.put((answer, error)))
        return said.get(timeout=ANSWER_S)

    def _event(self, event: Event) -> None:
        self._carry_out(self.kernel.handle(event))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._sent(effect)
            elif isinstance(effect, RunStep):
                self.pending = effect.plan
            elif isinstance(effect, AskCore):
                self._asks.append(effect)
            elif isinstance(effect, MakeSegment):
                segment = Segment.create(f"rig-{effect.segment}", effect.size_bytes)
                self.segments[effect.segment] = segment
                self.engine.attach(effect.segment, segment.fd, segment.size_bytes)
            elif isinstance(effect, DropSegment):
                self.engine.detach(effect.segment)
                self.segments.pop(effect.segment).close()

    def _sent(self, effect: Send) -> None:
        answer = decode_answer(effect.frame)
        if answer.kind == "chunk":
            self.chunks.setdefault(effect.peer, []).append(answer.body)
        elif effect.peer in self.ends:
            raise RuntimeError(f"{effect.peer!r} was answered twice")
        else:
            self.ends[effect.peer] = (answer.kind, answer.body)
