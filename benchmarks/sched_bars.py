"""The scheduler's bars, measured live: one at a time, or all of them.

    python -m benchmarks.sched_bars fairness weights --seeds 3 --seconds 40
    python -m benchmarks.sched_bars            # all

Each prints its figure with the 95 % interval over the seeds, and whether the end of the interval that counts meets the
bar. Policies, loads and seeds are fixed here before a run. Exit status 1: one was missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.report import Row, facts_line, machine_facts, progress, result_table
from benchmarks.sched_bars_attacks import hostile
from benchmarks.sched_bars_shares import charges, fairness, idle_preemption, sched_time, weights
from benchmarks.sched_bars_waits import long_prompt, mixed, overload, react, short_beside_long
from benchmarks.sched_live import Bench
from benchmarks.stand import StandError, end_on_term

Measure = Callable[[Bench, int, float], list[Row]]


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar, and how many seeds and seconds of each it takes."""

    measure: Measure
    seeds: int
    seconds: float
    quick_s: float = 13.0

    @property
    def headline(self) -> str:
        return (self.measure.__doc__ or "").splitlines()[0]


BARS = {
    "fairness": Bar(fairness, 3, 40.0, 14.0),
    "weights": Bar(weights, 3, 120.0),
    "mixed": Bar(mixed, 5, 60.0),
    "react": Bar(react, 5, 30.0),
    "short_beside_long": Bar(short_beside_long, 5, 20.0),
    "long_prompt": Bar(long_prompt, 3, 40.0),
    "idle_preemption": Bar(idle_preemption, 3, 72.0, 9.0),
    "overload": Bar(overload, 3, 60.0),
    "hostile": Bar(hostile, 2, 30.0),
    "charges": Bar(charges, 3, 30.0),
    "sched_time": Bar(sched_time, 3, 20.0, 5.0),
}


def run(quick: bool) -> list[Row]:
    bench = Bench.quick() if quick else Bench.full()
    rows = []
    for name, bar in BARS.items():
        seeds, seconds = (1, bar.quick_s) if quick else (bar.seeds, bar.seconds)
        progress(name)
        rows += [replace_what(row, name) for row in bar.measure(bench, seeds, seconds)]
    return rows


def replace_what(row: Row, name: str) -> Row:
    return row._replace(what=f"{name}: {row.what}")


def main(arguments: Sequence[str]) -> int:
    full = Bench.full()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sched_bars", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="BAR", help=f"of {', '.join(BARS)}")
    parser.add_argument("--seeds", type=int, help="how many, instead of the bar's own")
    parser.add_argument("--seconds", type=float, help="of each run, instead of the bar's own")
    parser.add_argument("--slots", type=int, default=full.slots)
    parser.add_argument("--window", type=int, default=full.window_tokens, help="tokens (%(default)s)")
    parser.add_argument("--model", default=full.model, help="a GGUF file; one of SmolLM2-135M's shape")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in BARS:
            parser.error(f"no bar {name!r}: choose from {', '.join(BARS)}")
    end_on_term()
    bench = replace(full, model=options.model, slots=options.slots, window_tokens=options.window)
    facts = machine_facts() | {"model": Path(bench.model).name}
    print(facts_line(facts), flush=True)
    results, is_missed = {}, False
    for name in options.names or BARS:
        bar = BARS[name]
        began_s = time.monotonic()
        try:
            rows = bar.measure(bench, options.seeds or bar.seeds, options.seconds or bar.seconds)
        except StandError as error:  # the others are still wanted
            rows = [Row(name, str(error)[:200], "measured", False)]
        took_s = time.monotonic() - began_s
        print(f"\n{name} ({took_s:.0f} s): {bar.headline}\n{result_table(rows)}", flush=True)
        is_missed = is_missed or any(row.met is False for row in rows)
        results[name] = {"seconds": took_s, "rows": [row._asdict() for row in rows]}
        if options.json is not None:
            options.json.write_text(json.dumps({"machine": facts, "results": results}, indent=2))
    return int(is_missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
