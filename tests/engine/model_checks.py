"""Loads made models with plain llama.cpp and prints a JSON line about each: run by test_generated_models.py.

    python -m tests.engine.model_checks PATH [PATH ...]

A process of its own, since ggml ends its process when a file is not what it expects.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

import llama_cpp
import numpy as np

PROMPT = 100  # tokens: past the shortest sliding window
TEXT = "Hello world, a plan"
_SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)


def report(path: str) -> dict[str, Any]:
    """Return what a model says of itself, whether what it computes is finite, and what becomes of a text."""
    options = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), options)
    if not model:
        return {"path": path, "loads": False}
    vocab = llama_cpp.llama_model_get_vocab(model)
    buffer = ctypes.create_string_buffer(64)
    llama_cpp.llama_model_meta_val_str(model, b"general.architecture", buffer, 64)
    found = {
        "path": path,
        "loads": True,
        "architecture": buffer.value.decode(),
        "layers": llama_cpp.llama_model_n_layer(model),
        "window": llama_cpp.llama_model_n_ctx_train(model),
        "sliding_window": llama_cpp.llama_model_n_swa(model),
        "is_recurrent": llama_cpp.llama_model_is_recurrent(model),
        "is_hybrid": llama_cpp.llama_model_is_hybrid(model),
        "text": _there_and_back(vocab),
        "finite": [_is_finite(model, vocab, flash) for flash in (False, True)],
    }
    llama_cpp.llama_model_free(model)
    return found


def _there_and_back(vocab: Any) -> str:
    raw = TEXT.encode()
    tokens = (llama_cpp.llama_token * 64)()
    count = llama_cpp.llama_tokenize(vocab, raw, len(raw), tokens, 64, False, False)
    out = b""
    for token in tokens[: max(0, count)]:
        piece = ctypes.create_string_buffer(64)
        used = llama_cpp.llama_token_to_piece(vocab, token, piece, 64, 0, False)
        out += piece.raw[:used]
    return out.decode(errors="replace")


def _is_finite(model: Any, vocab: Any, flash: bool) -> bool:
    """Whether a prompt's logits, or its embedding where the model pools, are numbers and not all the same."""
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = 128
    options.n_threads = options.n_threads_batch = 1
    options.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    buffer = ctypes.create_string_buffer(64)
    is_pooled = any(
        llama_cpp.llama_model_meta_val_str(model, f"{name}.pooling_type".encode(), buffer, 64) > 0
        for name in ("bert", "qwen3")
    )
    options.embeddings = is_pooled
    context = llama_cpp.llama_init_from_model(model, options)
    batch = llama_cpp.llama_batch_init(PROMPT, 0, 1)
    for index in range(PROMPT):
        batch.token[index] = 261 + index * 7 % 1000
        batch.pos[index] = index
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = 0
        batch.logits[index] = is_pooled or index == PROMPT - 1
    batch.n_tokens = PROMPT
    status = llama_cpp.llama_decode(context, batch)
    if is_pooled:
        pointer, size = llama_cpp.llama_get_embeddings_seq(context, 0), llama_cpp.llama_model_n_embd(model)
    else:
        pointer, size = llama_cpp.llama_get_logits(context), llama_cpp.llama_vocab_n_tokens(vocab)
    values = np.ctypeslib.as_array(pointer, shape=(size,))
    is_good = status == 0 and bool(np.isfinite(values).all()) and float(values.std()) > 0.01
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    return is_good


if __name__ == "__main__":
    llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    for argument in sys.argv[1:]:
        print(json.dumps(report(argument)), flush=True)
