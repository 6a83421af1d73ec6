"""The gateway, with a note of when it read each chunk: the gateway's own program, run by another name.

Arguments: those of the gateway. The variable BENCH_CHUNKS names the file for the notes, which is written at the end:
for each task the monotonic times, in ns, of its chunks with tokens.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from agentix.gateway.__main__ import main
from agentix.mux import Inflight, Mux

times: dict[int, list[int]] = {}
feed = Mux.feed


def noted(mux: Mux, frame: bytes) -> Sequence[Inflight]:
    now_ns = time.monotonic_ns()
    moved = feed(mux, frame)
    if len(moved) == 1 and moved[0].chunks and moved[0].chunks[-1]["tokens"] and not moved[0].is_done:
        times.setdefault(moved[0].call.task or 0, []).append(now_ns)
    return moved


Mux.feed = noted  # type: ignore[method-assign]
status = main()
path = Path(os.environ["BENCH_CHUNKS"])
staged = path.with_suffix(".part")
staged.write_text(json.dumps(times))
staged.replace(path)
sys.exit(status)
