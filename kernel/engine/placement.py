"""Where contexts should stand among a bank's streams, and which of them decode together.

Who calls it: bank.py, when the set of decoding contexts or their lengths have changed. Pure. What must hold:
every decoding context is in exactly one pass; fillers stand only where they may; moves are worth their cost.

llama.cpp computes a batch in passes over adjacent streams, each reading all weights, and without flash attention
every row of a pass computes as many cells as the longest has. So there are three ways to save time: moving contexts
side by side, filling small holes with rows of no consequence, and parting long contexts from short ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Protocol

HORIZON_STEPS = 16  # that an arrangement is expected to last: what moves are paid off over
MAX_GROUPS = 3  # by length


class Costs(Protocol):
    move_ns_per_token: float

    def of_pass(self, rows: int, cells: int) -> float: ...


class Unmoved:
    """The costs of a model whose contexts must not be moved."""

    move_ns_per_token = math.inf

    def __init__(self, costs: Costs) -> None:
        self.of_pass = costs.of_pass


class _Even:
    """Costs where a row's are its own, whoever is in its pass: lengths decide nothing."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self.move_ns_per_token = costs.move_ns_per_token

    def of_pass(self, rows: int, cells: int) -> float:
        return self._costs.of_pass(rows, 0)


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Moves to make first, as (stream, stream) whose contents change places; then passes in order.

    A pass is its streams, adjacent and ascending, those that only fill a hole included.
    """

    moves: tuple[tuple[int, int], ...]
    passes: tuple[tuple[int, ...], ...]


def arrange(
    running: Mapping[int, int],
    resident: Mapping[int, int],
    streams: int,
    may_fill: bool,
    costs: Costs,
    by_length: bool = True,
) -> Arrangement:
    """Return the cheapest arrangement found.

    running: stream -> cells of each context that decodes, rounded up as llama.cpp does; resident: the same of
    those that only stay; streams: how many there are; may_fill: whether a resident's stream may take a filler;
    by_length: whether parting long contexts from short ones saves anything.
    """
    if not by_length:
        costs = _Even(costs)
    stay = _fill_holes(sorted(running), {**resident, **running}, running, may_fill, costs)
    best = Arrangement((), tuple(stay))
    best_ns = sum(_pass_ns(one, {**resident, **running}, costs) for one in stay)
    groups = _groups(running, costs)
    decoding_ns = sum(
        costs.of_pass(len(group), max(running[stream] for stream in group)) for group in groups
    )
    if decoding_ns >= best_ns:
        return best
    for order in permutations(groups):
        for first in range(streams - len(running) + 1):
            moved = _moved_tokens(order, first, running, resident)
            total = decoding_ns + (moved and moved * costs.move_ns_per_token / HORIZON_STEPS)
            if total < best_ns:
                best, best_ns = _gathered(order, first, running, resident), total
    return best


def _pass_ns(streams: Sequence[int], cells: Mapping[int, int], costs: Costs) -> float:
    return costs.of_pass(len(streams), max(cells.get(stream, 1) for stream in streams))


def _fill_holes(
    ordered: Sequence[int],
    cells: Mapping[int, int],
    running: Mapping[int, int],
    may_fill: bool,
    costs: Costs,
) -> list[tuple[int, ...]]:
    """Return the passes of contexts that stay where they are: holes are filled where that is cheaper."""
    passes: list[tuple[int, ...]] = []
    for stream in ordered:
        if not passes:
            passes.append((stream,))
            continue
        last = passes[-1]
        hole = range(last[-1] + 1, stream)
        joined = (*last, *hole, stream)
        is_open = may_fill or not any(one in cells and one not in running for one in hole)
        apart = _pass_ns(last, cells, costs) + _pass_ns((stream,), cells, costs)
        if is_open and _pass_ns(joined, cells, costs) <= apart:
            passes[-1] = joined
        else:
            passes.append((stream,))
    return passes


def _groups(running: Mapping[int, int], costs: Costs) -> list[tuple[int, ...]]:
    """Part the contexts by length where two passes cost less than one as long as the longest.

    Cuts are looked for between different lengths only, the best first, until no cut helps.
    """
    ordered = sorted(running, key=lambda stream: (running[stream], stream))
    groups = [tuple(ordered)]
    while len(groups) < MAX_GROUPS:
        best_gain, best_at, best_cut = 0.0, -1, -1
        for at, group in enumerate(groups):
            whole = costs.of_pass(len(group), running[group[-1]])
            for cut in range(1, len(group)):
                shorter, longer = running[group[cut - 1]], running[group[cut]]
                if shorter == longer:
                    continue
                parted = costs.of_pass(cut, shorter) + costs.of_pass(len(group) - cut, running[group[-1]])
                if whole - parted > best_gain:
                    best_gain, best_at, best_cut = whole - parted, at, cut
        if best_at < 0:
            break
        group = groups[best_at]
        groups[best_at : best_at + 1] = [group[:best_cut], group[best_cut:]]
    return groups


def _places(order: Iterable[tuple[int, ...]], first: int) -> Iterable[tuple[tuple[int, ...], range]]:
    """Yield each group and the streams that it is to have when groups stand in order from `first`."""
    for group in order:
        yield group, range(first, first + len(group))
        first += len(group)


def _moved_tokens(
    order: Sequence[tuple[int, ...]], first: int, running: Mapping[int, int], resident: Mapping[int, int]
) -> int:
    """Return about how many tokens are copied to bring the groups to their places."""
    moved = 0
    for group, place in _places(order, first):
        moved += sum(running[stream] for stream in group if stream not in place)
        moved += sum(resident.get(stream, 0) for stream in place)
    return moved


def _gathered(
    order: Sequence[tuple[int, ...]], first: int, running: Mapping[int, int], resident: Mapping[int, int]
) -> Arrangement:
    """Return the moves that bring each group to its place, and the passes then."""
    home = {stream: stream for stream in (*running, *resident)}  # context, named by where it was -> stream
    held = dict(home)  # stream -> context
    moves = []
    for group, place in _places(order, first):
        members = set(group)
        wanting = [stream for stream in place if held.get(stream) not in members]
        outside = [context for context in group if home[context] not in place]
        for stream, context in zip(wanting, outside, strict=True):
            source, other = home[context], held.pop(stream, None)
            moves.append((source, stream))
            home[context], held[stream] = stream, context
            if other is None:
                del held[source]
            else:
                home[other], held[source] = source, other
    return Arrangement(tuple(moves), tuple(tuple(place) for _, place in _places(order, first)))
