"""`python -m benchmarks [NAME ...]`, which `make bench` runs: every bar of this repository as a table.

Exit status 0: all bars met; 1: one was missed; 2: one could not be measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from pathlib import Path

from benchmarks.models import model_path
from benchmarks.report import Row, facts_line, machine_facts, progress, result_table
from benchmarks.stand import end_on_term

BARS = (  # the quick ones first
    "startup",
    "idle",
    "sampling",
    "json_schema",
    "batch_geometry",
    "context_switch",
    "sessions",
    "durable",
    "tiers",
    "exactness",
    "long_window",
    "syscall",
    "nullcall",
    "malformed",
    "libzmq_kill",
    "coredeath",
    "contention",
    "streaming32",
    "timeslicing64",
    "held_tasks",
    "connections2000",
    "channel_attack",
    "request_attack",
    "gateway_drops",
    "gateway_attack",
    "gateway_cost",
    "agents500",
    "sched_bars",
    "sched_throughput",
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BARS)}; all of them")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, not how fast")
    parser.add_argument("--json", metavar="FILE", help="also write the results here")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in BARS:
            parser.error(f"no benchmark {name!r}: choose from {', '.join(BARS)}")
    end_on_term()
    facts = machine_facts() | {"model": model_path("default" if options.quick else "smollm2-135m").name}
    if options.quick:
        facts["sizes"] = "QUICK (figures mean nothing)"
    print(facts_line(facts), flush=True)
    results, is_broken = {}, False
    for name in options.names or BARS:
        began = time.monotonic()
        progress(f"{name} begins")
        headline = name
        try:
            module = importlib.import_module(f"benchmarks.{name}")
            headline = (module.__doc__ or name).splitlines()[0]
            rows = module.run(options.quick)
        except Exception as error:  # the others are still wanted
            progress(traceback.format_exc())
            rows, is_broken = [Row(name, f"{type(error).__name__}: {str(error)[:100]}", "measured", False)], True
        seconds = time.monotonic() - began
        print(f"\n{name} ({seconds:.0f} s): {headline}\n{result_table(rows)}", flush=True)
        results[name] = {"seconds": seconds, "rows": [row._asdict() for row in rows]}
        if options.json:  # after each: a later one may be interrupted
            Path(options.json).write_text(json.dumps({"machine": facts, "results": results}, indent=2))
    missed = [
        f"{name}: {row['what']}"
        for name, result in results.items()
        for row in result["rows"]
        if row["met"] is False
    ]
    print(f"\n{len(missed)} bars missed" + "".join(f"\n  {what}" for what in missed))
    return 2 if is_broken else int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
