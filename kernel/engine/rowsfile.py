"""What the probe found of a model's passes, kept beside its choices: trying takes seconds with a large model.

Who calls it: llama.py. What must hold: a file is whole or absent, and what cannot be read counts as absent. The
choices file's name stands for the model, its KV's type, the processor and the build; what else matters is the key here.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from kernel.engine.base import PASS_CHUNKS

Rows = tuple[int, int, int]  # least_rows, row_step, pass_chunks: see Traits


def key(flash_attention: bool, extra_buffers: bool, gpu_layers: int) -> str:
    """Return what tells one way of running a model from another."""
    return f"flash {flash_attention:d}, repacked {extra_buffers:d}, on a GPU {gpu_layers}"


def read(choices: str, wanted: str) -> Rows | None:
    """Return what was found before; None when nothing was."""
    if not choices:
        return None
    try:
        least, step, chunks = json.loads(_path(choices).read_bytes())[wanted]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    is_known = least in (1, 2, 4, 8) and step in (1, 4) and chunks in (1, PASS_CHUNKS)
    return (least, step, chunks) if is_known else None


def write(choices: str, wanted: str, rows: Rows) -> None:
    """Keep what was found. A cache that cannot be written is no reason not to serve."""
    if not choices:
        return
    path = _path(choices)
    try:
        kept = json.loads(path.read_bytes())
    except (OSError, ValueError):
        kept = {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, scratch = tempfile.mkstemp(prefix=".rows-", dir=path.parent)
        with os.fdopen(fd, "w") as file:
            json.dump({**kept, wanted: rows}, file)
        os.replace(scratch, path)
    except OSError:
        return


def _path(choices: str) -> Path:
    return Path(choices).with_suffix(".passes.json")
