"""Which tensors a shape's architecture has, by llama.cpp's names, and what each is filled with.

Who calls it: model_write.py. What must hold: names and order are part of a file's bytes. All matrices come
first, since the random numbers are drawn in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from benchmarks.model_shapes import Shape

CONV = 4  # tokens that a state-space layer's convolution spans
SHORT_CONV = 3  # the same in LFM2
LORA = 32  # inner width of RWKV-7's low-rank products


class Tensor(NamedTuple):
    """A tensor to write. `fill`: "matrix" (quantised as the file is), or float32: "random", "ones", "fours",
    "eights", "decay" (negative: what a state keeps of itself) and "step" (bias of a small positive step)."""

    name: str
    shape: tuple[int, ...]  # slowest first: (rows, columns), or (experts, rows, columns)
    fill: str


def tensors(shape: Shape) -> list[Tensor]:
    """Return every tensor of a shape, in file order."""
    block = _BLOCKS[shape.architecture]
    found = list(_ends(shape))
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        found += (Tensor(prefix + name, size, fill) for name, size, fill in block(shape, layer))
    return sorted(found, key=lambda tensor: tensor.fill != "matrix")


def _ends(shape: Shape) -> Iterator[Tensor]:
    width = shape.width
    yield Tensor("token_embd.weight", (shape.vocab, width), "matrix")
    if shape.architecture in ("gpt-oss", "rwkv7"):  # the others use the embedding for their output
        yield Tensor("output.weight", (shape.vocab, width), "matrix")
    if shape.architecture == "lfm2":
        yield Tensor("token_embd_norm.weight", (width,), "ones")
        return
    if shape.architecture in ("bert", "rwkv7"):
        yield Tensor("token_embd_norm.weight", (width,), "ones")
        yield Tensor("token_embd_norm.bias", (width,), "random")
    if shape.architecture == "bert":
        yield Tensor("position_embd.weight", (shape.window_tokens, width), "random")
        yield Tensor("token_types.weight", (2, width), "random")
        return
    yield Tensor("output_norm.weight", (width,), "ones")
    if shape.architecture == "rwkv7":
        yield Tensor("output_norm.bias", (width,), "random")


def _attention(shape: Shape, query_rows: int = 0) -> Iterator[Tensor]:
    yield Tensor("attn_q.weight", (query_rows or shape.query_width, shape.width), "matrix")
    yield Tensor("attn_k.weight", (shape.kv_width, shape.width), "matrix")
    yield Tensor("attn_v.weight", (shape.kv_width, shape.width), "matrix")
    yield Tensor("attn_output.weight", (shape.width, shape.query_width), "matrix")


def _attention_biases(shape: Shape) -> Iterator[Tensor]:
    yield Tensor("attn_q.bias", (shape.query_width,), "random")
    yield Tensor("attn_k.bias", (shape.kv_width,), "random")
    yield Tensor("attn_v.bias", (shape.kv_width,), "random")


def _head_norms(shape: Shape) -> Iterator[Tensor]:
    yield Tensor("attn_q_norm.weight", (shape.head_width,), "ones")
    yield Tensor("attn_k_norm.weight", (shape.head_width,), "ones")


def _norms(shape: Shape, *names: str) -> Iterator[Tensor]:
    for name in names:
        yield Tensor(f"{name}.weight", (shape.width,), "ones")


def _gated(shape: Shape) -> Iterator[Tensor]:
    yield Tensor("ffn_gate.weight", (shape.feed_forward, shape.width), "matrix")
    yield Tensor("ffn_up.weight", (shape.feed_forward, shape.width), "matrix")
    yield Tensor("ffn_down.weight", (shape.width, shape.feed_forward), "matrix")


def _experts(shape: Shape) -> Iterator[Tensor]:
    count, inner, width = shape.experts, shape.feed_forward, shape.width
    yield Tensor("ffn_gate_inp.weight", (count, width), "random")
    yield Tensor("ffn_gate_exps.weight", (count, inner, width), "matrix")
    yield Tensor("ffn_up_exps.weight", (count, inner, width), "matrix")
    yield Tensor("ffn_down_exps.weight", (count, width, inner), "matrix")


def _llama(shape: Shape, layer: int) -> Iterator[Tensor]:
    yield from _attention(shape)
    yield from _gated(shape)
    yield from _norms(shape, "attn_norm", "ffn_norm")


def _qwen2(shape: Shape, layer: int) -> Iterator[Tensor]:
    yield from _llama(shape, layer)
    yield from _attention_biases(shape)


def _qwen3(shape: Shape, layer: int) -> Iterator[Tensor]:
    yield from _llama(shape, layer)
    yield from _head_norms(shape)


def _qwen3moe(shape: Shape, layer: int) -> Iterator[Tensor]:
    yield from _attention(shape)
    yield from _experts(shape)
    yield from _norms(shape, "attn_norm", "ffn_norm")
    yield from _head_norms(shape)


def _gemma2(shape: Shape, layer: int) -> Iterator[Tensor]:
    yield from _llama(shape, layer)
    # Large beside the embedding, which this architecture scales up, or greedy text repeats one token.
    yield Tensor("post_attention_norm.weight", (shape.width,), "fours")
    yield Tensor("post_ffw_norm.weight", (shape.width,), "eights")


def _gemma3(shape: Shape, layer: int) -> Iterator[Tensor]:
    yield from _gemma2(shape, layer)
    yield Tensor("attn_q_norm.weight", (shape.head_width,), "fours")  # few tokens take all of the attention
    yield Tensor("attn_k_norm.weight", (shape.head_width,), "ones")


def _gpt_oss(shape: Shape, layer: int) -> Iterator[Tensor]:
    yield from _attention(shape)
    yield from _experts(shape)
    yield from _norms(shape, "attn_norm", "post_attention_norm")
    yield from _attention_biases(shape)
    yield Tensor("attn_output.bias", (shape.width,), "random")
    yield Tensor("attn_sinks.weight", (shape.heads,), "random")
    yield Tensor("ffn_gate_inp.bias", (shape.experts,), "random")
    yield Tensor("ffn_gate_exps.bias", (shape.experts, shape.feed_forward), "random")
    yield Tensor("ffn_up_exps.bias", (shape.experts, shape.feed_forward), "random")
    yield Tensor("ffn_down_exps.bias", (shape.experts, shape.width), "random")


def _mamba(shape: Shape, layer: int) -> Iterator[Tensor]:
    inner, state, rank = 2 * shape.width, shape.state, shape.state_heads
    yield Tensor("ssm_in.weight", (2 * inner, shape.width), "matrix")
    yield Tensor("ssm_x.weight", (rank + 2 * state, inner), "matrix")
    yield Tensor("ssm_dt.weight", (inner, rank), "matrix")
    yield Tensor("ssm_out.weight", (shape.width, inner), "matrix")
    yield from _norms(shape, "attn_norm")
    yield Tensor("ssm_conv1d.weight", (inner, CONV), "random")
    yield Tensor("ssm_conv1d.bias", (inner,), "random")
    yield Tensor("ssm_dt.bias", (inner,), "step")
    yield Tensor("ssm_a", (inner, state), "decay")
    yield Tensor("ssm_d", (inner,), "ones")


def _mamba2(shape: Shape, layer: int) -> Iterator[Tensor]:
    inner, heads = 2 * shape.width, shape.state_heads
    mixed = inner + 2 * shape.state  # what the convolution runs over
    yield Tensor("ssm_in.weight", (inner + mixed + heads, shape.width), "matrix")
    yield Tensor("ssm_out.weight", (shape.width, inner), "matrix")
    yield from _norms(shape, "attn_norm")
    yield Tensor("ssm_conv1d.weight", (mixed, CONV), "random")
    yield Tensor("ssm_conv1d.bias", (mixed,), "random")
    yield Tensor("ssm_dt.bias", (heads,), "step")
    yield Tensor("ssm_a", (heads, 1), "decay")
    yield Tensor("ssm_d", (heads, 1), "ones")
    yield Tensor("ssm_norm.weight", (1, inner), "ones")


def _granitehybrid(shape: Shape, layer: int) -> Iterator[Tensor]:
    if shape.attends(layer):
        yield from _llama(shape, layer)
    else:
        yield from _mamba2(shape, layer)
        yield from _gated(shape)
        yield from _norms(shape, "ffn_norm")


def _lfm2(shape: Shape, layer: int) -> Iterator[Tensor]:
    if shape.attends(layer):
        yield from _qwen3(shape, layer)
        return
    yield Tensor("shortconv.in_proj.weight", (3 * shape.width, shape.width), "matrix")
    yield Tensor("shortconv.out_proj.weight", (shape.width, shape.width), "matrix")
    yield from _gated(shape)
    yield from _norms(shape, "attn_norm", "ffn_norm")
    yield Tensor("shortconv.conv.weight", (shape.width, SHORT_CONV), "random")


def _qwen35(shape: Shape, layer: int) -> Iterator[Tensor]:
    inner = shape.state * shape.state_heads  # as many heads of keys as of values
    if shape.attends(layer):
        yield from _attention(shape, 2 * shape.query_width)  # each query with its gate
        yield from _head_norms(shape)
    else:
        yield Tensor("attn_qkv.weight", (3 * inner, shape.width), "matrix")
        yield Tensor("attn_gate.weight", (inner, shape.width), "matrix")
        yield Tensor("ssm_beta.weight", (shape.state_heads, shape.width), "matrix")
        yield Tensor("ssm_alpha.weight", (shape.state_heads, shape.width), "matrix")
        yield Tensor("ssm_out.weight", (shape.width, inner), "matrix")
        yield Tensor("ssm_conv1d.weight", (3 * inner, CONV), "random")
        yield Tensor("ssm_dt.bias", (shape.state_heads,), "step")
        yield Tensor("ssm_a", (shape.state_heads,), "decay")
        yield Tensor("ssm_norm.weight", (shape.state,), "ones")
    yield from _gated(shape)
    yield from _norms(shape, "attn_norm", "post_attention_norm")


def _rwkv7(shape: Shape, layer: int) -> Iterator[Tensor]:
    width = shape.width
    for name in ("key", "value", "receptance", "output"):
        yield Tensor(f"time_mix_{name}.weight", (width, width), "matrix")
    yield Tensor("channel_mix_key.weight", (shape.feed_forward, width), "matrix")
    yield Tensor("channel_mix_value.weight", (width, shape.feed_forward), "matrix")
    yield from _norms(shape, "attn_norm", "attn_norm_2", "time_mix_ln")
    for name in ("attn_norm.bias", "attn_norm_2.bias", "time_mix_ln.bias", "channel_mix_lerp_k.weight"):
        yield Tensor(name, (width,), "random")
    for name in ("w0", "a0", "v0", "k_k", "k_a", "r_k"):
        yield Tensor(f"time_mix_{name}.weight", (width,), "random")
    for name in ("w", "a", "v", "g"):
        yield Tensor(f"time_mix_{name}1.weight", (LORA, width), "random")
        yield Tensor(f"time_mix_{name}2.weight", (width, LORA), "random")
    yield Tensor("time_mix_lerp_fused.weight", (6, 1, 1, width), "random")


def _bert(shape: Shape, layer: int) -> Iterator[Tensor]:
    yield from _attention(shape)
    yield Tensor("ffn_up.weight", (shape.feed_forward, shape.width), "matrix")
    yield Tensor("ffn_down.weight", (shape.width, shape.feed_forward), "matrix")
    yield from _norms(shape, "attn_output_norm", "layer_output_norm")
    yield from _attention_biases(shape)
    for name in ("attn_output", "ffn_down", "attn_output_norm", "layer_output_norm"):
        yield Tensor(f"{name}.bias", (shape.width,), "random")
    yield Tensor("ffn_up.bias", (shape.feed_forward,), "random")


_BLOCKS: dict[str, Callable[[Shape, int], Iterator[Tensor]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3moe": _qwen3moe,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gpt-oss": _gpt_oss,
    "mamba": _mamba,
    "mamba2": _mamba2,
    "granitehybrid": _granitehybrid,
    "lfm2": _lfm2,
    "qwen35": _qwen35,
    "rwkv7": _rwkv7,
    "bert": _bert,
}
