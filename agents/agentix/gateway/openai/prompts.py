"""Prompts that are too long: the error with both numbers, or, when the client asks for it, less of the prompt.

Who uses it: the endpoints that generate. What must hold: nothing is left out of a prompt that the client has not
asked to leave out, and what was left out is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentix.gateway.fields import Fields


def wants_truncation(fields: Fields, by_header: bool) -> bool:
    """Whether the client asked for less of the prompt rather than an error. Raises Problem."""
    asked = fields.get("truncation")
    if asked not in (None, "auto", "disabled"):
        raise fields.wrong("truncation", "'auto' or 'disabled'")
    return asked == "auto" or (asked is None and by_header)


def without_oldest(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]] | None:
    """Return a chat without its oldest turn: the messages up to the next user's. None when only one turn is left.

    What comes before the first message that is no system's stays.
    """
    start = 0
    while start < len(messages) and messages[start].get("role") in ("system", "developer"):
        start += 1
    later = [at for at in range(start + 1, len(messages)) if messages[at].get("role") == "user"]
    return [*messages[:start], *messages[later[0] :]] if later else None


def end_of(
    prompt: str | Sequence[int], prompt_tokens: int, window_tokens: int, answer_tokens: int
) -> Any:
    """Return the end of a plain prompt that should leave room for an answer; of a text, by its mean token."""
    room = max(1, window_tokens - min(answer_tokens, window_tokens // 2) - 1)
    keep = min(len(prompt) - 1, int(len(prompt) * room / prompt_tokens))
    return prompt[len(prompt) - max(1, keep) :]
