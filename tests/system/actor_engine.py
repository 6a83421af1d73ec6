"""An engine that plays a model that follows orders: what it says is a function of the conversation.

Who uses it: test_frameworks.py, inside a real LLM core process. An order is a text `CALL tool {arguments}` in the last
message: the actor calls that tool, and says `DONE result` once it sees the tool's result. Tokens are bytes. What must
hold: the next token depends on the tokens so far alone, so that preemption changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kernel.engine import fake
from kernel.engine.base import EngineOptions, Sampling, StepPlan, StepResult
from kernel.engine.fake import END, FakeEngine

PROMPT_ENDS = 0  # the token between a conversation and its answer
ORDER, FINAL = "CALL ", "final_answer"


class ActorEngine(FakeEngine):
    def __init__(self, path: str, options: EngineOptions) -> None:
        super().__init__(path, options)
        fake.next_token = act  # of this process, which serves nothing else

    def step(self, plan: StepPlan) -> StepResult:
        """A forced call is what the actor says by itself: it needs no constraint."""
        return super().step(
            replace(
                plan, openings=tuple(replace(opening, constraint=None) for opening in plan.openings)
            )
        )

    def piece(self, token: int) -> bytes:
        return b"" if token >= 256 else bytes([token])

    def _render(self, messages: list[Mapping[str, Any]], tools: Any) -> str:
        return json.dumps({"messages": messages, "tools": tools}) + "\0"


def act(tokens: list[int], sampling: Sampling) -> int:
    at = len(tokens) - 1 - tokens[::-1].index(PROMPT_ENDS)
    said = tokens[at + 1 :]
    answer = answer_to(bytes(token for token in tokens[:at] if token < 256))
    return answer[len(said)] if len(said) < len(answer) else END


def answer_to(prompt: bytes) -> bytes:
    asked = json.loads(prompt)
    names = {tool["function"]["name"] for tool in asked["tools"] or ()}
    last = asked["messages"][-1]
    text = last.get("content") or ""
    if last["role"] == "tool" or "Observation:" in text:
        result = text.rpartition("Observation:")[2].strip().splitlines()[-1] if text else ""
        said = f"DONE {result}"
        return call(FINAL, {"answer": said}) if FINAL in names else said.encode()
    order, _ = find_order(text)
    if order is not None and order[0] in names:
        return call(*order)
    return call(FINAL, {"answer": "DONE"}) if FINAL in names else b"DONE"


def find_order(text: str) -> tuple[tuple[str, dict[str, Any]] | None, str]:
    """Return the order in a text, and what comes after it."""
    _, found, rest = text.partition(ORDER)
    name, _, rest = rest.partition(" ")
    if not found:
        return None, ""
    arguments, end = json.JSONDecoder().raw_decode(rest)
    return (name, arguments), rest[end:]


def call(name: str, arguments: dict[str, Any]) -> bytes:
    return (
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>".encode()
    )
