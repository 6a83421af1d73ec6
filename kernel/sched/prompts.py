"""What a core's text side is asked for a prompt's tokens, and what its answer becomes.

Who calls it: requests.py. What must hold: a turn of a session begins with the session's own tokens wherever its text
does; nothing here changes a session.
"""

from __future__ import annotations

from typing import Any

from kernel.abi.calls import LlmGenerate
from kernel.abi.errors import Errno, KernelError
from kernel.context.sessions import Session
from kernel.engine.base import EngineInfo
from kernel.engine.chatformat import needs_special
from kernel.objects import Request


def question(options: LlmGenerate, tools: list[Any] | None, session: Session | None) -> tuple[str, dict[str, Any]]:
    """Return what to ask, and with which value: see effects.AskCore. A session's turn has begun."""
    if options.messages is None:
        value: dict[str, Any] = {"text": options.prompt, "with_special": True}
        if session is not None and session.tokens:
            value["goes_on"] = True
        return "tokenize", value
    value = {"messages": options.messages, "tools": tools, "thinking": options.thinking}
    if session is not None:
        value |= {"messages": session.said, "known": session.tokens}
    return "chat", value


def tokens_of(request: Request, info: EngineInfo, answer: Any) -> list[int]:
    """Return the prompt's tokens out of an answer; keep what the caller must know of a chat's layout."""
    if not isinstance(answer, dict):
        return given_tokens(request.session, list(answer))
    request.chat = {"chat_format": info.chat_format, "opens_reasoning": answer["opens_reasoning"]}
    request.with_special |= needs_special(info.chat_format)
    return list(answer["tokens"])


def given_tokens(session: Session | None, tokens: list[int]) -> list[int]:
    """Return what a request is fed for tokens that its caller gave, or a text of its."""
    return tokens if session is None else session.tokens + tokens


def check_window(info: EngineInfo, prompt_tokens: int) -> None:
    """Raise EFBIG for a prompt that leaves no room for a token."""
    if prompt_tokens + 1 > info.window_tokens:
        text = (
            f"llm.generate: the prompt is {prompt_tokens} tokens, the window is {info.window_tokens}"
            " and one must be left to generate"
        )
        raise KernelError(Errno.EFBIG, text)
