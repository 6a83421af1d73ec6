"""A GGUF file of a shape: its metadata, and random weights in the quantisation asked for.

Who calls it: models.py. What must hold: the bytes are a function of (shape, quantisation); the seed, the
order of the draws and the order of the keys belong to the format.
"""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path

import gguf
import numpy as np

from benchmarks.model_shapes import Shape
from benchmarks.model_tensors import CONV, LORA, SHORT_CONV, Tensor, tensors
from benchmarks.vocabulary import CHAT_TEMPLATE, Vocabulary, make_vocabulary

QUANTISATIONS = ("q8_0", "q4_0", "q4_k", "f16", "bf16", "f32")
BLOCK = 32  # weights that share one scale in Q8_0 and Q4_0
SEED = 20240607
_FILE_TYPES = {
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "f32": gguf.LlamaFileType.ALL_F32,
}
_CONSTANTS = {"ones": 1.0, "fours": 4.0, "eights": 8.0}


def write_model(shape: Shape, quantisation: str, path: Path, files: int = 1) -> None:
    """Write a model to `path`, or to `files` files that are named after it as llama.cpp splits them.

    Raises RuntimeError when llama.cpp refuses to make a K-quant.
    """
    if quantisation != "q4_k":
        _write_plain(shape, quantisation, path, files)
        return
    import llama_cpp  # only K-quants need it: numpy cannot make them

    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    plain = path.with_suffix(".f16")
    _write_plain(shape, "f16", plain, 1)
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    failed = llama_cpp.llama_model_quantize(os.fsencode(plain), os.fsencode(path), options)
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(), ctypes.c_void_p(0))
    plain.unlink()
    if failed:
        raise RuntimeError(f"llama.cpp could not quantise {plain} to q4_k")


def _write_plain(shape: Shape, quantisation: str, path: Path, files: int) -> None:
    listed = tensors(shape)
    per_file = -(-len(listed) // files) if files > 1 else 0
    writer = gguf.GGUFWriter(path, shape.architecture, split_max_tensors=per_file)
    _write_header(writer, shape, quantisation, make_vocabulary(shape.vocabulary, shape.vocab))
    rng = np.random.Generator(np.random.PCG64(SEED))
    for tensor in listed:
        _add(writer, rng, tensor, quantisation)
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
    if shape.family == "recurrent":
        writer.add_head_count(0)
    else:
        _write_attention(writer, shape)
    _write_norms(writer, shape)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(_FILE_TYPES[quantisation])
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.experts_used)
        writer.add_expert_feed_forward_length(shape.feed_forward)
    if shape.sliding_window:
        writer.add_sliding_window(shape.sliding_window)
        writer.add_sliding_window_pattern(shape.period)
    if shape.state:
        _write_state(writer, shape)
    if shape.pooling:
        writer.add_pooling_type(gguf.PoolingType(shape.pooling))
    _write_own(writer, shape)
    write_vocabulary(writer, vocabulary)
    if shape.family != "embedding":
        writer.add_chat_template(CHAT_TEMPLATE)


def _write_attention(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_head_count(shape.heads)
    if shape.family == "hybrid" and shape.architecture != "qwen35":  # Qwen's are known by their interval
        writer.add_head_count_kv(
            [shape.kv_heads if shape.attends(layer) else 0 for layer in range(shape.layers)]
        )
    else:
        writer.add_head_count_kv(shape.kv_heads)
    if shape.head:
        writer.add_key_length(shape.head)
        writer.add_value_length(shape.head)
    if shape.architecture != "bert":
        writer.add_rope_dimension_count(shape.head_width)
        writer.add_rope_freq_base(shape.rope_base)


def _write_norms(writer: gguf.GGUFWriter, shape: Shape) -> None:
    if shape.architecture in ("bert", "rwkv7"):
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_layer_norm_rms_eps(1e-5)


def _write_state(writer: gguf.GGUFWriter, shape: Shape) -> None:
    if shape.architecture == "rwkv7":
        writer.add_wkv_head_size(shape.state)
        writer.add_token_shift_count(2)
        for add in (
            writer.add_decay_lora_rank,
            writer.add_iclr_lora_rank,
            writer.add_value_residual_mix_lora_rank,
            writer.add_gate_lora_rank,
        ):
            add(LORA)
        return
    is_delta_net = shape.architecture == "qwen35"
    writer.add_ssm_conv_kernel(CONV)
    writer.add_ssm_inner_size(shape.state * shape.state_heads if is_delta_net else 2 * shape.width)
    writer.add_ssm_state_size(shape.state)
    writer.add_ssm_time_step_rank(shape.state_heads)
    writer.add_ssm_group_count(shape.state_heads if is_delta_net else 1)


def _write_own(writer: gguf.GGUFWriter, shape: Shape) -> None:
    """Write what one architecture alone has."""
    if shape.architecture == "qwen35":
        quarter = shape.head_width // 8
        writer.add_rope_dimension_sections([quarter, quarter, quarter, quarter])
        writer.add_full_attention_interval(shape.period)
    elif shape.architecture == "lfm2":
        writer.add_shortconv_l_cache(SHORT_CONV)
    elif shape.architecture == "gemma2":
        writer.add_attn_logit_softcapping(50.0)
        writer.add_final_logit_softcapping(30.0)
    elif shape.architecture == "bert":
        writer.add_causal_attention(False)
        writer.add_token_type_count(2)


def write_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    """Write a model's tokens and what is special about them."""
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
    if vocabulary.kind == "bert":
        writer.add_sep_token_id(vocabulary.eos)
        writer.add_pad_token_id(0)
        writer.add_unk_token_id(1)
    else:
        writer.add_eot_token_id(vocabulary.end_of_turn)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


def _add(
    writer: gguf.GGUFWriter, rng: np.random.Generator, tensor: Tensor, quantisation: str
) -> None:
    name, shape, fill = tensor
    if fill in _CONSTANTS:
        writer.add_tensor(name, np.full(shape, _CONSTANTS[fill], dtype=np.float32))
    elif fill == "decay":
        writer.add_tensor(name, -0.5 - 8 * rng.random(shape, dtype=np.float32))
    elif fill == "step":
        writer.add_tensor(name, 4 * rng.random(shape, dtype=np.float32) - 5)
    elif fill == "matrix" and quantisation == "q8_0":
        writer.add_tensor(name, _random_q8(rng, shape), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    elif fill == "matrix" and quantisation == "q4_0":
        writer.add_tensor(name, _random_q4(rng, shape), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    else:
        weights = rng.standard_normal(shape, dtype=np.float32) * _scale(shape[-1])
        if fill == "matrix" and quantisation == "f16":
            writer.add_tensor(name, weights.astype(np.float16))
        elif fill == "matrix" and quantisation == "bf16":
            writer.add_tensor(name, _bf16(weights), raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(name, weights)


def _scale(columns: int) -> np.float32:
    """Standard deviation that keeps the residual stream of a random network alive but not chaotic."""
    return np.float32(1.4 / np.sqrt(columns))


def _random_q8(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return random Q8_0 blocks, shape (..., columns / 32 * 34) of uint8: a f16 scale, 32 int8.

    Weights are drawn already quantised: drawing floats and quantising them takes ten times as long.
    """
    rows, columns = math.prod(shape[:-1]), shape[-1]
    blocks = columns // BLOCK
    out = np.empty((rows, blocks, 2 + BLOCK), dtype=np.uint8)
    step = np.array([_scale(columns) * np.sqrt(3) / 127], dtype=np.float16)
    out[:, :, :2] = step.view(np.uint8)
    out[:, :, 2:] = rng.integers(-127, 128, (rows, blocks, BLOCK), dtype=np.int8).view(np.uint8)
    return out.reshape(*shape[:-1], -1)


def _random_q4(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return random Q4_0 blocks, shape (..., columns / 32 * 18) of uint8: a f16 scale, 32 nibbles.

    A nibble stands for its value less 8; 0 is not drawn, so that the mean is none.
    """
    rows, columns = math.prod(shape[:-1]), shape[-1]
    blocks = columns // BLOCK
    out = np.empty((rows, blocks, 2 + BLOCK // 2), dtype=np.uint8)
    step = np.array([_scale(columns) * np.sqrt(3) / 7.5], dtype=np.float16)
    out[:, :, :2] = step.view(np.uint8)
    nibbles = rng.integers(1, 16, (2, rows, blocks, BLOCK // 2), dtype=np.uint8)
    out[:, :, 2:] = nibbles[0] | nibbles[1] << 4
    return out.reshape(*shape[:-1], -1)


def _bf16(weights: np.ndarray) -> np.ndarray:
    """Return float32 rounded to bfloat16 (to even), as uint8."""
    bits = weights.view(np.uint32)
    rounded = bits + (0x7FFF + (bits >> 16 & 1))
    return (rounded >> 16).astype(np.uint16).view(np.uint8)
