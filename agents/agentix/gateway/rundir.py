"""Where a gateway tells its own user how to reach it: a file that nobody else can read.

Who uses it: server.py writes it, the command line reads it. What must hold: a folder or a file that another user could
have made is not trusted.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Door:
    """How to reach a gateway."""

    url: str  # without a path
    secret: str  # with which keys are made
    pid: int


def path_of(kernel: str) -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(base) / f"agentix-{os.getuid()}" / f"{kernel}.gateway.json"


def publish(kernel: str, door: Door) -> None:
    """Write the file. Raises OSError, PermissionError for a folder that is not ours."""
    path = path_of(kernel)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check(path.parent, stat.S_ISDIR)
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(door), file)
    os.replace(name, path)


def withdraw(kernel: str, pid: int) -> None:
    """Remove the file, if it is still the one of process `pid`."""
    with suppress(OSError, ValueError, KeyError):
        if find(kernel).pid == pid:
            path_of(kernel).unlink()


def find(kernel: str) -> Door:
    """Read the file. Raises OSError (FileNotFoundError: no gateway runs), ValueError."""
    path = path_of(kernel)
    _check(path.parent, stat.S_ISDIR)
    _check(path, stat.S_ISREG)
    try:
        return Door(**json.loads(path.read_text()))
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from None


def _check(path: Path, is_kind: object) -> None:
    status = os.lstat(path)
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or not is_kind(status.st_mode):  # type: ignore[operator]
        raise PermissionError(1, f"{path} is not ours alone")
