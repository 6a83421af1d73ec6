"""A model that turns texts into vectors: whole texts, one batch each, no context is kept.

Who calls it: worker.py, in a core that was started for embedding. What must hold: a text's vector does not depend
on the texts beside it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import llama_cpp
import numpy as np

from kernel.engine import calibrate, devices, family, fit, inspect
from kernel.engine.bank import PAD_TOKENS, prepare
from kernel.engine.base import (
    EXACT,
    F16,
    EngineError,
    EngineInfo,
    EngineOptions,
    StepPlan,
    StepResult,
)
from kernel.engine.batch import Batch, Feed
from kernel.engine.llama import describe, load_model
from kernel.engine.textside.client import TextSide


class EmbeddingContext:
    """One llama.cpp context for texts of up to `window_tokens`. Raises EngineError when none can be made."""

    def __init__(self, model: llama_cpp.llama_model_p, window_tokens: int, threads: int) -> None:
        padded = -(-window_tokens // PAD_TOKENS) * PAD_TOKENS
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = padded  # an encoder sees a text at once
        options.n_seq_max = 1
        options.n_threads = options.n_threads_batch = threads
        options.embeddings = True
        options.no_perf = True
        if _pooling(model) == llama_cpp.LLAMA_POOLING_TYPE_NONE:
            options.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_MEAN
        self._context = llama_cpp.llama_init_from_model(model, options)
        if not self._context:
            raise EngineError(f"llama.cpp cannot make a context of {window_tokens} tokens for embedding")
        self._window = window_tokens
        self._is_encoder = not llama_cpp.llama_model_has_decoder(model) or _has_no_cache(self._context)
        self._batch = Batch(padded, llama_cpp.llama_batch)
        self.width = llama_cpp.llama_model_n_embd(model)

    def embed(self, texts: Sequence[Sequence[int]]) -> list[bytes]:
        """Return a vector of length 1 for each list of tokens, little-endian float32. Raises EngineError."""
        return [self._embed(tokens) for tokens in texts]

    def _embed(self, tokens: Sequence[int]) -> bytes:
        if not 0 < len(tokens) <= self._window:
            raise EngineError(f"a text of {len(tokens)} tokens: wanted 1 to {self._window}")
        if not self._is_encoder:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        self._batch.fill([Feed(0, 0, tokens)])
        run = llama_cpp.llama_encode if self._is_encoder else llama_cpp.llama_decode
        status = run(self._context, self._batch.struct)
        if status:
            raise EngineError(f"llama.cpp could not embed a text of {len(tokens)} tokens (status {status})")
        pointer = llama_cpp.llama_get_embeddings_seq(self._context, 0)
        if not pointer:
            raise EngineError("the model gives no vector for a whole text")
        vector = np.ctypeslib.as_array(pointer, shape=(self.width,)).astype("<f4")
        length = float(np.linalg.norm(vector))
        if not np.isfinite(length) or length == 0.0:
            raise EngineError("the model's vector is zero or not finite: the file is damaged")
        return (vector / np.float32(length)).tobytes()


class EmbeddingEngine:
    """An Engine (see base.py) that embeds and does nothing else. Raises EngineError from the constructor."""

    def __init__(self, path: str, options: EngineOptions) -> None:
        began = time.monotonic()
        prepare()
        llama_cpp.llama_backend_init()
        facts = inspect.gather(path)
        fitted = fit.decide(facts, options, devices.free_memory())
        model = load_model(path, options, fitted.gpu_layers)
        choice = calibrate.choose(model, options, options.choices)
        self._context = EmbeddingContext(model, fitted.window_tokens, choice.threads)
        self.text = TextSide(path)
        self.info = EngineInfo(
            model=path,
            description=describe(model),
            family=family.EMBEDDING,
            exactness=EXACT,
            can_trim=False,
            can_part=False,
            vocab=llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)),
            window_tokens=fitted.window_tokens,
            trained_tokens=facts.trained_tokens,
            banks=fitted.banks[:1],
            kv_bytes=fitted.kv_bytes,
            threads=choice.threads,
            devices=fitted.devices,
            kv_bytes_per_token=0,
            snapshot_overhead_bytes=0,
            extra_buffers=options.extra_buffers,
            flash_attention=False,
            kv_type=F16,
            chat_format="",
            takes_tools=False,
            embedding_width=self._context.width,
            load_s=time.monotonic() - began,
        )

    def embed(self, texts: list[list[int]]) -> list[bytes]:
        return self._context.embed(texts)

    def attach(self, segment: int, fd: int, size_bytes: int) -> None:
        """No context of this model is parked."""

    def detach(self, segment: int) -> None:
        """See attach."""

    def step(self, plan: StepPlan) -> StepResult:
        raise RuntimeError(f"step {plan.number} for a model that embeds")


def _pooling(model: llama_cpp.llama_model_p) -> int:
    """Return the pooling that the model's file asks for; LLAMA_POOLING_TYPE_NONE where it says nothing."""
    told = family.metadata(model, f"{family.architecture(model)}.pooling_type")
    return int(told) if told else llama_cpp.LLAMA_POOLING_TYPE_NONE


def _has_no_cache(context: llama_cpp.llama_context_p) -> bool:
    return not llama_cpp.llama_get_memory(context)
