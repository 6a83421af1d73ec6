"""llama.cpp driven one step at a time: banks of slots, what stands in them, and the tokens drawn.

Who calls it: worker.py, inside the LLM core process and nowhere else (ggml aborts its process on an
assertion, so the kernel never imports this). What must hold: see Row in base.py for the batches, and
snapshot.py for what is handed to llama.cpp's state parser.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import llama_cpp
import numpy as np

from kernel.engine import bank as banks
from kernel.engine import calibrate, devices, family, fit, inspect, probe, rowsfile, snapshot
from kernel.engine.bank import SlotBank
from kernel.engine.base import (
    EXACT,
    PASS_CHUNKS,
    RECOMPUTE,
    WHOLE,
    Bank,
    Base,
    EngineError,
    EngineInfo,
    EngineOptions,
    Opening,
    Restore,
    Row,
    Sampled,
    Save,
    StepPlan,
    StepResult,
)
from kernel.engine.cost import StepCosts
from kernel.engine.parked import ParkedMemory
from kernel.engine.sampler import Sampler
from kernel.engine.samplestate import Drawing
from kernel.engine.textside.client import TextSide
from kernel.engine.traits import ContextOptions, Traits, spare_tokens, streams_of

MOST_SCRATCH_BYTES = 32 << 20  # of memory kept to make snapshots in; larger ones are made where they stay


class LlamaEngine:
    """One model, its banks of slots and its text side.

    Raises EngineError from the constructor when the file is no model that llama.cpp can load, when it does
    not fit in memory, or when a first decode gives logits that are not finite.
    """

    def __init__(self, path: str, options: EngineOptions) -> None:
        began = time.monotonic()
        banks.prepare()
        llama_cpp.llama_backend_init()
        facts = inspect.gather(path, options.kv_type)
        free = devices.free_memory()
        fitted = fit.decide(facts, options, free)
        self._model = load_model(path, options, fitted.gpu_layers)
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._costs = StepCosts(llama_cpp.llama_model_size(self._model), facts.kv_bytes_per_token)
        choice = calibrate.choose(self._model, options, options.choices)
        self._options = ContextOptions(choice.threads, choice.flash_attention, options.kv_type)
        self._traits = probe.first_traits(self._model)
        mode = rowsfile.key(choice.flash_attention, options.extra_buffers, fitted.gpu_layers)
        known = rowsfile.read(options.choices, mode)
        verdict = probe.probe(self._make_probe_bank, self._traits, self._vocab_size, known)
        if known is None and verdict.exactness in (EXACT, WHOLE):
            rowsfile.write(options.choices, mode, self._traits.rows)
        if choice.is_fast:
            self._traits.least_rows = self._traits.row_step = 1
            self._traits.pass_chunks = PASS_CHUNKS
        fitted = self._fit_again(facts, options, free)
        shapes = fitted.banks if verdict.exactness != RECOMPUTE else fitted.banks[:1]
        self._banks: list[SlotBank | None] = [None] * len(shapes)
        self._shapes = shapes
        self._place = [(number, slot) for number, bank in enumerate(shapes) for slot in range(bank.slots)]
        self._open_banks((0,))
        self._segments: dict[int, ParkedMemory] = {}
        self._scratch = np.empty(0, np.uint8)
        self._drawings: dict[int, Drawing] = {}  # by slot
        self._openings: dict[int, Opening] = {}
        self._pieces: dict[bool, list[bytes | None]] = {
            with_special: [None] * self._vocab_size for with_special in (False, True)
        }
        self._is_end = np.array(
            [llama_cpp.llama_vocab_is_eog(self._vocab, token) for token in range(self._vocab_size)], bool
        )
        self._sampler = Sampler(self._vocab_size, choice.threads)
        self._fingerprint = _fingerprint(path, choice.flash_attention, options.kv_type)
        self.text = TextSide(path)
        self.info = EngineInfo(
            model=path,
            description=describe(self._model),
            family=family.family_of(self._model),
            exactness=verdict.exactness,
            can_trim=self._traits.can_trim and self._traits.can_move and not self._traits.is_windowed,
            can_part=self._traits.can_part,
            vocab=self._vocab_size,
            window_tokens=shapes[-1].window_tokens,
            trained_tokens=facts.trained_tokens,
            banks=shapes,
            kv_bytes=fitted.kv_bytes,
            threads=choice.threads,
            devices=fitted.devices,
            kv_bytes_per_token=verdict.bytes_per_token,
            snapshot_overhead_bytes=verdict.overhead_bytes
            + 64 * llama_cpp.llama_model_n_layer(self._model)
            + 4 * max(bank.slots for bank in shapes),
            extra_buffers=options.extra_buffers,
            flash_attention=choice.flash_attention,
            kv_type=options.kv_type,
            chat_format=self.text.facts.chat_format,
            takes_tools=self.text.facts.takes_tools,
            embedding_width=0,
            load_s=time.monotonic() - began,
        )

    # -- segments -----------------------------------------------------------------------------

    def attach(self, segment: int, fd: int, size_bytes: int) -> None:
        """Take a segment of the kernel's; the descriptor stays the caller's."""
        self._segments[segment] = ParkedMemory(fd, size_bytes)

    def detach(self, segment: int) -> None:
        """Give a segment up; unknown ids are ignored, as after a core's restart."""
        parked = self._segments.pop(segment, None)
        if parked:
            parked.close()

    def embed(self, texts: list[list[int]]) -> list[bytes]:
        """Raise EngineError: see embedding.py for the models that do."""
        raise EngineError(f"model {self.info.model} generates, it does not embed")

    # -- steps --------------------------------------------------------------------------------

    def step(self, plan: StepPlan) -> StepResult:
        """Carry out one plan; see StepPlan for the order."""
        began = time.monotonic_ns()
        passes, moves = self._count("passes"), self._count("moves")
        self._sampling_ns = 0
        for request in plan.closes:
            self.text.close_request(request)
        saved = tuple((save.segment, self._save(save)) for save in plan.saves)
        for slot in plan.clears:
            self._clear(slot)
        self._open_banks(plan.banks)
        for restore in plan.restores:
            self._clear(restore.slot)
        for number, rows in self._by_bank(plan.chunks):
            self._bank(number).gather(rows)
        failed: dict[int, str] = {}
        for restore in plan.restores:
            try:
                self._restore(restore)
            except snapshot.SnapshotError as error:
                self._clear(restore.slot)  # llama.cpp may have taken some of it
                failed[restore.slot] = str(error)
        switched = time.monotonic_ns()
        refused: dict[int, str] = {}
        for opening in plan.openings:
            self._open(opening, refused)
        sampled: list[Sampled] = []
        for number, rows in self._by_bank(row for row in plan.decodes if row.slot not in failed):
            for done, logits in self._bank(number).decode(rows):
                sampled += self._draw(number, done, logits, refused)
        for number, rows in self._by_bank(row for row in plan.chunks if row.slot not in failed):
            for done, logits in self._bank(number).prefill(rows):
                sampled += self._draw(number, done, logits, refused)
        return StepResult(
            number=plan.number,
            sampled=tuple(sampled),
            saved=saved,
            failed_restores=tuple(failed.items()),
            failed_requests=tuple(refused.items()),
            began_ns=began,
            ended_ns=time.monotonic_ns(),
            switch_ns=switched - began,
            runs=self._count("passes") - passes,
            moves=self._count("moves") - moves,
            sampling_ns=self._sampling_ns,
        )

    def _open(self, opening: Opening, refused: dict[int, str]) -> None:
        self._openings[opening.slot] = opening
        self._drawings.pop(opening.slot, None)
        try:
            gate = self.text.open_gate(opening) if opening.constraint else None
            self._drawings[opening.slot] = Drawing(opening, self._vocab_size, gate)
        except EngineError as error:
            refused[opening.slot] = str(error)

    def _draw(
        self, number: int, rows: Sequence[Row], logits: np.ndarray, refused: dict[int, str]
    ) -> list[Sampled]:
        """Draw the next token of every row that wants one."""
        began = time.monotonic_ns()
        first = self._first_slot(number)
        drawings = [self._drawings.get(first + row.slot) if row.is_last else None for row in rows]
        positions = [row.position + len(row.tokens) for row in rows]
        sampled = []
        for row, drawn in zip(rows, self._sampler.draw(logits, drawings, positions), strict=True):
            slot = first + row.slot
            if isinstance(drawn, EngineError):
                refused[slot] = str(drawn)
            elif drawn is not None:
                is_end = bool(self._is_end[drawn.token])
                piece = b"" if is_end else self._piece(drawn.token, self._openings[slot].with_special)
                sampled.append(Sampled(slot, drawn.token, piece, is_end, drawn.logprob, drawn.top))
        self._sampling_ns += time.monotonic_ns() - began
        return sampled

    def _piece(self, token: int, with_special: bool) -> bytes:
        """Return the bytes that a token adds to a text; control tokens have some only with_special."""
        known = self._pieces[with_special][token]
        if known is None:
            room = 64
            while True:
                buffer = ctypes.create_string_buffer(room)
                used = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, room, 0, with_special)
                if used >= 0:
                    break
                room = -used
            known = self._pieces[with_special][token] = buffer.raw[:used]
        return known

    # -- contexts -----------------------------------------------------------------------------

    def _save(self, save: Save) -> int:
        number, local = self._place[save.slot]
        bank, parked = self._bank(number), self._segments[save.segment]
        held = bank.length(local)
        if held != save.tokens:
            raise RuntimeError(f"slot {save.slot} holds {held} tokens, the plan says {save.tokens}")
        is_first = parked.is_fresh and parked.size_bytes <= MOST_SCRATCH_BYTES
        memory = self._scratch_of(parked.size_bytes) if is_first else parked.array
        end = save.end or held
        if end - save.begin == held:
            used = bank.save(local, memory)
        else:
            part = bank.save_part(local, save.begin, end)
            used = len(part) if len(part) <= len(memory) - snapshot.HEADER_BYTES else 0
            memory[snapshot.HEADER_BYTES : snapshot.HEADER_BYTES + used] = part[:used]
        if not used:
            raise RuntimeError(
                f"slot {save.slot}: {save.tokens} tokens do not fit in segment {save.segment}"
                f" of {parked.size_bytes} bytes"
            )
        size_bytes = snapshot.seal(memory, self._fingerprint, end, save.digest, used)
        if is_first:
            parked.write(memory[:size_bytes])
        return size_bytes

    def _scratch_of(self, size_bytes: int) -> np.ndarray:
        if len(self._scratch) < size_bytes:
            self._scratch = np.empty(size_bytes, np.uint8)
        return self._scratch[:size_bytes]

    def _restore(self, restore: Restore) -> None:
        payload = self._payload(restore)
        base = None if restore.base is None else self._payload(restore.base)
        number, local = self._place[restore.slot]
        bank = self._bank(number)
        bank.restore(local, payload, restore.tokens, base)
        bank.cut(local, restore.keep)

    def _payload(self, held: Restore | Base) -> np.ndarray:
        return snapshot.unseal(self._segments[held.segment].array, self._fingerprint, held.tokens, held.digest)

    def _clear(self, slot: int) -> None:
        number, local = self._place[slot]
        bank = self._banks[number]
        if bank is not None:
            bank.clear(local)

    # -- banks --------------------------------------------------------------------------------

    def _open_banks(self, wanted: Sequence[int]) -> None:
        """Give back the memory of banks that are not wanted, then make those that are."""
        for number, bank in enumerate(self._banks):
            if bank is not None and number not in wanted:
                bank.close()
                self._banks[number] = None
        for number in wanted:
            if self._banks[number] is None:
                self._banks[number] = self._make_bank(self._shapes[number])

    def _fit_again(self, facts: fit.ModelFacts, options: EngineOptions, free: fit.FreeMemory) -> fit.Fit:
        """Decide on banks once it is known what attention the contexts have and what company rows need."""
        attention = "on" if self._options.flash_attention else "off"
        return fit.decide(
            facts,
            replace(options, flash_attention=attention),
            free,
            streams=lambda slots: streams_of(slots, self._options, self._traits),
            spare_tokens=spare_tokens(self._options, self._traits),
        )

    def _make_bank(self, shape: Bank) -> SlotBank:
        return SlotBank(
            self._model, shape.slots, shape.window_tokens, self._options, self._traits, self._costs
        )

    def _make_probe_bank(self, traits: Traits) -> SlotBank:
        return SlotBank(
            self._model, probe.MOST_ROWS, probe.WINDOW_TOKENS, self._options, traits, self._costs
        )

    def _bank(self, number: int) -> SlotBank:
        bank = self._banks[number]
        if bank is None:
            raise RuntimeError(f"bank {number} has no memory in this step")
        return bank

    def _first_slot(self, number: int) -> int:
        return sum(bank.slots for bank in self._shapes[:number])

    def _by_bank(self, rows: Sequence[Row]) -> list[tuple[int, list[Row]]]:
        """Return rows by the number of their bank, with slots counted from the bank's first."""
        found: dict[int, list[Row]] = {}
        for row in rows:
            number, local = self._place[row.slot]
            found.setdefault(number, []).append(replace(row, slot=local))
        return sorted(found.items())

    def _count(self, name: str) -> int:
        return sum(getattr(bank, name) for bank in self._banks if bank is not None)


def describe(model: llama_cpp.llama_model_p) -> str:
    """Return llama.cpp's line about a model: architecture, size, quantisation."""
    buffer = ctypes.create_string_buffer(256)
    llama_cpp.llama_model_desc(model, buffer, len(buffer))
    return buffer.value.decode(errors="replace")


def load_model(path: str, options: EngineOptions, gpu_layers: int) -> llama_cpp.llama_model_p:
    """Return a model with its weights. Raises EngineError."""
    wanted = llama_cpp.llama_model_default_params()
    wanted.use_extra_bufts = options.extra_buffers
    wanted.n_gpu_layers = gpu_layers
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), wanted)
    if not model:
        raise EngineError(f"model {path}: llama.cpp cannot load this file as a GGUF model")
    return model


def _fingerprint(path: str, has_flash: bool, kv_type: str) -> bytes:
    """Return 16 bytes that differ whenever a snapshot of one core would be wrong in another.

    The first MiB (all dimensions and the tokenizer's start), the size and the time of change stand for the
    weights: hashing gigabytes at each start would cost more than the load.
    """
    stat = os.stat(path)
    digest = hashlib.blake2b(digest_size=16)
    with Path(path).open("rb") as file:
        digest.update(file.read(1 << 20))
    parts = (stat.st_size, stat.st_mtime_ns, has_flash, kv_type)
    digest.update(repr((*parts, llama_cpp.__version__)).encode())
    return digest.digest()
