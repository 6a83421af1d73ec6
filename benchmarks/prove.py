"""The property that every figure rests on: an agent's tokens are the same alone and under any schedule.

`python -m benchmarks.prove`, which `make prove` runs. For each model, a row named family/quantisation/size, a
library of requests with contexts of 40 to 800 tokens is run alone: with grammars, penalty windows, stop
strings, logit biases, greedy and sampled. Then random schedules (policy, quantum, slots, neighbours,
priorities, STOP and CONT, the core lost in mid-step, snapshots dropped or damaged) run samples of it, half
of them with one bank of slots and half with banks that contexts outgrow. Compared are text, tokens, what was
streamed, logprobs, and a digest of all logits that each token was drawn from. A schedule without a switch
and a return does not count.

Schedules run in this process with the real kernel core and engine, a core's death being played by emptying
its slots; `--live` of them run on the whole stack with kill -9. The negative control flips one bit of a
snapshot and seals it again: that must be seen.

    python -m benchmarks.prove --quick                       # small models of all families, within a minute
    python -m benchmarks.prove --rows 'moe/*/135m' dense/q8_0/135m
    python -m benchmarks.prove --results proved.jsonl        # keeps finished rows there, goes on after them

Exit status 0: all equal, enough counted; 1: not; 2: no such row.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.models import model_path
from benchmarks.prove_cases import INSIDES, Outcome, is_noticed, library, play
from benchmarks.prove_engine import make_watched
from benchmarks.prove_live import LiveOutcome, play_live
from benchmarks.prove_models import FULL, QUICK, ModelRow, select
from benchmarks.report import (
    Row,
    at_least,
    facts_line,
    machine_facts,
    must,
    only,
    progress,
    result_table,
)
from benchmarks.stand import end_on_term

LONGEST = 800  # tokens of a context: past where flash attention splits a row's KV and every sliding window
SLOTS = 6  # of the engine with one bank; a schedule uses 1 to 5 of them
BANK_SLOTS, BANK_TOKENS = 2, 256  # of the first bank of the other engine
LONG_SHARE = 5  # its memory, in slots of the whole window: so that its long slots are few
FLIPS = 8
INSIDE_BAR = 25.0  # per cent of the schedules, for each of INSIDES
SAY_S = 10.0
# One schedule and its share of all else, on 2 cores of an AMD EPYC without AVX-512.
EXPECTED_S = {"135m": 9.0, "0.5b": 32.0}
EXPECTED_SMALL_S = 1.0


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to try with each model."""

    cases: int = 50  # schedules that count
    seconds: float = 7200.0  # at most
    requests: int = 24  # different ones
    live: int = 1  # schedules with kill -9 on the whole stack
    flips: int = 3  # negative controls, at least
    longest: int = LONGEST
    threads: int = 0  # 0: one for each CPU
    seed: int = 1


FULL_EFFORT = Effort()
QUICK_EFFORT = Effort(cases=4, seconds=300.0, requests=9, live=0, flips=1, longest=300, threads=1)


@dataclass(slots=True)
class Tally:
    """What rows have in common that is judged over all of them."""

    counted: int = 0
    inside: Counter[str] = field(default_factory=Counter)  # schedules that preempted inside of these

    def rows(self) -> list[Row]:
        shares = {what: 100 * self.inside[what] / max(1, self.counted) for what in INSIDES}
        return [
            at_least(f"schedules preempted inside {what}", share, INSIDE_BAR, "%")
            for what, share in shares.items()
        ]



def prove_row(row: ModelRow, effort: Effort) -> tuple[list[Row], Tally]:
    """Run the schedules of one model, or as many as the seconds allow; return its part of the table."""
    draw = random.Random(effort.seed + zlib.crc32(row.name.encode()))
    began = time.monotonic()
    end = began + effort.seconds
    model = str(model_path(row.shape, row.quantisation))
    window, threads = effort.longest + 60, effort.threads or len(os.sched_getaffinity(0))
    engine = make_watched(model, slots=SLOTS, slot_tokens=window, window_tokens=window, threads=threads)
    known = library(engine, effort.requests, effort.longest, draw, began + effort.seconds / 3)
    progress(f"{row.name}: {len(known)} requests run alone in {time.monotonic() - began:.0f} s")
    flips: list[bool] = []
    while len(flips) < FLIPS and (not any(flips) or len(flips) < effort.flips):
        flips.append(is_noticed(engine, known, draw))
    live_s = 0.15 * (end - time.monotonic()) if effort.live else 0.0
    half = (end - live_s + time.monotonic()) / 2

    def one() -> Outcome:
        return play(engine, known, draw)

    tried = _schedules(row.name, -(-effort.cases // 2), half, one)
    kv_bytes = engine.info.banks[0].size_bytes * LONG_SHARE // SLOTS
    engine.close()
    engine = make_watched(
        model,
        slots=BANK_SLOTS,
        slot_tokens=BANK_TOKENS,
        window_tokens=window,
        threads=threads,
        kv_bytes=kv_bytes,
    )
    tried += _schedules(f"{row.name}, banks", effort.cases // 2, end - live_s, one)
    exactness = engine.info.exactness
    engine.close()
    lives = _live(row.name, effort.live, end, lambda: play_live(model, threads, draw))
    seconds = time.monotonic() - began
    head = only(f"{row.name}: {row.shape}, {exactness}", f"{seconds:.0f} s")
    return [head, *_rows(tried, effort, flips, lives)], _tally(tried)


def _schedules(name: str, cases: int, end: float, one: Callable[[], Outcome]) -> list[Outcome]:
    """Play schedules until enough of them counted or the time is up."""
    tried: list[Outcome] = []
    counted, began, say_at = 0, time.monotonic(), time.monotonic() + SAY_S
    while counted < cases and time.monotonic() < end:
        outcome = one()
        for text in outcome.differing:
            progress(f"{name}: DIFFERS in schedule {len(tried)}: {text}")
        tried.append(outcome)
        counted += outcome.counts
        now = time.monotonic()
        if now >= say_at:
            say_at = now + SAY_S
            left = max(0.0, (cases - counted) * (now - began) / max(1, counted))
            progress(f"{name}: {counted} of {cases} schedules, about {left:.0f} s left")
    return tried


def _live(name: str, count: int, end: float, one: Callable[[], LiveOutcome]) -> list[LiveOutcome]:
    lives: list[LiveOutcome] = []
    while len(lives) < count and (not lives or time.monotonic() < end):
        lives.append(one())
        progress(f"{name}: {len(lives)} of {count} on the whole stack with kill -9")
    return lives


def _rows(
    tried: Sequence[Outcome], effort: Effort, flips: Sequence[bool], lives: Sequence[LiveOutcome]
) -> list[Row]:
    def total(name: str) -> int:
        return sum(getattr(one, name) for one in tried)

    counted = [one for one in tried if one.counts]
    same = sum(not one.differing for one in tried)
    rows = [
        must(
            "schedules that count",
            f"{len(counted)}, {len(tried) - len(counted)} did not",
            f">= {effort.cases}",
            len(counted) >= effort.cases,
        ),
        must("logits, tokens and text as alone", f"{same} of {len(tried)}", "all", same == len(tried) > 0),
        only("of these preempted inside " + ", ".join(INSIDES), _shares(_tally(tried))),
        only("requests compared", total("requests")),
        only(
            "switches, restores, moves",
            f"{total('switches'):,}, {total('restores'):,}, {total('moves'):,}",
        ),
        only(
            "core deaths, tokens recomputed, snapshots refused, dropped",
            f"{total('deaths')}, {total('recomputed'):,}, {total('failed_restores')}, {total('dropped')}",
        ),
        must("one flipped bit of a snapshot is seen", f"{sum(flips)} of {len(flips)}", ">= 1", any(flips)),
    ]
    if effort.live:
        right = sum(one.is_same for one in lives)
        switches, deaths = sum(one.switches for one in lives), sum(one.deaths for one in lives)
        shown = f"{right} of {len(lives)} ({switches} switches, {deaths} deaths)"
        rows.append(must("whole stack with kill -9", shown, "all", right == len(lives) > 0))
    return rows


def _tally(tried: Sequence[Outcome]) -> Tally:
    tally = Tally()
    for one in tried:
        if one.counts:
            tally.counted += 1
            tally.inside.update(dict.fromkeys(one.inside, 1))
    return tally


def _shares(tally: Tally) -> str:
    return ", ".join(f"{100 * tally.inside[what] / max(1, tally.counted):.0f}" for what in INSIDES) + " %"


def expected_s(rows: Sequence[ModelRow], cases: int) -> float:
    """Return about how long rows take; see EXPECTED_S."""
    return sum(cases * EXPECTED_S.get(row.size, EXPECTED_SMALL_S) for row in rows)


def read_results(path: Path, effort: Effort) -> dict[str, tuple[list[Row], Tally]]:
    """Return what a results file has of finished rows, by name, that were tried with this effort."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {
        line["row"]: (
            [Row(*cells) for cells in line["table"]],
            Tally(line["counted"], Counter(line["inside"])),
        )
        for line in lines
        if (line["cases"], line["seed"]) == (effort.cases, effort.seed)
    }


def _keep(path: Path, row: ModelRow, effort: Effort, table: Sequence[Row], tally: Tally) -> None:
    line = {
        "row": row.name,
        "cases": effort.cases,
        "seed": effort.seed,
        "threads": effort.threads or len(os.sched_getaffinity(0)),
        "table": table,
        "counted": tally.counted,
        "inside": tally.inside,
        "on": machine_facts(),
    }
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prove", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small models of all families")
    parser.add_argument("--rows", nargs="*", default=[], metavar="PATTERN", help="only rows of these names")
    parser.add_argument("--list", action="store_true", help="print the rows' names and end")
    parser.add_argument("--cases", type=int, help=f"schedules of each row ({FULL_EFFORT.cases})")
    parser.add_argument("--seconds", type=float, help=f"at most, for each row ({FULL_EFFORT.seconds:.0f})")
    parser.add_argument("--requests", type=int, help=f"different ones of each row ({FULL_EFFORT.requests})")
    parser.add_argument("--live", type=int, help=f"schedules with kill -9 of each row ({FULL_EFFORT.live})")
    parser.add_argument("--threads", type=int, help="of a core; one for each CPU, where nobody else is busy")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, help="a file that keeps finished rows, and has those to skip")
    options = parser.parse_args(arguments)
    try:
        rows = select(QUICK if options.quick else FULL, options.rows)
    except ValueError as error:
        print(f"prove: {error}", file=sys.stderr)
        return 2
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    effort = _effort(options)
    end_on_term()
    known = read_results(options.results, effort) if options.results else {}
    todo = [row for row in rows if row.name not in known]
    minutes = expected_s(todo, effort.cases) / 60
    print(facts_line(machine_facts()), flush=True)
    print(
        f"{len(todo)} rows of {effort.cases} schedules, {len(rows) - len(todo)} known already:"
        f" about {minutes:,.0f} minutes on 2 cores of an AMD EPYC",
        flush=True,
    )
    for row in todo:
        known[row.name] = prove_row(row, effort)
        if options.results:
            _keep(options.results, row, effort, *known[row.name])
    total = Tally()
    for row in rows:
        total.counted += known[row.name][1].counted
        total.inside += known[row.name][1].inside
    table = [line for row in rows for line in known[row.name][0]]
    table += [only("all rows", f"{total.counted} schedules"), *total.rows()]
    print(result_table(table))
    return int(any(line.met is False for line in table))


_GIVEN = ("cases", "seconds", "requests", "live", "threads", "seed")


def _effort(options: argparse.Namespace) -> Effort:
    base = QUICK_EFFORT if options.quick else FULL_EFFORT
    given = {name: getattr(options, name) for name in _GIVEN}
    return replace(base, **{name: value for name, value in given.items() if value is not None})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
