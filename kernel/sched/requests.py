"""llm.generate from its body to its reply: checked, tokenized, scheduled, streamed, ended once.

Who calls it: dispatch.py for the llm.* calls, core.py for the core's answers and results. What must
hold: a token is delivered once, whatever happens to cores: it is appended to the request here, and a
replay never samples a position again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kernel.abi.calls import (
    MAX_STOP_CHARS,
    LlmCancel,
    LlmDetokenize,
    LlmGenerate,
    LlmTokenize,
)
from kernel.abi.errors import Errno, KernelError
from kernel.calls import CallTable
from kernel.effects import AskCore, Effect
from kernel.engine.base import EngineInfo, Sampled, Sampling, StepResult
from kernel.engine.text import TextAssembler
from kernel.limits import MAX_CORE_DEATHS, MAX_PENDING_REQUESTS, MAX_REQUESTS
from kernel.objects import Call, Request, Task
from kernel.sched.scheduler import Scheduler
from kernel.states import RequestState, TaskState


@dataclass(slots=True)
class _Question:
    """Something that the core's text side was asked, and who waits for it."""

    ask: AskCore
    asker: Request | Call
    core_deaths: int = 0


class RequestManager:
    """Every request in flight, and every question put to the core's text side."""

    def __init__(
        self, calls: CallTable, scheduler: Scheduler, emit: Callable[[Effect], None]
    ) -> None:
        self._calls = calls
        self._scheduler = scheduler
        self._emit = emit
        self._info: EngineInfo | None = None  # of the first core; its successors are the same
        self._is_up = False  # a core can be asked now
        self._asks: dict[int, _Question] = {}  # by ticket, unanswered
        self._by_call: dict[tuple[int, int], Request] = {}
        self._untold: list[Request] = []  # given as token ids before the first core was up
        self._awaiting_first: dict[Request, None] = {}
        self._arrivals = 0
        self._tickets = 0

    # -- calls --------------------------------------------------------------------------------

    def generate(self, call: Call, options: LlmGenerate, now_ns: int) -> None:
        """Take a request in. Raises KernelError EPERM, EINVAL or EAGAIN, having changed nothing."""
        task = call.task
        if task is None:
            raise KernelError(Errno.EPERM, "llm.generate: an operator is no agent: run a script")
        given = [name for name in ("prompt", "messages", "tokens") if getattr(options, name) is not None]
        if len(given) != 1:
            text = f"llm.generate: wanted one of prompt, messages, tokens; got {given or 'none'}"
            raise KernelError(Errno.EINVAL, text)
        _check_stops(options.stop)
        messages = _check_messages(options.messages)
        tokens = _check_tokens("llm.generate", options.tokens, self._info)
        if len(task.requests) >= MAX_REQUESTS:
            text = f"llm.generate: {MAX_REQUESTS} requests of task {task.pid} are in flight"
            raise KernelError(Errno.EAGAIN, text)
        if len(self._by_call) >= MAX_PENDING_REQUESTS:
            text = f"llm.generate: {MAX_PENDING_REQUESTS} requests are in flight in all"
            raise KernelError(Errno.EAGAIN, text)
        if tokens and self._info:
            self._check_window(len(tokens))
        self._arrivals += 1
        request = Request(
            number=self._arrivals,
            call=call,
            task=task,
            options=options,
            sampling=Sampling(options.temperature, options.top_k, options.top_p, options.seed),
            text=TextAssembler(options.stop or ()),
            arrived_ns=now_ns,
            waits_since_ns=now_ns,
        )
        task.requests.append(request)
        task.usage.requests += 1
        self._by_call[call.key] = request
        self._awaiting_first[request] = None
        self._calls.defer(call, self)
        if tokens:
            request.tokens = tokens
            if self._info:
                self._enter(request)
            else:
                self._untold.append(request)
        elif messages:
            self._ask("chat", messages, request)
        else:
            self._ask("tokenize", (options.prompt, True), request)

    def cancel(self, call: Call, options: LlmCancel, now_ns: int) -> dict[str, Any]:
        """End a request of the same task and connection; it is no error when it has just ended."""
        request = self._by_call.get((call.peer, options.call))
        if request is None or request.task is not call.task:
            return {"cancelled": False}
        self.end(request, KernelError(Errno.EINTR, "llm.generate: cancelled by the caller"), now_ns)
        return {"cancelled": True}

    def tokenize(self, call: Call, options: LlmTokenize) -> None:
        self._calls.defer(call, self)
        self._ask("tokenize", (options.text, options.with_special), call)

    def detokenize(self, call: Call, options: LlmDetokenize) -> None:
        tokens = _check_tokens("llm.detokenize", options.tokens, self._info)
        self._calls.defer(call, self)
        self._ask("detokenize", tokens or [], call)

    def withdraw(self, call: Call, now_ns: int) -> None:
        """Forget a call of ours that ends from outside (deadline, dead task)."""
        request = self._by_call.get(call.key)
        if request is not None:
            self._leave(request, RequestState.FINISHED_ABORTED, now_ns)
        self._forget_asks(call)

    def pause(self, task: Task, now_ns: int) -> None:
        """STOP: take the task's requests off the model."""
        for request in task.requests:
            self._scheduler.remove(request, now_ns)

    def resume(self, task: Task) -> None:
        for request in task.requests:
            if request.prompt_tokens:
                self._scheduler.add(request)

    def end(self, request: Request, error: KernelError, now_ns: int) -> None:
        """End a request with an error."""
        is_failure = error.number is Errno.EIO or not request.prompt_tokens
        if error.number is Errno.EINTR or not is_failure:
            self._leave(request, RequestState.FINISHED_ABORTED, now_ns)
        else:
            self._leave(request, RequestState.FINISHED_ERROR, now_ns)
        self._calls.fail(request.call, error)

    # -- the core -----------------------------------------------------------------------------

    def core_ready(self, info: EngineInfo) -> None:
        """Put every unanswered question to the new core, and let in who waited for the first one."""
        self._info = info
        self._is_up = True
        for question in self._asks.values():
            self._emit(question.ask)
        waited, self._untold = self._untold, []
        for request in waited:
            if request.is_finished:
                continue
            try:
                _check_tokens("llm.generate", request.tokens, info)
                self._enter(request)
            except KernelError as error:
                self.end(request, error, request.arrived_ns)

    def core_lost(self, doomed: list[Request], now_ns: int) -> None:
        """Fail the requests that too many cores died of; the rest go on with the next core."""
        if self._is_up:  # else it died before it was asked anything
            for question in self._asks.values():
                question.core_deaths += 1
        self._is_up = False
        for request in doomed:
            self.end(request, _too_many_deaths(request.call), now_ns)
        for question in list(self._asks.values()):
            if question.core_deaths < MAX_CORE_DEATHS:
                continue
            if isinstance(question.asker, Request):
                self.end(question.asker, _too_many_deaths(question.asker.call), now_ns)
            else:
                self._calls.abort(question.asker, _too_many_deaths(question.asker), now_ns)

    def answered(self, ticket: int, value: Any, error: str | None, now_ns: int) -> None:
        """Take the core's answer to a question; one that nobody waits for any more is dropped."""
        question = self._asks.pop(ticket, None)
        asker = question.asker if question else None
        if isinstance(asker, Request):
            if asker.is_finished:
                return
            try:
                if error is not None:
                    raise KernelError(Errno.EINVAL, f"llm.generate: {error}")
                asker.tokens = list(value)
                self._enter(asker)
            except KernelError as failure:
                self.end(asker, failure, now_ns)
        elif asker is not None:
            if error is not None:
                self._calls.fail(asker, KernelError(Errno.EINVAL, f"{asker.method}: {error}"))
            elif asker.method == "llm.tokenize":
                self._calls.reply(asker, {"tokens": list(value)})
            else:
                self._calls.reply(asker, {"text": value.decode(errors="replace")})

    def step_done(self, result: StepResult) -> None:
        """Count a step's time for those who wait for a first token."""
        for request in self._awaiting_first:
            begin = max(result.began_ns, request.arrived_ns)
            request.core_ns += max(0, result.ended_ns - begin)

    def deliver(self, sampled: list[tuple[Request, Sampled]], now_ns: int) -> None:
        """Give tokens to their callers."""
        for request, item in sampled:
            self._deliver(request, item, now_ns)

    # -- inside -------------------------------------------------------------------------------

    def _ask(self, what: str, value: object, asker: Request | Call) -> None:
        self._tickets += 1
        ask = AskCore(self._tickets, what, value)
        self._asks[ask.ticket] = _Question(ask, asker)
        if self._is_up:
            self._emit(ask)

    def _forget_asks(self, asker: Request | Call) -> None:
        for ticket in [key for key, item in self._asks.items() if item.asker is asker]:
            del self._asks[ticket]

    def _check_window(self, prompt_tokens: int) -> None:
        assert self._info is not None
        if prompt_tokens + 1 > self._info.window_tokens:
            text = (
                f"llm.generate: the prompt is {prompt_tokens} tokens, the window of a slot is"
                f" {self._info.window_tokens} and one must be left to generate"
            )
            raise KernelError(Errno.EFBIG, text)

    def _enter(self, request: Request) -> None:
        """The prompt's tokens are known: let the request be scheduled."""
        if not request.tokens:
            raise KernelError(Errno.EINVAL, "llm.generate: the prompt has no tokens")
        self._check_window(len(request.tokens))
        request.prompt_tokens = len(request.tokens)
        request.task.usage.prompt_tokens += request.prompt_tokens
        self._scheduler.totals.prompt_tokens += request.prompt_tokens
        if request.task.state is not TaskState.STOPPED:
            self._scheduler.add(request)

    def _deliver(self, request: Request, item: Sampled, now_ns: int) -> None:
        assert self._info is not None
        if request.first_token_ns is None:
            request.first_token_ns = now_ns
            request.task.usage.ttft_ns += now_ns - request.arrived_ns
            request.task.usage.first_tokens += 1
            del self._awaiting_first[request]
        if item.is_end and not request.options.ignore_end:
            self._succeed(request, RequestState.FINISHED_STOP, now_ns)
            return
        request.tokens.append(item.token)
        request.task.usage.generated_tokens += 1
        self._scheduler.totals.generated_tokens += 1
        text = request.text.feed(item.piece)
        if request.options.stream:
            request.unsent.append(item.token)
        if request.text.stopped:
            self._stream(request, text)
            self._succeed(request, RequestState.FINISHED_STOP, now_ns)
        elif (
            request.generated_tokens >= request.options.max_tokens
            or len(request.tokens) >= self._info.window_tokens
        ):
            self._stream(request, text)
            self._succeed(request, RequestState.FINISHED_LENGTH, now_ns)
        elif text:
            self._stream(request, text)

    def _stream(self, request: Request, text: str) -> None:
        if request.options.stream and (text or request.unsent):
            self._calls.chunk(request.call, {"text": text, "tokens": request.unsent})
            request.unsent = []

    def _succeed(self, request: Request, state: RequestState, now_ns: int) -> None:
        held = request.text.finish()
        if held or request.unsent:
            self._stream(request, held)
        self._leave(request, state, now_ns)
        total_ns = now_ns - request.arrived_ns
        first_ns = (request.first_token_ns or now_ns) - request.arrived_ns
        queued_ns = (request.first_slot_ns or now_ns) - request.arrived_ns
        body = {
            "text": request.text.text,
            "tokens": request.tokens[request.prompt_tokens :],
            "finish_reason": "stop" if state is RequestState.FINISHED_STOP else "length",
            "usage": {
                "prompt_tokens": request.prompt_tokens,
                "generated_tokens": request.generated_tokens,
            },
            "timings": {
                "queued_s": queued_ns / 1e9,
                "first_token_s": first_ns / 1e9,
                "wait_s": request.wait_ns / 1e9,
                "total_s": total_ns / 1e9,
                "core_s": request.core_ns / 1e9,
                "switches": request.switches,
                "restores": request.restores,
                "recomputed_tokens": request.recomputed_tokens,
            },
        }
        self._calls.reply(request.call, body)

    def _leave(self, request: Request, state: RequestState, now_ns: int) -> None:
        """End a request's scheduling; its call is answered by whoever asked for this."""
        request.move(state)
        self._scheduler.remove(request, now_ns)
        request.task.requests.remove(request)
        del self._by_call[request.call.key]
        self._awaiting_first.pop(request, None)
        self._forget_asks(request)
        request.task.settle()


def _too_many_deaths(call: Call) -> KernelError:
    who = f"call {call.id} of task {call.task.pid}" if call.task else f"call {call.id}"
    text = f"{call.method} {who}: {MAX_CORE_DEATHS} LLM cores died while working on it"
    return KernelError(Errno.EIO, text)


def _check_stops(stops: list[Any] | None) -> None:
    for stop in stops or ():
        if not isinstance(stop, str) or not 0 < len(stop) <= MAX_STOP_CHARS:
            shown = ascii(stop)[:80]
            text = f"llm.generate: stop {shown}: wanted strings of 1 to {MAX_STOP_CHARS} characters"
            raise KernelError(Errno.EINVAL, text)


def _check_messages(messages: list[Any] | None) -> list[tuple[str, str]]:
    """Return (role, content) pairs, or raise EINVAL naming the message that is wrong."""
    pairs = []
    for index, message in enumerate(messages or ()):
        is_right = isinstance(message, dict) and set(message) == {"role", "content"}
        if not is_right or not all(isinstance(value, str) for value in message.values()):
            text = f"llm.generate: messages[{index}] is {ascii(message)[:80]}: wanted a role and a content"
            raise KernelError(Errno.EINVAL, text)
        pairs.append((message["role"], message["content"]))
    return pairs


def _check_tokens(
    method: str, tokens: list[Any] | bytes | None, info: EngineInfo | None
) -> list[int] | None:
    """Return the tokens, or raise EINVAL naming the first that is none of the model's."""
    if isinstance(tokens, bytes):
        tokens = _unpacked(method, tokens)
    limit = info.vocab if info else 1 << 31
    for index, token in enumerate(tokens or ()):
        if type(token) is not int or not 0 <= token < limit:
            text = f"{method}: tokens[{index}] is {ascii(token)[:80]}: wanted an int from 0 to {limit - 1}"
            raise KernelError(Errno.EINVAL, text)
    return tokens


def _unpacked(method: str, raw: bytes) -> list[int]:
    if len(raw) % 4:
        text = f"{method}: tokens is {len(raw)} bytes, wanted 4 for each token"
        raise KernelError(Errno.EINVAL, text)
    return list(struct.unpack(f"<{len(raw) // 4}I", raw))
