"""How much work a request still is, as far as it can be known: what it said, or what it may take at most.

Who uses it: the policies that go by size. Pure.
"""

from __future__ import annotations

from kernel.objects import Request

PROMPT_PER_TOKEN = 2.6  # tokens of a prompt take as long as one that is generated among others


def left_tokens(request: Request) -> float:
    """Return the work that is left, in generated tokens. A hint that turned out too small counts no more."""
    most = max(0, request.most_tokens - request.generated_tokens)
    hint = request.task.sched.hint_until
    if hint is not None and hint > request.task.usage.generated_tokens:
        most = min(most, hint - request.task.usage.generated_tokens)
    return most + max(0, request.prompt_tokens - request.kv_tokens) / PROMPT_PER_TOKEN
