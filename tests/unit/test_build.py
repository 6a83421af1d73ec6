"""The build of llama.cpp: flags for each machine, progress, the wheel cache, and what a killed build leaves.

No test compiles anything: pip is a small script that the build is handed instead.
"""

import configparser
import dataclasses
import io
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from kernel.engine import build, buildlog, buildrun, hostcpu, install
from kernel.engine.buildlog import Exit
from kernel.engine.hostcpu import Compiler, Cpu

CHECKOUT = Path(__file__).resolve().parents[2]

SAPPHIRE_RAPIDS = frozenset(["avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"])
ZEN4 = frozenset(["avx2", "avx512f", "avx512_bf16", "avx512_vnni"])
GRAVITON = frozenset(["fp", "asimd", "asimddp", "sve", "i8mm", "bf16"])

GCC12 = Compiler("gcc", "12.2.0")
CLANG = Compiler("clang", "16.0.6")


def recipe(**changes: object) -> build.Recipe:
    flags = hostcpu.choose_flags(ZEN4, GCC12)
    plain = build.Recipe(
        "0.3.36", flags.cmake_args, flags.reason, Cpu("x86_64", "Zen 4", ZEN4), GCC12, "glibc 2.36"
    )
    return dataclasses.replace(plain, **changes)


# --- flags -----------------------------------------------------------------------------------------------------


def stores_are_kept(flags: hostcpu.Flags) -> bool:
    return {
        "-DCMAKE_C_FLAGS=-fno-tree-dse -fno-dse",
        "-DCMAKE_CXX_FLAGS=-fno-tree-dse -fno-dse",
    } <= set(flags.cmake_args)


def test_gcc_on_an_amx_cpu_must_not_drop_stores_and_the_reason_says_why():
    flags = hostcpu.choose_flags(SAPPHIRE_RAPIDS, GCC12)
    assert stores_are_kept(flags)
    assert "AMX" in flags.reason
    assert "gcc 12.2.0" in flags.reason


def test_amx_is_kept_in_the_build_because_compiling_it_out_costs_half_the_speed():
    assert "-mno-amx" not in " ".join(hostcpu.choose_flags(SAPPHIRE_RAPIDS, GCC12).cmake_args)


@pytest.mark.parametrize("version", ["", "8.5.0", "13.2.0", "99.0"])
def test_no_gcc_release_is_trusted_with_amx_until_one_is_known_to_be_good(version):
    assert stores_are_kept(hostcpu.choose_flags(SAPPHIRE_RAPIDS, Compiler("gcc", version)))


def test_a_gcc_release_known_to_be_good_needs_no_flags(monkeypatch):
    monkeypatch.setattr(hostcpu, "FIRST_GOOD_GCC_FOR_AMX", (16, 1))
    assert not stores_are_kept(hostcpu.choose_flags(SAPPHIRE_RAPIDS, Compiler("gcc", "16.1.0")))
    assert stores_are_kept(hostcpu.choose_flags(SAPPHIRE_RAPIDS, Compiler("gcc", "15.9")))


@pytest.mark.parametrize(
    ("features", "compiler"),
    [
        pytest.param(SAPPHIRE_RAPIDS, CLANG, id="amx+clang"),
        pytest.param(ZEN4, GCC12, id="zen4+gcc"),
        pytest.param(GRAVITON, GCC12, id="arm+gcc"),
        pytest.param(frozenset(), Compiler("unknown", ""), id="nothing known"),
    ],
)
def test_other_machines_get_llama_cpps_own_compiler_flags(features, compiler):
    assert hostcpu.choose_flags(features, compiler).cmake_args == hostcpu.ALWAYS


def test_cpu_features_are_read_on_x86_and_on_arm():
    x86 = hostcpu.parse_cpuinfo("model name\t: Xeon\nflags\t\t: avx2 amx_tile\n", "x86_64")
    arm = hostcpu.parse_cpuinfo("processor\t: 0\nFeatures\t: fp asimd\n", "aarch64")
    assert (x86.model, x86.features) == ("Xeon", {"avx2", "amx_tile"})
    assert arm.features == {"fp", "asimd"}


def test_only_features_that_every_core_has_count():
    text = "Features : fp asimd sve\n\nFeatures : fp asimd\n"
    assert hostcpu.parse_cpuinfo(text, "aarch64").features == {"fp", "asimd"}


def test_a_machine_without_cpuinfo_has_no_known_feature(tmp_path):
    assert hostcpu.read_cpu(tmp_path / "absent").features == frozenset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cc (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright (C) 2022 Free Software Foundation", "gcc 12.2.0"),
        ("gcc (GCC) 14.1.1 20240522\nCopyright (C) 2024 Free Software Foundation", "gcc 14.1.1"),
        ("Debian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu", "clang 14.0.6"),
        ("tcc of tomorrow", "unknown"),
    ],
)
def test_the_compiler_is_told_from_what_it_prints(text, expected):
    assert str(hostcpu.parse_compiler(text, "cc", "c++")) == expected


def test_a_machine_without_compiler_is_told_what_to_install():
    with pytest.raises(build.BuildError, match="apt install build-essential cmake python3-venv") as caught:
        build.find_compiler({"CC": "no-such-cc", "CXX": "no-such-c++"})
    assert caught.value.kind is Exit.NO_COMPILER
    assert "no-such-cc" in str(caught.value)


# --- progress --------------------------------------------------------------------------------------------------


def test_progress_follows_ninja_and_estimates_the_time_left():
    progress = buildlog.Progress(start_s=0)
    assert not progress.feed("-- Configuring done", 10)
    assert progress.left_s(10) is None
    for step in range(51):
        progress.feed(f"  [{step}/100] /usr/bin/c++ -c [7/9].cpp", 10 + step)
    assert progress.fraction == 0.5
    assert progress.elapsed_s(60) == 60
    assert progress.share == buildlog.TIME_AT_TENTH[5], "the steps of the second half take longer"
    assert progress.left_s(60) == pytest.approx(50 / progress.share - 50)


def test_the_share_of_time_grows_with_the_steps_from_nothing_to_all():
    shares = [buildlog.share_of_time(step / 83) for step in range(84)]
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert all(earlier < later for earlier, later in itertools.pairwise(shares))


def test_progress_never_falls_whatever_is_printed():
    progress = buildlog.Progress(start_s=0)
    lines = ["[2/2] link", "[30/60] a", "[10/60] b", "[31/120] c", "[ 40%] d", "[60/60] e", "[70/60] f"]
    seen = []
    for now_s, line in enumerate(lines):
        progress.feed(line, now_s)
        seen.append(progress.fraction)
    assert seen == sorted(seen)
    assert seen[0] == 0.0, "CMake's own probes are no progress"
    assert seen[-1] == 1.0


def test_progress_follows_make_too():
    progress = buildlog.Progress(start_s=0)
    assert progress.feed("[ 42%] Building CXX object", 1)
    assert progress.fraction == 0.42


def test_a_log_file_gets_one_progress_line_for_each_tenth():
    progress, stream = buildlog.Progress(start_s=0), io.StringIO()
    line = buildlog.ProgressLine(stream, "llama.cpp", progress)
    for step in range(1, 201):
        progress.feed(f"[{step}/200] c++", float(step))
        line.draw(float(step))
    assert len(stream.getvalue().splitlines()) == 10
    assert "\r" not in stream.getvalue()


def test_a_terminal_gets_one_line_that_is_redrawn():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    progress, stream = buildlog.Progress(start_s=0), Terminal()
    line = buildlog.ProgressLine(stream, "llama.cpp", progress)
    for step in range(1, 101):
        progress.feed(f"[{step}/100] c++", float(step))
        line.draw(float(step))
    line.finish()
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().count("\r") == 100


# --- failures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("c++: fatal error: /x.o: No space left on device", Exit.DISK_FULL),
        ("c++: fatal error: Killed signal terminated program cc1plus", Exit.OUT_OF_MEMORY),
        ("No CMAKE_CXX_COMPILER could be found.", Exit.NO_COMPILER),
        ("ERROR: No matching distribution found for llama-cpp-python==0.3.36", Exit.NO_INDEX),
        ("/usr/bin/python3: No module named pip", Exit.NO_PIP),
        ("error: expected ';'", Exit.BUILD_FAILED),
    ],
)
def test_each_kind_of_failure_has_its_own_exit_status_and_advice(line, kind):
    assert buildlog.diagnose(["[1/83] c++", line, "ERROR: Failed building wheel"]) is kind
    assert buildlog.ADVICE[kind]


def test_the_lines_shown_of_a_failure_are_those_a_human_would_read():
    lines = ["[3/83] c++ -I" + "x" * 9000, "", "-- Found Git", "x.cpp:1: error: no", *["note"] * 30]
    shown = buildlog.last_meaningful(lines[:4])
    assert shown == ["x.cpp:1: error: no"]
    assert len(buildlog.last_meaningful(lines)) == 20


# --- versions and keys -----------------------------------------------------------------------------------------


def test_a_tested_version_is_accepted_with_or_without_a_local_part():
    assert build.tested_version_error(build.TESTED[0]) is None
    assert build.tested_version_error(build.TESTED[1] + "+cu121") is None


@pytest.mark.parametrize(
    ("version", "problem"),
    [("0.2.90", "older"), ("0.3.9", "older"), ("0.3.100", "newer"), ("1.0", "newer"), ("main", "no version")],
)
def test_an_untested_version_is_refused_by_name_with_the_way_out(version, problem):
    error = build.tested_version_error(version, ("0.3.36", "0.3.40"))
    assert error is not None
    for part in (repr(version), problem, "0.3.36 to 0.3.40", "make setup"):
        assert part in error


def test_the_key_changes_with_all_that_changes_the_binary():
    changes = [
        {},
        {"version": "0.3.37"},
        {"cmake_args": ("-DGGML_LLAMAFILE=OFF",)},
        {"cpu": Cpu("x86_64", "Xeon", SAPPHIRE_RAPIDS)},
        {"cpu": Cpu("aarch64", "Zen 4", ZEN4)},
        {"compiler": CLANG},
        {"libc": "glibc 2.41"},
        {"user_flags": ("CFLAGS=-g",)},
    ]
    assert len({recipe(**change).key for change in changes}) == len(changes)


def test_the_key_ignores_wording_and_is_a_plain_file_name():
    assert recipe(reason="other words").key == recipe().key
    assert "/" not in recipe().key
    assert " " not in recipe().key


def test_setup_cfg_asks_for_exactly_the_tested_range():
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    oldest, newest = build.TESTED
    assert f"{build.PACKAGE}>={oldest},<={newest}" in config["options"]["install_requires"].split()


def test_setup_cfg_lists_every_package_of_the_tree():
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    roots = [(CHECKOUT, "kernel"), (CHECKOUT, "shm"), (CHECKOUT / "agents", "agentix")]
    found = {
        ".".join(init.parent.relative_to(root).parts)
        for root, name in roots
        for init in (root / name).rglob("__init__.py")
    }
    assert found <= set(config["options"]["packages"].split())


def test_set_up_leaves_the_engine_out_of_what_pip_installs_by_itself():
    wanted = install.requirements(CHECKOUT / "setup.cfg", "test")
    assert not [name for name in wanted if "llama" in name]
    assert any(name.startswith("pyzmq") for name in wanted)
    assert any(name.startswith("pytest") for name in wanted)


def test_importing_the_build_and_explaining_it_need_only_the_standard_library():
    command = [sys.executable, "-I", "-S", str(CHECKOUT / "kernel/engine/build.py"), "--explain", "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", timeout=60)
    assert '"reason"' in answer.stdout


# --- the wheel cache -------------------------------------------------------------------------------------------

GOOD_PIP = """
    out = pathlib.Path(sys.argv[sys.argv.index("--dest" if "download" in sys.argv else "--wheel-dir") + 1])
    out.mkdir(exist_ok=True)
    if "download" in sys.argv:
        (out / "llama_cpp_python-0.3.36.tar.gz").write_bytes(b"source")
        sys.exit()
    for step in range(1, 84):
        print(f"[{step}/83] c++", flush=True)
    wheel = out / "llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl"
    INTERVENE
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("llama_cpp/__init__.py", "")
"""


def fake_pip(tmp_path: Path, intervene: str = "pass") -> list[str]:
    """A pip that downloads and builds at once; `intervene` runs where a real one would be compiling."""
    script = tmp_path / f"pip{abs(hash(intervene))}.py"
    body = textwrap.dedent(GOOD_PIP).replace("INTERVENE", intervene)
    script.write_text(f"import os, pathlib, signal, sys, zipfile\n{body}")
    return [sys.executable, str(script)]


def silent(message: str) -> None:
    pass


def build_in_child(tmp_path: Path, intervene: str) -> subprocess.CompletedProcess[str]:
    """Run a build in a process of its own, which the fake pip may then kill."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from kernel.engine import build, hostcpu\n"
        "cpu = hostcpu.Cpu('x86_64', 'Zen 4', frozenset())\n"
        "recipe = build.Recipe('0.3.36', (), '', cpu, hostcpu.Compiler('gcc', '12'), 'glibc')\n"
        "body = lambda: print(build.ensure_wheel(recipe, build.Cache(Path(sys.argv[2])), sys.argv[3:])) or 0\n"
        "sys.exit(build.exit_status(body))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, str(CHECKOUT), str(tmp_path / "cache"), *fake_pip(tmp_path, intervene)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def trusted_wheels(tmp_path: Path) -> list[Path]:
    return [p for p in (tmp_path / "cache" / "wheels").glob("*/*.whl") if not p.parent.name.startswith(".")]


def leftovers(tmp_path: Path) -> list[str]:
    return [p.name for p in (tmp_path / "cache" / "wheels").glob(".building-*")]


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or has ended and only waits to be reaped by its new parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_wheel_is_built_once_and_then_comes_from_the_cache(tmp_path):
    cache = build.Cache(tmp_path / "cache")
    wheel = build.ensure_wheel(recipe(), cache, fake_pip(tmp_path), silent)
    assert wheel.parent.name == recipe().key
    assert cache.sdist("0.3.36").read_bytes() == b"source"
    assert leftovers(tmp_path) == []
    assert build.ensure_wheel(recipe(), cache, ["/no/such/pip"], silent) == wheel


def test_another_recipe_does_not_get_this_wheel_but_shares_the_source(tmp_path):
    cache = build.Cache(tmp_path / "cache")
    first = build.ensure_wheel(recipe(), cache, fake_pip(tmp_path), silent)
    no_download = fake_pip(tmp_path, "assert 'download' not in sys.argv")
    second = build.ensure_wheel(recipe(libc="glibc 2.41"), cache, no_download, silent)
    assert first != second


def test_pips_own_wheel_cache_which_does_not_know_our_flags_is_kept_out(tmp_path):
    pip = fake_pip(tmp_path, "assert '--no-cache-dir' in sys.argv")
    build.ensure_wheel(recipe(), build.Cache(tmp_path / "cache"), pip, silent)


def test_a_build_killed_outright_leaves_no_trusted_wheel_and_the_next_one_succeeds(tmp_path):
    pid_file = tmp_path / "pid"
    killed = build_in_child(
        tmp_path,
        f"pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); wheel.write_bytes(b'PK half');"
        " os.kill(os.getppid(), signal.SIGKILL); signal.pause()",
    )
    assert killed.returncode == -signal.SIGKILL
    assert trusted_wheels(tmp_path) == []
    again = build_in_child(tmp_path, "pass")
    assert again.returncode == 0, again.stderr
    assert len(trusted_wheels(tmp_path)) == 1
    assert leftovers(tmp_path) == [], "the killed build's directory is gone too"
    assert has_ended(int(pid_file.read_text())), "and so is the compiler that it left behind"


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + 15)])
def test_an_interrupted_build_stops_its_children_and_leaves_nothing(tmp_path, signum, status):
    pid_file = tmp_path / "pid"
    ended = build_in_child(
        tmp_path,
        f"pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()));"
        f" os.kill(os.getppid(), {int(signum)}); signal.pause()",
    )
    assert ended.returncode == status
    assert has_ended(int(pid_file.read_text()))
    assert trusted_wheels(tmp_path) == []
    assert leftovers(tmp_path) == []


def test_compilers_in_groups_of_their_own_are_stopped_too_even_deaf_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(buildrun, "GRACE_S", 0.2)
    program = (
        "import os, signal, sys\n"
        "if os.fork() == 0:\n"
        "    os.setpgid(0, 0)\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    print(os.getpid(), flush=True)\n"
        "signal.pause()\n"
    )
    pids = []

    def interrupt(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    runner = buildrun.Runner(tmp_path / "log", os.environ)
    with pytest.raises(KeyboardInterrupt):
        runner.run([sys.executable, "-c", program], "no build", on_line=interrupt)
    assert has_ended(pids[0])


def test_a_failed_build_shows_the_cause_the_log_and_what_to_do(tmp_path):
    failed = build_in_child(tmp_path, "print('x.o: No space left on device'); sys.exit(1)")
    assert failed.returncode == Exit.DISK_FULL
    assert "x.o: No space left on device" in failed.stderr
    assert buildlog.ADVICE[Exit.DISK_FULL] in failed.stderr
    log = next((tmp_path / "cache" / "logs").glob("*.log"))
    assert str(log) in failed.stderr
    assert "[83/83]" in log.read_text()
    assert "[83/83]" not in failed.stderr
    assert trusted_wheels(tmp_path) == []


def test_an_unreadable_wheel_is_neither_accepted_from_pip_nor_trusted_in_the_cache(tmp_path):
    cache = build.Cache(tmp_path / "cache")
    pip = fake_pip(tmp_path, "wheel.write_bytes(b'half'); sys.exit()")
    with pytest.raises(build.BuildError, match="not a readable wheel"):
        build.ensure_wheel(recipe(), cache, pip, silent)
    wheel = build.ensure_wheel(recipe(), cache, fake_pip(tmp_path), silent)
    wheel.write_bytes(b"damaged")
    assert cache.wheel(recipe().key) is None
    assert zipfile.is_zipfile(build.ensure_wheel(recipe(), cache, fake_pip(tmp_path), silent))


def test_a_full_disk_is_reported_before_anything_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "ROOM_BYTES", 1 << 80)
    with pytest.raises(build.BuildError, match="MB free") as caught:
        build.ensure_wheel(recipe(), build.Cache(tmp_path / "cache"), ["/no/such/pip"], silent)
    assert caught.value.kind is Exit.DISK_FULL


def test_the_second_of_two_builds_at_once_says_that_it_waits_and_then_uses_the_firsts_wheel(tmp_path):
    cache, said = build.Cache(tmp_path / "cache"), []

    def first_finishes(message: str) -> None:
        said.append(message)
        place = cache.wheels / recipe().key
        place.mkdir()
        with zipfile.ZipFile(place / "first-py3-none-any.whl", "w") as file:
            file.writestr("x", "")
        os.close(holder)  # drops the lock

    cache.wheels.mkdir(parents=True)
    holder = os.open(cache.wheels / f".lock-{recipe().key}", os.O_RDWR | os.O_CREAT)
    buildrun.fcntl.flock(holder, buildrun.fcntl.LOCK_EX)
    wheel = build.ensure_wheel(recipe(), cache, ["/no/such/pip"], first_finishes)
    assert wheel.name == "first-py3-none-any.whl"
    assert "waiting" in said[0]


def test_the_users_cmake_arguments_come_after_ours_and_scratch_stays_in_the_build(tmp_path, monkeypatch):
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=on")
    environment = build.build_environment(recipe(cmake_args=("-DCMAKE_C_FLAGS=-a -b",)), tmp_path)
    assert environment["CMAKE_ARGS"].startswith("'-DCMAKE_C_FLAGS=-a -b' ")
    assert environment["CMAKE_ARGS"].endswith(" -DGGML_CUDA=on")
    assert environment["TMPDIR"].startswith(str(tmp_path))
