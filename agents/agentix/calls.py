"""The calls an agent can make: their bodies, and what becomes of their answers. Sync and async share it.

Who uses it: agent.py and aio.py, whose methods differ only in how they wait; schedcalls.py has those of sched.* and
group.*. What must hold: a body has only
fields that kernel/abi/calls.py declares (a test compares), and leaves out what the caller did not give, so
that the kernel's defaults are the only ones.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

from agentix.errors import BadMessage, InvalidValue, MessageTooLong
from kernel.abi import codec
from kernel.abi.address import NAME_VARIABLE

MAX_TIMEOUT_MS = (1 << 40) - 1  # a header's deadline has as many bits
MAX_TOKEN = (1 << 32) - 1
MAX_MAIL_BYTES = 64 << 10  # as the kernel has it; checked here to spare the trip
MAX_TEXTS = 64  # of one llm.embed, as the kernel has it
MAX_TEXTS_CHARS = 1 << 20  # of these together: four bytes each at most, so that they fit a message

Window = Literal["refuse", "drop", "shift"]  # what becomes of a session's turn that does not fit the model's window
Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]  # text, tokens, or messages of a chat


class Sampling(TypedDict, total=False):
    """How to generate; what is left out is the kernel's default."""

    max_tokens: int  # at most so many new tokens
    temperature: float  # 0: always the likeliest token
    top_k: int  # choose among so many of the likeliest; 0: all
    top_p: float  # choose among the likeliest that make up this probability
    min_p: float  # choose among those at least so likely, as a part of the likeliest's probability; 0: off
    typical_p: float  # choose among the least surprising that make up this probability; 1: off
    repeat_penalty: float  # above 1: tokens that were there become less likely
    presence_penalty: float  # taken off the logit of every token that was there
    frequency_penalty: float  # the same, for each time that it was there
    penalty_tokens: int  # how many of the last tokens count as having been there
    logit_bias: Mapping[int | str, float]  # by token: added to its logit; -100 forbids it
    logprobs: int  # tell how likely each token was, and so many of the likeliest in its place
    seed: int  # the same seed and prompt give the same text
    stop: list[str]  # end before any of these
    grammar: str  # GBNF: what the text must be
    json_schema: Mapping[str, Any] | str  # the JSON that the text must be
    json_around: Sequence[str]  # what stands before and after that JSON
    ignore_end: bool  # go on to max_tokens even when the model is done
    special: bool  # show control tokens by their names
    thinking: bool  # have the model reason, or not, where its chat template knows of that
    keep: bool  # what was computed, for a later prompt of this task that begins alike; left out: of messages only
    model: str  # one of models(); the first that generates, if left out
    session: int  # of ctx_open: this is a turn of it; Agent.session() sees to that


class Reply(NamedTuple):
    """A finished generation."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str  # "stop", "length", or "quota": one was used up
    usage: dict[str, int]  # prompt_tokens, generated_tokens
    timings: dict[str, float]  # queued_s, first_token_s, wait_s, total_s, core_s, switches, ...
    chat_format: str = "content"  # how the model writes tool calls, for a prompt of messages
    opens_reasoning: bool = False  # the prompt ended inside reasoning
    logprobs: tuple[dict[str, Any], ...] | None = None  # of each token, if asked for: token, logprob, top
    dropped_turns: int = 0  # of the session, that this answer was given without
    dropped_tokens: int = 0  # that the prompt is shorter for that
    durable: bool | None = None  # of a turn of a durable session: whether it is on disk


class Message(NamedTuple):
    """A message from another agent."""

    sender: int  # its pid
    data: Any  # what it sent; lists arrive as tuples


class Exit(NamedTuple):
    """How a task ended."""

    pid: int
    name: str
    status: int | None  # exit status; None after a death by signal
    signal: Any  # what killed it, or None
    reason: str
    tail: str  # the last lines that it printed
    usage: dict[str, Any]  # prompt_tokens, generated_tokens, requests, switches, wait_s, ttft_s, cpu_s, ...


class Segment(NamedTuple):
    """A shared-memory segment of the caller's."""

    name: str
    size_bytes: int
    segment: int  # its number, by which its descriptor is asked for


class Memory(NamedTuple):
    """The caller's segments and its limit."""

    segments: tuple[Segment, ...]
    used_bytes: int
    limit_bytes: int


class Call(NamedTuple):
    """One call, ready to send; `decode` makes the caller's value of the reply's body."""

    method: str
    body: dict[str, Any]
    decode: Callable[[dict[str, Any]], Any]
    task: int | None = None  # the pid of a held task in whose name it is made; None: the caller's own


def nothing(_: dict[str, Any]) -> None:
    """Of an answer that says no more than that it was done."""


def _same(body: dict[str, Any]) -> dict[str, Any]:
    return body


def given(**fields: Any) -> dict[str, Any]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def milliseconds(timeout: float | None) -> int | None:
    """A timeout in seconds as the wire has it. Raises InvalidValue for a negative one."""
    if timeout is None:
        return None
    if not timeout >= 0:
        raise InvalidValue(f"timeout is {timeout!r}, wanted seconds from 0 up, or None to wait on")
    return math.ceil(min(timeout * 1000, MAX_TIMEOUT_MS))


def deadline_ms(call: Call, timeout: float | None) -> int | None:
    """The header's deadline: none for a call that has a timeout among its fields."""
    return None if "timeout_ms" in call.body else milliseconds(timeout)


def hello(name: str, version: int) -> Call:
    return Call("sys.hello", {"version": version, "name": name}, _same)


def plain(method: str, **fields: Any) -> Call:
    """A call whose answer is handed on as it is."""
    return Call(method, given(**fields), _same)


def generate(prompt: Prompt, options: Mapping[str, Any], stream: bool = False) -> Call:
    if isinstance(prompt, str):
        body: dict[str, Any] = {"prompt": prompt}
    elif len(prompt) and isinstance(prompt[0], Mapping):
        body = {"messages": [dict(message) for message in prompt]}  # type: ignore[call-overload]
    else:
        body = {"tokens": pack_tokens(prompt)}  # type: ignore[arg-type]
    body.update(given(**options))
    if isinstance(schema := body.get("json_schema"), Mapping):
        import json  # agents that ask for no JSON start sooner

        body["json_schema"] = json.dumps(schema)
    if "json_around" in body:
        body["json_around"] = list(body["json_around"])
    if isinstance(biases := body.get("logit_bias"), Mapping):
        body["logit_bias"] = {str(token): bias for token, bias in biases.items()}
    if stream:
        body["stream"] = True
    return Call("llm.generate", body, _reply)


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Tokens as the wire has them, 4 bytes little-endian each: a message holds few values, but long ones.

    Raises InvalidValue for the first that is no int from 0 to 2^32-1.
    """
    try:
        return struct.pack(f"<{len(tokens)}I", *tokens)
    except struct.error:
        for index, token in enumerate(tokens):
            try:
                struct.pack("<I", token)
            except struct.error:
                text = f"tokens[{index}] is {ascii(token)[:80]}, wanted an int from 0 to {MAX_TOKEN}"
                raise InvalidValue(text) from None
        raise


def _reply(body: dict[str, Any]) -> Reply:
    fields = (body["text"], tuple(body["tokens"]), body["finish_reason"], body["usage"], body["timings"])
    logprobs = tuple(body["logprobs"]) if "logprobs" in body else None
    told = (body.get("chat_format", "content"), body.get("opens_reasoning", False))
    dropped = (body.get("dropped_turns", 0), body.get("dropped_tokens", 0))
    return Reply(*fields, *told, logprobs, *dropped, body.get("durable"))


def cancel(call_id: int, task: int | None = None) -> Call:
    """Of a call that was made in this task's name."""
    return Call("llm.cancel", {"call": call_id}, lambda body: bool(body["cancelled"]), task)


def status(call_id: int, task: int | None = None) -> Call:
    """Of a call that was made in this task's name."""
    return Call("llm.status", {"call": call_id}, _same, task)


def tokenize(text: str, with_special: bool, model: str = "") -> Call:
    body = {"text": text, "with_special": with_special} | given(model=model or None)
    return Call("llm.tokenize", body, lambda answer: list(answer["tokens"]))


def detokenize(tokens: Sequence[int], model: str = "") -> Call:
    body = {"tokens": pack_tokens(tokens)} | given(model=model or None)
    return Call("llm.detokenize", body, lambda answer: answer["text"])


def pieces(tokens: Sequence[int], model: str = "") -> Call:
    """The text of each token as bytes; of 2,048 tokens at most."""
    body = {"tokens": pack_tokens(tokens), "pieces": True} | given(model=model or None)
    return Call("llm.detokenize", body, lambda answer: list(answer["pieces"]))


def embed(texts: Sequence[str] | Sequence[Sequence[int]], model: str = "") -> Iterator[Call]:
    """The calls that embed these, each with as many as one may have. Raises InvalidValue."""
    if isinstance(texts, str | bytes):
        raise InvalidValue(f"texts is a {type(texts).__name__}, wanted a list of texts or of tokens")
    for name, values in _batches(texts):
        yield Call("llm.embed", {name: values} | given(model=model or None), lambda answer: answer["vectors"])


def _batches(texts: Sequence[str] | Sequence[Sequence[int]]) -> Iterator[tuple[str, list[str | bytes]]]:
    """Cut into lists of texts, or of tokens, none of which is too many or too long for a message."""
    name, batch, size = "", [], 0
    for text in texts:
        kind, value = ("texts", text) if isinstance(text, str) else ("tokens", pack_tokens(text))
        if batch and (kind != name or len(batch) == MAX_TEXTS or size + len(value) > MAX_TEXTS_CHARS):
            yield name, batch
            batch, size = [], 0
        name, size = kind, size + len(value)
        batch.append(value)
    if batch:
        yield name, batch


def models() -> Call:
    return Call("llm.models", {}, lambda answer: list(answer["models"]))


def spawn(
    kernel: str,
    script: str | os.PathLike[str],
    args: Sequence[object],
    name: str,
    env: Mapping[str, str] | None,
    priority: int | None,
    capabilities: Sequence[str] = (),
    group: str = "",
) -> Call:
    """A script's path is seen from the caller's folder, in which the child starts too."""
    body = given(priority=priority, capabilities=list(capabilities) or None, group=group or None)
    body |= {
        "script": os.path.abspath(script),
        "args": [str(arg) for arg in args],
        "name": name,
        "env": {NAME_VARIABLE: kernel, **(env or {})},
        "cwd": os.getcwd(),
    }
    return Call("proc.spawn", body, lambda answer: answer["pid"])


def task_create(name: str, priority: int | None, group: str = "") -> Call:
    body = {"name": name} | given(priority=priority, group=group or None)
    return Call("task.create", body, lambda answer: answer["pid"])


def leave(status: int) -> Call:
    return Call("proc.exit", {"status": status}, nothing)


def wait(pid: int, timeout: float | None) -> Call:
    body = {"pid": pid} | given(timeout_ms=milliseconds(timeout))
    return Call("proc.wait", body, _exit)


def _exit(body: dict[str, Any]) -> Exit:
    return Exit(*(body.get(field) for field in Exit._fields))


def kill(pid: int, signal: str) -> Call:
    return Call("proc.kill", {"pid": pid, "signal": signal}, nothing)


def ps() -> Call:
    return Call("proc.ps", {}, lambda answer: list(answer["tasks"]))


def send(to: int, data: Any, timeout: float | None) -> Call:
    packed = codec.pack(data)
    if len(packed) > MAX_MAIL_BYTES:
        raise MessageTooLong(f"message to {to} is {len(packed)} bytes, the limit is {MAX_MAIL_BYTES}")
    body = {"to": to, "data": packed} | given(timeout_ms=milliseconds(timeout))
    return Call("ipc.send", body, nothing)


def recv(timeout: float | None) -> Call:
    return Call("ipc.recv", given(timeout_ms=milliseconds(timeout)), _message)


def _message(body: dict[str, Any]) -> Message:
    try:
        return Message(body["sender"], codec.unpack(body["data"]))
    except Exception as error:  # its sender may have packed it with anything: msgpack has many classes
        raise BadMessage(f"message from {body.get('sender')} is not msgpack: {error}") from None


def mem_create(name: str, size_bytes: int) -> Call:
    return Call("mem.create", {"name": name, "size_bytes": size_bytes}, _segment)


def _segment(body: dict[str, Any]) -> Segment:
    return Segment(body["name"], body["size_bytes"], body["segment"])


def mem_stat() -> Call:
    return Call("mem.stat", {}, _memory)


def _memory(body: dict[str, Any]) -> Memory:
    segments = tuple(_segment(item) for item in body["segments"])
    return Memory(segments, body["used_bytes"], body["limit_bytes"])


def mem_unlink(name: str) -> Call:
    return Call("mem.unlink", {"name": name}, nothing)


def ctx_open(model: str, window: Window | None, keep_tokens: int | None, name: str, durable: bool) -> Call:
    fields = {"model": model or None, "window": window, "keep_tokens": keep_tokens}
    return Call("ctx.open", given(**fields, name=name or None, durable=durable or None), _same)


def ctx_close(session: int, forget: bool) -> Call:
    return Call("ctx.close", {"session": session} | given(forget=forget or None), nothing)


def ctx_fork(session: int, count: int) -> Call:
    return Call("ctx.fork", {"session": session, "count": count}, lambda answer: list(answer["sessions"]))


def ctx_commit(session: int) -> Call:
    return Call("ctx.commit", {"session": session}, nothing)


def ctx_messages(session: int, after: int) -> Call:
    return Call("ctx.messages", {"session": session, "after": after}, _same)


def ctx_list(pid: int, after: int) -> Call:
    return Call("ctx.list", {"pid": pid, "after": after}, _same)


def ctx_stat() -> Call:
    return Call("ctx.stat", {}, lambda answer: list(answer["models"]))


def log(text: str) -> Call:
    return Call("log.write", {"text": text}, nothing)
