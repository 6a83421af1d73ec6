"""`make bench-peers`: the same load on llama-server, tuned and without flags, on others, and on agentix.

First llama-server's flags are tried for a short time each: slots, flash attention, one KV cache for all slots or one
for each; the two that generate most go again, and the better one is used and said. agentix runs with its defaults.
Then the servers take turns, round after round, for a machine's speed drifts; a figure is of all rounds together.

    python -m benchmarks.peers [--quick] [--rounds 2] [--only LOAD ...] [--flags 16,off,split] [--json F] [--plot F]

Who runs it: make bench-peers. What must hold: nobody is tuned during the comparison, and all get the same requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import peers_load, peers_plot, peers_servers
from benchmarks.httpstream import Address
from benchmarks.models import model_path
from benchmarks.peers_dialects import Dialect
from benchmarks.peers_figures import Run, figures
from benchmarks.peers_load import Length, Talk
from benchmarks.peers_report import bars, load_tables
from benchmarks.peers_servers import Flags, Server, ServerError
from benchmarks.report import Row, facts_line, machine_facts, only, progress, result_table
from benchmarks.stand import end_on_term

SLOTS, TURN_SLOTS, CLIENTS, FEW, MANY, CONVERSATIONS = (8, 16, 32), 16, 32, 6, 128, 64
LOADS = {
    "closed32": "32 clients: llama-server tuned, without flags, agentix",
    "closed128": "128 clients: agentix, and once llama-server",
    "closed6": "6 clients, nothing tuned anew",
    "turns": "64 conversations",
    "turns07": "64 conversations that ask at 0.7 of what both can do",
    "python": "32 clients: llama-cpp-python's own server",
    "ollama": "32 clients: Ollama, where it is installed",
}
SHORT_REQUESTS = 1000  # of all rounds
CAPACITY_SHARE = 0.7
START_S = 30.0  # to start a server and warm it up
WARM_MANY_S = 300.0  # until as many of 128 have begun an answer as will have from then on: short ones go first
WARM_TURNS_S = 90.0  # until conversations are as long as they will be: before that, memory for their KV is new

Start = Callable[[Dialect, Address, str], Coroutine[Any, Any, Run]]


@dataclass(frozen=True, slots=True)
class Scale:
    """How long everything takes."""

    screen: Length
    closed: Length
    bare: Length
    many: Length
    few: Length
    turns: Length
    slots: tuple[int, ...] = SLOTS

    @classmethod
    def full(cls, rounds: int) -> Scale:
        shorts = -(-SHORT_REQUESTS // rounds)
        return cls(
            screen=Length(least_s=45),
            closed=Length(least_s=120, least_short=shorts),
            bare=Length(least_s=120),
            many=Length(warm_s=WARM_MANY_S, warm_most_s=WARM_MANY_S, least_s=180, drain_s=300),
            few=Length(least_s=60),
            turns=Length(warm_s=WARM_TURNS_S, least_s=120),
        )

    @classmethod
    def brief(cls, seconds: float) -> Scale:
        """Every run so long, and trials a third of it."""
        full, length = cls.full(1), Length(least_s=seconds)
        many, turns = (replace(one, least_s=seconds) for one in (full.many, full.turns))
        return cls(Length(least_s=seconds / 3), length, length, many, length, turns)

    @classmethod
    def quick(cls) -> Scale:
        length = Length(warm_s=1, warm_most_s=10, least_s=3)
        return cls(length, length, length, replace(length, drain_s=60), length, replace(length, least_s=6), (8,))

    def minutes(self, loads: Sequence[str], rounds: int, has_flags: bool) -> float:
        """A guess; the servers decide when there have been enough short requests."""
        closed_s = max(self.closed.least_s, self.closed.least_short / 2.2)
        each = {  # seconds of one round
            "closed32": 2 * closed_s + self.bare.least_s + 3 * START_S,
            "closed128": self.many.warm_s + self.many.least_s + 60 + START_S,
            "closed6": 2 * (self.few.least_s + START_S),
            "turns": 2 * (self.turns.warm_s + self.turns.least_s + START_S),
            "turns07": 2 * (self.turns.warm_s + self.turns.least_s + START_S),
        }
        once = {"closed128": each["closed128"], "python": self.bare.least_s, "ollama": self.bare.least_s}
        total_s = sum(rounds * each.get(load, 0) + once.get(load, 0) for load in loads)
        trials = 0 if has_flags else 4 * len(self.slots) + 2 + 4 * ("turns" in loads)
        return (total_s + trials * (self.screen.least_s + START_S)) / 60


class Peers:
    """One comparison: runs by load and server's name."""

    def __init__(self, model: Path, scale: Scale, threads: int) -> None:
        self.model, self.scale, self.threads = model, scale, threads
        self.runs: dict[tuple[str, str], list[Run]] = {}
        self.notes: list[Row] = []

    def measure(self, load: str, server: Server, start: Start) -> dict[str, Any]:
        """Load a server that is started for it; keep the run; return its figures."""
        with server.run() as address:
            run = asyncio.run(start(server.dialect, address, f"{load}, {server.name}"))
        self.runs.setdefault((load, server.name), []).append(run)
        seen = figures([run])
        failed = f", {seen['errors']} errors: {seen['first_error']}" if seen["errors"] else ""
        ttft = f"TTFT p95 {seen['ttft_p95_s']:.2f} s" if "ttft_p95_s" in seen else "no token"
        rates = f"{seen['tokens_per_s']:.1f} tok/s, {seen['requests_per_s']:.2f} requests/s"
        progress(f"{load}, {server.name}: {rates}, {ttft}{failed}")
        return seen

    def of(self, load: str, server: Server) -> dict[str, Any]:
        """The figures of all rounds."""
        return figures(self.runs[load, server.name])

    def closed(self, clients: int, length: Length) -> Start:
        return lambda dialect, address, name: peers_load.closed(dialect, address, clients, length, name=name)

    def turns(self, period_s: float | None) -> Start:
        talk, length = Talk(period_s=period_s), self.scale.turns
        return lambda dialect, address, name: peers_load.turns(
            dialect, address, CONVERSATIONS, length, talk, name=name
        )

    def best(self, load: str, tried: Sequence[Server], start: Start, rate: str) -> Server:
        """Try servers for a short time each, the two fastest again; return the fastest."""
        for server in tried:
            self.measure(load, server, start)
        by_rate = sorted(tried, key=lambda server: self.of(load, server)[rate], reverse=True)
        for server in by_rate[:2] if len(tried) > 2 else ():
            self.measure(load, server, start)
        best = max(by_rate[:2], key=lambda server: self.of(load, server)[rate])
        progress(f"{load}: best are {best.name}")
        return best

    def tuned(self, load: str, slots: Sequence[int], start: Start, rate: str) -> Server:
        flags = [
            Flags(count, has_flash_attention, is_unified)
            for count in slots
            for has_flash_attention in (False, True)
            for is_unified in (False, True)
        ]
        tried = [peers_servers.llama_server(self.model, self.threads, one) for one in flags]
        return self.best(load, tried, start, rate)


@dataclass(frozen=True, slots=True)
class Contest:
    """Who is compared: agentix, llama-server tuned for the closed load, for turns, and without flags."""

    ours: Server
    tuned: Server
    tuned_for_turns: Server
    bare: Server


def contest(peers: Peers, loads: Sequence[str], flags: Flags | None) -> Contest:
    """Find llama-server's best flags, unless they are given. Raises ServerError."""
    scale = peers.scale
    if flags is not None:
        tuned = peers_servers.llama_server(peers.model, peers.threads, flags)
        turns_flags = replace(flags, slots=TURN_SLOTS)
        tuned_for_turns = peers_servers.llama_server(peers.model, peers.threads, turns_flags)
    else:
        tuned = peers.tuned("flags", scale.slots, peers.closed(CLIENTS, scale.screen), "tokens_per_s")
        tuned_for_turns = tuned
        if "turns" in loads:
            start: Start = partial(_screen_turns, scale.screen)
            tuned_for_turns = peers.tuned("flags for turns", (TURN_SLOTS,), start, "requests_per_s")
    return Contest(
        peers_servers.agentix(peers.model), tuned, tuned_for_turns, peers_servers.bare_llama_server(peers.model)
    )


def _screen_turns(length: Length, dialect: Dialect, address: Address, name: str) -> Coroutine[Any, Any, Run]:
    return peers_load.turns(dialect, address, CONVERSATIONS, length, name=name)


def compare(peers: Peers, who: Contest, loads: Sequence[str], rounds: int) -> None:
    """Run the loads, the servers in turn."""
    scale, period_s = peers.scale, 0.0
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        if "closed32" in loads:
            peers.measure("closed32", who.tuned, peers.closed(CLIENTS, scale.closed))
            peers.measure("closed32", who.ours, peers.closed(CLIENTS, scale.closed))
            peers.measure("closed32", who.bare, peers.closed(CLIENTS, scale.bare))
        if "closed128" in loads:
            peers.measure("closed128", who.ours, peers.closed(MANY, scale.many))
            if number == 0:
                peers.measure("closed128", who.tuned, peers.closed(MANY, scale.many))
        if "closed6" in loads:
            for server in (who.tuned, who.ours):
                peers.measure("closed6", server, peers.closed(FEW, scale.few))
        if "turns" in loads:
            for server in (who.tuned_for_turns, who.ours):
                peers.measure("turns", server, peers.turns(None))
        if "turns07" in loads and "turns" in loads:
            if not period_s:  # that of the first round, so that rounds can be put together
                least = min(peers.of("turns", one)["requests_per_s"] for one in (who.tuned_for_turns, who.ours))
                period_s = CONVERSATIONS / (CAPACITY_SHARE * least)
                peers.notes.append(only("0.7 of capacity: each conversation asks every", f"{period_s:.1f} s"))
            for server in (who.tuned_for_turns, who.ours):
                peers.measure("turns07", server, peers.turns(period_s))
    others(peers, loads)


def others(peers: Peers, loads: Sequence[str]) -> None:
    """Those that may be missing, once."""
    start = peers.closed(CLIENTS, peers.scale.bare)
    with tempfile.TemporaryDirectory(prefix="agentix-bench-") as folder:
        made: dict[str, Callable[[], Server]] = {
            "python": lambda: peers_servers.llama_cpp_python(peers.model, peers.threads),
            "ollama": lambda: peers_servers.ollama(peers.model, peers.threads, TURN_SLOTS, Path(folder)),
        }
        for load, make in made.items():
            if load not in loads:
                continue
            try:
                peers.measure(load, make(), start)
            except ServerError as error:
                peers.notes.append(only(f"not measured: {LOADS[load]}", str(error).splitlines()[0][:100]))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model, seconds: does it run, not how fast")
    parser.add_argument("--rounds", type=int, metavar="N", help="2, or 1 with --quick")
    parser.add_argument("--only", nargs="+", choices=LOADS, metavar="LOAD", help=", ".join(LOADS))
    parser.add_argument("--flags", type=Flags.of, metavar="SLOTS,on|off,split|unified",
                        help="llama-server's slots, flash attention and KV cache, instead of trying them")  # fmt: skip
    parser.add_argument("--seconds", type=float, metavar="N", help="of each run, instead of as long as the bars want")
    parser.add_argument("--json", metavar="FILE", help="also write everything here")
    parser.add_argument("--plot", metavar="FILE.svg", help="also draw it")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (1 if options.quick else 2)
    loads = options.only or list(LOADS)
    if rounds < 1:
        parser.error(f"--rounds {rounds}: at least one")
    if "turns07" in loads and "turns" not in loads:
        parser.error("--only turns07: what both can do is measured by the load turns: name it too")
    end_on_term()
    scale = Scale.quick() if options.quick else Scale.full(rounds)
    if options.seconds:
        scale = Scale.brief(options.seconds)
    # Tokens of whole characters: llama-server holds others back, and does not tell which tokens it held.
    model = model_path("default-whole" if options.quick else "smollm2-135m-whole")
    facts = machine_facts() | {"model": model.name}
    threads = len(os.sched_getaffinity(0))
    facts |= {"threads": threads, "rounds": rounds}
    if options.quick:
        facts["sizes"] = "QUICK (figures mean nothing)"
    print(facts_line(facts), flush=True)
    progress(f"about {scale.minutes(loads, rounds, options.flags is not None):.0f} minutes")
    began_s = time.monotonic()
    peers = Peers(model, scale, threads)
    try:
        who = contest(peers, loads, options.flags)
        compare(peers, who, loads, rounds)
    except ServerError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 2
    seen = {key: figures(runs) for key, runs in peers.runs.items()}
    named = {"ours": who.ours.name, "tuned": who.tuned.name, "turns": who.tuned_for_turns.name, "bare": who.bare.name}
    rows = [*peers.notes, *bars(seen, named)]
    print(f"\n{load_tables(seen)}\n\n{result_table(rows)}\n\n{(time.monotonic() - began_s) / 60:.0f} minutes")
    if options.json:
        told = [
            {"load": load, "server": name, "all": seen[load, name], "rounds": [figures([run]) for run in runs]}
            for (load, name), runs in peers.runs.items()
        ]
        whole = {"machine": facts, "servers": named, "rows": [row._asdict() for row in rows], "loads": told}
        Path(options.json).write_text(json.dumps(whole, indent=2))
    if options.plot:
        Path(options.plot).write_text(peers_plot.draw(seen, facts_line(facts)))
    return int(any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
