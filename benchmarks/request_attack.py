"""Hostile requests beside honest streams: how each ends, what the others' steps notice, whether the core lives.

Four agents stream on a kernel of 8 slots. A fifth sends one kind of hostile request over and over. The time
between two tokens of the honest ones is compared, p99, with windows in which an honest agent takes the fifth
place and streams too: to share the model with one more is no attack.

    python -m benchmarks.request_attack [--quick] [ATTACK ...]
"""

from __future__ import annotations

import argparse
import ast
import sys
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.models import model_path
from benchmarks.report import Row, must, only, percentile, progress, result_table
from benchmarks.stand import SCRIPTS, Stand, end_on_term

HONEST, SLOTS = 4, 8
PROMPT, GENERATED = 64, 96
WINDOW_S, WARM_S = 4.0, 1.5
TAIL_BAR = 2.0
END_S = 60.0


def attack_names() -> list[str]:
    """Return the keys of ATTACKS in the attacker's script, which only an agent can import."""
    tree = ast.parse((SCRIPTS / "hostile_requests.py").read_text())
    tables = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    (table,) = [node.value for node in tables if ast.unparse(node.target) == "ATTACKS"]
    assert isinstance(table, ast.Dict)
    return [ast.literal_eval(key) for key in table.keys if key is not None]


def run(quick: bool) -> list[Row]:
    return measure((), quick)


def measure(attacks: Iterable[str], quick: bool) -> list[Row]:
    """Return the rows of these attacks, or of all, on one kernel: what one leaves behind the next would show."""
    attacks = list(attacks) or attack_names()[: 3 if quick else None]
    model = str(model_path("default" if quick else "smollm2-135m", "q8_0"))
    window_s = 0.5 if quick else WINDOW_S
    rows = []
    with Stand(model, slots=SLOTS, quantum_tokens=16) as stand:
        before = stand.info()
        over = stand.folder / "over"
        pids = stand.crowd("streamer.py", [_stream(seed, over) for seed in range(HONEST)])
        stand.go(pids)
        time.sleep(WARM_S)
        windows = []
        for attack in attacks:
            progress(attack)
            beside = _beside(stand, "streamer.py", {**_stream(99, stand.folder / f"{attack}-calm")}, window_s)
            attacked = _beside(
                stand,
                "hostile_requests.py",
                {"attack": attack, "until": str(stand.folder / f"{attack}-over")},
                window_s,
            )
            windows.append((attack, beside, attacked))
        over.touch()
        records = stand.records(pids, END_S)
        after = stand.info()
    for attack, (calm, _), (attacked, record) in windows:
        rows += _rows(attack, _gaps(records, calm), _gaps(records, attacked), record)
    same = all(before[what] == after[what] for what in ("kernel_pid", "core_pid", "core_restarts"))
    whole = all(not turn["error"] for record in records for turn in record["turns"])
    rows.append(must("the core after all of them", "the same" if same else "another", "the same", same))
    rows.append(must("the honest streams", "whole" if whole else "broken", "whole", whole))
    return rows


def _stream(seed: int, until: Path) -> dict[str, Any]:
    return {"prompt": PROMPT, "generated": GENERATED, "seed": seed, "temperature": 0.8, "until": str(until)}


def _beside(
    stand: Stand, script: str, settings: dict[str, Any], seconds: float
) -> tuple[tuple[int, int], dict[str, Any]]:
    """Run one more agent for so long; return when, and what it recorded."""
    pid = stand.spawn(script, settings)
    stand.wait_files([pid], "ready", END_S)
    if script == "streamer.py":
        stand.go([pid])
    begin_ns = time.monotonic_ns()
    time.sleep(seconds)
    end_ns = time.monotonic_ns()
    Path(settings["until"]).touch()
    (record,) = stand.records([pid], END_S)
    return (begin_ns, end_ns), record


def _gaps(records: list[dict[str, Any]], window: tuple[int, int]) -> list[float]:
    """Return milliseconds between tokens of one turn that came in a window."""
    begin_ns, end_ns = window
    found = []
    for record in records:
        for turn in record["turns"]:
            times = [at for at, count in turn["arrivals"] if count]
            found += [
                (later - earlier) / 1e6
                for earlier, later in pairwise(times)
                if begin_ns <= earlier and later < end_ns
            ]
    return found


def _rows(attack: str, calm: list[float], attacked: list[float], record: dict[str, Any]) -> list[Row]:
    ends = "; ".join(f"{count} x {text}" for text, count in record["ended"].items())
    p99s = [percentile(gaps, 0.99) for gaps in (calm, attacked)]
    ratio = p99s[1] / p99s[0]
    shown = f"{ratio:.2f} x ({p99s[0]:.0f}, {p99s[1]:.0f} ms)"
    return [
        only(f"{attack}: ended in", f"{ends or 'nothing yet'}; at most {record['longest_s']:.2f} s"),
        must(f"{attack}: others' step, p99", shown, f"< {TAIL_BAR:g} x", ratio < TAIL_BAR),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.request_attack")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help="all of them, if left out")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, not how fast")
    options = parser.parse_args()
    end_on_term()
    rows = measure(options.attacks, options.quick)
    print(result_table(rows))
    return int(any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
