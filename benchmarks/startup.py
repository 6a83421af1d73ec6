"""What `import agentix` costs an agent: fresh interpreters, less the time of a bare one.

Bare and importing interpreters alternate; the figure is the difference of the medians. Which modules
the import loads is asked of another fresh interpreter.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from statistics import median

from benchmarks.report import Row, at_most, must, only
from benchmarks.stand import ROOT

BAR_MS = 60
UNWANTED = ("llama_cpp", "numpy", "zmq", "asyncio")
HEAVY = ("llama_cpp", "numpy")


def run(quick: bool) -> list[Row]:
    rounds = 3 if quick else 10
    bare, importing, ready = [], [], []
    for _ in range(rounds):
        bare.append(_time_ms("pass"))
        importing.append(_time_ms("import agentix"))
        ready.append(_time_ms("import agentix, agentix.client"))
    loaded = json.loads(
        _output("import agentix, sys, json; print(json.dumps([m.split('.')[0] for m in sys.modules]))")
    )
    found = [name for name in UNWANTED if name in loaded]
    heavy = [name for name in HEAVY if name in loaded]
    added = median(importing) - median(bare)
    return [
        only("bare interpreter, median", f"{median(bare):.1f} ms"),
        at_most(f"import agentix, median of {rounds}", added, BAR_MS, "ms"),
        only("import agentix and its connection (zmq)", f"{median(ready) - median(bare):.1f} ms"),
        must("llama_cpp, numpy loaded by it", ", ".join(heavy) or "none", "none", not heavy),
        only("zmq, asyncio loaded by it", ", ".join(name for name in found if name not in heavy) or "none"),
    ]


def _time_ms(code: str) -> float:
    began = time.perf_counter()
    _output(code)
    return (time.perf_counter() - began) * 1e3


def _output(code: str) -> bytes:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, timeout=60
    ).stdout
