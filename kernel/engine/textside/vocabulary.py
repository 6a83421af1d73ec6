"""A model's vocabulary and templates, read without its weights.

Who calls it: server.py at its start, and the children that it forks. What must hold: nothing here computes with
the model, so that a process that has loaded a vocabulary may fork.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

import llama_cpp

from kernel.engine.base import EngineError

_SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)
_TEMPLATE = "tokenizer.chat_template"


class Vocabulary:
    """Tokens of one model. Raises EngineError from the constructor for a file without a vocabulary."""

    def __init__(self, path: str) -> None:
        llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))
        options = llama_cpp.llama_model_default_params()
        options.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), options)
        if not self._model:
            raise EngineError(f"model {path}: llama.cpp cannot load its vocabulary")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._buffer = ctypes.create_string_buffer(256)
        self.size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.pieces = [self._piece(token, False) for token in range(self.size)]
        is_end = llama_cpp.llama_vocab_is_eog
        self.ends = [token for token in range(self.size) if is_end(self._vocab, token)]
        self.controls = {
            token: self._piece(token, True)
            for token in range(self.size)
            if llama_cpp.llama_vocab_is_control(self._vocab, token)
        }
        self.bos: int = llama_cpp.llama_vocab_bos(self._vocab)
        self.eos: int = llama_cpp.llama_vocab_eos(self._vocab)
        end_of_turn = llama_cpp.llama_vocab_eot(self._vocab)
        self.end = next(
            (token for token in (end_of_turn, self.eos, *self.ends) if token in self.ends), -1
        )
        self._adds_bos: bool = llama_cpp.llama_vocab_get_add_bos(self._vocab)
        self.templates = self._read_templates()

    def tokenize(self, text: str, with_special: bool, goes_on: bool = False) -> list[int]:
        """Return token ids; with_special adds the model's own opening token and reads control tokens.

        goes_on: other tokens stand before these, so that none opens them.
        """
        return self._tokenize(text, with_special and not goes_on, with_special)

    def tokenize_chat(self, text: str, known: Sequence[int] = ()) -> list[int]:
        """Return the tokens of a rendered conversation, which may open with the model's opening token or not.

        known: tokens that it begins with, if they give its first characters and end where a control token stands: an
        answer need not be cut into tokens as the tokenizer cuts its text.
        """
        rest = self._after(text, list(known)) if known else None
        if rest is not None:
            return [*known, *rest]
        tokens = self._tokenize(text, False, True)
        if self._adds_bos and tokens[:1] != [self.bos]:
            tokens.insert(0, self.bos)
        return tokens

    def _after(self, text: str, known: list[int]) -> list[int] | None:
        """Return the tokens of what comes after known ones, or None where they are not how the text begins.

        Bytes that are no characters are compared as texts show them.
        """
        opening = self.name(self.bos)
        if known[0] == self.bos and not text.startswith(opening):
            text = opening + text
        said = b"".join(self.controls.get(token) or self.pieces[token] for token in known).decode(errors="replace")
        if not text.startswith(said):
            return None
        rest = self._tokenize(text[len(said) :], False, True)
        is_border = known[-1] in self.controls or not rest or rest[0] in self.controls
        return rest if is_border else None

    def detokenize(self, tokens: list[int]) -> bytes:
        """Return the text of tokens, control tokens left out. Raises EngineError for one that there is not."""
        return b"".join(self.pieces_of(tokens))

    def pieces_of(self, tokens: list[int]) -> list[bytes]:
        """Return the text of each token, empty for control tokens. Raises EngineError for one that there is not."""
        for token in tokens:
            if not 0 <= token < self.size:
                raise EngineError(f"token {token} is not in the vocabulary of {self.size}")
        return [self.pieces[token] for token in tokens]

    def token_of(self, written: str) -> int | None:
        """Return the token that is written so, control tokens too; None if that is not exactly one."""
        tokens = self._tokenize(written, False, True)
        return tokens[0] if len(tokens) == 1 else None

    def name(self, token: int) -> str:
        """Return how a token is written, control tokens too; "" for the absent one, -1."""
        return self._piece(token, True).decode(errors="replace") if token >= 0 else ""

    def render_builtin(self, name: str, messages: list[tuple[str, str]]) -> str:
        """Return messages, (role, content) each, in a layout that llama.cpp knows by `name`."""
        array = (llama_cpp.llama_chat_message * len(messages))(
            *((role.encode(), content.encode()) for role, content in messages)
        )
        room = 256
        for _ in range(2):
            buffer = ctypes.create_string_buffer(room)
            used = llama_cpp.llama_chat_apply_template(
                name.encode(), array, len(messages), True, buffer, room
            )
            if used < 0:
                raise EngineError(
                    f"the model's chat template is {name[:80]!r}, which llama.cpp does not know"
                )
            if used <= room:
                return buffer.raw[:used].decode(errors="replace")
            room = used
        raise EngineError("the chat template gave texts of two lengths for the same messages")

    def _tokenize(self, text: str, adds_special: bool, reads_special: bool) -> list[int]:
        raw = text.encode(errors="replace")
        room = len(raw) + 8
        for _ in range(2):
            buffer = (llama_cpp.llama_token * room)()
            count = llama_cpp.llama_tokenize(
                self._vocab, raw, len(raw), buffer, room, adds_special, reads_special
            )
            if count >= 0:
                return buffer[:count]
            room = -count
        raise EngineError(f"llama.cpp could not tokenize a text of {len(raw)} bytes")

    def _piece(self, token: int, with_special: bool) -> bytes:
        while True:
            room = len(self._buffer)
            used = llama_cpp.llama_token_to_piece(
                self._vocab, token, self._buffer, room, 0, with_special
            )
            if used >= 0:
                return self._buffer[:used]
            self._buffer = ctypes.create_string_buffer(-used)

    def _read_templates(self) -> dict[str, str]:
        """Return the model's chat templates by name; its main one has the name ""."""
        found = {}
        for index in range(llama_cpp.llama_model_meta_count(self._model)):
            key = self._meta(llama_cpp.llama_model_meta_key_by_index, index)
            if key == _TEMPLATE or key.startswith(_TEMPLATE + "."):
                text = self._meta(llama_cpp.llama_model_meta_val_str_by_index, index)
                found[key[len(_TEMPLATE) + 1 :]] = text
        return found

    def _meta(self, read: object, index: int) -> str:
        room = 256
        while True:
            buffer = ctypes.create_string_buffer(room)
            used = read(self._model, index, buffer, room)  # type: ignore[operator]
            if used < room:
                return buffer.value.decode(errors="replace")
            room = used + 1
