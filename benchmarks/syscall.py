"""Round trips of syscalls with the core idle and under 32 streams, and what the kernel adds to a first token.

An agent process times sched.getattr (the null call: it only reads), ps, and first tokens of 64-token
prompts: client's time to the first chunk, less the time that the core worked since the request arrived
(timings.core_s). Kill: a streaming agent is killed, and the tokens counted for it after the kill was
answered are compared with one step.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.models import model_path
from benchmarks.report import Row, at_most, must, only, percentile, progress
from benchmarks.stand import Stand

STREAMS = 32
KILLS = 5


def run(quick: bool) -> list[Row]:
    streams, nulls, firsts, lists = (4, 300, 5, 3) if quick else (STREAMS, 3000, 40, 20)
    model = str(model_path("default" if quick else "smollm2-135m", "q8_0"))
    with Stand(model, slots=streams + 1, window_tokens=2048, policy="fcfs") as stand:
        idle = _probe(stand, "null", nulls)
        idle_first = _probe(stand, "first", firsts)
        pids = _begin_streams(stand, streams)
        progress(f"{streams} agents stream")
        busy = _probe(stand, "null", nulls, pause_s=0.005)
        busy_ps = _probe(stand, "ps", lists, pause_s=0.05)
        busy_first = _probe(stand, "first", firsts)
        tokens_after = [_kill(stand, pid) for pid in pids[: min(KILLS, streams - 1)]]
        still = _tokens_in(stand, 0.5)
    under = f"under {streams} streams"
    return [
        at_most("null syscall, idle, p50", percentile(idle, 0.5) / 1e3, 200, "us"),
        only("null syscall, idle, p99", f"{percentile(idle, 0.99) / 1e3:.0f} us"),
        at_most(f"null syscall, {under}, p50", percentile(busy, 0.5) / 1e6, 1, "ms"),
        at_most(f"null syscall, {under}, p99", percentile(busy, 0.99) / 1e6, 10, "ms"),
        at_most(f"ps of {streams} tasks, {under}, p99", percentile(busy_ps, 0.99) / 1e6, 100, "ms"),
        at_most("delay added to a first token, idle, p50", percentile(idle_first, 0.5) / 1e6, 2, "ms"),
        at_most(f"the same, {under}, p50", percentile(busy_first, 0.5) / 1e6, 5, "ms"),
        only(f"the same, {under}, p99", f"{percentile(busy_first, 0.99) / 1e6:.2f} ms"),
        must(
            f"tokens after a kill was answered ({len(tokens_after)} kills)",
            max(tokens_after),
            "<= 1 (a step)",
            max(tokens_after) <= 1,
        ),
        must("the others stream on", f"{still} tokens in 0.5 s", "> 0", still > 0),
    ]


def _probe(stand: Stand, what: str, count: int, pause_s: float = 0.0) -> list[int]:
    settings = {"what": what, "count": count, "pause_s": pause_s, "seed": 10_000}
    (record,) = stand.run_crowd("prober.py", [settings], 300)
    return record["ns"]


def _begin_streams(stand: Stand, count: int) -> list[int]:
    """Start streams that outlast the measurement; return when all of them decode."""
    settings = [
        {"prompt": 32, "generated": 1900, "seed": number, "until": str(stand.folder / "never")}
        for number in range(count)
    ]
    pids = stand.crowd("streamer.py", settings)
    stand.go(pids)
    end = time.monotonic() + 120
    while any(row["generated_tokens"] < 2 for row in _rows(stand, pids)):
        if time.monotonic() > end:
            raise TimeoutError(f"{count} streams did not all begin within 120 s")
        time.sleep(0.2)
    return pids


def _rows(stand: Stand, pids: list[int]) -> list[dict[str, Any]]:
    tasks = stand.tasks()
    return [tasks[pid] for pid in pids]


def _kill(stand: Stand, pid: int) -> int:
    """Kill an agent; return how many tokens were generated for it after that was answered."""
    stand.call("proc.kill", pid=pid, signal="KILL")
    (at_once,) = _rows(stand, [pid])
    time.sleep(0.3)
    (later,) = _rows(stand, [pid])
    return later["generated_tokens"] - at_once["generated_tokens"]


def _tokens_in(stand: Stand, seconds: float) -> int:
    before = stand.stat()["generated_tokens"]
    time.sleep(seconds)
    return stand.stat()["generated_tokens"] - before
