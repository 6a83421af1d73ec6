"""An engine without a model: the next token is a hash of all before it.

Who uses it: the tests, in the kernel's own process or behind a real core process. What must hold: it is
as strict as llama.cpp is trusting: a row at a wrong position, a save of another length or a restore of
another context is an error here, so that no test passes by luck.
"""

from __future__ import annotations

import hashlib
import mmap
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kernel.engine import snapshot
from kernel.engine.base import (
    EXACT,
    Bank,
    Base,
    EngineError,
    EngineInfo,
    EngineOptions,
    Opening,
    Restore,
    Row,
    Sampled,
    Sampling,
    Save,
    StepPlan,
    StepResult,
)

VOCAB = 320
END = 319
TRAINED_TOKENS = 1 << 20
EMBEDDING_WIDTH = 8
_BYTES_PER_TOKEN = 4
_FINGERPRINT = b"fake-engine-0001"


class FakeEngine:
    """Tokens 0-255 are bytes (many of them parts of UTF-8 characters), the others words; 319 ends.

    Banks: the first as the options say, then each of one slot with a window four times as long, up to
    window_tokens (0: no more than slot_tokens). A constraint makes every token a printable byte; the text
    "none" admits nothing. Raises AssertionError when a plan breaks the contract of base.py.
    """

    def __init__(self, path: str = "fake", options: EngineOptions | None = None) -> None:
        options = options or EngineOptions(slots=4, slot_tokens=512)
        window = options.window_tokens or options.slot_tokens
        windows = [min(options.slot_tokens, window)]
        while windows[-1] < window:
            windows.append(min(4 * windows[-1], window))
        shapes = [(1 if number else options.slots, size) for number, size in enumerate(windows)]
        banks = [Bank(slots, size, slots * size * _BYTES_PER_TOKEN) for slots, size in shapes]
        self._bank_of = [number for number, bank in enumerate(banks) for _ in range(bank.slots)]
        self._held: list[list[int]] = [[] for _ in self._bank_of]
        self._openings: dict[int, Opening] = {}  # by slot
        self._drawn: dict[int, list[int]] = {}  # by slot, since its opening
        self._segments: dict[int, np.ndarray] = {}
        self.steps = 0
        self.info = EngineInfo(
            model=path,
            description="fake",
            family="dense",
            exactness=EXACT,
            can_trim=True,
            can_part=True,
            vocab=VOCAB,
            window_tokens=window,
            trained_tokens=TRAINED_TOKENS,
            banks=tuple(banks),
            kv_bytes=options.kv_bytes or sum(bank.size_bytes for bank in banks),
            threads=options.threads or 1,
            devices="nothing",
            kv_bytes_per_token=_BYTES_PER_TOKEN,
            snapshot_overhead_bytes=snapshot.HEADER_BYTES,
            extra_buffers=options.extra_buffers,
            flash_attention=options.flash_attention == "on",
            kv_type=options.kv_type,
            chat_format="hermes",
            takes_tools=True,
            embedding_width=EMBEDDING_WIDTH if options.embedding else 0,
            load_s=0.0,
        )

    # -- text ---------------------------------------------------------------------------------

    @property
    def text(self) -> FakeText:
        return FakeText(self)

    def ask(self, what: str, value: Mapping[str, Any]) -> Any:
        """Answer as a real core's text side does; see effects.AskCore."""
        if what == "tokenize":
            opening = [256] * (value["with_special"] and not value.get("goes_on"))
            return opening + list(value["text"].encode())
        if what == "detokenize":
            return b"".join(self.piece(token) for token in value["tokens"])
        if what == "pieces":
            return [self.piece(token) for token in value["tokens"]]
        if what == "chat":
            text = self._render(value["messages"], value.get("tools"))
            known = self._begins(text.encode(), value.get("known", ()))
            tokens = [256, *text.encode()] if known is None else [*value["known"], *text.encode()[known:]]
            return {"tokens": tokens, "opens_reasoning": bool(value.get("thinking"))}
        if what == "constraint":
            if value["text"] == "wrong":
                raise EngineError("the grammar is wrong")
            return 1
        raise EngineError(f"question {what!r} is not one of tokenize, chat, detokenize, pieces, constraint")

    def embed(self, texts: list[list[int]]) -> list[bytes]:
        vectors = []
        for tokens in texts:
            raw = hashlib.blake2b(repr(list(tokens)).encode(), digest_size=EMBEDDING_WIDTH).digest()
            vector = np.frombuffer(raw, dtype=np.uint8).astype("<f4") + 1
            vectors.append((vector / np.linalg.norm(vector)).astype("<f4").tobytes())
        return vectors

    def _render(self, messages: list[Mapping[str, Any]], tools: Any) -> str:
        for message in messages:
            if message["role"] not in ("system", "user", "assistant", "tool"):
                raise EngineError(f"the chat template knows no role {message['role']!r}")
        shown = f"tools: {tools}\n" if tools else ""
        turns = "".join(f"{message['role']}: {message.get('content') or ''}\n" for message in messages)
        return shown + turns + "assistant: "

    def _begins(self, text: bytes, known: Sequence[int]) -> int | None:
        """Return how much of a text known tokens are, as a prompt's bytes or as an answer's pieces."""
        at = 0
        for token in known[1:]:
            piece = self.piece(token)
            if at < len(text) and text[at] == token:
                at += 1
            elif piece and text.startswith(piece, at):
                at += len(piece)
            else:
                return None
        return at if known else None

    def piece(self, token: int) -> bytes:
        """Return a byte for most tokens, a CJK character's first or last part for some, a word for the rest."""
        if token < 200:
            return bytes([32 + token % 95])
        if token < 256:
            return "\u4f60".encode()[:2] if token % 2 else "\u4f60".encode()[2:]
        return b"" if token == END else f" w{token}".encode()

    # -- steps --------------------------------------------------------------------------------

    def attach(self, segment: int, fd: int, size_bytes: int) -> None:
        self.attach_array(segment, np.frombuffer(mmap.mmap(fd, size_bytes), dtype=np.uint8))

    def attach_array(self, segment: int, array: np.ndarray) -> None:
        """Use an array as a segment, in one process with the kernel."""
        self._segments[segment] = array

    def detach(self, segment: int) -> None:
        self._segments.pop(segment, None)

    def step(self, plan: StepPlan) -> StepResult:
        began = time.monotonic_ns()
        self.steps += 1
        saved = tuple((save.segment, self._save(save)) for save in plan.saves)
        for slot in plan.clears:
            self._held[slot] = []
        self._check_banks(plan)
        failed: dict[int, str] = {}
        for restore in plan.restores:
            try:
                self._restore(restore)
            except snapshot.SnapshotError as error:
                self._held[restore.slot] = []
                failed[restore.slot] = str(error)
        for opening in plan.openings:
            self._openings[opening.slot] = opening
            self._drawn[opening.slot] = []
        for rows in (plan.decodes, plan.chunks):
            slots = [row.slot for row in rows]
            assert len(slots) == len(set(slots)), f"a slot twice in one step: {sorted(slots)}"
        sampled: list[Sampled] = []
        refused: list[tuple[int, str]] = []
        for row in plan.decodes:
            assert len(row.tokens) == 1, f"a decode of {len(row.tokens)} tokens"
        for row in (*plan.decodes, *plan.chunks):
            if row.slot not in failed:
                try:
                    sampled += self._feed(row)
                except EngineError as error:
                    refused.append((row.slot, str(error)))
        return StepResult(
            number=plan.number,
            sampled=tuple(sampled),
            saved=saved,
            failed_restores=tuple(failed.items()),
            failed_requests=tuple(refused),
            began_ns=began,
            ended_ns=time.monotonic_ns(),
            switch_ns=0,
            runs=bool(plan.decodes) + len(plan.chunks),
            moves=0,
            sampling_ns=0,
        )

    def _feed(self, row: Row) -> list[Sampled]:
        held = self._held[row.slot]
        assert row.position == len(held), f"slot {row.slot} holds {len(held)}, row at {row.position}"
        window = self.info.banks[self._bank_of[row.slot]].window_tokens
        assert len(held) + len(row.tokens) <= window, f"slot {row.slot} overflows its {window}"
        held += row.tokens
        if not row.is_last:
            return []
        opening, drawn = self._openings[row.slot], self._drawn[row.slot]
        told = [*opening.tokens, *drawn]
        assert held[len(held) - len(told) :] == told, f"slot {row.slot} was opened for other tokens"
        if opening.constraint is not None and opening.constraint.text == "none":
            raise EngineError("the grammar admits no token here")
        token = next_token(held, opening.sampling)
        if opening.constraint is not None:
            token %= 95
        drawn.append(token)
        logprobs = opening.sampling.logprobs
        return [
            Sampled(
                row.slot,
                token,
                self.piece(token),
                token == END,
                None if logprobs < 0 else -0.5,
                tuple((token, -0.5) for _ in range(max(0, min(1, logprobs)))),
            )
        ]

    def _check_banks(self, plan: StepPlan) -> None:
        used = sum(self.info.banks[number].size_bytes for number in plan.banks)
        assert len(plan.banks) == 1 or used <= self.info.kv_bytes, f"banks {plan.banks} take {used} bytes"
        for slot, held in enumerate(self._held):
            assert not held or self._bank_of[slot] in plan.banks, f"slot {slot} lost its bank with KV in it"
        for item in (*plan.restores, *plan.decodes, *plan.chunks):
            assert self._bank_of[item.slot] in plan.banks, f"slot {item.slot} has no memory"

    def _save(self, save: Save) -> int:
        held = self._held[save.slot]
        assert len(held) == save.tokens, f"slot {save.slot} holds {len(held)}, save of {save.tokens}"
        segment, end = self._segments[save.segment], save.end or save.tokens
        payload = np.array(held[save.begin : end], dtype=np.int32).view(np.uint8)
        segment[snapshot.HEADER_BYTES : snapshot.HEADER_BYTES + len(payload)] = payload
        return snapshot.seal(segment, _FINGERPRINT, end, save.digest, len(payload))

    def _restore(self, restore: Restore) -> None:
        parts = [self._payload(held) for held in (restore.base, restore) if held is not None]
        self._held[restore.slot] = [token for part in parts for token in part][: restore.keep]
        assert len(self._held[restore.slot]) == restore.keep, f"slot {restore.slot}: parts of a context are missing"

    def _payload(self, held: Restore | Base) -> list[int]:
        payload = snapshot.unseal(self._segments[held.segment], _FINGERPRINT, held.tokens, held.digest)
        return payload.view(np.int32).tolist()


class FakeText:
    """The text side of a fake engine: it answers at once."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def ask(self, what: str, value: Mapping[str, Any], reply: Callable[[Any, str | None], None]) -> None:
        try:
            answer = self._engine.ask(what, value)
        except EngineError as error:
            reply(None, str(error))
        else:
            reply(answer, None)


def next_token(tokens: list[int], sampling: Sampling) -> int:
    """Return the fake model's continuation: a function of all tokens, temperature and seed."""
    seed = sampling.seed if sampling.temperature else 0
    raw = hashlib.blake2b(repr((tokens, seed)).encode(), digest_size=8).digest()
    return int.from_bytes(raw, "little") % VOCAB
