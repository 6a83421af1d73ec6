"""GGUF files made offline: the small default model and random-weight models of real shapes.

Who calls it: `make setup` (the default model), every benchmark and the engine tests (real shapes).
What must hold: a file is a function of (shape, quantisation, FORMAT), byte for byte, so that any
machine makes the same model and a cached file can be trusted by its name alone.

    python -m benchmarks.models default            # print the path, make the file if it is missing
    python -m benchmarks.models smollm2-135m q8_0
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from benchmarks.vocabulary import CHAT_TEMPLATE, Vocabulary, byte_pair_vocabulary, word_vocabulary

FORMAT = 1  # raise it whenever the bytes written for a shape change: cached files carry it in their names
QUANTISATIONS = ("q8_0", "f16", "q4_k")
Q8_BLOCK = 32  # weights that share one scale in Q8_0


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of a llama-architecture decoder with tied embeddings."""

    name: str
    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    vocab: int
    window_tokens: int
    rope_base: float = 10_000.0

    @property
    def kv_width(self) -> int:
        return self.width // self.heads * self.kv_heads


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("default", 4, 256, 768, 4, 2, 2048, 4096),
        Shape("smollm2-135m", 30, 576, 1536, 9, 3, 49152, 8192),
        Shape("qwen2.5-0.5b", 24, 896, 4864, 14, 2, 151936, 32768),
        Shape("llama3.2-1b", 16, 2048, 8192, 32, 8, 128256, 32768),
    )
}


def cache_dir() -> Path:
    """Where made models are kept: outside any work tree, shared by all clones."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "agentix" / "models"


def model_path(shape_name: str = "default", quantisation: str = "q8_0") -> Path:
    """Return the GGUF for a shape, making it first when the cache lacks it.

    Raises ValueError for an unknown shape or quantisation, or a K-quant of a width it cannot hold.
    """
    if shape_name not in SHAPES:
        raise ValueError(f"shape {shape_name!r} is not one of {', '.join(SHAPES)}")
    if quantisation not in QUANTISATIONS:
        raise ValueError(f"quantisation {quantisation!r} is not one of {', '.join(QUANTISATIONS)}")
    shape = SHAPES[shape_name]
    if quantisation == "q4_k" and shape.width % 256:
        raise ValueError(f"q4_k needs widths that are multiples of 256; {shape_name} has {shape.width}")
    path = cache_dir() / f"{shape_name}-{quantisation}-{FORMAT}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = Path(scratch) / path.name
            _write(shape, quantisation, made)
            made.replace(path)  # whole or absent: a killed writer leaves nothing that is trusted
    return path


def _write(shape: Shape, quantisation: str, path: Path) -> None:
    if quantisation != "q4_k":
        _write_plain(shape, quantisation, path)
        return
    import llama_cpp  # only K-quants need it: numpy cannot make them

    plain = path.with_suffix(".f16")
    _write_plain(shape, "f16", plain)
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    if llama_cpp.llama_model_quantize(os.fsencode(plain), os.fsencode(path), options):
        raise RuntimeError(f"llama.cpp could not quantise {plain} to q4_k")


def _write_plain(shape: Shape, quantisation: str, path: Path) -> None:
    make_vocabulary = word_vocabulary if shape.name == "default" else byte_pair_vocabulary
    writer = gguf.GGUFWriter(path, "llama")
    _write_header(writer, shape, quantisation, make_vocabulary(shape.vocab))
    rng = np.random.Generator(np.random.PCG64(20240607))  # the seed is part of the format
    for name, rows, columns in _matrices(shape):
        if quantisation == "q8_0":
            data = _random_q8(rng, rows, columns)
            writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            weights = rng.standard_normal((rows, columns), dtype=np.float32) * _scale(columns)
            writer.add_tensor(name, weights.astype(np.float16))
    for name in _norms(shape):
        writer.add_tensor(name, np.ones(shape.width, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_header(
    writer: gguf.GGUFWriter, shape: Shape, quantisation: str, vocabulary: Vocabulary
) -> None:
    writer.add_name(f"agentix {shape.name} (random weights)")
    writer.add_context_length(shape.window_tokens)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab)
    ftype = gguf.LlamaFileType
    writer.add_file_type(ftype.MOSTLY_Q8_0 if quantisation == "q8_0" else ftype.MOSTLY_F16)
    writer.add_tokenizer_model(vocabulary.kind)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges:
        writer.add_tokenizer_pre("default")
        writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.bos)
    writer.add_eos_token_id(vocabulary.eos)
    writer.add_eot_token_id(vocabulary.end_of_turn)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _matrices(shape: Shape) -> Iterator[tuple[str, int, int]]:
    """Yield (tensor name, rows, columns) of every weight matrix, in file order."""
    yield "token_embd.weight", shape.vocab, shape.width
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield block + "attn_q.weight", shape.width, shape.width
        yield block + "attn_k.weight", shape.kv_width, shape.width
        yield block + "attn_v.weight", shape.kv_width, shape.width
        yield block + "attn_output.weight", shape.width, shape.width
        yield block + "ffn_gate.weight", shape.feed_forward, shape.width
        yield block + "ffn_up.weight", shape.feed_forward, shape.width
        yield block + "ffn_down.weight", shape.width, shape.feed_forward


def _norms(shape: Shape) -> Iterator[str]:
    yield "output_norm.weight"
    for layer in range(shape.layers):
        yield f"blk.{layer}.attn_norm.weight"
        yield f"blk.{layer}.ffn_norm.weight"


def _scale(columns: int) -> np.float32:
    """Standard deviation that keeps the residual stream of a random network alive but not chaotic."""
    return np.float32(1.4 / np.sqrt(columns))


def _random_q8(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return random Q8_0 blocks, shape (rows, columns / 32 * 34) of uint8: a f16 scale, 32 int8.

    Weights are drawn already quantised: drawing floats and quantising them takes ten times as long.
    """
    blocks = columns // Q8_BLOCK
    out = np.empty((rows, blocks, 2 + Q8_BLOCK), dtype=np.uint8)
    step = np.array([_scale(columns) * np.sqrt(3) / 127], dtype=np.float16)
    out[:, :, :2] = step.view(np.uint8)
    out[:, :, 2:] = rng.integers(-127, 128, (rows, blocks, Q8_BLOCK), dtype=np.int8).view(np.uint8)
    return out.reshape(rows, -1)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument("shape", nargs="?", default="default", choices=sorted(SHAPES))
    parser.add_argument("quantisation", nargs="?", default="q8_0", choices=QUANTISATIONS)
    chosen = parser.parse_args(argv)
    try:
        print(model_path(chosen.shape, chosen.quantisation))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"models: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
