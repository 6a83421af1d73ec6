"""CPU time and memory are charged to the task whose session a process is in."""

from __future__ import annotations

import os
import subprocess
import sys

from kernel.proc import usage

BURN = "import time\nwhile time.process_time() < 0.05: pass\n"


def session(script: str) -> subprocess.Popen[bytes]:
    """A session leader that runs a script, prints a line, and lives until its input closes."""
    return subprocess.Popen(
        [sys.executable, "-c", f"{script}\nprint(flush=True)\nimport sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def one(pid: int) -> tuple[float, int]:
    ((found, seconds, rss),) = usage.sample([pid])
    assert found == pid
    return seconds, rss


def test_a_process_is_charged_what_it_burnt() -> None:
    with session(BURN) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds, rss = one(process.pid)
        assert 0.04 <= seconds < 5
        assert 1 << 20 < rss < 1 << 30


CHILD = f"import sys, time\n{BURN}print(flush=True)\n"
START_CHILD = (
    "import subprocess, sys\n"
    "c = subprocess.Popen([sys.executable, '-c', {script!r}], stdin=-1, stdout=-1)\n"
    "c.stdout.readline()\n"
)


def test_a_living_child_is_charged_to_its_task() -> None:
    with session(BURN + START_CHILD.format(script=CHILD + "sys.stdin.read()")) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert one(process.pid)[0] >= 0.08


def test_a_child_that_was_waited_for_is_still_charged_to_its_task() -> None:
    with session(BURN + START_CHILD.format(script=CHILD) + "c.wait()") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert one(process.pid)[0] >= 0.08


def test_a_process_that_is_gone_is_left_out() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert usage.sample([process.pid]) == ()


def test_a_name_with_parentheses_and_numbers_does_not_shift_the_fields() -> None:
    with session("open('/proc/self/comm', 'w').write(') S 9 9 9 (')") as process:
        assert process.stdout is not None
        process.stdout.readline()
        stat = usage.read_stat(process.pid)
        assert stat is not None
        assert stat.session == process.pid
        assert stat.state in "RS"


def test_one_scan_serves_any_number_of_tasks() -> None:
    assert [pid for pid, _, _ in usage.sample([os.getpid(), 1])] == [os.getpid(), 1]
