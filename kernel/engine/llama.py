"""llama.cpp driven one step at a time: split KV cache, one sequence id per slot.

Who calls it: worker.py, inside the LLM core process and nowhere else (ggml aborts its process on an
assertion, so the kernel never imports this). What must hold: see Row in base.py for the batches, and
snapshot.py for what is handed to llama.cpp's state parser.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import time
from pathlib import Path

import llama_cpp
import numpy as np
import psutil

from kernel.engine import snapshot
from kernel.engine.base import (
    CHUNK_TOKENS,
    EngineError,
    EngineInfo,
    EngineMemoryError,
    Restore,
    Row,
    Sampled,
    Save,
    StepPlan,
    StepResult,
)
from kernel.engine.batch import Batch, Mapping
from kernel.engine.hostcpu import read_cpu
from kernel.engine.sampler import sample

MAX_HOLE = 4  # slots between two busy ones that are filled rather than left open
# ggml splits the KV of a single flash-attention row among threads once its extent, which llama.cpp
# rounds up to 256, reaches 512; two rows are never split.
FLASH_WHOLE_TOKENS = 256

_SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)


class LlamaEngine:
    """One model with `slots` sequences of `window_tokens` each.

    flash_attention: "on", "off", or "auto" for what decodes faster on this kind of CPU.

    Raises EngineError from the constructor when the file is no model that llama.cpp can load, when
    the context does not fit in memory, or when a first decode gives logits that are not finite.
    """

    def __init__(
        self,
        path: str,
        *,
        slots: int,
        window_tokens: int,
        threads: int,
        extra_buffers: bool = True,
        flash_attention: str = "auto",
    ) -> None:
        began = time.monotonic()
        llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.use_extra_bufts = extra_buffers
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), options)
        if not self._model:
            raise EngineError(f"model {path}: llama.cpp cannot load this file as a GGUF model")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        trained = llama_cpp.llama_model_n_ctx_train(self._model)
        window_tokens = min(window_tokens, trained)
        rows = max(CHUNK_TOKENS, slots)
        if flash_attention == "auto":
            flash_attention = "off" if "amx_tile" in read_cpu().features else "on"
        self._has_flash = flash_attention == "on"
        self._check_memory(slots, window_tokens)
        self._context = self._make_context(slots, window_tokens, rows, threads)
        if not self._context:
            raise EngineError(f"model {path}: llama.cpp cannot make a context for it")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = Batch(rows, llama_cpp.llama_batch)
        self._slots = max(slots, 2)
        self._is_alone_exact = True
        self._segments: dict[int, Mapping] = {}
        self._template = llama_cpp.llama_model_chat_template(self._model, None)
        vocab = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._pieces: list[bytes | None] = [None] * vocab
        self._is_end = [
            bool(llama_cpp.llama_vocab_is_eog(self._vocab, token)) for token in range(vocab)
        ]
        self._vocab_size = vocab
        layers = llama_cpp.llama_model_n_layer(self._model)
        self._fingerprint = self._make_fingerprint(path, slots, window_tokens, self._has_flash)
        per_token, overhead = self._preflight()
        self._is_alone_exact = self._measure_alone()
        self.info = EngineInfo(
            model=path,
            description=self._describe(),
            vocab=vocab,
            window_tokens=window_tokens,
            slots=slots,
            threads=threads,
            kv_bytes_per_token=per_token,
            snapshot_overhead_bytes=overhead + 64 * layers,
            extra_buffers=extra_buffers,
            flash_attention=self._has_flash,
            has_template=bool(self._template),
            load_s=time.monotonic() - began,
        )

    # -- text ---------------------------------------------------------------------------------

    def tokenize(self, text: str, with_special: bool) -> list[int]:
        """Return token ids; with_special adds the model's own opening token and reads control tokens."""
        raw = text.encode()
        room = len(raw) + 8
        for _ in range(2):
            buffer = (llama_cpp.llama_token * room)()
            count = llama_cpp.llama_tokenize(
                self._vocab, raw, len(raw), buffer, room, with_special, with_special
            )
            if count >= 0:
                return buffer[:count]
            room = -count
        raise EngineError(f"llama.cpp could not tokenize a text of {len(raw)} bytes")

    def render(self, messages: list[tuple[str, str]]) -> str:
        """Return chat messages, (role, content) each, in the model's own template, open for a reply."""
        if not self._template:
            raise EngineError("the model carries no chat template: send a prompt instead of messages")
        array = (llama_cpp.llama_chat_message * len(messages))(
            *((role.encode(), content.encode()) for role, content in messages)
        )
        room = 256 + sum(2 * len(role) + 2 * len(content.encode()) + 64 for role, content in messages)
        for _ in range(2):
            buffer = ctypes.create_string_buffer(room)
            used = llama_cpp.llama_chat_apply_template(
                self._template, array, len(messages), True, buffer, room
            )
            if used < 0:
                raise EngineError("llama.cpp does not know the model's chat template")
            if used <= room:
                return buffer.raw[:used].decode()
            room = used
        raise EngineError("the chat template gave texts of two lengths for the same messages")

    def piece(self, token: int) -> bytes:
        """Return the bytes that a token adds to a text; empty for control tokens."""
        known = self._pieces[token]
        if known is None:
            room = 64
            while True:
                buffer = ctypes.create_string_buffer(room)
                used = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
                if used >= 0:
                    break
                room = -used
            known = self._pieces[token] = buffer.raw[:used]
        return known

    # -- steps --------------------------------------------------------------------------------

    def attach(self, segment: int, fd: int, size_bytes: int) -> None:
        """Map a segment of the kernel's; the descriptor stays the caller's."""
        self._segments[segment] = Mapping(fd, size_bytes)

    def detach(self, segment: int) -> None:
        """Unmap a segment; unknown ids are ignored, as after a core's restart."""
        mapping = self._segments.pop(segment, None)
        if mapping:
            mapping.close()

    def step(self, plan: StepPlan) -> StepResult:
        """Carry out one plan; see StepPlan for the order."""
        began = time.monotonic_ns()
        saved = tuple((save.segment, self._save(save)) for save in plan.saves)
        for slot in plan.clears:
            self._clear(slot)
        failed: dict[int, str] = {}
        for restore in plan.restores:
            try:
                self._restore(restore)
            except snapshot.SnapshotError as error:
                self._clear(restore.slot)
                failed[restore.slot] = str(error)
        switched = time.monotonic_ns()
        sampled: list[Sampled] = []
        decodes = [row for row in plan.decodes if row.slot not in failed]
        if decodes:
            fillers = self._fillers({row.slot: row.position for row in decodes})
            sampled += self._decode(sorted([*decodes, *fillers], key=lambda row: row.slot), True)
            for filler in fillers:
                llama_cpp.llama_memory_seq_rm(self._memory, filler.slot, filler.position, -1)
        for chunk in plan.chunks:
            if chunk.slot not in failed:
                sampled += self._decode([chunk], False)
        return StepResult(
            number=plan.number,
            sampled=tuple(sampled),
            saved=saved,
            failed_restores=tuple(failed.items()),
            began_ns=began,
            ended_ns=time.monotonic_ns(),
            switch_ns=switched - began,
        )

    def _fillers(self, positions: dict[int, int]) -> list[Row]:
        """Return rows of no consequence for small holes between busy slots, given as slot: position.

        llama.cpp splits a batch wherever its slots are not adjacent, and each part reads all weights
        once more: a filled hole costs a row, an open one a pass. A row that is alone in its part, and
        for which this machine's kernels then sum in another order, gets a neighbour.
        """
        ordered = sorted(positions)
        filled: set[int] = set()
        first = 0  # index of the part's first slot
        for index, slot in enumerate(ordered):
            following = ordered[index + 1] if index + 1 < len(ordered) else None
            if following is not None and following - slot <= MAX_HOLE + 1:
                filled.update(range(slot + 1, following))
                continue
            if index == first and not self._may_be_alone(positions[slot]):
                filled.add(slot + 1 if slot + 1 < self._slots else slot - 1)
            first = index + 1
        return [
            Row(slot, llama_cpp.llama_memory_seq_pos_max(self._memory, slot) + 1, (0,), None)
            for slot in sorted(filled - positions.keys())
        ]

    def _may_be_alone(self, position: int) -> bool:
        """Whether a row at `position` has the same bits alone in a batch as beside another."""
        is_split = self._has_flash and position >= FLASH_WHOLE_TOKENS
        return self._is_alone_exact and not is_split

    def _decode(self, rows: list[Row], all_outputs: bool) -> list[Sampled]:
        """Run one batch and sample the rows that ask for it.

        all_outputs: compute logits for every row, so that the last layer's batch is as wide as the
        others' whoever wants a token (a row alone there would take another kernel: see _fillers).
        """
        outputs = self._batch.fill(rows, all_outputs)
        status = llama_cpp.llama_decode(self._context, self._batch.struct)
        if status:
            shown = ", ".join(f"slot {row.slot} at {row.position}+{len(row.tokens)}" for row in rows)
            raise RuntimeError(f"llama_decode returned {status} for {shown}")
        sampled = []
        for row, values in zip(outputs, self._logits(len(outputs)), strict=True):
            if row.sampling is not None:
                token = sample(values, row.sampling, row.position + len(row.tokens))
                is_end = self._is_end[token]
                piece = b"" if is_end else self.piece(token)
                sampled.append(Sampled(row.slot, token, piece, is_end))
        return sampled

    def _logits(self, rows: int) -> np.ndarray:
        """Return the last decode's logits, shape (rows, vocab); valid until the next decode."""
        if not rows:
            return np.empty((0, self._vocab_size), np.float32)
        pointer = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, shape=(rows, self._vocab_size))

    def _save(self, save: Save) -> int:
        held = llama_cpp.llama_memory_seq_pos_max(self._memory, save.slot) + 1
        if held != save.tokens:
            raise RuntimeError(f"slot {save.slot} holds {held} tokens, the plan says {save.tokens}")
        mapping = self._segments[save.segment]
        room = mapping.size_bytes - snapshot.HEADER_BYTES
        used = llama_cpp.llama_state_seq_get_data(self._context, mapping.payload, room, save.slot)
        if not used:
            raise RuntimeError(
                f"slot {save.slot}: {save.tokens} tokens do not fit in segment {save.segment}"
                f" of {mapping.size_bytes} bytes"
            )
        return snapshot.seal(mapping.array, self._fingerprint, save.tokens, save.digest, used)

    def _restore(self, restore: Restore) -> None:
        mapping = self._segments[restore.segment]
        payload = snapshot.unseal(
            mapping.array, self._fingerprint, restore.tokens, restore.digest
        )
        self._clear(restore.slot)
        used = llama_cpp.llama_state_seq_set_data(
            self._context, mapping.payload, len(payload), restore.slot
        )
        first = llama_cpp.llama_memory_seq_pos_min(self._memory, restore.slot)
        last = llama_cpp.llama_memory_seq_pos_max(self._memory, restore.slot)
        if used != len(payload) or first != 0 or last != restore.tokens - 1:
            raise snapshot.SnapshotError(
                f"llama.cpp took {used} of {len(payload)} bytes and holds positions {first} to {last}"
            )

    # -- construction -------------------------------------------------------------------------

    def _check_memory(self, slots: int, window_tokens: int) -> None:
        """Raise EngineMemoryError when the KV cache would not fit: Linux would kill somebody for it."""
        heads = llama_cpp.llama_model_n_head(self._model)
        head_width = llama_cpp.llama_model_n_embd(self._model) // heads
        kv_heads = llama_cpp.llama_model_n_head_kv(self._model)
        layers = llama_cpp.llama_model_n_layer(self._model)
        needed = 2 * 2 * layers * kv_heads * head_width * slots * window_tokens  # K and V, 2 bytes each
        free = psutil.virtual_memory().available
        if needed > free:
            raise EngineMemoryError(
                f"{slots} slots of {window_tokens} tokens need {needed >> 20} MiB for their contexts and"
                f" {free >> 20} MiB of memory are free: give fewer --slots or a smaller --window"
            )

    def _make_context(
        self, slots: int, window_tokens: int, rows: int, threads: int
    ) -> llama_cpp.llama_context_p:
        options = llama_cpp.llama_context_default_params()
        slots = max(slots, 2)  # a lone row needs a neighbour: see _fillers
        options.n_ctx = slots * window_tokens
        options.n_batch = options.n_ubatch = rows
        options.n_seq_max = slots
        options.n_threads = options.n_threads_batch = threads
        options.flash_attn_type = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if self._has_flash
            else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        options.kv_unified = False
        options.no_perf = True
        return llama_cpp.llama_init_from_model(self._model, options)

    def _preflight(self) -> tuple[int, int]:
        """Decode two chunks, check the logits, return (bytes per token, overhead) of a snapshot.

        A build whose kernels crash on this CPU dies here, before it serves.
        """
        sizes = []
        for position in (0, CHUNK_TOKENS):
            self._batch.fill([Row(0, position, (0,) * CHUNK_TOKENS, None)], True)
            status = llama_cpp.llama_decode(self._context, self._batch.struct)
            if status or not np.isfinite(self._logits(1)).all():
                raise EngineError(f"preflight: llama_decode returned {status} or logits not finite")
            sizes.append(llama_cpp.llama_state_seq_get_size(self._context, 0))
        self._clear(0)
        per_token = -(-(sizes[1] - sizes[0]) // CHUNK_TOKENS)
        return per_token, max(0, sizes[0] - per_token * CHUNK_TOKENS) + 4096

    def _measure_alone(self) -> bool:
        """Return whether a row alone in a batch gives the same bits as beside a second row.

        It does not where llama.cpp multiplies a single row by another kernel: F16 weights on x86.
        """
        logits = []
        for slots in ((0,), (0, 1)):
            for slot in slots:
                self._clear(slot)
            self._batch.fill([Row(slot, 0, (0,), None) for slot in slots], True)
            if llama_cpp.llama_decode(self._context, self._batch.struct):
                raise EngineError("preflight: llama_decode failed on single tokens")
            logits.append(self._logits(1)[0].tobytes())
        for slot in (0, 1):
            self._clear(slot)
        return logits[0] == logits[1]

    def _clear(self, slot: int) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def _describe(self) -> str:
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self._model, buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    @staticmethod
    def _make_fingerprint(path: str, slots: int, window_tokens: int, has_flash: bool) -> bytes:
        """Return 16 bytes that differ whenever a snapshot of one core would be wrong in another.

        The first MiB (all dimensions and the tokenizer's start), the size and the time of change
        stand for the weights: hashing gigabytes at each start would cost more than the load.
        """
        stat = os.stat(path)
        digest = hashlib.blake2b(digest_size=16)
        with Path(path).open("rb") as file:
            digest.update(file.read(1 << 20))
        parts = (stat.st_size, stat.st_mtime_ns, slots, window_tokens, has_flash)
        digest.update(repr((*parts, llama_cpp.__version__)).encode())
        return digest.digest()
