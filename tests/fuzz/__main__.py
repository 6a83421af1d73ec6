"""`python -m tests.fuzz [--cases N] [--seed S] [--target T]`: N inputs through each target, and a table.

Who runs it: whoever changed what the kernel reads. An input that broke a target is kept in its corpus, under
the name that is printed. Exits with 1 when anything broke.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys

from tests.fuzz.make_corpus import kept
from tests.fuzz.mutate import Mutator
from tests.fuzz.run import Tally, fuzz, keep
from tests.fuzz.targets import TARGETS

CASES = 100_000
ROW = "{:14}{:>10}{:>10}{:>10}{:>10}{:>8}{:>20}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition(":")[2])
    parser.add_argument("--cases", type=int, default=CASES, help=f"inputs of each target ({CASES})")
    parser.add_argument("--seed", type=int, help="of the inputs; another one each time unless given")
    parser.add_argument("--target", choices=sorted(TARGETS), help="this one alone")
    chosen = parser.parse_args()
    seed = int.from_bytes(os.urandom(4), "big") if chosen.seed is None else chosen.seed
    faulthandler.enable()  # an extension module that crashes says where
    print(f"seed {seed}", flush=True)
    names = [chosen.target] if chosen.target else list(TARGETS)
    tallies = {name: _run(name, seed, chosen.cases) for name in names}
    print(ROW.format("target", "cases", "seconds", "cases/s", "crashes", "hangs", "leaked descriptors"))
    for name, tally in tallies.items():
        seconds, each_s = f"{tally.seconds:.1f}", f"{tally.cases / tally.seconds:.0f}"
        broke = len(tally.crashes), len(tally.hangs), tally.leaked_descriptors
        print(ROW.format(name, tally.cases, seconds, each_s, *broke))
    return 0 if all(tally.is_clean for tally in tallies.values()) else 1


def _run(name: str, seed: int, cases: int) -> Tally:
    def progress(tally: Tally) -> None:
        each_s = tally.cases / tally.seconds
        text = f"{name}: {tally.cases} of {cases} cases, {each_s:.0f}/s, {len(tally.crashes)} crashes"
        print(text, flush=True)

    mutator = Mutator(name, list(kept(name).values()), seed)
    tally = fuzz(TARGETS[name], mutator, cases=cases, progress=progress)
    for kind, failures in (("crash", tally.crashes), ("hang", tally.hangs)):
        for failure in failures:
            print(f"{name}: a {kind}, its input is {keep(name, failure)}\n{failure.trace}", flush=True)
    return tally


if __name__ == "__main__":
    sys.exit(main())
