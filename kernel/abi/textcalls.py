"""The calls of llm.* about text alone: see calls.py, whose part this is."""

from __future__ import annotations

from dataclasses import dataclass

from kernel.abi.schema import MAX_NAME_CHARS, MAX_TOKENS, bounded

MAX_TEXTS = 64  # of one llm.embed: its vectors are one answer


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmTokenize:
    """Answer {tokens: [int]}; with_special adds the model's opening token and reads control tokens.

    ENOENT: no such model; EIO: it cannot be loaded."""

    text: str
    with_special: bool = True
    model: str = bounded(0, MAX_NAME_CHARS, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmDetokenize:
    """Answer {text} of tokens, given as in llm.generate; bytes that are no UTF-8 become U+FFFD.

    With pieces, also {pieces: [bytes]} of each token, of 2,048 at most. EINVAL: a token outside the vocabulary, or too
    many for their pieces; ENOENT: no such model; EIO: it cannot be loaded."""

    tokens: list | bytes = bounded(0, 4 * MAX_TOKENS)
    pieces: bool = False
    model: str = bounded(0, MAX_NAME_CHARS, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmEmbed:
    """Answer {vectors: [bytes], width}: a vector of length 1 for each of `texts`, or of `tokens` (lists, or bytes as in
    llm.generate); `width` little-endian float32 each.

    `model` is a name of llm.models; the first one for embeddings, if left out. EINVAL: a field, or the model is none
    for embeddings; ENOENT: no such model; EFBIG: a text does not fit its window; EIO: it cannot be loaded, or
    three LLM cores died of this."""

    texts: list | None = bounded(1, MAX_TEXTS, None)
    tokens: list | None = bounded(1, MAX_TEXTS, None)
    model: str = bounded(0, MAX_NAME_CHARS, "")
