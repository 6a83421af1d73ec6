"""Draw the next token of every row of a step, from a counter and not from hidden state.

Who calls it: llama.py after each decode. What must hold: a token depends on the row's logits, the request's
parameters, the tokens that penalties and grammar have seen, the seed and the position alone, never on the
rows beside it or the number of threads. So a preempted, moved or replayed request draws what it would have
drawn undisturbed.

The order is that of llama.cpp's default chain: logit bias, penalties, top-k, typical, top-p, min-p,
temperature. A row with a grammar is first drawn without it, since a model that was told what to write mostly
writes it, and asking a grammar about one token is far cheaper than asking about all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from kernel.engine.base import EngineError, Gate, Sampling
from kernel.engine.samplerow import (
    Room,
    is_greedy,
    is_possible,
    likeliest,
    log_mass,
    pick,
    pick_of_top,
)
from kernel.engine.samplestate import Drawing, Edits, undo
from kernel.engine.sampletop import block_maxima, block_width, tops

_MASK = (1 << 64) - 1
_FEW = 64  # rows of a top-k up to this are finished together
_MOST_THREADS = 4  # more would mostly wait for the interpreter's lock
_KEPT_BYTES = 8 << 20


def uniform(seed: int, position: int) -> float:
    """Return a number in [0, 1) that is a function of (seed, position).

    SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014) over a counter.
    """
    mixed = (seed * 0xD1342543DE82EF95 + position * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((mixed ^ (mixed >> 31)) >> 11) * 2.0**-53


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token, and where Sampling.logprobs asks for them, logarithms of the model's own probabilities."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]  # likeliest first


@dataclass(slots=True)
class _Row:
    """One row of a step that wants a token."""

    index: int
    logits: np.ndarray
    drawing: Drawing
    number: float
    maxima: np.ndarray | None = None  # of its blocks, to be filled, if it is finished with others
    edits: Edits = field(default_factory=list)
    token: int | None = None  # None: no token is possible
    log_mass: float = 0.0
    likeliest: tuple[int, ...] = ()


class Sampler:
    """Draws from a model's logits on the threads that computed them, which are idle by then."""

    def __init__(self, vocab: int, threads: int) -> None:
        self._rooms = [Room(vocab) for _ in range(max(1, min(threads, _MOST_THREADS)))]
        self._masked = np.empty(vocab, np.float32)
        self._width = block_width(vocab, _FEW)
        self._pool = ThreadPoolExecutor(len(self._rooms), "sampler")
        np.empty(_KEPT_BYTES, np.uint8)  # having freed this, glibc keeps smaller blocks from step to step

    def draw(
        self, logits: np.ndarray, drawings: Sequence[Drawing | None], positions: Sequence[int]
    ) -> list[Drawn | EngineError | None]:
        """Draw a token for each row that has a Drawing, and tell that Drawing.

        logits: (rows, vocab), float32, C-contiguous, writable; the same afterwards as before. positions: of
        the tokens to be drawn. The answer is an EngineError for a request that no token can be drawn for: its
        bias forbids all, or all that its grammar admits, or its grammar failed. Raises ValueError, before any
        Drawing is told, for logits that are NaN or infinite: the context is damaged.
        """
        rows = [
            _Row(index, logits[index], drawing, uniform(drawing.sampling.seed, position))
            for index, (drawing, position) in enumerate(zip(drawings, positions, strict=True))
            if drawing
        ]
        answers: list[Drawn | EngineError | None] = [None] * len(logits)
        with np.errstate(all="ignore"):
            self._pick(logits, rows)
            for row in rows:
                undo(row.logits, row.edits)
                if row.token is None and not is_possible(row.logits.max()):
                    raise ValueError("the model's largest logit is -inf")
            for row in rows:
                answers[row.index] = self._settle(row)
        return answers

    def _pick(self, logits: np.ndarray, rows: Sequence[_Row]) -> None:
        """Draw for each row, without its grammar: on threads, and together for rows of a small top-k."""
        few = [row for row in rows if self._wants_few(row.drawing.sampling)]
        if few:
            maxima = np.empty((len(few), -(-logits.shape[1] // self._width)), np.float32)
            for row, own in zip(few, maxima, strict=True):
                row.maxima = own
        waiting = deque(rows)
        helpers = [self._pool.submit(self._work, waiting, room) for room in self._rooms[1 : len(rows)]]
        try:
            self._work(waiting, self._rooms[0])
        finally:
            waiting.clear()
            failures = [helper.exception() for helper in helpers if not helper.cancel()]
        for failure in failures:
            if failure:
                raise failure
        if few:
            indices = np.array([row.index for row in few])
            counts = np.array([row.drawing.sampling.top_k for row in few])
            for row, top in zip(few, tops(logits, indices, maxima, counts, self._width), strict=True):
                if top.ranking[0] < np.inf:
                    row.token = pick_of_top(top, row.drawing.sampling, row.number)

    def _wants_few(self, sampling: Sampling) -> bool:
        return 0 < sampling.top_k <= _FEW and self._width > 0 and not is_greedy(sampling)

    def _work(self, waiting: deque[_Row], room: Room) -> None:
        """Do for rows that wait what needs no other rows, until none does."""
        with np.errstate(all="ignore"):
            while waiting:
                try:
                    row = waiting.popleft()
                except IndexError:  # another thread was quicker
                    return
                sampling = row.drawing.sampling
                if sampling.logprobs >= 0:
                    row.log_mass = log_mass(row.logits, room)
                if sampling.logprobs > 0:
                    row.likeliest = tuple(likeliest(row.logits, sampling.logprobs).tolist())
                row.edits = row.drawing.edit(row.logits)
                if row.maxima is None:
                    row.token = pick(row.logits, sampling, row.number, room)
                else:
                    row.maxima[:] = block_maxima(row.logits, self._width)
                    is_possible(row.maxima[row.maxima.argmax()])

    def _settle(self, row: _Row) -> Drawn | EngineError:
        """Ask the grammar, if there is one, and tell the Drawing."""
        drawing, token = row.drawing, row.token
        try:
            if token is None:
                raise EngineError("logit_bias forbids every token")
            if drawing.gate and not drawing.gate.admits(token):
                token = self._redraw(row, drawing.gate)
            drawing.accept(token)
        except EngineError as error:
            return error
        if drawing.sampling.logprobs < 0:
            return Drawn(token, None, ())
        top = tuple((one, float(row.logits[one]) - row.log_mass) for one in row.likeliest)
        return Drawn(token, float(row.logits[token]) - row.log_mass, top)

    def _redraw(self, row: _Row, gate: Gate) -> int:
        """Draw by the same number from what the grammar admits, or take the way to the text's end."""
        drawing = row.drawing
        edits = drawing.edit(row.logits)
        self._masked.fill(-np.inf)
        np.copyto(self._masked, row.logits, where=gate.admitted())
        undo(row.logits, edits)
        token = pick(self._masked, drawing.sampling, row.number, self._rooms[0])
        if token is None:
            raise EngineError("no token is both admitted by the constraint and allowed by logit_bias")
        if gate.admits(token):
            return token
        token = gate.closing()
        if drawing.forbids(token):
            raise EngineError(f"logit_bias forbids token {token}, with which the constrained text must go on")
        return token
