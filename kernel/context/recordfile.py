"""The files of durable sessions, and the thread that reads and writes them.

Who uses it: the loop, for StoreRecord, LoadRecord, SetAsideRecord and RemoveRecord. What must hold: what is asked for
is done in that order, and each is answered once; the loop never waits for a disk; a file is as before or as after a
store, whenever the machine stops.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kernel.context.iothread import IoThread
from kernel.context.record import Damaged, seal, unseal
from kernel.effects import LoadRecord, RecordEffect, RemoveRecord, SetAsideRecord, StoreRecord
from kernel.limits import MAX_RECORD_BYTES

_AS_IT_IS = os.O_NOFOLLOW | os.O_NONBLOCK  # a link leads elsewhere, and a pipe would be waited for
END_S = 5.0  # that closing waits for the disk; the thread ends with the process then


class Done(NamedTuple):
    """An answer, as events.RecordDone has it."""

    ticket: int
    path: str
    body: bytes | None
    error: str
    is_damaged: bool


def default_folder(kernel: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Return where a kernel keeps the sessions of its agents, there or not."""
    base = environment.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(os.path.expanduser(base)) / "agentix" / kernel / "sessions"


class RecordFiles(IoThread[RecordEffect, Done]):
    """Those in `folder`, which is made when the first is written. `wake_fd` is readable when there are answers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        super().__init__("records")

    def close(self) -> None:
        """Do what was asked for, and end."""
        self.end(END_S)

    def _carry_out(self, wanted: RecordEffect) -> Done:
        path = self._folder / wanted.name
        body, error, is_damaged = None, "", False
        try:
            body = _body_of(wanted, path)
        except Damaged as fault:
            error, is_damaged = str(fault), True
        except OSError as failure:
            error = failure.strerror or str(failure)
        return Done(wanted.ticket, str(path), body, error, is_damaged)


def _body_of(wanted: RecordEffect, path: Path) -> bytes | None:
    """Do what was asked for and return the body, if there is one. Raises OSError, Damaged."""
    match wanted:
        case StoreRecord():
            _store(path, wanted.body)
        case LoadRecord():
            return _load(path)
        case SetAsideRecord():
            os.replace(path, f"{path}.bad")
            _sync(path.parent)
        case RemoveRecord():
            with suppress(FileNotFoundError):
                path.unlink()
                _sync(path.parent)
    return None


def _store(path: Path, body: bytes) -> None:
    _make(path.parent)
    scratch = _scratch(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(scratch, flags, 0o600), "wb") as file:
            file.write(seal(body))
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError:
        with suppress(OSError):
            scratch.unlink()
        raise
    _sync(path.parent)


def _load(path: Path) -> bytes | None:
    with suppress(OSError):
        _scratch(path).unlink()  # a kernel ended while it wrote
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _AS_IT_IS)) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_RECORD_BYTES:
                raise Damaged(f"it has {size} bytes, and {MAX_RECORD_BYTES} are the most")
            return unseal(file.read(size))
    except FileNotFoundError:
        return None


def _scratch(path: Path) -> Path:
    return path.with_suffix(".new")


def _make(folder: Path) -> None:
    """Make a folder, and those around it, for this user alone."""
    if not folder.is_dir():
        _make(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    """See that the names in a folder are on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
