"""Misbehaving clients of the gateway beside honest streams: what the others notice, and what is left behind.

Four honest clients stream, one answer after the other. Each attack runs for a while in a process of its own, after a
window without it. The time between two tokens of the honest ones is compared, p99; clients that ask for long answers
and never read them are compared with as many that read, for the model is shared with those too.

    python -m benchmarks.gateway_attack [--quick] [ATTACK ...]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from benchmarks.gateway_attackers import ATTACKS, BESIDE
from benchmarks.gateway_stand import GatewayStand, Held
from benchmarks.models import model_path
from benchmarks.peers_dialects import OpenAi
from benchmarks.peers_figures import Asked, Record, random_ids
from benchmarks.peers_load import Load
from benchmarks.report import Row, must, only, percentile, progress, result_table
from benchmarks.stand import ROOT, dying_with_us, end_on_term

HONEST, PROMPT, ANSWER_TOKENS = 4, 64, 96
WINDOW_S, WARM_S, END_S, LOOK_S = 6.0, 2.0, 90.0, 0.2
TAIL_BAR, MEMORY_BAR_MIB = 2.0, 24


class Streams:
    """Honest clients in a thread of their own, from __enter__ to __exit__."""

    def __init__(self, stand: GatewayStand) -> None:
        self.load = Load(OpenAi(), stand.address)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Streams:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.load.is_over = True
        self._thread.join()

    async def _run(self) -> None:
        async def client(number: int) -> None:
            source = random.Random(number)
            key = {"Authorization": f"Bearer honest-{number}"}
            while not self.load.is_over:
                await self.load.ask(Asked("honest", random_ids(source, PROMPT), ANSWER_TOKENS), key)

        await asyncio.gather(*map(client, range(HONEST)))


def run(quick: bool) -> list[Row]:
    return measure((), quick)


def measure(attacks: Iterable[str], quick: bool) -> list[Row]:
    """Return the rows of these attacks, or of all, on one gateway: what one leaves behind the next would show."""
    names = list(attacks) or list(ATTACKS)
    window_s = 1.0 if quick else WINDOW_S
    windows: list[tuple[str, tuple[float, float], tuple[float, float], dict[str, Any]]] = []
    with GatewayStand(model_path("default" if quick else "smollm2-135m")) as stand:
        with Streams(stand):  # once, so that what is made at first is there
            time.sleep(WARM_S)
        before = _settled(stand, None)
        with Streams(stand) as streams:
            time.sleep(WARM_S)
            for name in names:
                progress(name)
                calm, _ = _window(stand, BESIDE.get(name), window_s)
                attacked, report = _window(stand, name, window_s)
                windows.append((name, calm, attacked, report))
        after = _settled(stand, before)
        is_same = stand.info()["core_restarts"] == 0 and stand.tasks()[stand.gateway_pid]["signal"] is None
    rows = []
    for name, calm, attacked, report in windows:
        rows += _rows(name, _gaps_ms(streams.load.records, calm), _gaps_ms(streams.load.records, attacked), report)
    bad = [one.error or f"{one.tokens} tokens" for one in streams.load.records if one.tokens != ANSWER_TOKENS]
    rows.append(must("honest answers that are not whole", bad[:3] or "none", "none", not bad))
    rows.append(must("gateway, kernel and core afterwards", "the same" if is_same else "others", "the same", is_same))
    rows += _left(before, after)
    return rows


def _window(stand: GatewayStand, name: str | None, seconds: float) -> tuple[tuple[float, float], dict[str, Any]]:
    """Let so much time pass, with an attacker or without; return when, and what the attacker told."""
    if name is None:
        begin_s = time.monotonic()
        time.sleep(seconds)
        return (begin_s, time.monotonic()), {}
    command = [sys.executable, "-m", "benchmarks.gateway_attackers", name, str(stand.address[1])]
    attacker = subprocess.Popen(
        [*command, str(seconds + WARM_S)], cwd=ROOT, stdout=subprocess.PIPE,
        preexec_fn=dying_with_us(),  # noqa: PLW1509
    )  # fmt: skip
    try:
        time.sleep(WARM_S)
        begin_s = time.monotonic()
        time.sleep(seconds)
        end_s = time.monotonic()
        told, _ = attacker.communicate(timeout=END_S)
    finally:
        attacker.kill()
        attacker.wait()
    return (begin_s, end_s), json.loads(told or b"{}")


def _gaps_ms(records: Sequence[Record], window: tuple[float, float]) -> list[float]:
    """Milliseconds between tokens of one answer that came in a window."""
    begin_s, end_s = window
    return [
        1e3 * (later - earlier)
        for record in records
        for (earlier, _), (later, _) in pairwise(record.arrivals)
        if begin_s <= earlier and later < end_s
    ]


def _rows(name: str, calm: list[float], attacked: list[float], report: dict[str, Any]) -> list[Row]:
    ended = "; ".join(f"{count} x {text}" for text, count in report.get("ended", {}).items())
    rows = [only(f"{name}: ended in", f"{ended[:150] or 'nothing'}; {report.get('cpu_s', 0):.1f} s of CPU of its own")]
    what = f"{name}: others' step, p99"
    if not calm or not attacked:
        return [*rows, must(what, f"{len(calm)} and {len(attacked)} tokens came", "some", False)]
    p99s = [percentile(gaps, 0.99) for gaps in (calm, attacked)]
    ratio = p99s[1] / p99s[0]
    shown = f"{ratio:.2f} x ({p99s[0]:.0f}, {p99s[1]:.0f} ms)"
    return [*rows, must(what, shown, f"< {TAIL_BAR:g} x", ratio < TAIL_BAR)]


def _settled(stand: GatewayStand, like: Held | None) -> Held:
    """Wait until nothing is in flight and no connection is left; return what is held."""
    end_s = time.monotonic() + END_S
    while True:
        held = stand.held()
        is_quiet = held.requests == 0 and (like is None or held.descriptors == like.descriptors)
        if is_quiet or time.monotonic() > end_s:
            return held
        time.sleep(LOOK_S)


def _left(before: Held, after: Held) -> list[Row]:
    rows = [must("requests in flight afterwards", after.requests, "0", after.requests == 0)]
    for name, number in after.descriptors.items():
        was = before.descriptors[name]
        rows.append(must(f"descriptors of the {name}", number, f"<= {was}", number <= was))
    for name in ("gateway", "kernel"):
        grown = (after.own_bytes[name] - before.own_bytes[name]) / 2**20
        shown = f"{grown:+.1f} MiB of {after.own_bytes[name] / 2**20:.0f}"
        rows.append(must(f"memory of the {name}", shown, f"<= {MEMORY_BAR_MIB} MiB", grown <= MEMORY_BAR_MIB))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_attack")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"of {', '.join(ATTACKS)}; all if left out")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, not how fast")
    options = parser.parse_args()
    for name in options.attacks:
        if name not in ATTACKS:
            parser.error(f"no attack {name!r}: choose from {', '.join(ATTACKS)}")
    end_on_term()
    rows = measure(options.attacks, options.quick)
    print(result_table(rows))
    return int(any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
