"""Attacks on the kernel's sockets: what two honest agents notice, how its memory grows, what it says.

For each attack a fresh kernel, two agents that time null calls, one a millisecond, and rounds of three
windows: quiet, beside the attack, and beside a process that burns as much CPU as the attacker did and talks
to nobody. The third says how much of it is two CPUs shared by four processes, which no kernel of ours can
change. A sample belongs to the window in which its call began. An attacker that was killed is started again.
Memory is the peak from the end of the first quiet window on, over what the kernel took then.

    python -m benchmarks.channel_attack [--quick] [ATTACK ...]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from agentix.errors import AgentixError
from benchmarks.report import Row, at_least, at_most, must, only, percentile, progress, result_table
from benchmarks.rss import Peak
from benchmarks.stand import Stand, StandError, end_on_term

ATTACKS = {  # and what is counted of it, at least
    "descriptors": {},
    "endless": {},
    "lengths": {},
    "slow_reader": {},
    "unread_mail": {"was killed": 1},
    "churn": {},
    "tiny": {"tiny frames sent": 100_000},
    "tiny_calls": {"tiny calls sent": 100_000},
    "bombs": {},
    "ring_bombs": {},
    "side_channel": {},
}
HONEST, PAUSE_S = 2, 0.001
ROUNDS, WINDOW_S, WARM_S = 3, 2.5, 1.0
SAMPLES = 2000  # of each agent in each kind of window, at least
GROWTH_BAR_MIB, TAIL_BAR = 32, 2
LOOK_S, RESTART_S, END_S = 0.05, 0.5, 10.0
TEXTS = 3  # of what the kernel said, shown


class Window(NamedTuple):
    begin_ns: int
    end_ns: int


class Intruder:
    """An attacker, or a burner, and whoever took its place after it was killed."""

    def __init__(self, stand: Stand, attack: str, share: float = 0.0) -> None:
        self._stand = stand
        self._until = stand.folder / f"{attack}-{time.monotonic_ns()}-over"
        self._settings = {"attack": attack, "until": str(self._until), "share": share}
        self.share = 0.0  # of a CPU, that it used
        self.did: Counter[str] = Counter()
        self.said: Counter[str] = Counter()
        self._begin()
        stand.wait_files([self._pid], "ready", END_S)

    def run(self, seconds: float) -> Window:
        """Let it go on for so long. Raises StandError when the kernel does not live through it."""
        begin_ns = time.monotonic_ns()
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            time.sleep(LOOK_S)
            if not _is_alive(self._pid) and time.monotonic() > self._began_s + RESTART_S:
                self._collect()
                self._begin()
        return Window(begin_ns, time.monotonic_ns())

    def end(self) -> None:
        """Have it stop, or stop it, and take down what it did."""
        self._until.touch()
        end_s = time.monotonic() + END_S
        while _is_alive(self._pid) and time.monotonic() < end_s:
            time.sleep(LOOK_S)
        if _is_alive(self._pid):
            self.did["did not end by itself"] += 1
            os.kill(self._pid, signal.SIGKILL)
        self._collect()

    def _begin(self) -> None:
        self._pid = self._stand.spawn("attacker.py", self._settings)
        self._began_s = time.monotonic()

    def _collect(self) -> None:
        ended = self._stand.call("proc.wait", pid=self._pid)
        if ended["status"] != 0:
            self.did["was killed" if ended["signal"] else "failed"] += 1
            self.said[str(ended["reason"]) or str(ended["tail"])[-200:]] += 1
        if not self._stand.is_ready(self._pid, "json"):
            lived_s = time.monotonic() - self._began_s
            self.share = max(self.share, min(1.0, ended["usage"]["cpu_s"] / lived_s))
            return
        (record,) = self._stand.records([self._pid], END_S)
        self.share = record["share"]
        for what, number in record["did"].items():
            self.did[what] = max(self.did[what], number) if "at once" in what else self.did[what] + number
        self.said.update(record["said"])


class Outcome(NamedTuple):
    """What was measured of one attack."""

    times: dict[str, list[int]]  # of null calls, by kind of window
    fewest: int  # samples of one agent in the windows of one kind
    growth_mib: float
    how: str  # the peak was taken
    share: float  # of a CPU, that the attacker used
    did: Counter[str]
    said: Counter[str]


def run(quick: bool) -> list[Row]:
    return [row for attack in ATTACKS for row in measure(attack, quick)]


def measure(attack: str, quick: bool) -> list[Row]:
    """Return the rows of one attack on a kernel of its own."""
    rounds, window_s = (1, 0.5) if quick else (ROUNDS, WINDOW_S)
    progress(attack)
    with Stand(slots=2, window_tokens=512) as stand:
        pid, before = stand.kernel_pid, stand.info()
        try:
            outcome = _attack(stand, attack, rounds, window_s)
            after = stand.info()
            same = all(before[what] == after[what] for what in ("kernel_pid", "core_pid", "core_restarts"))
        except (AgentixError, StandError, OSError) as error:
            why = f"{type(error).__name__}: {str(error)[-300:]}"
            if _is_alive(pid):
                raise
            return [must(f"{attack}: the kernel", why, "lives, same core", False)]
    lives = "lives, with the same core" if same else f"{before}, then {after}"
    return [
        must(f"{attack}: the kernel", lives, "lives, same core", same),
        *_rows(attack, outcome, 1 if quick else SAMPLES),
    ]


def _attack(stand: Stand, attack: str, rounds: int, window_s: float) -> Outcome:
    over = stand.folder / "honest-over"
    settings = {"what": "null", "count": 1, "pause_s": PAUSE_S, "until": str(over)}
    honest = stand.crowd("prober.py", [settings] * HONEST)
    stand.go(honest)
    time.sleep(WARM_S)
    windows: dict[str, list[Window]] = {"quiet": [], "attacked": [], "burning": []}
    did: Counter[str] = Counter()
    said: Counter[str] = Counter()
    shares: list[float] = []
    peak: Peak | None = None
    try:
        for _ in range(rounds):
            windows["quiet"].append(_quiet(window_s))
            peak = peak or Peak(stand.kernel_pid)
            attacker = Intruder(stand, attack)
            windows["attacked"].append(attacker.run(window_s))
            attacker.end()
            did, said = did + attacker.did, said + attacker.said
            shares.append(attacker.share)
            burner = Intruder(stand, "burn", attacker.share)
            windows["burning"].append(burner.run(window_s))
            burner.end()
        assert peak is not None
        growth_mib = peak.growth_bytes() / (1 << 20)
    finally:
        if peak is not None:
            peak.close()
    over.touch()
    records = stand.records(honest, 60)
    taken = {kind: [_within(record, some) for record in records] for kind, some in windows.items()}
    return Outcome(
        {kind: [time_ns for of_one in times for time_ns in of_one] for kind, times in taken.items()},
        min(len(of_one) for times in taken.values() for of_one in times),
        growth_mib,
        peak.how,
        max(shares),
        did,
        said,
    )


def _rows(attack: str, outcome: Outcome, samples: int) -> list[Row]:
    quiet, burning, attacked = (outcome.times[kind] for kind in ("quiet", "burning", "attacked"))
    p50s = " / ".join(f"{percentile(times, 0.5) / 1e3:.0f}" for times in (quiet, burning, attacked))
    tails_us = [percentile(times, 0.99) / 1e3 for times in (quiet, burning, attacked)]
    p99s = " / ".join(f"{time_us:.0f}" for time_us in tails_us)
    quiet_us, burning_us, attacked_us = tails_us
    ratio = attacked_us / quiet_us
    counted = [
        at_least(f"{attack}: {what}", outcome.did[what], least if samples > 1 else 1, "")
        for what, least in ATTACKS[attack].items()
    ]
    how = f" ({outcome.how})"
    did = ", ".join(f"{number:,} {what}" for what, number in outcome.did.items())
    said = " | ".join(f"{text} ({number:,} x)" for text, number in outcome.said.most_common(TEXTS))
    return [
        at_most(f"{attack}: growth of the kernel's memory", outcome.growth_mib, GROWTH_BAR_MIB, "MiB", how),
        only(f"{attack}: null call, p50, quiet / beside a burner / attacked", f"{p50s} us"),
        only(f"{attack}: null call, p99, the same", f"{p99s} us"),
        must(f"{attack}: p99, attacked / quiet", f"{ratio:.2f} x", f"< {TAIL_BAR} x", ratio < TAIL_BAR),
        only(f"{attack}: p99, attacked / beside a burner", f"{attacked_us / burning_us:.2f} x"),
        at_least(f"{attack}: samples of each agent and kind", outcome.fewest, samples, ""),
        *counted,
        only(f"{attack}: it did", f"{did}; {outcome.share:.2f} of a CPU"),
        only(f"{attack}: the kernel said", said or "nothing"),
    ]


def _quiet(seconds: float) -> Window:
    begin_ns = time.monotonic_ns()
    time.sleep(seconds)
    return Window(begin_ns, time.monotonic_ns())


def _within(record: dict[str, Any], windows: Sequence[Window]) -> list[int]:
    """The round trips of an agent that began in one of the windows."""
    both = zip(record["began_ns"], record["ns"], strict=True)
    return [time_ns for at, time_ns in both if any(one.begin_ns <= at < one.end_ns for one in windows)]


def _is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.channel_attack")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"of {', '.join(ATTACKS)}; all of them")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, not how fast")
    options = parser.parse_args()
    end_on_term()
    rows = [row for attack in options.attacks or ATTACKS for row in measure(attack, options.quick)]
    print(result_table(rows))
    return int(any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
