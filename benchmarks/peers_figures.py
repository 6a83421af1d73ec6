"""The loads that servers are compared on, and what is read off a run. Pure.

Who uses it: peers_load.py makes the runs, peers.py prints them. What must hold: every server gets the same requests in
the same order; a figure of a run is of what happened inside its window, and nothing that happened there is left out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from benchmarks.report import percentile

IDS_FROM, IDS_BELOW = 300, 2000  # plain pieces in every model that we make
STARVED_S = 120.0  # a request in flight that had nothing for so long starves


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request."""

    name: str
    share: float
    prompt_tokens: int
    max_tokens: int


MIX = (Kind("short", 0.70, 64, 16), Kind("medium", 0.25, 256, 64), Kind("long", 0.05, 512, 256))
LONGEST_TOKENS = max(kind.prompt_tokens + kind.max_tokens for kind in MIX)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to be made. `ids` are its prompt; one that goes as text is as many digits, each a token."""

    kind: str
    ids: tuple[int, ...]
    max_tokens: int

    @property
    def text(self) -> str:
        return "".join(str(one % 10) for one in self.ids)


@dataclass(slots=True)
class Record:
    """A request that was made, and what came of it. Times are monotonic seconds."""

    kind: str
    wanted: int
    sent_s: float
    arrivals: list[tuple[float, int]] = field(default_factory=list)  # when, how many tokens
    ids: list[int] = field(default_factory=list)  # of its answer, as far as they were told without a gap
    has_gap: bool = False
    cached_tokens: int | None = None
    ended_s: float | None = None
    error: str = ""
    task: str = ""  # that a gateway says it had

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self.arrivals)

    @property
    def first_s(self) -> float | None:
        """From sending to the first token."""
        return self.arrivals[0][0] - self.sent_s if self.arrivals else None

    @property
    def latency_s(self) -> float | None:
        return None if self.ended_s is None else self.ended_s - self.sent_s

    def silence_s(self, until_s: float) -> float:
        """The longest time that it had nothing, of its time up to `until_s`."""
        end_s = until_s if self.ended_s is None else min(self.ended_s, until_s)
        times = [self.sent_s, *(at_s for at_s, _ in self.arrivals if at_s < end_s), end_s]
        return max(later - earlier for earlier, later in pairwise(times))


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that one load generator saw of one server."""

    records: tuple[Record, ...]
    begin_s: float  # of the window
    end_s: float
    cpu_s: float  # of the load generator, in the window
    unended: int = 0  # requests that had not ended when we had waited for them

    def has(self, at_s: float | None) -> bool:
        """Whether a time falls into the window."""
        return at_s is not None and self.begin_s <= at_s < self.end_s

    def silences_s(self) -> list[float]:
        """The longest silence of each request that was in flight in the window."""
        return [
            one.silence_s(self.end_s)
            for one in self.records
            if one.sent_s < self.end_s and (one.ended_s is None or one.ended_s >= self.begin_s)
        ]


def draw(draw_from: random.Random) -> Kind:
    """Draw a kind of request from the mix."""
    at = draw_from.random()
    for kind in MIX:
        at -= kind.share
        if at < 0:
            return kind
    return MIX[-1]


def requests(seed: int) -> Iterator[Asked]:
    """The endless sequence of a closed load: the same for the same seed. No two prompts begin alike."""
    source = random.Random(seed)
    while True:
        kind = draw(source)
        yield Asked(kind.name, random_ids(source, kind.prompt_tokens), kind.max_tokens)


def random_ids(source: random.Random, count: int) -> tuple[int, ...]:
    return tuple(source.randrange(IDS_FROM, IDS_BELOW) for _ in range(count))


def figures(runs: Sequence[Run]) -> dict[str, Any]:
    """What runs of one server tell together: counts, rates per second, times in seconds.

    A percentile of nothing is left out.
    """
    seconds = sum(run.end_s - run.begin_s for run in runs)
    ended = [one for run in runs for one in run.records if run.has(one.ended_s)]
    whole = [one for one in ended if not one.error]
    begun = [one for run in runs for one in run.records if one.arrivals and run.has(one.arrivals[0][0])]
    tokens = sum(
        count for run in runs for one in run.records for at_s, count in one.arrivals if run.has(at_s)
    )
    silences = [silence for run in runs for silence in run.silences_s()]
    made: dict[str, Any] = {
        "seconds": seconds,
        "requests": len(whole),
        "requests_per_s": len(whole) / seconds,
        "tokens_per_s": tokens / seconds,
        "errors": len(ended) - len(whole),
        "first_error": next((one.error for one in ended if one.error), ""),
        "cut_short": sum(one.tokens != one.wanted for one in whole),
        "silence_max_s": max(silences, default=0.0),
        "starved": sum(silence > STARVED_S for silence in silences) + sum(run.unended for run in runs),
        "load_cpu_share": sum(run.cpu_s for run in runs) / seconds,
    }
    made |= _percentiles("ttft", [one.first_s for one in begun], (0.5, 0.95, 0.99))
    for kind in sorted({one.kind for one in whole}):
        of_kind = [one for one in whole if one.kind == kind]
        made[f"{kind}_requests"] = len(of_kind)
        made |= _percentiles(kind, [one.latency_s for one in of_kind], (0.5, 0.95))
        made |= _percentiles(f"{kind}_ttft", [one.first_s for one in begun if one.kind == kind], (0.5, 0.95))
        cached = [one.cached_tokens for one in of_kind if one.cached_tokens is not None]
        if cached:
            made[f"{kind}_cached_tokens"] = sum(cached) / len(cached)
    return made


def _percentiles(name: str, values: Sequence[Any], shares: Sequence[float]) -> dict[str, float]:
    return {f"{name}_p{100 * share:.0f}_s": percentile(values, share) for share in shares if values}
