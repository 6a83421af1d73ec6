"""What a model is and needs, found without its weights: llama.cpp reads the file and simulates the memory.

Who calls it: llama.py before it loads (gather); `agentix show` and `agentix ls`, which must not import
llama.cpp, by way of `python -m kernel.engine.inspect [--brief] [--kv-type q8_0] MODEL...`: one line of JSON for
each model, in order. What must hold: no weights are read and no memory is taken in proportion to them; llama.cpp's
log is silent after.

A file that makes ggml abort ends this process: whoever started it knows by the missing line.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import llama_cpp

from kernel.engine import chatformat, family
from kernel.engine.base import (
    CHUNK_TOKENS,
    EXACT,
    F16,
    KV_TYPES,
    WHOLE,
    EngineError,
    EngineMemoryError,
    EngineOptions,
)
from kernel.engine.devices import free_memory
from kernel.engine.fit import ModelFacts, Work, decide
from kernel.engine.modelfile import ModelFileError, part_names, resolve

# What a family's contexts are good for; the core finds out at load whether it is so, see probe.py.
PROMISES = {
    family.DENSE: f"{EXACT}: parked, moved and replayed contexts give the same bits",
    family.MOE: f"{EXACT}: parked, moved and replayed contexts give the same bits",
    family.WINDOW: f"{EXACT}: parked, moved and replayed contexts give the same bits",
    family.RECURRENT: f"{WHOLE}: contexts are parked and restored as a whole, and never shortened",
    family.HYBRID: f"{WHOLE}: contexts are parked and restored as a whole, and never shortened",
    family.EMBEDDING: "no contexts: each text is computed at once",
}
POOLING = {0: "", 1: "mean", 2: "first token", 3: "last token", 4: "rank"}  # enum llama_pooling_type

_SHORT, _MIDDLE, _LONG = 256, 1 << 15, 1 << 16  # tokens of the contexts that are simulated
_FEW, _SEVERAL, _MANY = 2, 9, 64  # sequences in them
_SIZE = re.compile(r"(?<!buffer) size = +([\d.]+) MiB")  # of one cache: cells, or recurrent states
_WORK = re.compile(r"(?:compute|output) buffer size = +([\d.]+) MiB")
_LAYER = re.compile(r"blk\.(\d+)\.")
_PR_SET_PDEATHSIG = 1

_lines: list[tuple[int, str]] = []
_LOG = llama_cpp.llama_log_callback(
    lambda level, text, _: _lines.append((level, text.decode(errors="replace")))
)
_SILENT = llama_cpp.llama_log_callback(lambda level, text, _: None)
_ERROR = 4  # enum ggml_log_level


@contextmanager
def opened(path: str) -> Iterator[llama_cpp.llama_model_p]:
    """Load a model without its weights; it cannot decode. Raises EngineError with llama.cpp's own reason."""
    _lines.clear()
    llama_cpp.llama_log_set(_LOG, ctypes.c_void_p(0))
    try:
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.no_alloc = True
        options.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), options)
        if not model:
            raise EngineError(f"model {path}: llama.cpp cannot load this file as a GGUF model{_reason()}")
        try:
            yield model
        finally:
            llama_cpp.llama_model_free(model)
    finally:
        llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))


def _reason() -> str:
    """Return what llama.cpp's log has as the first error, in brackets."""
    said = [text.strip().rpartition(": ")[2] for level, text in _lines if level == _ERROR]
    return f" ({said[0]})" if said else ""


def gather(path: str, kv_type: str = F16) -> ModelFacts:
    """Return what `fit.decide` wants to know of a model with KV of a type. Raises EngineError."""
    with opened(path) as model:
        return facts_of(path, model, kv_type)


def facts_of(path: str, model: llama_cpp.llama_model_p, kv_type: str) -> ModelFacts:
    """The same of a model that `opened` has."""
    kind = family.family_of(model)
    is_flash = kv_type != F16
    if is_flash and not any(_simulate(model, _SHORT, _FEW, is_flash, kv_type)):
        text = f"model {Path(path).name}: llama.cpp cannot keep its contexts as {kv_type}{_reason()}"
        raise EngineError(f"{text}: leave --kv-type out")
    layers = llama_cpp.llama_model_n_layer(model)
    weights = _tensor_sizes(path)
    each = [0] * layers
    for name, count in weights.items():
        match = _LAYER.match(name)
        if match and int(match[1]) < layers:
            each[int(match[1])] += count
    # a model without a matrix of its own for this uses the embedding's once more
    output = weights.get("output.weight", weights.get("token_embd.weight", 0))
    work, flash_work = _measure_work(model, kv_type)
    short, long = (_simulate(model, tokens, _FEW, is_flash, kv_type)[0] for tokens in (_SHORT, _LONG))
    per_token = round((long - short) / (_FEW * (_LONG - _SHORT)))
    return ModelFacts(
        name=Path(path).name,
        family=kind,
        trained_tokens=max(1, llama_cpp.llama_model_n_ctx_train(model)),
        weight_bytes=llama_cpp.llama_model_size(model),
        layer_bytes=tuple(each),
        output_bytes=output + weights.get("output_norm.weight", 0),
        kv_bytes_per_token=per_token,
        state_bytes=max(0, short // _FEW - per_token * _SHORT),
        work=work,
        flash_work=flash_work,
        spare_streams=int(kind in (family.RECURRENT, family.HYBRID)),
    )


def _measure_work(model: llama_cpp.llama_model_p, kv_type: str) -> tuple[Work, Work]:
    """Return the work space without and with flash attention.

    It is the largest of several things, each linear in something, so the sum of their slopes is enough.
    """
    found = []
    rows = CHUNK_TOKENS * family.most_chunks(model)
    for is_flash in (False, True):
        short, middle, long = (
            _simulate(model, tokens, _FEW, is_flash, kv_type, rows)[1] for tokens in (_SHORT, _MIDDLE, _LONG)
        )
        slope = max(0.0, (long - middle) / (_LONG - _MIDDLE))
        several, many = (
            _simulate(model, _SHORT, streams, is_flash, kv_type, rows)[1] for streams in (_SEVERAL, _MANY)
        )
        each = max(0.0, (several - short) / (_SEVERAL - _FEW), (many - short) / (_MANY - _FEW))
        found.append(Work(max(short, int(middle - slope * _MIDDLE)) - int(each * _FEW), slope, each, rows))
    plain, flash = found
    return (plain if plain.base_bytes else flash), (flash if flash.base_bytes else plain)  # 0: it has no such


def _simulate(
    model: llama_cpp.llama_model_p,
    window_tokens: int,
    streams: int,
    is_flash: bool,
    kv_type: str,
    rows: int = CHUNK_TOKENS,
) -> tuple[int, int]:
    """Return (bytes of cells and states, bytes of work space) of a context, from llama.cpp's log.

    (0, 0) when llama.cpp makes no such context.
    """
    _lines.clear()
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = streams * window_tokens
    options.n_seq_max = streams
    options.n_batch = options.n_ubatch = rows
    options.flash_attn_type = int(is_flash)
    options.type_k = options.type_v = KV_TYPES[kv_type]
    options.kv_unified = False
    options.swa_full = True
    context = llama_cpp.llama_init_from_model(model, options)
    if not context:
        return 0, 0
    llama_cpp.llama_free(context)
    text = "".join(text for _, text in _lines)
    return _total(_SIZE, text), _total(_WORK, text)


def _total(pattern: re.Pattern[str], text: str) -> int:
    return round(sum(float(count) for count in pattern.findall(text)) * (1 << 20))


class _InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def _tensor_sizes(path: str) -> dict[str, int]:
    """Return the bytes of every tensor of a file and of the other parts that it was split into."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    ggml = ctypes.CDLL(str(folder / "libggml-base.so"))
    ggml.gguf_init_from_file.restype = ctypes.c_void_p
    ggml.gguf_init_from_file.argtypes = (ctypes.c_char_p, _InitParams)
    ggml.gguf_get_n_tensors.restype, ggml.gguf_get_n_tensors.argtypes = ctypes.c_int64, (ctypes.c_void_p,)
    for name, result in (("name", ctypes.c_char_p), ("size", ctypes.c_size_t)):
        function = getattr(ggml, f"gguf_get_tensor_{name}")
        function.restype, function.argtypes = result, (ctypes.c_void_p, ctypes.c_int64)
    ggml.gguf_free.argtypes = (ctypes.c_void_p,)
    sizes = {}
    for part in part_names(Path(path).name):
        file = ggml.gguf_init_from_file(os.fsencode(Path(path).with_name(part)), _InitParams(True, None))
        if not file:
            raise EngineError(f"model {path}: {part} is no GGUF file that llama.cpp can read")
        for index in range(ggml.gguf_get_n_tensors(file)):
            name = ggml.gguf_get_tensor_name(file, index).decode(errors="replace")
            sizes[name] = ggml.gguf_get_tensor_size(file, index)
        ggml.gguf_free(file)
    return sizes


def describe(name: str, options: EngineOptions, is_brief: bool) -> dict[str, Any]:
    """Return what people want to know of a model, by JSON's types. Raises ModelFileError and EngineError."""
    file = resolve(name)
    with opened(str(file.path)) as model:
        found: dict[str, Any] = {
            "model": name,
            "path": str(file.path),
            "files": len(file.parts),
            "size_bytes": file.size_bytes,
            "architecture": family.architecture(model),
            "family": family.family_of(model),
            "parameters": llama_cpp.llama_model_n_params(model),
            "quantisation": (llama_cpp.llama_ftype_name(llama_cpp.llama_model_ftype(model)) or b"").decode(),
            "trained_tokens": llama_cpp.llama_model_n_ctx_train(model),
        }
        return found if is_brief else found | _more(str(file.path), model, options)


def _more(path: str, model: llama_cpp.llama_model_p, options: EngineOptions) -> dict[str, Any]:
    is_embedding = family.family_of(model) == family.EMBEDDING
    options = replace(options, embedding=is_embedding, kv_type=F16 if is_embedding else options.kv_type)
    facts = facts_of(path, model, options.kv_type)
    template = (llama_cpp.llama_model_chat_template(model, None) or b"").decode(errors="replace")
    prefix = family.architecture(model)
    try:
        fit = decide(facts, options, free_memory())
        fits, text, banks = True, fit.text, [asdict(bank) for bank in fit.banks]
    except EngineMemoryError as error:
        fits, text, banks = False, str(error), []
    return {
        "title": family.metadata(model, "general.name"),
        "layers": len(facts.layer_bytes),
        "vocab": llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)),
        "experts": int(family.metadata(model, f"{prefix}.expert_count") or 0),
        "experts_used": int(family.metadata(model, f"{prefix}.expert_used_count") or 0),
        "sliding_window": llama_cpp.llama_model_n_swa(model),
        "pooling": POOLING.get(int(family.metadata(model, f"{prefix}.pooling_type") or 0), ""),
        "exactness": PROMISES[facts.family],
        "weight_bytes": facts.weight_bytes,
        "kv_bytes_per_token": facts.kv_bytes_per_token,
        "kv_type": options.kv_type,
        "state_bytes": facts.state_bytes,
        "has_template": bool(template),
        "chat_format": chatformat.detect(template),
        "takes_tools": chatformat.shows_tools(template),
        "fits": fits,
        "fit": text,
        "banks": banks,
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m kernel.engine.inspect")
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--kv-type", choices=KV_TYPES, default=F16)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    chosen = parser.parse_args(arguments)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    status = 0
    for name in chosen.models:
        try:
            line = describe(name, EngineOptions(kv_type=chosen.kv_type), chosen.brief)
        except (ModelFileError, EngineError) as error:
            line, status = {"model": name, "error": str(error)}, 1
        print(json.dumps(line), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
