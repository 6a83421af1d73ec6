"""GGUF files that hold a vocabulary and chat templates and no weights: all that the text side reads."""

from __future__ import annotations

from pathlib import Path

import gguf

from benchmarks import model_write
from benchmarks.vocabulary import Vocabulary, word_vocabulary


def write_vocabulary(
    path: Path, template: str | None, vocabulary: Vocabulary | None = None, **others: str
) -> str:
    """Write a file with a chat template, and others by their names; return its path."""
    vocabulary = vocabulary or word_vocabulary(2048)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_layer_norm_rms_eps(1e-5)
    model_write.write_vocabulary(writer, vocabulary)
    if template is not None:
        writer.add_chat_template(template)
    for name, text in others.items():
        writer.add_string(f"tokenizer.chat_template.{name}", text)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return str(path)
