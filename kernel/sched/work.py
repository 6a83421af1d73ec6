"""How much work a request still is, as far as it can be known: what it said, or what it may take at most.

Who uses it: the policies that go by size. Pure.
"""

from __future__ import annotations

from kernel.objects import Request

PROMPT_PER_TOKEN = 2.6  # tokens of a prompt take as long as one that is generated among others


def left_tokens(request: Request, hinted_at: int) -> float:
    """Return the work that is left, in generated tokens. hinted_at: how many there were when its task gave the hint.

    A hint that turned out too small counts no more.
    """
    most = max(0, request.most_tokens - request.generated_tokens)
    hint = request.task.sched.hint_tokens
    if hint is not None and request.generated_tokens - hinted_at < hint:
        most = min(most, hint - (request.generated_tokens - hinted_at))
    return most + max(0, request.prompt_tokens - request.kv_tokens) / PROMPT_PER_TOKEN
