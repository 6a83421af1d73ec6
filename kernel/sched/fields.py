"""What the fields of llm.* calls must be beyond their types and ranges, and what a core is told of them.

Who calls it: requests.py and texts.py, before anything is changed. What must hold: whatever an agent sent, it is
refused with EINVAL naming the field and what is wrong in it, or nothing of it can harm a core.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

from kernel.abi.calls import MAX_BIAS, MAX_LOGPROB_ENTRIES, MAX_STOP_CHARS, MAX_TOKENS, LlmGenerate
from kernel.abi.codec import show
from kernel.abi.errors import Errno, KernelError
from kernel.abi.messages import check_messages
from kernel.engine.base import Constraint, Sampling

MAX_AROUND_CHARS = 256
MAX_TOOLS_VALUES = 16384  # in JSON text, whose values take up to twenty times its bytes
ANY_TOKEN = 1 << 31  # as long as the vocabulary is not known


def invalid(method: str, text: str) -> KernelError:
    return KernelError(Errno.EINVAL, f"{method}: {text}")


def check_generate(options: LlmGenerate) -> None:
    """Raise EINVAL for what contradicts itself, or is wrong whatever the model."""
    method = "llm.generate"
    given = [name for name in ("prompt", "messages", "tokens") if getattr(options, name) is not None]
    if len(given) != 1:
        raise invalid(method, f"wanted one of prompt, messages, tokens; got {given or 'none'}")
    for name in ("tools", "thinking"):
        if getattr(options, name) is not None and options.messages is None:
            raise invalid(method, f"{name} goes with messages, not with {given[0]}")
    if options.session and options.keep is not None:
        raise invalid(method, "keep is given, and a session keeps its context anyway")
    if options.grammar is not None and options.json_schema is not None:
        raise invalid(method, "grammar and json_schema are both given, wanted one")
    around = options.json_around
    if around is not None:
        if options.json_schema is None:
            raise invalid(method, "json_around is given, and there is no json_schema for it to stand around")
        if not all(isinstance(text, str) and len(text) <= MAX_AROUND_CHARS for text in around):
            raise invalid(method, f"json_around is {show(around)}, wanted two texts of {MAX_AROUND_CHARS} at most")
    if options.ignore_end and (options.grammar is not None or options.json_schema is not None):
        raise invalid(method, "ignore_end goes with neither grammar nor json_schema: these end the text")
    entries = options.max_tokens * ((options.logprobs or 0) + 1)
    if options.logprobs is not None and entries > MAX_LOGPROB_ENTRIES:
        text = f"logprobs {options.logprobs} of max_tokens {options.max_tokens} are {entries} entries"
        raise invalid(method, f"{text}, wanted at most {MAX_LOGPROB_ENTRIES}")
    for stop in options.stop or ():
        if not isinstance(stop, str) or not 0 < len(stop) <= MAX_STOP_CHARS:
            raise invalid(method, f"stop {show(stop)}: wanted strings of 1 to {MAX_STOP_CHARS} characters")
    check_messages(method, options.messages or ())


def sampling_of(options: LlmGenerate) -> Sampling:
    """Return how to draw. Raises EINVAL for a bias that is none."""
    return Sampling(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        typical_p=options.typical_p,
        repeat_penalty=options.repeat_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        penalty_tokens=options.penalty_tokens,
        logit_bias=_biases(options.logit_bias or {}),
        logprobs=-1 if options.logprobs is None else options.logprobs,
        seed=options.seed,
    )


def check_biases(sampling: Sampling, vocab: int) -> None:
    """Raise EINVAL for a bias of a token that the model does not have."""
    for token, _ in sampling.logit_bias:
        if token >= vocab:
            raise invalid("llm.generate", f"logit_bias of token {token}: wanted one from 0 to {vocab - 1}")


def constraint_of(options: LlmGenerate) -> Constraint | None:
    if options.grammar is not None:
        return Constraint("gbnf", options.grammar)
    if options.json_around is not None:
        return Constraint("json_around", json.dumps([*options.json_around, options.json_schema]))
    return None if options.json_schema is None else Constraint("json_schema", options.json_schema)


def tools_of(options: LlmGenerate) -> list[Any] | None:
    """Return the tools as maps. Raises EINVAL."""
    tools = options.tools
    if isinstance(tools, str):
        values = sum(tools.count(sign) for sign in ",[{")  # one at least comes with each
        if values > MAX_TOOLS_VALUES:
            raise invalid("llm.generate", f"tools holds more than {MAX_TOOLS_VALUES} values")
        try:
            tools = json.loads(tools, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise invalid("llm.generate", f"tools is no JSON: {show(str(error))}") from None
    if tools is None or tools == []:
        return None
    if not isinstance(tools, list):
        raise invalid("llm.generate", f"tools is a {type(tools).__name__}, wanted a list of maps")
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise invalid("llm.generate", f"tools[{index}] is {show(tool)}, wanted a map")
    return tools


def check_tokens(method: str, name: str, tokens: Any, vocab: int | None) -> list[int]:
    """Return tokens given as a list or as bytes. Raises EINVAL naming the first that is none of the model's."""
    if isinstance(tokens, bytes):
        if len(tokens) % 4:
            raise invalid(method, f"{name} is {len(tokens)} bytes, wanted 4 for each token")
        tokens = list(struct.unpack(f"<{len(tokens) // 4}I", tokens))
    if not isinstance(tokens, list):
        raise invalid(method, f"{name} is a {type(tokens).__name__}, wanted a list or bytes")
    if len(tokens) > MAX_TOKENS:
        raise invalid(method, f"{name} has {len(tokens)} tokens, wanted at most {MAX_TOKENS}")
    limit = ANY_TOKEN if vocab is None else vocab
    for index, token in enumerate(tokens):
        if type(token) is not int or not 0 <= token < limit:
            raise invalid(method, f"{name}[{index}] is {show(token)}: wanted an int from 0 to {limit - 1}")
    return tokens


def _biases(given: dict[Any, Any]) -> tuple[tuple[int, float], ...]:
    biases = {}
    for key, value in given.items():
        is_token = isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10
        if not is_token or int(key) >= ANY_TOKEN:
            raise invalid("llm.generate", f"logit_bias of {show(key)}: wanted a token's id as decimal text")
        if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > MAX_BIAS:
            text = f"logit_bias of token {key} is {show(value)}"
            raise invalid("llm.generate", f"{text}: wanted a number from -{MAX_BIAS:g} to {MAX_BIAS:g}")
        biases[int(key)] = float(value)
    return tuple(sorted(biases.items()))


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")
