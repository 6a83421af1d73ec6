"""What the gateway counts, in the format of Prometheus.

Who uses it: the endpoints count, /metrics tells. What must hold: labels have few values: an API, a status, a
model; never a key or a conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from agentix.calls import Reply

FIRST_TOKEN_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """A registry of its own, so that tests may have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "agentix_http_requests", "Requests answered", ("api", "status"), registry=self.registry
        )
        self._prompt = Counter(
            "agentix_prompt_tokens", "Tokens of prompts", ("model",), registry=self.registry
        )
        self._cached = Counter(
            "agentix_cached_tokens",
            "Of these, taken from kept contexts",
            ("model",),
            registry=self.registry,
        )
        self._generated = Counter(
            "agentix_generated_tokens", "Tokens made", ("model",), registry=self.registry
        )
        self._first = Histogram(
            "agentix_first_token_seconds", "From arrival in the kernel to the first token", ("model",),
            buckets=FIRST_TOKEN_S, registry=self.registry,
        )  # fmt: skip
        self._kernel: dict[str, Gauge] = {}
        self.in_flight = Gauge(
            "agentix_requests_in_flight", "Requests at work or waiting", registry=self.registry
        )
        self.tasks = Gauge(
            "agentix_gateway_tasks", "Tasks that the gateway holds", registry=self.registry
        )

    def count(self, api: str, model: str, replies: Sequence[Reply], status: int) -> None:
        """A request has been answered, with these generations."""
        self._requests.labels(api, str(status)).inc()
        for reply in replies:
            self._prompt.labels(model).inc(reply.usage["prompt_tokens"])
            self._cached.labels(model).inc(reply.usage["cached_tokens"])
            self._generated.labels(model).inc(reply.usage["generated_tokens"])
            self._first.labels(model).observe(reply.timings["first_token_s"])

    def of_kernel(self, counters: Mapping[str, Any]) -> None:
        """Take what sys.stat answers: its numbers become gauges of their own names."""
        for name, value in counters.items():
            if isinstance(value, int | float):
                if name not in self._kernel:
                    self._kernel[name] = Gauge(
                        f"agentix_kernel_{name}", "See sys.stat", registry=self.registry
                    )
                self._kernel[name].set(value)

    def text(self) -> bytes:
        return generate_latest(self.registry)
