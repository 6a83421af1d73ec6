"""What the gateway costs: throughput through it against without it, and how long a token is under way in it.

Throughput: 32 clients of the closed load of bench-peers, through HTTP, each with an API key and so a task of its own,
and 32 tasks that an agent holds, which ask for the same over one connection without HTTP and SDK. They alternate on
one kernel. The clients' own HTTP counts as the gateway's cost.

Latency: from when the gateway read a chunk to when the client had its event, each chunk by itself, on one clock: with
a few streams, and with 32 clients. And how much later than a task without HTTP, which streams beside, clients have
the tokens of the same step; that counts also what waits in the gateway's socket.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import peers_load
from benchmarks.gateway_stand import GatewayStand
from benchmarks.models import model_path
from benchmarks.peers_dialects import OpenAi
from benchmarks.peers_figures import Asked, Record, Run, figures, random_ids
from benchmarks.peers_load import Length, Load
from benchmarks.report import Row, at_least, at_most, must, only, percentile, progress, result_table
from benchmarks.stand import SCRIPTS, end_on_term

CLIENTS, ROUNDS, SEED = 32, 3, 5
STREAMS, PROMPT, ANSWER_TOKENS = 6, 64, 400  # few enough that all have a slot all the time
SHARE_BAR, LATENCY_BAR_MS = 0.97, 5.0
END_S = 60.0


def run(quick: bool) -> list[Row]:
    model = model_path("default" if quick else "smollm2-135m")
    length = Length(warm_s=1, warm_most_s=1, least_s=2) if quick else Length(warm_s=45, warm_most_s=45, least_s=60)
    return throughput(model, length, 1 if quick else ROUNDS) + latency(model, length, 40 if quick else ANSWER_TOKENS)


def throughput(model: Path, length: Length, rounds: int) -> list[Row]:
    ours: list[float] = []
    direct: list[float] = []
    errors = 0
    with GatewayStand(model) as stand:
        for number in range(rounds):
            settings = {"clients": CLIENTS, "seed": SEED, "warm_s": length.warm_s, "seconds": length.least_s}
            pid = stand.spawn("closed_tasks.py", settings, capabilities=["task.create"])
            (record,) = stand.records([pid], length.warm_s + length.least_s + END_S)
            stand.call("proc.wait", pid=pid, timeout_ms=30_000)
            direct.append(record["tokens"] / record["seconds"])
            seen = figures([_closed(stand, length, f"round-{number}")])
            ours.append(seen["tokens_per_s"])
            errors += seen["errors"] + record["errors"]
            cpu = f"the clients took {seen['load_cpu_share']:.1%} of a CPU"
            progress(f"without HTTP {direct[-1]:.1f} tok/s, through the gateway {ours[-1]:.1f}, {cpu}")
    return [
        only(f"{CLIENTS} tasks held by an agent, without HTTP", _shown(direct)),
        only(f"{CLIENTS} clients of the gateway", _shown(ours)),
        must("errors", errors, "0", errors == 0),
        at_least("through the gateway, against without", fmean(ours) / fmean(direct), SHARE_BAR, "x"),
    ]


def latency(model: Path, length: Length, answer_tokens: int) -> list[Row]:
    with GatewayStand(model, script=SCRIPTS / "gateway_timed.py") as stand:
        over = stand.folder / "over"
        settings = {"prompt": PROMPT, "generated": 2 * answer_tokens, "seed": SEED, "until": str(over)}
        (probe,) = stand.crowd("streamer.py", [settings])
        stand.go([probe])
        few = asyncio.run(_streams(stand, answer_tokens))
        over.touch()
        (beside,) = stand.records([probe], END_S)
        many = _closed(stand, length, "timed")
        stand.call("proc.kill", pid=stand.gateway_pid, signal="TERM")
        stand.call("proc.wait", pid=stand.gateway_pid, timeout_ms=30_000)
        told = json.loads((stand.folder / "chunks.json").read_text())
    read_ns = {int(task): times for task, times in told.items()}
    probe_ns = sorted(at for turn in beside["turns"] for at, count in turn["arrivals"] if count)
    rows = []
    for name, records in ((f"{STREAMS} streams", few), (f"{CLIENTS} clients", many.records)):
        taken_ms = in_gateway_ms(records, read_ns)
        rows.append(only(f"{name}: in the gateway, p50, p99", _spread(taken_ms)))
        rows.append(at_most(f"{name}: from read to the client, p95", percentile(taken_ms, 0.95), LATENCY_BAR_MS, "ms"))
    later_ms = behind_ms([at_s for one in few for at_s, _ in one.arrivals], probe_ns)
    rows.append(only("a step's tokens, later than beside without HTTP, p50, p99", _spread(later_ms)))
    rows.append(at_most("the same, p95", percentile(later_ms, 0.95), LATENCY_BAR_MS, "ms"))
    return rows


def _closed(stand: GatewayStand, length: Length, keys: str) -> Run:
    def headers(number: int) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {keys}-client-{number}"}

    load = peers_load.closed(
        OpenAi(), stand.address, CLIENTS, length, seed=SEED, name="through the gateway", headers=headers
    )
    return asyncio.run(load)


async def _streams(stand: GatewayStand, answer_tokens: int) -> list[Record]:
    """A few long answers at once."""
    source, load = random.Random(SEED), Load(OpenAi(), stand.address)
    asked = [Asked("stream", random_ids(source, PROMPT), answer_tokens) for _ in range(STREAMS)]
    keys = [{"Authorization": f"Bearer few-client-{number}"} for number in range(STREAMS)]
    return await asyncio.gather(*(load.ask(one, key) for one, key in zip(asked, keys, strict=True)))


def in_gateway_ms(records: Sequence[Record], read_ns: Mapping[int, Sequence[int]]) -> list[float]:
    """For each event of a client: how long after the gateway had read its chunk. A task's come in order."""
    taken = []
    by_task: dict[int, list[float]] = {}
    for record in sorted(records, key=lambda one: one.sent_s):
        if record.task:
            by_task.setdefault(int(record.task), []).extend(at_s for at_s, _ in record.arrivals)
    for task, arrivals in by_task.items():
        taken += [at_s * 1e3 - at_ns / 1e6 for at_s, at_ns in zip(arrivals, read_ns.get(task, ()), strict=False)]
    return taken


def behind_ms(arrivals_s: Sequence[float], probe_ns: Sequence[int]) -> list[float]:
    """How long before each arrival the probe had a token: of the same step, for steps take longer than this.

    What a client had before the probe in a step, which can be, looks as if it were nearly a whole step late; so an
    arrival is given to the nearer of its two neighbours.
    """
    found = []
    for at_s in arrivals_s:
        at_ns = at_s * 1e9
        after = bisect_right(probe_ns, at_ns)
        near = [probe_ns[index] for index in (after - 1, after) if 0 <= index < len(probe_ns)]
        if 0 < after < len(probe_ns):  # while both streamed
            found.append((at_ns - min(near, key=lambda one: abs(one - at_ns))) / 1e6)
    return found


def _spread(values_ms: Sequence[float]) -> str:
    return f"{percentile(values_ms, 0.5):.2f}, {percentile(values_ms, 0.99):.2f} ms of {len(values_ms)}"


def _shown(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:.1f}" for rate in rates) + " tok/s"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_cost")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, not how fast")
    options = parser.parse_args()
    end_on_term()
    rows: list[Any] = run(options.quick)
    print(result_table(rows))
    return int(any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
