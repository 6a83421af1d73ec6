"""The choices file: what calibration found for one model on one machine, in the user's cache.

Who calls it: boot.py (choices_path, read), the LLM core and `python -m kernel.engine.calibrate`. What must
hold: the standard library only, for the kernel reads it too; a file is whole or absent; what cannot be read
counts as absent. All cores of a model must find the same choice, for other modes give other bits.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path

from kernel.engine.calibration import Choice
from kernel.engine.hostcpu import read_cpu, usable_cpus

FINGERPRINT_BYTES = 1 << 20  # of a model's file: all dimensions and the tokenizer's start
_PACKAGE = "llama-cpp-python"
_MOST = {"threads": 4096, "slots": 256, "prefill_tokens": 1 << 20}


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where what can be made again is kept, there or not."""
    base = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "agentix"


def choices_path(model: Path, kv_type: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the choice for a model and a type of KV on this machine is kept, there or not. Raises OSError."""
    return cache_folder(environment) / "calibration" / f"{_key(model, kv_type)}.json"


def read(path: Path) -> Choice | None:
    """Return the choice that a file holds; None when there is no such file or it is none of ours."""
    try:
        found = json.loads(path.read_bytes())["choice"]
        choice = Choice(**{field.name: found[field.name] for field in fields(Choice)})
    except (OSError, ValueError, LookupError, TypeError):
        return None
    counts = ((getattr(choice, name), most) for name, most in _MOST.items())
    is_valid = all(type(count) is int and 0 <= count <= most for count, most in counts)
    is_valid = is_valid and choice.flash_attention in (None, True, False) and choice.is_fast in (True, False)
    return choice if is_valid else None


def write(path: Path, choice: Choice, model: str, replace: bool) -> Choice:
    """Keep a choice; return the one that is kept. Raises OSError.

    replace: take the place of an older one. Else the first of several cores that write wins, and the others
    get what it chose.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, scratch = tempfile.mkstemp(prefix=".choice-", dir=path.parent)
    try:
        with os.fdopen(fd, "w") as file:
            json.dump({"model": model, "choice": asdict(choice)}, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        if not replace:
            with suppress(FileExistsError):
                os.link(scratch, path)
                return choice
            if kept := read(path):
                return kept
        os.replace(scratch, path)
        return choice
    finally:
        with suppress(FileNotFoundError):
            os.unlink(scratch)


def _key(model: Path, kv_type: str) -> str:
    """Return 16 hexadecimal digits that differ with the model, its KV, the processor and the build of llama.cpp."""
    with model.open("rb") as file:
        digest = hashlib.blake2b(file.read(FINGERPRINT_BYTES), digest_size=8)
        size = os.fstat(file.fileno()).st_size
    cpu = read_cpu()
    facts = (size, kv_type, cpu.machine, cpu.model, sorted(cpu.features), usable_cpus(), *_build())
    digest.update(repr(facts).encode())
    return digest.hexdigest()


def _build() -> tuple[str, str]:
    """Return llama-cpp-python's version, and the list of what it installed with the hash of each file."""
    try:
        found = importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "", ""
    return found.version, found.read_text("RECORD") or ""
