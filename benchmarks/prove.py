"""The property that every figure rests on: an agent's tokens are the same alone and under any schedule.

`python -m benchmarks.prove`, which `make prove` runs. For each model (135M shape, Q8_0 and F16): a library
of requests with contexts of 40 to 1,500 tokens is run alone; then random schedules (policy, quantum,
neighbours, priorities, STOP and CONT, the core lost in mid-step, snapshots dropped or damaged) run
samples of it, and tokens, text and what was streamed are compared. A schedule without a switch and
a return does not count. Most stop strings are cut from the requests' own texts so that a possible stop is
being held when a time slice ends. Schedules run in this process with the real kernel core and
LlamaEngine, a core's death being played by emptying its slots; `--live` of them run on the whole stack with
kill -9. The negative control flips one bit of a snapshot and seals it again: that must be seen.

Exit status 0: all equal, enough counted; 1: not.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.models import SHAPES, model_path
from benchmarks.prove_cases import LONGEST, SLOTS, Outcome, is_noticed, library, play
from benchmarks.prove_live import LiveOutcome, play_live
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
from benchmarks.rig import make_engine
from benchmarks.stand import end_on_term

CASES, SECONDS, REQUESTS, LIVE, FLIPS = 200, 3600.0, 24, 4, 8
HELD_BAR = 25.0  # per cent of the schedules
SAY_S = 10.0


def prove(
    shape: str,
    quantisations: Sequence[str],
    *,
    cases: int,
    seconds: float,
    requests: int = REQUESTS,
    live: int = LIVE,
    seed: int = 1,
) -> list[Row]:
    """Run `cases` schedules of each model, or as many as the seconds allow; return the table."""
    rows = []
    for number, quantisation in enumerate(quantisations):
        end = time.monotonic() + seconds / len(quantisations)
        model = str(model_path(shape, quantisation))
        rows += _prove_model(f"{shape} {quantisation}", model, cases, end, requests, live, seed + number)
    return rows


def _prove_model(
    name: str, model: str, cases: int, end: float, requests: int, live: int, seed: int
) -> list[Row]:
    draw = random.Random(seed)
    engine = make_engine(
        model, slots=SLOTS, window_tokens=LONGEST + 60, threads=len(os.sched_getaffinity(0))
    )
    began = time.monotonic()
    known = library(engine, requests, draw, began + (end - began) / 3)
    progress(f"{name}: {len(known)} requests run alone in {time.monotonic() - began:.0f} s")
    flips: list[bool] = []
    while len(flips) < FLIPS and (not any(flips) or time.monotonic() < began + (end - began) / 2):
        flips.append(is_noticed(engine, known, draw))
    progress(f"{name}: the negative control saw {sum(flips)} of {len(flips)} flipped bits")
    live_s = 0.15 * (end - time.monotonic()) if live else 0.0
    counted, uncounted = _schedules(name, cases, end - live_s, lambda: play(engine, known, draw))
    lives = _live(name, model, live, draw, end) if live else []
    return _rows(name, counted, uncounted, cases, flips, lives, live)


def _schedules(
    name: str, cases: int, end: float, one: Callable[[], Outcome]
) -> tuple[list[Outcome], int]:
    """Play schedules until enough of them counted or the time is up."""
    counted: list[Outcome] = []
    uncounted, began, say_at = 0, time.monotonic(), time.monotonic() + SAY_S
    while len(counted) < cases and time.monotonic() < end:
        outcome = one()
        for text in outcome.differing:
            progress(f"{name}: DIFFERS in schedule {len(counted) + uncounted}: {text}")
        if outcome.counts or outcome.differing:
            counted.append(outcome)
        else:
            uncounted += 1
        now = time.monotonic()
        if now >= say_at:
            say_at = now + SAY_S
            left = min(end - now, (cases - len(counted)) * (now - began) / max(1, len(counted)))
            progress(f"{name}: {len(counted)} of {cases} schedules, about {left:.0f} s left")
    return counted, uncounted


def _live(name: str, model: str, count: int, draw: random.Random, end: float) -> list[LiveOutcome]:
    lives: list[LiveOutcome] = []
    while len(lives) < count and (not lives or time.monotonic() < end):
        lives.append(play_live(model, draw))
        progress(f"{name}: {len(lives)} of {count} on the whole stack with kill -9")
    return lives


def _rows(
    name: str,
    counted: list[Outcome],
    uncounted: int,
    cases: int,
    flips: list[bool],
    lives: list[LiveOutcome],
    live: int,
) -> list[Row]:
    def total(field: str) -> int:
        return sum(getattr(one, field) for one in counted)

    same = sum(not one.differing for one in counted)
    held = 100 * sum(one.held > 0 for one in counted) / max(1, len(counted))
    rows = [
        must(
            f"{name}: schedules that count",
            f"{len(counted)}, {uncounted} did not",
            f">= {cases}",
            len(counted) >= cases,
        ),
        must("tokens and text as alone", f"{same} of {len(counted)}", "all", same == len(counted) > 0),
        only("requests compared", total("requests")),
        only("switches, restores", f"{total('switches'):,}, {total('restores'):,}"),
        only("fewest of a schedule", _fewest(counted)),
        at_least("schedules preempted inside a stop or character", held, HELD_BAR, "%"),
        only(
            "core deaths, tokens recomputed, snapshots refused, dropped",
            f"{total('deaths')}, {total('recomputed'):,}, {total('failed_restores')}, {total('dropped')}",
        ),
        must("one flipped bit of a snapshot is seen", f"{sum(flips)} of {len(flips)}", ">= 1", any(flips)),
    ]
    if live:
        right = sum(one.is_same for one in lives)
        switches, deaths = sum(one.switches for one in lives), sum(one.deaths for one in lives)
        shown = f"{right} of {len(lives)} ({switches} switches, {deaths} deaths)"
        rows.append(must("whole stack with kill -9", shown, "all", right == len(lives) > 0))
    return rows


def _fewest(counted: list[Outcome]) -> str:
    if not counted:
        return "none counted"
    switches = min(one.switches for one in counted)
    returns = min(one.restores + one.recomputed for one in counted)
    return f"{switches} switches, {returns} restores or recomputed tokens"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prove", description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES, help="schedules of each model (%(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="at most, in all (%(default)s)")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="smollm2-135m")
    parser.add_argument("--quantisation", nargs="*", default=["q8_0", "f16"])
    parser.add_argument("--requests", type=int, default=REQUESTS, help="different requests (%(default)s)")
    parser.add_argument("--live", type=int, default=LIVE, help="schedules with kill -9 (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    end_on_term()
    print(facts_line(machine_facts()), flush=True)
    rows = prove(
        options.shape,
        options.quantisation,
        cases=options.cases,
        seconds=options.seconds,
        requests=options.requests,
        live=options.live,
        seed=options.seed,
    )
    print(result_table(rows))
    return int(any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
