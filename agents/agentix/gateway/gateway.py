"""The gateway: an agent, its callers' tasks, and what every API's endpoints need of them.

Who uses it: server.py makes one; endpoints are given it. What must hold: a request's work is begun only by
`begin`, so that admission, the caller's task and the deadline are the same for every API.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from agentix import calls
from agentix.aio import AsyncAgent
from agentix.calls import Call, Reply
from agentix.errors import AgentixError
from agentix.gateway.answers import KEEP_ALIVE_S, Items
from agentix.gateway.callers import Caller, identify
from agentix.gateway.conversations import Chain
from agentix.gateway.keys import KeyRing
from agentix.gateway.metrics import Metrics
from agentix.gateway.pieces import Pieces
from agentix.gateway.problems import Problem
from agentix.gateway.tasks import TaskTable
from agentix.gateway.work import Work

MODELS_S = 1.0  # how long what llm.models answered is believed
CALL_S = 10.0  # for what the kernel answers at once
MAX_PIECES = 2048  # of one call, as the kernel has it
MAX_IN_FLIGHT = 2048  # requests of all callers; beyond it 429


class Gateway:
    """Made inside a running event loop, with an agent that has said hello. policy: what make_group returned."""

    def __init__(
        self, agent: AsyncAgent, ring: KeyRing, policy: str, keep_alive_s: float = KEEP_ALIVE_S
    ) -> None:
        self.agent = agent
        self.policy = policy or self.connection.hello["policy"]
        self.ring = ring
        self.keep_alive_s = keep_alive_s
        self.tasks = TaskTable(agent)
        self.metrics = Metrics()
        self.began_s = time.time()
        self.secret = secrets.token_urlsafe(32)  # with which keys are made
        self.is_closing = False
        self._models: list[dict[str, Any]] = []
        self._models_s = float("-inf")

    @property
    def connection(self) -> Any:
        return self.agent.llm._connection

    def identify(self, headers: Mapping[str, str]) -> Caller:
        """Return who calls. Raises Problem."""
        return identify(headers, self.ring, self.policy)

    async def models(self) -> list[dict[str, Any]]:
        """What llm.models answers, at most MODELS_S old. Raises AgentixError."""
        now_s = time.monotonic()
        if now_s - self._models_s > MODELS_S:
            self._models = await self.agent.llm.models(timeout=CALL_S)
            self._models_s = now_s
        return self._models

    async def model(self, name: str, *, embedding: bool = False) -> dict[str, Any]:
        """Return the row of llm.models that a client means; "" is the first that fits. Raises Problem."""
        models = await self.models()
        wanted = self.ring.models.get(name, name)
        kind = "embeddings" if embedding else "text"
        fitting = [model for model in models if model["is_embedding"] == embedding]
        for model in fitting:
            if wanted in ("", model["name"]):
                return model
        known = ", ".join(model["name"] for model in fitting) or "none"
        text = f"model {name[:80]!r} is not one of those that make {kind}: {known}"
        raise Problem(404, "model_not_found", text, param="model", may_retry=False)

    async def begin(
        self, caller: Caller, chain: Chain, made: Sequence[Call], timeout_s: float | None = None
    ) -> Work:
        """Send a caller's calls in its task's name. Raises Problem, AgentixError.

        chain: the conversation's, of conversations.py. timeout_s: the caller's deadline if left out.
        """
        if self.tasks.in_flight + len(made) > MAX_IN_FLIGHT:
            text = f"{self.tasks.in_flight} requests are in flight, and {MAX_IN_FLIGHT} are allowed"
            raise Problem(429, "rate_limit_exceeded", text, retry_after_s=2.0)
        seat = await self.tasks.take(caller, chain)
        return Work(self.connection, self.tasks, seat, made, timeout_s or caller.deadline_s)

    async def call(self, caller: Caller, chain: Chain, make: Callable[[Any], Any]) -> Any:
        """Await make(task) in the name of the caller's task, such as `lambda task: task.llm.embed(texts)`."""
        seat = await self.tasks.take(caller, chain)
        try:
            return await make(seat.task)
        finally:
            self.tasks.give_back(seat)

    async def learn_pieces(self, pieces: Pieces, model: str, items: Items) -> None:
        """Ask for the texts of tokens that these chunks and replies tell the logprobs of. Raises AgentixError."""
        rows = []
        for _, item in items:
            rows += (item.logprobs if isinstance(item, Reply) else item.get("logprobs")) or ()
        missing = sorted(pieces.missing(rows))
        for start in range(0, len(missing), MAX_PIECES):
            tokens = missing[start : start + MAX_PIECES]
            answer = await self.connection.call(calls.pieces(tokens, model), CALL_S)
            for token, piece in zip(tokens, answer, strict=True):
                pieces.put(token, piece)

    async def count_tokens(self, inputs: Sequence[Any], model: str) -> int:
        """How many tokens texts, or lists of tokens, are. Raises AgentixError."""
        total = 0
        for one in inputs:
            total += (
                len(await self.agent.tokenize(one, model=model, timeout=CALL_S))
                if isinstance(one, str)
                else len(one)
            )
        return total

    def check_open(self) -> None:
        """Raises Problem once the gateway is about to end."""
        if self.is_closing:
            raise Problem(503, "shutting_down", "the gateway is about to end", retry_after_s=2.0)

    async def health(self) -> dict[str, Any]:
        """Whether a model is served; the states of all."""
        try:
            models = await self.models()
        except AgentixError as error:
            return {"status": "unavailable", "reason": str(error)}
        states = {model["name"]: model["state"] for model in models}
        # A model that was unloaded for want of requests is loaded again by the next one.
        is_served = any(state in ("ready", "unloaded", "stopping") for state in states.values())
        return {
            "status": "ok" if is_served and not self.is_closing else "unavailable",
            "models": states,
        }

    async def tell_metrics(self) -> bytes:
        """The gateway's counters and the kernel's. Raises nothing: without a kernel its part is left out."""
        self.metrics.in_flight.set(self.tasks.in_flight)
        self.metrics.tasks.set(len(self.tasks))
        with suppress(AgentixError):
            self.metrics.of_kernel(await self.connection.call(calls.plain("sys.stat"), CALL_S))
        return self.metrics.text()
