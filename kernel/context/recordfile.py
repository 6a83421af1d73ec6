"""The files of durable sessions, and the thread that reads and writes them.

Who uses it: the loop, for StoreRecord, LoadRecord, SetAsideRecord and RemoveRecord. What must hold: what is asked for
is done in that order, and each is answered once; the loop never waits for a disk; a file is as before or as after a
store, whenever the machine stops.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

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


class RecordFiles:
    """Those in `folder`, which is made when the first is written. `wake_fd` is readable when there are answers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wanted: SimpleQueue[RecordEffect | None] = SimpleQueue()
        self._done: deque[Done] = deque()
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def ask(self, effect: RecordEffect) -> None:
        """Have it done after all that was asked before."""
        self._wanted.put(effect)

    def answers(self) -> list[Done]:
        """Return what was done since the last call."""
        try:
            os.eventfd_read(self.wake_fd)
        except BlockingIOError:
            return []
        return [self._done.popleft() for _ in range(len(self._done))]

    def close(self) -> None:
        """Do what was asked for, and end."""
        self._wanted.put(None)
        self._thread.join(END_S)
        if not self._thread.is_alive():
            os.close(self.wake_fd)

    def _run(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            path = self._folder / wanted.name
            body, error, is_damaged = None, "", False
            try:
                body = _carry_out(wanted, path)
            except Damaged as fault:
                error, is_damaged = str(fault), True
            except OSError as failure:
                error = failure.strerror or str(failure)
            self._done.append(Done(wanted.ticket, str(path), body, error, is_damaged))
            os.eventfd_write(self.wake_fd, 1)


def _carry_out(wanted: RecordEffect, path: Path) -> bytes | None:
    """Return the body that was asked for, if there is one. Raises OSError, Damaged."""
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
