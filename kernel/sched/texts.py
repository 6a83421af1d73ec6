"""llm.tokenize, llm.detokenize and llm.embed: what cores answer beside their steps.

Who calls it: dispatch.py. What must hold: vectors come back in the order of their texts; one call has one batch of
texts with a core at a time, of a bounded size, so that calls of many tasks take turns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kernel.abi.calls import LlmDetokenize, LlmEmbed, LlmTokenize
from kernel.abi.errors import Errno, KernelError
from kernel.calls import CallTable
from kernel.cores import Core, Cores
from kernel.limits import EMBED_BATCH_TEXTS, EMBED_BATCH_TOKENS, MAX_PIECES
from kernel.objects import Call
from kernel.sched.asks import Answered, Asks
from kernel.sched.fields import check_tokens, invalid


@dataclass(slots=True)
class _Embedding:
    """One llm.embed under way."""

    call: Call
    core: Core
    name: str  # of the field that was given
    tokens: list[list[int]]  # of each text; empty as long as they are not known
    untold: int  # texts whose tokens are not known
    vectors: list[bytes] = field(default_factory=list)


class TextManager:
    """Keeps the calls that wait for an answer about text."""

    def __init__(self, calls: CallTable, cores: Cores, asks: Asks) -> None:
        self._calls = calls
        self._cores = cores
        self._asks = asks

    def tokenize(self, call: Call, options: LlmTokenize) -> None:
        core = self._take(call, self._cores.find(call.method, options.model))
        value = {"text": options.text, "with_special": options.with_special, "sender": sender_of(call)}
        self._asks.put(core, "tokenize", value, call, self._replies(call, lambda it: {"tokens": list(it)}))

    def detokenize(self, call: Call, options: LlmDetokenize) -> None:
        model = self._cores.find(call.method, options.model)
        tokens = check_tokens(call.method, "tokens", options.tokens, _vocab(model))
        if options.pieces and len(tokens) > MAX_PIECES:
            raise invalid(call.method, f"tokens are {len(tokens)}, and of {MAX_PIECES} at most the pieces are told")
        core = self._take(call, model)
        value = {"tokens": tokens, "sender": sender_of(call)}
        if options.pieces:
            self._asks.put(core, "pieces", value, call, self._replies(call, _apart))
            return
        answered = self._replies(call, lambda raw: {"text": raw.decode(errors="replace")})
        self._asks.put(core, "detokenize", value, call, answered)

    def embed(self, call: Call, options: LlmEmbed, now_ns: int) -> None:
        """Raises KernelError as LlmEmbed says; answered when the last batch is."""
        core = self._cores.find(call.method, options.model, embedding=True)
        if (options.texts is None) == (options.tokens is None):
            raise invalid(call.method, "wanted one of texts and tokens")
        for index, text in enumerate(options.texts or ()):
            if not isinstance(text, str):
                raise invalid(call.method, f"texts[{index}] is a {type(text).__name__}, wanted a str")
        given = [
            check_tokens(call.method, f"tokens[{index}]", tokens, _vocab(core))
            for index, tokens in enumerate(options.tokens or ())
        ]
        self._take(call, core)
        if options.texts is None:
            job = _Embedding(call, core, "tokens", given, 0)
            if core.info:
                self._begin(job, now_ns)
            else:
                self._asks.when_ready(core.number, call, lambda now: self._begin(job, now))
            return
        job = _Embedding(call, core, "texts", [[] for _ in options.texts], len(options.texts))
        for index, text in enumerate(options.texts):
            value = {"text": text, "with_special": True, "sender": sender_of(call)}
            self._asks.put(core.number, "tokenize", value, call, self._fills(job, index))

    def withdraw(self, call: Call, now_ns: int) -> None:
        """Forget a call of ours that ends from outside (deadline, dead task)."""
        self._asks.forget(call)

    # -- inside -------------------------------------------------------------------------------

    def _take(self, call: Call, core: Core) -> int:
        self._calls.defer(call, self)
        self._cores.want(core)
        return core.number

    def _replies(self, call: Call, body_of: Any) -> Answered:
        def answered(value: Any, error: str | None, now_ns: int) -> None:
            if error is not None:
                self._fail(call, invalid(call.method, error))
            else:
                self._calls.reply(call, body_of(value))

        return answered

    def _fills(self, job: _Embedding, index: int) -> Answered:
        def answered(value: Any, error: str | None, now_ns: int) -> None:
            if error is not None:
                self._fail(job.call, invalid(job.call.method, f"texts[{index}]: {error}"))
                return
            job.tokens[index] = list(value)
            job.untold -= 1
            if not job.untold:
                self._begin(job, now_ns)

        return answered

    def _begin(self, job: _Embedding, now_ns: int) -> None:
        """All tokens are known, and the model: check them and ask for the first vectors."""
        method, info = job.call.method, job.core.info
        assert info is not None
        try:
            for index, tokens in enumerate(job.tokens):
                name = f"{job.name}[{index}]"
                if not check_tokens(method, name, tokens, info.vocab):
                    raise invalid(method, f"{name} has no tokens")
                if len(tokens) > info.window_tokens:
                    text = f"{method}: {name} is {len(tokens)} tokens, the window is {info.window_tokens}"
                    raise KernelError(Errno.EFBIG, text)
        except KernelError as error:
            self._fail(job.call, error)
        else:
            self._ask_batch(job)

    def _ask_batch(self, job: _Embedding) -> None:
        batch: list[list[int]] = []
        for tokens in job.tokens[len(job.vectors) :]:
            total = sum(len(one) for one in batch) + len(tokens)
            if batch and (total > EMBED_BATCH_TOKENS or len(batch) == EMBED_BATCH_TEXTS):
                break
            batch.append(tokens)

        def answered(value: Any, error: str | None, now_ns: int) -> None:
            if error is not None:
                self._fail(job.call, invalid(job.call.method, error))
                return
            job.vectors += value
            if len(job.vectors) < len(job.tokens):
                self._ask_batch(job)
            else:
                width = job.core.info.embedding_width if job.core.info else 0
                self._calls.reply(job.call, {"vectors": job.vectors, "width": width})

        self._asks.put(job.core.number, "embed", {"texts": batch}, job.call, answered)

    def _fail(self, call: Call, error: KernelError) -> None:
        self._asks.forget(call)
        self._calls.fail(call, error)


def _apart(pieces: list[bytes]) -> dict[str, Any]:
    return {"text": b"".join(pieces).decode(errors="replace"), "pieces": pieces}


def sender_of(call: Call) -> int:
    """Who pays for a call's work: its task, or the process of the operator that made it."""
    return call.task.pid if call.task else call.speaker[0]


def _vocab(core: Core) -> int | None:
    return core.info.vocab if core.info else None
