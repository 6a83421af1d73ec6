"""A bank of slots: one llama.cpp context with a split KV cache, a stream of it for each slot.

Who calls it: llama.py for steps, probe.py at load. What must hold: which stream a slot's context stands in,
and with whom it is decoded, changes no bit of its logits; what is handed to llama.cpp's state parser was
written by llama.cpp.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator, Sequence

import llama_cpp
import numpy as np

from kernel.engine.base import CHUNK_TOKENS, KV_TYPES, EngineError, Row
from kernel.engine.batch import Batch, Feed, address_of
from kernel.engine.cost import StepCosts
from kernel.engine.kvstate import LayoutError
from kernel.engine.placement import Costs, Unmoved, arrange
from kernel.engine.prefill import Prompt, passes, places
from kernel.engine.snapshot import HEADER_BYTES, SnapshotError
from kernel.engine.traits import (
    FLASH_WHOLE_TOKENS,
    ContextOptions,
    Traits,
    may_twin,
    spare_tokens,
    streams_of,
)

PAD_TOKENS = 256  # llama.cpp rounds the cells that attention looks at up to this


class SlotBank:
    """`slots` sequences of `window_tokens` each. Raises EngineError when llama.cpp makes no context for it."""

    def __init__(
        self,
        model: llama_cpp.llama_model_p,
        slots: int,
        window_tokens: int,
        options: ContextOptions,
        traits: Traits,
        costs: StepCosts,
    ) -> None:
        self._traits, self._costs, self._options = traits, costs, options
        self._may_twin = may_twin(options, traits)
        self.streams = streams_of(slots, options, traits)
        cells = window_tokens + spare_tokens(options, traits)
        tokens = max(CHUNK_TOKENS * traits.pass_chunks, self.streams + traits.spare_rows)
        self._context = _make_context(model, self.streams, cells, tokens, options)
        if not self._context:
            raise EngineError(f"llama.cpp cannot make a context of {self.streams} x {window_tokens} tokens")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = Batch(tokens, llama_cpp.llama_batch)
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._stream = list(range(slots))  # of each slot
        self._arranged: tuple[object, tuple[tuple[int, ...], ...]] | None = None
        self._scratch = np.empty(0, np.uint8)
        self.moves = 0  # since the bank was made
        self.passes = 0

    def close(self) -> None:
        """Give the memory back."""
        llama_cpp.llama_free(self._context)

    def set_threads(self, threads: int) -> None:
        llama_cpp.llama_set_n_threads(self._context, threads, threads)

    @property
    def _move_costs(self) -> Costs:
        return self._costs if self._traits.can_move else Unmoved(self._costs)

    # -- decoding -----------------------------------------------------------------------------

    def decode(self, rows: Sequence[Row]) -> Iterator[tuple[list[Row], np.ndarray]]:
        """Feed one token for each slot; yield, pass by pass, rows and their logits, shape (rows, vocab).

        The logits are llama.cpp's own buffer: they are gone with the next pass.
        """
        by_slot = {row.slot: row for row in rows}
        for slots in self._arrange(by_slot):
            feeds, wanted = self._complete([by_slot[slot] for slot in slots])
            began = time.monotonic_ns()
            logits = self.run_pass(feeds)
            self._costs.saw_pass(
                len(feeds),
                max(_padded(feed.position + 1) for feed in feeds),
                time.monotonic_ns() - began,
            )
            self.passes += 1
            mine = [index for index, row in enumerate(wanted) if row is not None]
            found = [row for row in wanted if row is not None]
            yield found, logits if len(mine) == len(logits) else logits[mine]
            for feed, row in zip(feeds, wanted, strict=True):
                kept = 0 if row is None else 1
                if kept < len(feed.tokens):
                    self._trim(feed.stream, feed.position + kept)

    def run_pass(self, feeds: Sequence[Feed]) -> np.ndarray:
        """Decode feeds for adjacent streams as they stand; return the logits of each token."""
        self._run(feeds)
        return self._logits(sum(len(feed.tokens) for feed in feeds))

    # -- prompts ------------------------------------------------------------------------------

    def prefill(self, rows: Sequence[Row]) -> Iterator[tuple[list[Row], np.ndarray]]:
        """Feed parts of prompts; yield those at whose end a token is drawn, and their logits, as decode does."""
        streams = [self._stream[row.slot] for row in rows]
        prompts = [Prompt(stream, len(row.tokens)) for stream, row in zip(streams, rows, strict=True)]
        for parts in passes(prompts, self._traits.pass_chunks, self._traits.prompts_may_meet):
            feeds, ended = [], []
            for part in parts:
                row = rows[part.row]
                is_last = row.is_last and part.end == len(row.tokens)
                tokens = row.tokens[part.begin : part.end]
                wanted = 1 if is_last else 0
                feeds.append(Feed(streams[part.row], row.position + part.begin, tokens, wanted))
                if is_last:
                    ended.append(row)
            self._run(feeds)
            self.passes += 1
            if ended:
                yield ended, self._logits(len(ended))

    def gather(self, rows: Sequence[Row]) -> None:
        """Let slots that hold nothing yet stand side by side, as rows of one length can meet in a pass then."""
        by_length: dict[int, list[Row]] = {}
        for row in rows:
            if len(row.tokens) >= CHUNK_TOKENS and not self._length(self._stream[row.slot]):
                by_length.setdefault(len(row.tokens), []).append(row)
        several = sorted(by_length.values(), key=len, reverse=True)
        if not self._traits.prompts_may_meet or not several or len(several[0]) == 1:
            return
        held = [self._length(stream) for stream in range(len(self._stream))]
        moves, streams = places(len(several[0]), held, self._move_costs)
        for source, target in moves:
            self._exchange(source, target)
        for row, target in zip((row for alike in several for row in alike), streams, strict=False):
            source = self._stream[row.slot]
            other = self._stream.index(target)
            self._stream[row.slot], self._stream[other] = target, source
        self._arranged = None

    def chunk(self, row: Row) -> np.ndarray:
        """Feed a part of a prompt in one pass; return logits of its last token, or none, as its is_last says."""
        wanted = 1 if row.is_last else 0
        self._run([Feed(self._stream[row.slot], row.position, row.tokens, wanted)])
        return self._logits(wanted)

    def _arrange(self, by_slot: dict[int, Row]) -> tuple[tuple[int, ...], ...]:
        """Bring the decoding contexts together; return the slots of each pass."""
        running = {self._stream[slot]: _padded(row.position + 1) for slot, row in by_slot.items()}
        resident = {
            stream: _padded(held)
            for stream in range(self.streams)
            if stream not in running and (held := self._length(stream))
        }
        situation = tuple(sorted(running.items())), tuple(resident)
        if self._arranged is not None and self._arranged[0] == situation:
            return self._arranged[1]
        spare = self.streams - len(self._stream)  # stays empty, for fillers
        by_length = not self._options.flash_attention  # which skips the cells that are masked
        arrangement = arrange(
            running, resident, self.streams - spare, self._traits.can_trim, self._move_costs, by_length
        )
        for source, target in arrangement.moves:
            self._exchange(source, target)
        slot_in = {stream: slot for slot, stream in enumerate(self._stream) if slot in by_slot}
        passes = tuple(
            tuple(slot_in[stream] for stream in streams if stream in slot_in) for streams in arrangement.passes
        )
        self._arranged = (situation, passes) if not arrangement.moves else None
        return passes

    def _complete(self, rows: Sequence[Row]) -> tuple[list[Feed], list[Row | None]]:
        """Return what a pass of these rows feeds, by stream, and whose each is; None: of no consequence.

        A row may come with more tokens than its own, which are of no consequence either.
        """
        first = rows[0]
        if len(rows) == 1 and self._may_twin:
            tokens = (*first.tokens, *[0] * self._lacking(1, first.position))
            return [Feed(self._stream[first.slot], first.position, tokens)], [first]
        at = {self._stream[row.slot]: row for row in rows}
        span = range(min(at), max(at) + 1)
        lacking = self._lacking(len(span), first.position)
        if self._traits.can_trim:
            end = min(span.stop + lacking, self.streams)
            span = range(end - len(span) - lacking, end)
        elif lacking or any(self._length(stream) for stream in span if stream not in at):
            span = self._move_to_end(sorted(at))
            at = {self._stream[row.slot]: row for row in rows}
        wanted = [at.get(stream) for stream in span]
        feeds = [
            Feed(stream, self._length(stream), (0,)) if row is None else Feed(stream, row.position, row.tokens)
            for stream, row in zip(span, wanted, strict=True)
        ]
        return feeds, wanted

    def _lacking(self, rows: int, position: int) -> int:
        """Return how many rows a pass of `rows` needs besides, the first of them at `position`."""
        least = self._traits.least_rows
        if self._options.flash_attention and position >= FLASH_WHOLE_TOKENS:
            least = max(least, 2)
        step = self._traits.row_step
        return max(least, -(-rows // step) * step) - rows

    def _move_to_end(self, streams: Sequence[int]) -> range:
        """Bring contexts to the last streams that are slots'; return these and the empty ones needed behind."""
        end = len(self._stream)
        for back, stream in enumerate(reversed(streams)):
            if stream != end - 1 - back:
                self._exchange(stream, end - 1 - back)
                self._arranged = None
        longest = max(self._length(stream) for stream in range(end - len(streams), end))
        return range(end - len(streams), end + self._lacking(len(streams), longest))

    def _run(self, feeds: Sequence[Feed]) -> None:
        self._batch.fill(feeds)
        status = llama_cpp.llama_decode(self._context, self._batch.struct)
        if status:
            shown = ", ".join(f"stream {feed.stream} at {feed.position}" for feed in feeds)
            raise RuntimeError(f"llama_decode returned {status} for {shown}")

    def _logits(self, rows: int) -> np.ndarray:
        if not rows:
            return np.empty((0, self._vocab), np.float32)
        pointer = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, shape=(rows, self._vocab))

    # -- contexts -----------------------------------------------------------------------------

    def length(self, slot: int) -> int:
        """Tokens that a slot's context holds."""
        return self._length(self._stream[slot])

    def clear(self, slot: int) -> None:
        self._empty(self._stream[slot])

    def save(self, slot: int, memory: np.ndarray) -> int:
        """Write a slot's state behind a snapshot's header; return its bytes, or 0 if it does not fit."""
        payload, room = address_of(memory, HEADER_BYTES), len(memory) - HEADER_BYTES
        return llama_cpp.llama_state_seq_get_data(self._context, payload, room, self._stream[slot])

    def save_part(self, slot: int, begin: int, end: int) -> np.ndarray:
        """Return the state of a slot's tokens from one up to another, in memory of its own."""
        assert self._traits.layout is not None
        return self._traits.layout.part(self._get(self._stream[slot]), begin, end)

    def restore(self, slot: int, payload: np.ndarray, tokens: int, base: np.ndarray | None = None) -> None:
        """Put a state, of any bank of this model, into a slot; `base` is that of its first tokens, if it is a part.

        Raises SnapshotError.
        """
        stream, layout = self._stream[slot], self._traits.layout
        self._empty(stream)
        try:
            if base is not None:
                assert layout is not None
                payload = layout.join(base, payload, self.streams)
            state = self._fitting(payload)
        except LayoutError as error:
            raise SnapshotError(f"its layout is not that of this llama.cpp: {error}") from None
        used = self._set(stream, state)
        first = llama_cpp.llama_memory_seq_pos_min(self._memory, stream)
        last = llama_cpp.llama_memory_seq_pos_max(self._memory, stream)
        is_whole = first == 0 or not self._traits.can_trim
        if used != len(state) or not is_whole or last != tokens - 1:
            raise SnapshotError(
                f"llama.cpp took {used} of {len(state)} bytes and holds positions {first} to {last}"
            )

    def cut(self, slot: int, tokens: int) -> None:
        """Take off what a slot holds beyond its first tokens. Raises RuntimeError if that cannot be done."""
        if self._length(self._stream[slot]) > tokens:
            self._trim(self._stream[slot], tokens)

    def state(self, slot: int) -> np.ndarray:
        """Return a slot's state as llama.cpp writes it, in memory of its own."""
        return self._get(self._stream[slot]).copy()

    def _fitting(self, state: np.ndarray) -> np.ndarray:
        """Return the state as this bank's context takes it: every cell in its place, all streams counted."""
        layout = self._traits.layout
        if layout is None or not layout.caches:
            return state
        if layout.streams_of(state) == self.streams and (
            not self._traits.is_windowed or layout.is_whole(state)
        ):
            return state
        return layout.rewrite(state, self.streams)

    def _exchange(self, source: int, target: int) -> None:
        """Let the contexts of two streams change places; the target's may be none."""
        began = time.monotonic_ns()
        tokens = self._length(source)
        there = self._get(target).copy() if self._length(target) else None
        if tokens:
            self._move_in(target, self._get(source))
        else:  # a request whose first token is fed now
            self._empty(target)
        if there is None:
            self._empty(source)
        else:
            tokens += self._length(source)
            self._move_in(source, there)
        for slot, stream in enumerate(self._stream):
            if stream in (source, target):
                self._stream[slot] = target if stream == source else source
        self.moves += 1
        self._costs.saw_move(tokens, time.monotonic_ns() - began)

    def _move_in(self, stream: int, state: np.ndarray) -> None:
        self._empty(stream)
        fitting = self._fitting(state)
        used = self._set(stream, fitting)
        if used != len(fitting):
            raise RuntimeError(f"stream {stream}: llama.cpp took {used} of {len(fitting)} bytes of a move")

    def _get(self, stream: int) -> np.ndarray:
        """Return a stream's state; valid until the next call."""
        size = llama_cpp.llama_state_seq_get_size(self._context, stream)
        if len(self._scratch) < size:
            self._scratch = np.empty(size + size // 4, np.uint8)
        used = llama_cpp.llama_state_seq_get_data(
            self._context, address_of(self._scratch), len(self._scratch), stream
        )
        return self._scratch[:used]

    def _set(self, stream: int, state: np.ndarray) -> int:
        return llama_cpp.llama_state_seq_set_data(self._context, address_of(state), len(state), stream)

    def _length(self, stream: int) -> int:
        return llama_cpp.llama_memory_seq_pos_max(self._memory, stream) + 1

    def _trim(self, stream: int, position: int) -> None:
        """Take off what a filler fed."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, stream, position if position else -1, -1):
            raise RuntimeError(f"stream {stream}: llama.cpp cannot take off tokens from {position} on")

    def _empty(self, stream: int) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, stream, -1, -1)


def _padded(tokens: int) -> int:
    return -(-tokens // PAD_TOKENS) * PAD_TOKENS


def _make_context(
    model: llama_cpp.llama_model_p, streams: int, window_tokens: int, tokens: int, wanted: ContextOptions
) -> llama_cpp.llama_context_p:
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = streams * window_tokens
    options.n_batch = options.n_ubatch = tokens
    options.n_seq_max = streams
    options.n_threads = options.n_threads_batch = wanted.threads
    options.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        if wanted.flash_attention
        else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    options.type_k = options.type_v = KV_TYPES[wanted.kv_type]
    options.offload_kqv = wanted.on_device
    options.kv_unified = False
    options.swa_full = True  # a window's cells are kept, masked: each position has its own cell for good
    options.no_perf = True
    return llama_cpp.llama_init_from_model(model, options)


def prepare() -> None:
    """Set llama.cpp up for this process, before its first decode.

    It says nothing: what matters is said by this package. And it multiplies K-quants without tiles, for whether
    it takes tiles depends on how many rows a batch has, with experts even on where the neighbours' tokens go.
    """
    os.environ.setdefault("GGML_CPU_TILED_MM", "0")
    llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))


_SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)
