"""An engine without a model: the next token is a hash of all before it.

Who uses it: the tests, in the kernel's own process or behind a real core process. What must hold: it is
as strict as llama.cpp is trusting: a row at a wrong position, a chunk that is cut elsewhere, a save of
another length or a restore of another context is an error here, so that no test passes by luck.
"""

from __future__ import annotations

import hashlib
import mmap
import time

import numpy as np

from kernel.engine import snapshot
from kernel.engine.base import (
    CHUNK_TOKENS,
    EngineError,
    EngineInfo,
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
_BYTES_PER_TOKEN = 4
_FINGERPRINT = b"fake-engine-0001"


class FakeEngine:
    """Tokens 0-255 are bytes (many of them parts of UTF-8 characters), the others words; 319 ends.

    Raises AssertionError when a plan breaks the contract of base.py.
    """

    def __init__(
        self,
        path: str = "fake",
        *,
        slots: int = 4,
        window_tokens: int = 512,
        threads: int = 1,
        extra_buffers: bool = True,
        flash_attention: str = "auto",
    ) -> None:
        self._held: list[list[int]] = [[] for _ in range(slots)]
        self._segments: dict[int, np.ndarray] = {}
        self.steps = 0
        self.info = EngineInfo(
            model=path,
            description="fake",
            vocab=VOCAB,
            window_tokens=window_tokens,
            slots=slots,
            threads=threads,
            kv_bytes_per_token=_BYTES_PER_TOKEN,
            snapshot_overhead_bytes=snapshot.HEADER_BYTES,
            extra_buffers=extra_buffers,
            flash_attention=flash_attention == "on",
            has_template=True,
            load_s=0.0,
        )

    # -- text ---------------------------------------------------------------------------------

    def tokenize(self, text: str, with_special: bool) -> list[int]:
        return [256] * with_special + list(text.encode())

    def render(self, messages: list[tuple[str, str]]) -> str:
        if any(role not in ("system", "user", "assistant") for role, _ in messages):
            raise EngineError(f"the chat template knows no role {messages[0][0]!r}")
        return "".join(f"{role}: {content}\n" for role, content in messages) + "assistant: "

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
        failed: dict[int, str] = {}
        for restore in plan.restores:
            try:
                self._restore(restore)
            except snapshot.SnapshotError as error:
                self._held[restore.slot] = []
                failed[restore.slot] = str(error)
        slots = [row.slot for row in (*plan.decodes, *plan.chunks)]
        assert len(slots) == len(set(slots)), f"a slot twice in one step: {sorted(slots)}"
        sampled = []
        for row in plan.decodes:
            assert len(row.tokens) == 1, f"a decode of {len(row.tokens)} tokens"
            sampled += [] if row.slot in failed else self._feed(row)
        for row in plan.chunks:
            last = row.position + len(row.tokens) - 1
            assert row.position % CHUNK_TOKENS == 0, f"a chunk from {row.position}"
            assert row.position // CHUNK_TOKENS == last // CHUNK_TOKENS, f"a chunk up to {last}"
            sampled += [] if row.slot in failed else self._feed(row)
        return StepResult(
            number=plan.number,
            sampled=tuple(sampled),
            saved=saved,
            failed_restores=tuple(failed.items()),
            began_ns=began,
            ended_ns=time.monotonic_ns(),
            switch_ns=0,
        )

    def _feed(self, row: Row) -> list[Sampled]:
        held = self._held[row.slot]
        assert row.position == len(held), f"slot {row.slot} holds {len(held)}, row at {row.position}"
        assert len(held) + len(row.tokens) <= self.info.window_tokens, f"slot {row.slot} overflows"
        held += row.tokens
        if row.sampling is None:
            return []
        token = next_token(held, row.sampling)
        return [Sampled(row.slot, token, self.piece(token), token == END)]

    def _save(self, save: Save) -> int:
        held = self._held[save.slot]
        assert len(held) == save.tokens, f"slot {save.slot} holds {len(held)}, save of {save.tokens}"
        segment = self._segments[save.segment]
        payload = np.array(held, dtype=np.int32).view(np.uint8)
        segment[snapshot.HEADER_BYTES : snapshot.HEADER_BYTES + len(payload)] = payload
        return snapshot.seal(segment, _FINGERPRINT, save.tokens, save.digest, len(payload))

    def _restore(self, restore: Restore) -> None:
        payload = snapshot.unseal(
            self._segments[restore.segment], _FINGERPRINT, restore.tokens, restore.digest
        )
        self._held[restore.slot] = payload.view(np.int32).tolist()


def next_token(tokens: list[int], sampling: Sampling) -> int:
    """Return the fake model's continuation: a function of all tokens, temperature and seed."""
    seed = sampling.seed if sampling.temperature else 0
    raw = hashlib.blake2b(repr((tokens, seed)).encode(), digest_size=8).digest()
    return int.from_bytes(raw, "little") % VOCAB
