"""Launched processes are led, heard, signalled and buried; nothing that they started survives them."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kernel.identity import birth_of
from kernel.proc import usage
from kernel.proc.launcher import NICE, Launcher, LaunchError, Process

DEADLINE_S = 20
HELPER = "import subprocess, sys; p = subprocess.Popen(['sleep', '1000']{more}); print(p.pid, flush=True)"


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    before = len(os.listdir("/proc/self/fd"))
    made = Launcher("tested")
    yield made
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def wait(fd: int) -> None:
    assert select.select([fd], [], [], DEADLINE_S)[0], f"nothing within {DEADLINE_S} s"


def line(process: Process) -> str:
    """The next output, whole when it is one short print."""
    wait(process.output)
    return (process.read() or b"").decode().strip()


def end(launcher: Launcher, process: Process) -> tuple[int | None, int | None, bytes]:
    wait(process.pidfd)
    status, number = launcher.bury(process)
    said = b"".join(process.drain())
    process.close_output()
    return status, number, said


def run(launcher: Launcher, script: str, **env: str) -> tuple[int | None, int | None, bytes]:
    return end(launcher, launcher.launch(("-c", script), env, None, "own"))


def is_alive(pid: int) -> bool:
    stat = usage.read_stat(pid)
    return stat is not None and stat.state not in "ZX"


def await_death(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    wait(pidfd)
    os.close(pidfd)


def test_what_a_process_printed_is_there_after_its_end_with_its_status(launcher: Launcher) -> None:
    script = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(5)"
    assert run(launcher, script) == (5, None, b"out\nerr\n")


def test_a_process_that_was_killed_has_a_signal_and_no_status(launcher: Launcher) -> None:
    assert run(launcher, "import os; os.kill(os.getpid(), 9)") == (None, 9, b"")


def test_a_process_leads_a_session_is_nice_has_no_input_and_knows_its_kernel(
    launcher: Launcher,
) -> None:
    launcher.set_child_open_files(64)
    script = (
        "import os, resource, sys, agentix, kernel.abi\n"
        "print(os.getsid(0) == os.getpid(), os.nice(0), repr(sys.stdin.read()),"
        " os.environ['AGENTIX_KERNEL'], os.environ['MINE'], resource.getrlimit(7)[0],"
        " sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
    )
    expected = f"True {os.nice(0) + NICE} '' tested yes 64 [0, 1, 2]\n"
    assert run(launcher, script, MINE="yes") == (0, None, expected.encode())
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64


def test_a_process_runs_in_the_directory_asked_for(launcher: Launcher, tmp_path: object) -> None:
    process = launcher.launch(("-c", "import os; print(os.getcwd())"), {}, str(tmp_path), "own")
    assert end(launcher, process) == (0, None, f"{tmp_path}\n".encode())


def test_a_directory_that_is_not_there_is_a_reason_in_words(launcher: Launcher) -> None:
    with pytest.raises(LaunchError, match=r"cannot start 'x\.py' in '/no/where': No such file"):
        launcher.launch(("x.py",), {}, "/no/where", "own")


def test_an_impossible_argument_is_a_reason_in_words(launcher: Launcher) -> None:
    with pytest.raises(LaunchError, match="null"):
        launcher.launch(("x\0.py",), {}, None, "own")


def test_too_few_descriptors_is_a_reason_in_words_and_leaks_none(launcher: Launcher) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd"))
    reasons: list[str] = []
    try:
        for more in range(6):  # fails at the pipe, at the child, at the pidfd
            resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1 + more, limits[1]))
            reason = try_to_launch(launcher, limits)
            assert reason in ("", "cannot start '-c': Too many open files")
            reasons.append(reason)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert reasons[0]
    assert len(os.listdir("/proc/self/fd")) == before


def try_to_launch(launcher: Launcher, limits: tuple[int, int]) -> str:
    """Return why a process could not be started, under the limit in force; "" when it could."""
    try:
        process = launcher.launch(("-c", ""), {}, None, "own")
    except LaunchError as error:
        return str(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    end(launcher, process)
    return ""


def test_a_signal_reaches_the_children_of_a_launched_process_too(launcher: Launcher) -> None:
    process = launcher.launch(("-c", HELPER.format(more="") + "; p.wait()"), {}, None, "own")
    grandchild = int(line(process))
    launcher.signal(process.pid, signal.SIGTERM)
    assert end(launcher, process)[:2] == (None, signal.SIGTERM)
    await_death(grandchild)


def test_what_a_process_leaves_in_its_group_dies_at_its_burial(launcher: Launcher) -> None:
    process = launcher.launch(("-c", HELPER.format(more="")), {}, None, "own")
    grandchild = int(line(process))
    assert end(launcher, process)[:2] == (0, None)
    await_death(grandchild)


def test_what_a_process_leaves_in_another_group_of_its_session_dies_at_the_sweep(
    launcher: Launcher,
) -> None:
    process = launcher.launch(("-c", HELPER.format(more=", process_group=0")), {}, None, "own")
    grandchild = int(line(process))
    end(launcher, process)
    assert is_alive(grandchild)
    launcher.sweep({process.pid})
    await_death(grandchild)


def test_a_sweep_spares_a_session_whose_leader_lives(launcher: Launcher) -> None:
    process = launcher.launch(("-c", HELPER.format(more="") + "; p.wait()"), {}, None, "own")
    grandchild = int(line(process))
    launcher.sweep({process.pid})
    assert is_alive(grandchild)


def test_closing_kills_everything_that_was_launched(launcher: Launcher) -> None:
    pids = []
    for more in ("", ", process_group=0"):
        process = launcher.launch(("-c", HELPER.format(more=more) + "; p.wait()"), {}, None, "own")
        pids += [process.pid, int(line(process))]
    launcher.close()
    for pid in pids:
        await_death(pid)


def test_an_adopted_process_is_watched_signalled_and_ends_without_a_status(
    launcher: Launcher,
) -> None:
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as other:
        process = launcher.watch(other.pid, birth_of(other.pid) or 0)
        assert process is not None
        assert launcher.watch(other.pid, birth_of(other.pid) or 0) is None
        launcher.signal(other.pid, signal.SIGKILL)
        assert end(launcher, process) == (None, None, b"")
        assert other.wait() == -9


def test_watching_a_process_that_is_gone_is_an_error(launcher: Launcher) -> None:
    with subprocess.Popen(["true"]) as other:
        other.wait()
    with pytest.raises(LaunchError, match="No such process"):
        launcher.watch(other.pid, birth_of(other.pid) or 0)


def test_a_signal_for_a_process_that_nobody_knows_goes_nowhere(launcher: Launcher) -> None:
    launcher.signal(os.getpid(), signal.SIGKILL)


def test_a_launched_process_does_not_outlive_the_kernel() -> None:
    script = (
        "import os; from kernel.proc.launcher import Launcher\n"
        "p = Launcher('x').launch(('-c', 'import signal; signal.pause()'), {}, None, 'own')\n"
        "print(p.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -9
    await_death(int(done.stdout))
