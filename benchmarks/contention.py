"""One busy-looping agent (agents/hog.py) beside 8 streaming agents, as an ordinary user, without a cgroup.

Rates are differences of the kernel's token counter over windows that alternate: quiet, hog, quiet, hog.
A hog's window begins 2 s after the hog did; when its time is up the hog only sleeps, and the time until
`ps` no longer shows it throttled is taken. The streams are short requests one after the other, so that
contexts do not grow from window to window.

Started by root, the measurement runs in a child as user 1000, whose files it must be able to read: where
it cannot reach the interpreter or the model, it is lent the capability to read them (CAP_DAC_READ_SEARCH)
and no other; the first row says so.

    python -m benchmarks.contention --here [--quick]    # as the user that I am; prints JSON
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

from benchmarks.models import model_path
from benchmarks.report import Row, at_least, at_most, must, only, progress
from benchmarks.stand import ROOT, Stand, end_on_term

STREAMS, WINDOW_S, ROUNDS, BAR = 8, 12.0, 3, 0.9
SETTLE_S = 2.0  # that the governor is given
FREE_S = 10.0  # within which a hog that behaves must have its CPU back
UID = 1000
LIMIT_S = 900


def run(quick: bool) -> list[Row]:
    model_path("default" if quick else "smollm2-135m", "q8_0")  # made now, by whoever owns the cache
    if os.getuid() != 0:
        return [only("measured as", f"user {os.getuid()}"), *measure(quick)]
    prefix, how = _as_user()
    command = [*prefix, sys.executable, "-m", "benchmarks.contention", "--here"]
    with tempfile.TemporaryDirectory(prefix="agentix-uid-") as home:
        os.chown(home, UID, UID)
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        environment = os.environ | {"HOME": home, "TMPDIR": home, "XDG_CACHE_HOME": cache}
        done = subprocess.run(
            command + ["--quick"] * quick,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            timeout=LIMIT_S,
            check=True,
        )
    rows = [Row(*row) for row in json.loads(done.stdout)]
    return [only("measured as", how), *rows]


def _as_user() -> tuple[list[str], str]:
    """Return the command that turns root into the user, and in words what it does."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise RuntimeError("setpriv (util-linux) is not installed: run this benchmark as an ordinary user")
    plain = [setpriv, "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--inh-caps=-all"]
    lent = [*plain[:-1], "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    check = [sys.executable, "-c", "import llama_cpp; from benchmarks.models import model_path as m; m().stat()"]
    environment = os.environ | {"XDG_CACHE_HOME": str(Path.home() / ".cache")}
    for prefix, note in ((plain, ""), (lent, ", lent CAP_DAC_READ_SEARCH to reach this checkout")):
        done = subprocess.run(
            [*prefix, *check], cwd=ROOT, env=environment, capture_output=True, timeout=60, check=False
        )
        if done.returncode == 0:
            return prefix, f"user {UID} by setpriv{note}"
    raise RuntimeError(f"user {UID} cannot run {sys.executable}: {done.stderr.decode()[-200:]}")


def measure(quick: bool) -> list[Row]:
    """Measure as the user that this process is."""
    streams, window_s, rounds = (3, 3.0, 1) if quick else (STREAMS, WINDOW_S, ROUNDS)
    quiet, beside, freed = [], [], []
    throttled = 0
    with Stand(
        model_path("default" if quick else "smollm2-135m", "q8_0"),
        slots=streams,
        window_tokens=512,
    ) as stand:
        settings = [
            {"prompt": 16, "generated": 120 + 10 * n, "seed": n, "until": str(stand.folder / "never")}
            for n in range(streams)
        ]
        pids = stand.crowd("streamer.py", settings)
        stand.go(pids)
        time.sleep(SETTLE_S)
        for number in range(rounds):
            quiet.append(_rate(stand, window_s))
            before = stand.stat()["throttled"]
            hog = stand.spawn(ROOT / "agents" / "hog.py", None, args=[str(window_s + SETTLE_S + 1)])
            while "burns" not in stand.call("proc.logs", pid=hog)["text"]:
                time.sleep(0.05)
            began = time.monotonic()
            time.sleep(SETTLE_S)
            beside.append(_rate(stand, window_s))
            is_held = stand.tasks()[hog]["throttled"]
            throttled += bool(is_held or stand.stat()["throttled"] > before)
            freed.append(_time_to_be_free(stand, hog, began + window_s + SETTLE_S + 1))
            stand.call("proc.kill", pid=hog, signal="KILL")
            progress(f"round {number + 1} of {rounds}: quiet {quiet[-1]:.1f}, hog {beside[-1]:.1f} tok/s")
            time.sleep(1.0)
        quiet.append(_rate(stand, window_s))
    return [
        only(f"{streams} agents streaming, quiet", ", ".join(f"{rate:.1f}" for rate in quiet) + " tok/s"),
        only("beside a busy loop", ", ".join(f"{rate:.1f}" for rate in beside) + " tok/s"),
        must("hogs that were throttled", f"{throttled} of {rounds}", "all", throttled == rounds),
        at_least("beside a busy loop / quiet", fmean(beside) / fmean(quiet), BAR, "x"),
        at_most("let go after it behaves, slowest", max(freed), FREE_S, "s"),
    ]


def _rate(stand: Stand, seconds: float) -> float:
    first, began = stand.stat()["generated_tokens"], time.monotonic()
    time.sleep(seconds)
    return (stand.stat()["generated_tokens"] - first) / (time.monotonic() - began)


def _time_to_be_free(stand: Stand, hog: int, behaves_at: float) -> float:
    """Return the seconds from the end of the hog's time to when ps shows it free; inf: not within a minute."""
    time.sleep(max(0.0, behaves_at - time.monotonic()))
    end = time.monotonic() + 60
    while time.monotonic() < end:
        log = stand.call("proc.logs", pid=hog)["text"]
        if "behaves" in log and not stand.tasks()[hog]["throttled"]:
            return time.monotonic() - behaves_at
        time.sleep(0.1)
    return float("inf")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contention")
    parser.add_argument("--here", action="store_true", required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    end_on_term()
    rows = measure(options.quick)
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
