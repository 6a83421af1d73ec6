"""The figures of a demonstration: one line for each agent, and totals. `agentix demo --report` writes them.

Who uses it: demo.py. What must hold: the JSON has exactly the names below.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from agentix.calls import Exit
from agentix.cli.table import size, span, table
from agentix.cli.tasks import signal_name

REPORT_PREFIX = "agentix-report "  # of an agent's last line; the rest is JSON


class AgentFigures(NamedTuple):
    pid: int
    name: str
    turns: int
    prompt_tokens: int
    generated_tokens: int
    ttft_s: float  # mean over its requests
    wait_s: float  # its requests spent off the model
    switches: int
    exit: int | str  # status, or the signal's name
    text_sha256: str | None  # of all that it generated; None if it did not come to say

    @property
    def has_failed(self) -> bool:
        return self.exit != 0


class Totals(NamedTuple):
    generated_tokens: int
    tokens_per_s: float
    switches: int
    switch_bytes: int
    switch_s: float
    jain: float
    wall_s: float
    failed: int


def own_report(tail: str) -> dict[str, Any]:
    """What an agent said of itself in its last line; {} when it did not."""
    for line in reversed(tail.splitlines()):
        if line.startswith(REPORT_PREFIX):
            try:
                told = json.loads(line[len(REPORT_PREFIX) :])
            except ValueError:
                return {}
            return told if isinstance(told, dict) else {}
    return {}


def agents_of(end: Exit) -> Iterator[AgentFigures]:
    """The figures of an ended agent, and of the children that it tells of."""
    told = own_report(end.tail)
    exit_status = end.status if end.status is not None else signal_name(end.signal or 0)
    yield _figures(end.pid, end.name, exit_status, end.usage, told)
    for child in told.get("children", ()):
        status = child["status"] if child["status"] is not None else "killed"
        yield _figures(child["pid"], child["name"], status, child["usage"], child)


def _figures(
    pid: int, name: str, exit_status: int | str, usage: dict[str, Any], told: dict[str, Any]
) -> AgentFigures:
    return AgentFigures(
        pid,
        name,
        told.get("turns", 0),
        usage.get("prompt_tokens", 0),
        usage.get("generated_tokens", 0),
        usage.get("ttft_s") or 0.0,
        usage.get("wait_s") or 0.0,
        usage.get("switches", 0),
        exit_status,
        told.get("text_sha256"),
    )


def jain(values: Sequence[float]) -> float:
    """Jain's index of fairness: 1 when all are equal, 1/n when one has everything."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def service(agent: AgentFigures, turns: int, tokens: int) -> float:
    """The tokens an agent was served (prompt and generated) of those it could ask for."""
    asked = agent.prompt_tokens + turns * tokens
    return (agent.prompt_tokens + agent.generated_tokens) / asked if asked else 0.0


def totals_of(
    agents: Sequence[AgentFigures], stat: dict[str, Any], wall_s: float, turns: int, tokens: int
) -> Totals:
    generated = sum(agent.generated_tokens for agent in agents)
    return Totals(
        generated,
        generated / wall_s if wall_s > 0 else 0.0,
        sum(agent.switches for agent in agents),
        stat.get("switch_bytes", 0),
        stat.get("switch_s", 0.0),
        jain([service(agent, turns, tokens) for agent in agents]),
        wall_s,
        sum(agent.has_failed for agent in agents),
    )


def report_json(agents: Iterable[AgentFigures], totals: Totals) -> str:
    body = {"agents": [agent._asdict() for agent in agents], "totals": totals._asdict()}
    return json.dumps(body, indent=2) + "\n"


def report_text(agents: Sequence[AgentFigures], totals: Totals) -> str:
    headings = (
        "AGENT", "PID", "TURNS", "PROMPT", "GENERATED", "TTFT", "WAITED", "SWITCHES", "EXIT", "TEXT"
    )  # fmt: skip
    rows = [
        (
            agent.name, agent.pid, agent.turns, agent.prompt_tokens, agent.generated_tokens,
            span(agent.ttft_s), span(agent.wait_s), agent.switches, agent.exit,
            (agent.text_sha256 or "")[:12],
        )
        for agent in agents
    ]  # fmt: skip
    finished = len(agents) - totals.failed
    return (
        f"{table(headings, rows)}\n\n"
        f"{finished} of {len(agents)} agents finished; {totals.generated_tokens} tokens in"
        f" {span(totals.wall_s)}, {totals.tokens_per_s:.0f} tokens/s; {totals.switches} context switches"
        f" ({size(totals.switch_bytes)} moved in {span(totals.switch_s)}); fairness {totals.jain:.3f}"
    )
