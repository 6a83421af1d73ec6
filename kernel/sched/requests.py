"""llm.generate from its body to its reply: checked, tokenized, scheduled, streamed, ended once.

Who calls it: dispatch.py for the calls, core.py for the cores' results. What must hold: a token is delivered once,
whatever happens to cores: it is appended to the request here, and a replay never samples a position again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from kernel.abi.calls import LlmCancel, LlmGenerate, LlmStatus
from kernel.abi.errors import Errno, KernelError
from kernel.calls import CallTable
from kernel.context.durable import DurableSessions
from kernel.context.sessions import Sessions
from kernel.cores import Core, Cores
from kernel.effects import Effect
from kernel.engine.base import Sampled, StepResult
from kernel.engine.logprobs import Logprobs
from kernel.engine.text import TextAssembler
from kernel.limits import MAX_PENDING_REQUESTS, MAX_REQUESTS
from kernel.objects import Call, Request, Task
from kernel.sched.asks import Asks, too_many_deaths
from kernel.sched.fields import (
    check_biases,
    check_generate,
    check_tokens,
    constraint_of,
    sampling_of,
    tools_of,
)
from kernel.sched.gate import Gate
from kernel.sched.groups import Groups
from kernel.sched.prompts import Question, asking, check_window, least_tokens, prompt_of
from kernel.sched.quota import Quotas
from kernel.sched.standing import Ends, tell
from kernel.states import RequestState, TaskState


class RequestManager:
    """Every request in flight, of all models."""

    def __init__(
        self, calls: CallTable, cores: Cores, asks: Asks, groups: Groups, emit: Callable[[Effect], None]
    ) -> None:
        self.sessions = Sessions()
        self.durable = DurableSessions(self.sessions, calls, cores, asks, emit)
        self._calls = calls
        self._gate = Gate(groups)
        self._cores = cores
        self._asks = asks
        self._by_call: dict[tuple[int, int], Request] = {}
        self._in_flight: Counter[int] = Counter()  # by core
        self._awaiting_first: dict[Request, None] = {}
        self._arrivals = 0
        self._ends: dict[int, Ends] = defaultdict(Ends)  # by core
        self.quotas = Quotas(groups)

    # -- calls --------------------------------------------------------------------------------

    def generate(self, call: Call, options: LlmGenerate, now_ns: int) -> None:
        """Take a request in. Raises KernelError as LlmGenerate says, having changed nothing."""
        task = call.task
        if task is None:
            raise KernelError(Errno.EPERM, "llm.generate: an operator is no agent: run a script")
        check_generate(options)
        session = self.sessions.for_turn(task, options, call.size_bytes) if options.session else None
        model = session.model if session else options.model
        core = self._cores.find("llm.generate", model, embedding=False)
        tools, sampling = tools_of(options), sampling_of(options)
        tokens = None
        if options.tokens is not None:
            vocab = core.info.vocab if core.info else None
            tokens = check_tokens("llm.generate", "tokens", options.tokens, vocab)
        if core.info:
            check_biases(sampling, core.info.vocab)
            if tokens is not None:
                check_window(core.info, least_tokens(session, tokens), session)
        self._check_room(task)
        scheduler = core.scheduler
        waiting, runnable = scheduler.waits.waiting, scheduler.runnable
        self._gate.check(
            task, waiting, self._ends[core.number], lambda: scheduler.charging.reads_ns(runnable, task)
        )
        self.quotas.enter(task, now_ns)
        self._arrivals += 1
        request = Request(
            number=self._arrivals,
            call=call,
            task=task,
            options=replace(options, prompt=None, messages=None, tools=None, tokens=None),
            sampling=sampling,
            text=TextAssembler(options.stop or ()),
            arrived_ns=now_ns,
            core=core.number,
            session=session,
            constraint=constraint_of(options),
            most_tokens=options.max_tokens,
            with_special=options.special,
            waits_since_ns=now_ns,
            logprobs=None if options.logprobs is None else Logprobs(),
        )
        task.requests.append(request)
        task.last_core = core.number
        task.usage.requests += 1
        self._by_call[call.key] = request
        self._in_flight[core.number] += 1
        self._awaiting_first[request] = None
        self._calls.defer(call, self)
        self._cores.want(core)
        if session is not None:
            self.sessions.begin(session, request, options.messages, now_ns)
        if tokens is not None:
            if core.info:
                self._enter(request, prompt_of(request, tokens, core.info), now_ns)
            else:
                self._asks.when_ready(core.number, call, lambda now: self._enter_given(request, tokens, now))
        else:
            self._ask(request, asking(options, tools, request, core), None, now_ns)

    def cancel(self, call: Call, options: LlmCancel, now_ns: int) -> dict[str, Any]:
        """End a request of the same task and connection; it is no error when it has just ended."""
        request = self._by_call.get((call.peer, options.call))
        if request is None or request.task is not call.task:
            return {"cancelled": False}
        self.end(request, KernelError(Errno.EINTR, "llm.generate: cancelled by the caller"), now_ns)
        return {"cancelled": True}

    def status(self, call: Call, options: LlmStatus) -> dict[str, Any]:
        """Say where a request of the same task and connection stands."""
        request = self._by_call.get((call.peer, options.call))
        if request is None or request.task is not call.task:
            return {"state": "gone"}
        return tell(request, self._by_call.values(), self._ends[request.core])

    def withdraw(self, call: Call, now_ns: int) -> None:
        """Forget a call of ours that ends from outside (deadline, dead task)."""
        request = self._by_call.get(call.key)
        if request is not None:
            self._leave(request, RequestState.FINISHED_ABORTED, now_ns)

    def pause(self, task: Task, now_ns: int) -> None:
        """STOP: take the task's requests off their models."""
        for request in task.requests:
            self._cores[request.core].scheduler.remove(request, now_ns)

    def resume(self, task: Task, now_ns: int) -> None:
        for request in task.requests:
            if request.prompt_tokens:
                self._cores[request.core].scheduler.add(request, now_ns)

    def end(self, request: Request, error: KernelError, now_ns: int) -> None:
        """End a request with an error."""
        is_cancelled = error.number is Errno.EINTR
        state = RequestState.FINISHED_ABORTED if is_cancelled else RequestState.FINISHED_ERROR
        self._leave(request, state, now_ns)
        self._calls.fail(request.call, error)

    def forget(self, task: Task) -> None:
        """A task ended: nothing is kept for it."""
        for core in self._cores:
            core.scheduler.forget(task)
        for session in self.sessions.forget(task.pid):
            self._cores[session.core].scheduler.kept.forget(session)

    def is_used(self, core: int) -> bool:
        """Whether a request of a model is in flight."""
        return self._in_flight[core] > 0

    # -- the cores ----------------------------------------------------------------------------

    def core_ready(self, core: Core, now_ns: int) -> None:
        """Fail the requests that have outgrown what the new core allows: it found less memory than the last."""
        assert core.info is not None
        window = core.info.window_tokens
        for request in [item for item in self._by_call.values() if item.core == core.number]:
            if len(request.tokens) >= window:
                text = f"the model was loaded anew with a window of {window} tokens, this context is"
                error = KernelError(Errno.EIO, f"llm.generate: {text} {len(request.tokens)}")
                self.end(request, error, now_ns)

    def core_lost(self, doomed: list[Request], now_ns: int) -> None:
        """Fail the requests that too many cores died of; the rest go on with the next core."""
        for request in doomed:
            self.end(request, too_many_deaths(request.call), now_ns)

    def core_failed(self, core: int, text: str, now_ns: int) -> None:
        """There will be no other core: fail what is in flight."""
        for request in [item for item in self._by_call.values() if item.core == core]:
            self.end(request, KernelError(Errno.EIO, f"llm.generate: {text}"), now_ns)

    def step_done(self, core: int, result: StepResult, failed: list[tuple[Request, str]]) -> None:
        """Count a step's time for those who wait for a first token; end those for whom none can be drawn."""
        for request in self._awaiting_first:
            if request.core == core:
                begin = max(result.began_ns, request.arrived_ns)
                request.core_ns += max(0, result.ended_ns - begin)
        for request, reason in failed:
            self.end(request, KernelError(Errno.EINVAL, f"llm.generate: {reason}"), result.ended_ns)

    def deliver(self, sampled: list[tuple[Request, Sampled]], now_ns: int) -> None:
        """Give tokens to their callers."""
        for request, item in sampled:
            self._deliver(request, item, now_ns)

    # -- inside -------------------------------------------------------------------------------

    def _check_room(self, task: Task) -> None:
        if len(task.requests) >= MAX_REQUESTS:
            text = f"llm.generate: {MAX_REQUESTS} requests of task {task.pid} are in flight"
            raise KernelError(Errno.EAGAIN, text)
        if len(self._by_call) >= MAX_PENDING_REQUESTS:
            text = f"llm.generate: {MAX_PENDING_REQUESTS} requests are in flight in all"
            raise KernelError(Errno.EAGAIN, text)

    def _ask(
        self, request: Request, questions: Generator[Question, Any, list[int]], answer: Any, now_ns: int
    ) -> None:
        """Ask what is to be asked next for a prompt's tokens; let the request be scheduled once they are there."""
        try:
            what, value = questions.send(answer)
        except StopIteration as known:
            self._enter(request, known.value, now_ns)
            return

        def answered(answer: Any, error: str | None, now_ns: int) -> None:
            if error is not None:
                self.end(request, KernelError(Errno.EINVAL, f"llm.generate: {error}"), now_ns)
            else:
                self._ask(request, questions, answer, now_ns)

        value["sender"] = request.task.pid
        self._asks.put(request.core, what, value, request.call, answered)

    def _enter_given(self, request: Request, tokens: list[int], now_ns: int) -> None:
        """The model is known for whose first core tokens have waited."""
        core = self._cores[request.core]
        assert core.info is not None
        try:
            check_tokens("llm.generate", "tokens", tokens, core.info.vocab)
        except KernelError as error:
            self.end(request, error, now_ns)
        else:
            self._enter(request, prompt_of(request, tokens, core.info), now_ns)

    def _enter(self, request: Request, tokens: list[int], now_ns: int) -> None:
        """The prompt's tokens are known, and the model: schedule the request, once its constraint can be followed."""
        core = self._cores[request.core]
        assert core.info is not None
        try:
            check_biases(request.sampling, core.info.vocab)
            if not tokens:
                raise KernelError(Errno.EINVAL, "llm.generate: the prompt has no tokens")
            check_window(core.info, len(tokens), request.session)
            most = min(len(tokens) + request.most_tokens, core.info.window_tokens)
            self.quotas.admit(request, len(tokens), most)
        except KernelError as error:
            self.end(request, error, now_ns)
            return
        if request.constraint is None:
            self._admit(request, tokens, now_ns)
            return

        def followed(answer: Any, error: str | None, now_ns: int) -> None:
            if error is not None:
                self.end(request, KernelError(Errno.EINVAL, f"llm.generate: {error}"), now_ns)
            else:
                request.is_whole_at_limit = answer >= 0
                self._admit(request, tokens, now_ns)

        kind, text = request.constraint.kind, request.constraint.text
        request.most_tokens = min(request.most_tokens, core.info.window_tokens - len(tokens))
        value = {"kind": kind, "text": text, "max_tokens": request.most_tokens}
        value["sender"] = request.task.pid
        self._asks.put(request.core, "constraint", value, request.call, followed)

    def _admit(self, request: Request, tokens: list[int], now_ns: int) -> None:
        """Nothing is wrong with the request: let it be scheduled."""
        core = self._cores[request.core]
        request.tokens = tokens
        request.prompt_tokens = len(tokens)
        request.task.usage.prompt_tokens += request.prompt_tokens
        core.scheduler.totals.prompt_tokens += request.prompt_tokens
        if request.task.state is not TaskState.STOPPED:
            core.scheduler.add(request, now_ns)

    def _deliver(self, request: Request, item: Sampled, now_ns: int) -> None:
        core = self._cores[request.core]
        assert core.info is not None
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
        core.scheduler.totals.generated_tokens += 1
        if request.logprobs is not None:
            request.logprobs.add(item)
        text = request.text.feed(item.piece)
        if request.options.stream:
            request.unsent.append(item.token)
        request.quota = self.quotas.count(request, now_ns)
        if request.text.stopped:
            self._stream(request, text)
            self._succeed(request, RequestState.FINISHED_STOP, now_ns)
        elif (
            request.generated_tokens >= request.most_tokens
            or len(request.tokens) >= core.info.window_tokens
            or request.quota
        ):
            self._stream(request, text)
            is_cut = bool(request.quota) or not request.is_whole_at_limit
            state = RequestState.FINISHED_LENGTH if is_cut else RequestState.FINISHED_STOP
            self._succeed(request, state, now_ns)
        elif text:
            self._stream(request, text)

    def _stream(self, request: Request, text: str) -> None:
        if not request.options.stream or not (text or request.unsent):
            return
        body: dict[str, Any] = {"text": text, "tokens": request.unsent}
        if request.logprobs is not None:
            body["logprobs"] = request.logprobs.rows(len(request.unsent))
        if not request.has_told_chat:
            body |= request.chat
            request.has_told_chat = True
        self._calls.chunk(request.call, body)
        request.unsent = []

    def _succeed(self, request: Request, state: RequestState, now_ns: int) -> None:
        held = request.text.finish()
        if held or request.unsent:
            self._stream(request, held)
        self._leave(request, state, now_ns)
        total_ns = now_ns - request.arrived_ns
        first_ns = (request.first_token_ns or now_ns) - request.arrived_ns
        queued_ns = (request.first_slot_ns or now_ns) - request.arrived_ns
        body: dict[str, Any] = {
            "text": request.text.text,
            "tokens": request.tokens[request.prompt_tokens :],
            "finish_reason": _finish_reason(request, state),
            "usage": {
                "prompt_tokens": request.prompt_tokens,
                "cached_tokens": request.reused_tokens,
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
        } | request.chat
        if request.is_cut:
            body |= {"dropped_turns": request.dropped_turns, "dropped_tokens": request.dropped_tokens}
        if request.logprobs is not None:
            body["logprobs"] = request.logprobs.rows(len(request.logprobs))
        if request.session is not None and request.session.key is not None:
            self.durable.store(request.session, request.call, body)
        else:
            self._calls.reply(request.call, body)

    def _leave(self, request: Request, state: RequestState, now_ns: int) -> None:
        """End a request's scheduling; its call is answered by whoever asked for this."""
        request.move(state)
        if request.session is not None:
            is_well = state in (RequestState.FINISHED_STOP, RequestState.FINISHED_LENGTH)
            self.sessions.end(request, is_well, now_ns)
        self._ends[request.core].add(now_ns)
        self.quotas.leave(request)
        self._cores[request.core].scheduler.remove(request, now_ns)
        request.task.requests.remove(request)
        request.task.sched.hint_until = None  # it was of this one
        del self._by_call[request.call.key]
        self._in_flight[request.core] -= 1
        self._awaiting_first.pop(request, None)
        self._asks.forget(request.call)
        request.task.settle()


def _finish_reason(request: Request, state: RequestState) -> str:
    if state is RequestState.FINISHED_STOP:
        return "stop"
    return "quota" if request.quota else "length"
