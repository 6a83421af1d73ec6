"""The files of durable sessions on a real disk: whole or as before, errors are answers, nothing is left behind."""

from __future__ import annotations

import errno
import os
import select
import stat
import threading

import pytest

from kernel.context import recordfile
from kernel.context.recordfile import Done, RecordFiles, default_folder
from kernel.effects import LoadRecord, RecordEffect, RemoveRecord, SetAsideRecord, StoreRecord

PATIENCE_S = 20
NAME = "00ff.session"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "agentix" / "main" / "sessions"


@pytest.fixture
def files(folder):
    before = set(os.listdir("/proc/self/fd"))
    made = RecordFiles(folder)
    yield made
    made.close()
    assert set(os.listdir("/proc/self/fd")) == before


def ask(files: RecordFiles, effect: RecordEffect) -> Done:
    files.ask(effect)
    ready, _, _ = select.select([files.wake_fd], [], [], PATIENCE_S)
    assert ready, "the disk does not answer"
    (one,) = files.answers()
    assert one.ticket == effect.ticket
    return one


def loaded(files: RecordFiles) -> bytes | None:
    done = ask(files, LoadRecord(9, NAME))
    assert not done.error
    return done.body


def test_what_was_stored_is_loaded_and_the_folder_is_this_users_alone(files, folder):
    assert loaded(files) is None
    assert not folder.exists()
    for body in (b"one", os.urandom(300_001)):
        assert ask(files, StoreRecord(1, NAME, body)) == Done(1, str(folder / NAME), None, "", False)
        assert loaded(files) == body
    assert os.listdir(folder) == [NAME]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / NAME).stat().st_mode) == 0o600


def test_file_and_folder_are_on_the_disk_before_a_store_is_answered(files, folder, monkeypatch):
    done = []
    was_replace, was_sync = os.replace, os.fsync

    def sync(fd):
        done.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
        was_sync(fd)

    def rename(source, target):
        done.append(("replace", os.path.basename(target)))
        was_replace(source, target)

    ask(files, StoreRecord(1, NAME, b"one"))
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    ask(files, StoreRecord(2, NAME, b"two"))
    assert done == [("sync", "00ff.new"), ("replace", NAME), ("sync", "sessions")]


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_store_that_fails_leaves_what_was_there_and_nothing_else(files, folder, monkeypatch, call, number):
    ask(files, StoreRecord(1, NAME, b"one"))
    was = getattr(os, call)

    def fail(*arguments, **options):
        if call != "open" or "new" in str(arguments[0]):
            raise OSError(number, os.strerror(number))
        return was(*arguments, **options)

    monkeypatch.setattr(os, call, fail)
    assert ask(files, StoreRecord(2, NAME, b"two")).error == os.strerror(number)
    monkeypatch.setattr(os, call, was)
    assert os.listdir(folder) == [NAME]
    assert loaded(files) == b"one"
    assert not ask(files, StoreRecord(3, NAME, b"two")).error


def test_what_a_kernel_left_half_written_is_removed_when_the_session_is_opened(files, folder):
    ask(files, StoreRecord(1, NAME, b"one"))
    (folder / "00ff.new").write_bytes(b"AGXS half")
    assert loaded(files) == b"one"
    assert os.listdir(folder) == [NAME]


@pytest.mark.parametrize("raw", [b"", b"AGXS", b"AGXS" + bytes(90), b"\x7fELF" + bytes(90)])
def test_a_damaged_file_is_said_and_can_be_put_aside(files, folder, raw):
    ask(files, StoreRecord(1, NAME, b"one"))
    (folder / NAME).write_bytes(raw)
    done = ask(files, LoadRecord(2, NAME))
    assert done.is_damaged
    assert done.error
    assert done.body is None
    assert not ask(files, SetAsideRecord(3, NAME)).error
    assert os.listdir(folder) == [f"{NAME}.bad"]
    assert (folder / f"{NAME}.bad").read_bytes() == raw
    assert loaded(files) is None


def test_a_file_longer_than_a_record_may_be_is_not_read(files, folder, monkeypatch):
    ask(files, StoreRecord(1, NAME, b"one" * 100))
    monkeypatch.setattr(recordfile, "MAX_RECORD_BYTES", 200)
    assert "200 are the most" in ask(files, LoadRecord(2, NAME)).error


def test_what_is_no_file_of_ours_is_an_answer(files, folder):
    folder.mkdir(parents=True)
    (folder / NAME).symlink_to("/etc/passwd")
    done = ask(files, LoadRecord(1, NAME))
    assert done.error == os.strerror(errno.ELOOP)
    assert not done.is_damaged
    (folder / NAME).unlink()
    (folder / NAME).mkdir()
    assert ask(files, LoadRecord(2, NAME)).error == os.strerror(errno.EISDIR)
    assert ask(files, StoreRecord(3, NAME, b"one")).error == os.strerror(errno.EISDIR)
    (folder / NAME).rmdir()
    os.mkfifo(folder / NAME)
    assert ask(files, LoadRecord(4, NAME)).is_damaged


def test_a_folder_that_cannot_be_made_is_an_answer(tmp_path):
    (tmp_path / "file").write_text("")
    files = RecordFiles(tmp_path / "file" / "sessions")
    assert ask(files, StoreRecord(1, NAME, b"one")).error == os.strerror(errno.ENOTDIR)
    assert ask(files, LoadRecord(2, NAME)).error == os.strerror(errno.ENOTDIR)
    files.close()


def test_what_was_removed_is_gone_and_removing_it_again_is_no_error(files, folder):
    ask(files, StoreRecord(1, NAME, b"one"))
    for ticket in (2, 3):
        assert not ask(files, RemoveRecord(ticket, NAME)).error
        assert os.listdir(folder) == []


def test_closing_does_first_what_was_asked_for(folder):
    files = RecordFiles(folder)
    for number in range(20):
        files.ask(StoreRecord(number, f"{number}.session", b"one"))
    files.close()
    assert len(os.listdir(folder)) == 20
    assert not any(thread.name == "records" for thread in threading.enumerate())


def test_sessions_are_kept_where_the_users_state_is():
    assert str(default_folder("main", {"XDG_STATE_HOME": "/s"})) == "/s/agentix/main/sessions"
    assert str(default_folder("x", {})).endswith("/.local/state/agentix/x/sessions")
