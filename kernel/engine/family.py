"""What kind of model this is, as far as its contexts are concerned.

Who calls it: probe.py in the core, inspect.py. What must hold: the kind comes from what llama.cpp
says of the model, never from its name.
"""

from __future__ import annotations

import ctypes

import llama_cpp

from kernel.engine.base import PASS_CHUNKS

DENSE, MOE, WINDOW, RECURRENT, HYBRID, EMBEDDING = FAMILIES = (
    "dense",
    "moe",
    "sliding-window",
    "recurrent",
    "hybrid",
    "embedding",
)


def family_of(model: llama_cpp.llama_model_p) -> str:
    """Return one of FAMILIES for a loaded model; what decides about its contexts goes first."""
    if llama_cpp.llama_model_is_recurrent(model):
        return RECURRENT
    if llama_cpp.llama_model_is_hybrid(model):
        return HYBRID
    if not llama_cpp.llama_model_has_decoder(model) or not _is_causal(model):
        return EMBEDDING
    if llama_cpp.llama_model_n_swa(model) > 0:
        return WINDOW
    return MOE if has_experts(model) else DENSE


def has_experts(model: llama_cpp.llama_model_p) -> bool:
    """Whether some of its layers send each token to a few of many networks."""
    return int(metadata(model, f"{architecture(model)}.expert_count") or 0) > 0


def most_chunks(model: llama_cpp.llama_model_p) -> int:
    """Return how many whole chunks of prompts it is worth trying to decode in one pass.

    A network of many has as many rows as the router sends it, which is the neighbours' doing; and a state is brought
    forward by as many tokens as there are.
    """
    may_share = family_of(model) in (DENSE, WINDOW) and not has_experts(model)
    return PASS_CHUNKS if may_share else 1


def architecture(model: llama_cpp.llama_model_p) -> str:
    return metadata(model, "general.architecture")


def metadata(model: llama_cpp.llama_model_p, key: str) -> str:
    """Return a value of the model's metadata as text; "" when it has none of this key."""
    room = 256
    while True:
        buffer = ctypes.create_string_buffer(room)
        used = llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, room)
        if used < room:
            return buffer.value.decode(errors="replace") if used >= 0 else ""
        room = used + 1


def _is_causal(model: llama_cpp.llama_model_p) -> bool:
    return metadata(model, f"{architecture(model)}.attention.causal") != "false"
