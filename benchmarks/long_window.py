"""One agent with a context of 16,000 tokens beside fifteen of 512, on 16 slots of 2,048.

A server that splits its cells among its slots refuses the long one, or gives every slot that many cells. Here
it moves to a larger bank. Each agent's text is compared with what it gets on a kernel of its own. The second
row gives so little memory to contexts that the first bank and the long one do not fit together, so that all
are parked in turns.
"""

from __future__ import annotations

from typing import Any

from benchmarks.models import model_path
from benchmarks.report import Row, must, only, progress
from benchmarks.stand import Stand

LONG, SHORT, GENERATED = 16_000, 512, 48
SHORTS, SLOTS = 15, 16
WINDOW = 16_384
TIGHT_BYTES = 80 << 20  # less than the first bank and the long one of this model together
LIMIT_S = 900


def run(quick: bool) -> list[Row]:
    """Return whether all finished with the texts that they get alone, and how."""
    model = str(model_path("tiny-qwen2" if quick else "long", "q8_0"))
    lengths = [LONG // 8 if quick else LONG, *[SHORT] * (2 if quick else SHORTS)]
    window = WINDOW // 8 if quick else WINDOW
    settings = [
        {"prompt": length, "generated": GENERATED, "seed": number, "temperature": 0.8}
        for number, length in enumerate(lengths)
    ]
    common = {"slots": SLOTS, "slot_tokens": 1024 if quick else 2048, "window_tokens": window}
    with Stand(model, policy="fcfs", **common) as stand:
        alone = [_seen(stand.run_crowd("streamer.py", [one], LIMIT_S)[0]) for one in settings]
    progress("every agent has run alone")
    rows = []
    for name, more in (("memory for all", {}), ("banks that take turns", {"kv_bytes": TIGHT_BYTES})):
        if quick and more:
            continue
        with Stand(model, policy="rr", quantum_tokens=16, **common, **more) as stand:
            found = [_seen(record) for record in stand.run_crowd("streamer.py", settings, LIMIT_S)]
            stat = stand.stat()
        same = sum(one == other for one, other in zip(found, alone, strict=True))
        what = f"{lengths[0]} tokens beside {len(lengths) - 1} of {SHORT}, {name}"
        rows.append(must(f"{what}: as alone", f"{same} of {len(lengths)}", "all", same == len(lengths)))
        shown = f"{stat['switches']} switches, {stat['recomputed_tokens']} tokens computed again"
        rows.append(only(f"{what}: how", shown))
    return rows


def _seen(record: dict[str, Any]) -> tuple[str, list[int], str]:
    turn = record["turns"][0]
    return turn["text"], turn["tokens"], turn["error"]
