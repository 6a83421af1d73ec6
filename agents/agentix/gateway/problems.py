"""Why a request failed, in terms of HTTP: a status, a code and a sentence. Each API shapes it its own way.

Who uses it: everything in the gateway raises Problem; the APIs' packages turn one into their JSON. What must
hold: the sentence names the object and the value; a client that should not try again is told so.
"""

from __future__ import annotations

import re

from agentix.errors import (
    AgentixError,
    BadMessage,
    BrokenPipe,
    Cancelled,
    InvalidValue,
    KernelGone,
    MessageTooLong,
    ModelFailed,
    NoSuchModel,
    NoSuchTask,
    OutOfMemory,
    PermissionDenied,
    PromptTooLong,
    QuotaUsed,
    ShuttingDown,
    TimedOut,
    TryAgain,
)

_TOO_LONG = re.compile(r"prompt is (\d+) tokens, the window is (\d+)")
RETRY_AFTER_S = 1.0  # when nothing better is known


class Problem(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        code: str,
        text: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        may_retry: bool = True,
        facts: dict[str, int] | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status  # of HTTP
        self.code = code  # such as "model_not_found"
        self.text = text
        self.param = param  # the field that is wrong, if one is
        self.retry_after_s = retry_after_s
        self.may_retry = may_retry  # False: the same request cannot do better
        self.facts = facts or {}  # numbers that the sentence names, for machines


def invalid(text: str, param: str | None = None) -> Problem:
    """A request that has a wrong value."""
    return Problem(400, "invalid_value", text, param=param)


_STATUS: tuple[tuple[type[AgentixError], int, str], ...] = (
    (PromptTooLong, 400, "context_length_exceeded"),
    (NoSuchModel, 404, "model_not_found"),
    (InvalidValue, 400, "invalid_value"),
    (MessageTooLong, 413, "request_too_large"),
    (BadMessage, 400, "invalid_value"),
    (PermissionDenied, 403, "permission_denied"),
    (TryAgain, 429, "rate_limit_exceeded"),
    (QuotaUsed, 429, "insufficient_quota"),
    (OutOfMemory, 503, "out_of_memory"),
    (TimedOut, 504, "deadline_exceeded"),
    (Cancelled, 409, "cancelled"),
    (NoSuchTask, 409, "task_ended"),
    (BrokenPipe, 409, "task_ended"),
    (ModelFailed, 500, "model_failed"),
    (ShuttingDown, 503, "shutting_down"),
    (KernelGone, 503, "kernel_gone"),
)
_FINAL = (
    "context_length_exceeded",
    "insufficient_quota",
    "model_failed",
    "deadline_exceeded",
    "cancelled",
    "task_ended",
)


def problem_of(error: AgentixError) -> Problem:
    """What a failed call is to a client of HTTP. The text is the kernel's, without the call's name."""
    method, _, rest = error.text.partition(": ")
    text = rest if rest and "." in method and " " not in method else error.text
    facts = facts_of(error)
    if facts:
        text = f"This model's maximum context length is {facts['window_tokens']} tokens, and {text}"
    status, code = next(
        ((status, code) for kind, status, code in _STATUS if isinstance(error, kind)),
        (500, "kernel_error"),
    )
    may_retry = code not in _FINAL and status not in (400, 403, 404, 413)
    retry_after_s = RETRY_AFTER_S if may_retry and status in (429, 503) else None
    if isinstance(error, TryAgain) and error.retry_after is not None:
        retry_after_s = error.retry_after
    return Problem(
        status,
        code,
        text,
        retry_after_s=retry_after_s,
        may_retry=may_retry,
        facts=facts,
    )


def facts_of(error: AgentixError) -> dict[str, int]:
    """The two numbers of a prompt that is too long, {"prompt_tokens", "window_tokens"}; empty for other errors."""
    found = _TOO_LONG.search(error.text) if isinstance(error, PromptTooLong) else None
    return {"prompt_tokens": int(found[1]), "window_tokens": int(found[2])} if found else {}
