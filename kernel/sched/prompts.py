"""What a core's text side is asked for a prompt's tokens, and what its answer becomes.

Who calls it: requests.py. What must hold: a turn of a session begins with the session's own tokens wherever its text
does; what it does without is told in its request, and of a session only what its turn under way says is changed here.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from kernel.abi.calls import LlmGenerate
from kernel.abi.errors import Errno, KernelError
from kernel.context.sessions import Session
from kernel.cores import Core
from kernel.engine.base import EngineInfo
from kernel.engine.chatformat import needs_special
from kernel.objects import Request
from kernel.sched.windows import fewest, room_for, shifted, turns_of

Question = tuple[str, dict[str, Any]]  # what to ask, and with which value: see effects.AskCore


def asking(
    options: LlmGenerate, tools: list[Any] | None, request: Request, core: Core
) -> Generator[Question, Any, list[int]]:
    """Yield questions and be sent the answers; return the prompt's tokens. A session's turn has begun."""
    session = request.session
    what, value = _question(options, tools, session)
    answer = yield what, value
    info = core.info
    assert info is not None
    tokens = _tokens_of(request, answer, info)
    limit = info.window_tokens - room_for(request.most_tokens, info.window_tokens)
    if session is None or session.window != "drop" or len(tokens) <= limit:
        return tokens
    return (yield from _dropping(request, value, tokens, limit, info))


def _dropping(
    request: Request, value: dict[str, Any], tokens: list[int], limit: int, info: EngineInfo
) -> Generator[Question, Any, list[int]]:
    """The same without so many of a session's oldest turns that what is left fits, if there is such a number."""
    session = request.session
    assert session is not None
    assert session.said is not None
    opening, starts = turns_of(session.said, len(session.messages or ()) + 1 if session.turns else 0)
    if not starts:
        return tokens
    search = fewest(len(starts), limit)
    dropped, left = next(search), None
    while left is None:
        said = session.said[:opening] + session.said[starts[dropped - 1] :]
        answer = yield "chat", value | {"messages": said, "known": []}
        try:
            dropped = search.send(_tokens_of(request, answer, info))
        except StopIteration as found:
            dropped, left = found.value
    session.said = session.said[:opening] + session.said[starts[dropped - 1] :]
    request.dropped_turns, request.dropped_tokens = dropped, max(0, len(tokens) - len(left))
    return left


def _question(options: LlmGenerate, tools: list[Any] | None, session: Session | None) -> Question:
    if options.messages is None:
        value: dict[str, Any] = {"text": options.prompt, "with_special": True}
        if session is not None and session.tokens:
            value["goes_on"] = True
        return "tokenize", value
    value = {"messages": options.messages, "tools": tools, "thinking": options.thinking}
    if session is not None:
        value |= {"messages": session.said, "known": session.tokens}
    return "chat", value


def _tokens_of(request: Request, answer: Any, info: EngineInfo) -> list[int]:
    """Return the prompt's tokens out of an answer; keep what the caller must know of a chat's layout."""
    if not isinstance(answer, dict):
        return prompt_of(request, list(answer), info)
    request.chat = {"chat_format": info.chat_format, "opens_reasoning": answer["opens_reasoning"]}
    request.with_special |= needs_special(info.chat_format)
    return list(answer["tokens"])


def prompt_of(request: Request, tokens: list[int], info: EngineInfo) -> list[int]:
    """Return what a request is fed for tokens that its caller gave, or a text of its."""
    session, window = request.session, info.window_tokens
    if session is None:
        return tokens
    if session.window != "shift":
        return session.tokens + tokens
    prompt, request.dropped_tokens = shifted(session, tokens, room_for(request.most_tokens, window), window)
    return prompt


def check_window(info: EngineInfo, prompt_tokens: int, session: Session | None) -> None:
    """Raise EFBIG for a prompt that leaves no room for a token, after all that it can do without is gone."""
    if prompt_tokens + 1 > info.window_tokens:
        whose = f"session {session.number}: " if session else ""
        what = "the prompt" if session is None or session.window == "refuse" else "what must stay of the prompt"
        text = f"{whose}{what} is {prompt_tokens} tokens, the window is {info.window_tokens}"
        raise KernelError(Errno.EFBIG, f"llm.generate: {text} and one must be left to generate")


def least_tokens(session: Session | None, tokens: list[int]) -> int:
    """Return what must stay of a prompt that its caller gave in tokens."""
    if session is None:
        return len(tokens)
    own = len(session.tokens)
    return len(tokens) + (min(own, session.keep_tokens) if session.window == "shift" else own)
