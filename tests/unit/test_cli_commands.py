"""The `agentix` command against a scripted kernel: what is printed, and the exit status of each way to fail."""

import json
import os
import signal
import subprocess
import sys

import pytest
from test_sdk_fake_kernel import PATIENCE_S, running_kernel

from agentix.cli import boot, doctor
from agentix.cli.__main__ import main
from agentix.cli.exits import CommandError, Exit
from kernel.abi.errors import Errno
from kernel.config import ModelConfig, read_config

USAGE = {"prompt_tokens": 1}
NO_PID = (1 << 22) + 1  # above what Linux gives


@pytest.fixture
def kernel(monkeypatch):
    with running_kernel() as fake:
        monkeypatch.setenv("AGENTIX_KERNEL", fake.name)
        yield fake


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "writer.py"
    path.write_text("")
    return str(path)


def answer(body):
    return lambda call: call.reply(body)


def ends(status=0, signal=None, tail=""):
    end = {"pid": NO_PID, "name": "writer", "status": status, "signal": signal}
    return answer(end | {"reason": "", "tail": tail, "usage": USAGE})


def spawning(kernel, text, end):
    kernel.on |= {
        "proc.spawn": answer({"pid": NO_PID}),
        "proc.ps": answer({"tasks": [{"pid": NO_PID, "state": "zombie"}]}),
        "proc.logs": answer({"pid": NO_PID, "name": "writer", "text": text}),
        "proc.wait": end,
    }


def test_run_shows_what_the_agent_printed_and_ends_with_its_status(kernel, script, capsys):
    spawning(kernel, "one\ntwo\n", ends(status=7, tail="two\n"))
    assert main(["run", script, "--flag", "arg"]) == 7
    out, err = capsys.readouterr()
    assert out == "one\ntwo\n"
    assert err == f"agent writer (pid {NO_PID}) died: exit status 7; its last lines:\n  two\n"
    body = kernel.wait_seen("proc.spawn").body
    assert (body["script"], body["args"], body["name"]) == (script, ["--flag", "arg"], "writer")


def test_run_of_an_agent_that_ends_well_prints_nothing_of_its_own(kernel, script, capsys):
    spawning(kernel, "fine\n", ends())
    assert main(["run", "--name", "other", script]) == Exit.OK
    assert capsys.readouterr() == ("fine\n", "")
    assert kernel.wait_seen("proc.spawn").body["name"] == "other"


def test_run_gives_the_agent_what_it_is_allowed_and_nothing_else(kernel, script):
    spawning(kernel, "", ends())
    assert main(["run", script, "--allow", "x"]) == Exit.OK
    assert "capabilities" not in kernel.wait_seen("proc.spawn").body  # those were the agent's arguments
    assert main(["run", "--allow", "task.create", "--allow", "other", script]) == Exit.OK
    spawned = [call.body for call in kernel.seen if call.method == "proc.spawn"]
    assert spawned[1]["capabilities"] == ["task.create", "other"]


def test_run_of_an_agent_killed_by_a_signal_ends_as_shells_do(kernel, script):
    spawning(kernel, "", ends(status=None, signal=9))
    assert main(["run", script]) == 128 + 9


def test_run_detached_prints_the_pid_and_waits_for_nothing(kernel, script, capsys):
    kernel.on["proc.spawn"] = answer({"pid": 5})
    assert main(["run", "--detach", script]) == Exit.OK
    assert capsys.readouterr().out == "5\n"


def test_run_without_such_a_script_is_wrong_usage(kernel, capsys):
    assert main(["run", "/nowhere.py"]) == Exit.USAGE
    assert "no script '/nowhere.py'" in capsys.readouterr().err


def test_an_interrupted_run_ends_its_agent(kernel, script):
    command = [sys.executable, "-m", "agentix.cli", "run", script]
    spawning(kernel, "", ends())
    del kernel.on["proc.wait"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        waiting = kernel.take("proc.wait")
        kernel.on |= {"proc.kill": answer({}), "proc.wait": ends(status=None, signal=15)}
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (Exit.INTERRUPTED, "agentix run: interrupted\n")
    assert kernel.wait_seen("proc.kill").body == {"pid": NO_PID, "signal": "TERM"}
    assert waiting.body == {"pid": NO_PID}


def test_ps_prints_a_table_or_json(kernel, capsys):
    task = {
        "pid": 5, "name": "writer", "state": "running", "rss_bytes": 1 << 20, "cpu_percent": 12.3,
        "context_tokens": 31, "context_limit": 8192,
    }  # fmt: skip
    kernel.on["proc.ps"] = answer({"tasks": [task]})
    assert main(["ps"]) == Exit.OK
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["PID", "PPID", "NAME"]
    assert {"5", "writer", "running", "12", "1.0", "MiB", "31/8192"} <= set(row.split())
    assert main(["ps", "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == [task]


def test_kill_takes_signals_with_and_without_sig(kernel):
    kernel.on["proc.kill"] = answer({})
    for given in ("SIGSTOP", "stop"):
        assert main(["kill", "5", given]) == Exit.OK
        assert kernel.seen[-1].body == {"pid": 5, "signal": "STOP"}


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (Errno.ESRCH, Exit.NO_TASK),
        (Errno.ECHILD, Exit.NO_TASK),
        (Errno.EPERM, Exit.NOT_PERMITTED),
        (Errno.ETIMEDOUT, Exit.TIMED_OUT),
        (Errno.EINVAL, Exit.USAGE),
        (Errno.ESHUTDOWN, Exit.NO_KERNEL),
        (Errno.EIO, Exit.FAILED),
    ],
)
def test_error_replies_end_with_their_status_and_one_sentence(kernel, capsys, number, status):
    kernel.on["proc.wait"] = lambda call: call.fail(number, "the kernel's sentence")
    assert main(["wait", "5", "--timeout", "1"]) == status
    assert capsys.readouterr().err == "agentix wait: the kernel's sentence\n"


@pytest.mark.parametrize("command", [["ps"], ["info"], ["down"], ["kill", "1"], ["logs", "1"]])
def test_without_a_kernel_every_command_says_how_to_start_one(monkeypatch, capsys, command):
    monkeypatch.setenv("AGENTIX_KERNEL", "nowhere")
    assert main(command) == Exit.NO_KERNEL
    assert capsys.readouterr().err.endswith("is running: start one with `agentix up`\n")


def test_a_wrong_kernel_name_is_wrong_usage(monkeypatch, capsys):
    monkeypatch.setenv("AGENTIX_KERNEL", "a/b")
    assert main(["ps"]) == Exit.USAGE
    assert "AGENTIX_KERNEL is 'a/b'" in capsys.readouterr().err


def test_info_shows_settings_and_counters(kernel, capsys):
    model = {
        "name": "chat", "path": "/m.gguf", "description": "llama", "family": "dense", "exactness": "exact",
        "state": "ready", "reason": "", "window_tokens": 8192, "chat_format": "hermes", "takes_tools": True,
        "embedding_width": 0, "devices": "CPU", "slots": 10,
    }  # fmt: skip
    kernel.on |= {
        "sys.info": answer({"slots": 4, "models": [{"name": "chat"}]}),
        "sys.stat": answer({"steps": 9, "models": []}),
        "llm.models": answer({"models": [model]}),
    }
    assert main(["info"]) == Exit.OK
    facts, models, counters = capsys.readouterr().out.split("\n\n")
    assert (facts, counters) == ("slots  4", "since boot\nsteps  9\n")
    assert models.splitlines()[1].split() == ["chat", "ready", "llama", "dense", "exact", "8192", "10", "CPU", "-"]
    assert main(["info", "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["models"] == [model]


def test_unknown_commands_and_options_are_wrong_usage(capsys):
    for wrong in ([], ["fly"], ["ps", "--fast"], ["kill", "writer"]):
        with pytest.raises(SystemExit) as raised:
            main(wrong)
        assert raised.value.code == Exit.USAGE
    assert "Traceback" not in capsys.readouterr().err


def test_help_lists_every_exit_status(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(f"{int(status):>3}  " in out for status in Exit)


# --- starting kernels ------------------------------------------------------------------------------------------


@pytest.fixture
def executed(monkeypatch):
    """The command that `up` would have become."""
    commands = []

    def execv(_path, command):
        commands.append(command)
        raise CommandError(99, "became a kernel")

    monkeypatch.setattr(os, "execv", execv)
    return commands


def test_up_becomes_a_kernel_with_only_the_settings_that_were_given(executed):
    assert main(["up", "--name", "k", "--model", "/m.gguf", "--slots", "3", "--window", "512"]) == 99
    (command,) = executed
    assert command[1:5] == ["-P", "-m", "kernel", "--config-json"]
    models = [{"path": "/m.gguf"}]
    assert json.loads(command[5]) == {"name": "k", "models": models, "slots": 3, "window_tokens": 512}


def test_every_setting_of_up_is_one_of_the_kernels(executed):
    given = {
        "--window": ("32k", "window_tokens", 32768), "--slot-window": ("1k", "slot_tokens", 1024),
        "--kv-memory": ("1.5g", "kv_bytes", 3 << 29), "--gpu-layers": ("auto", "gpu_layers", -1),
        "--keep-alive": ("90", "keep_alive_s", 90.0), "--threads": ("3", "threads", 3),
        "--policy": ("fcfs", "policy", "fcfs"), "--quantum": ("5", "quantum_tokens", 5),
        "--flash-attention": ("on", "flash_attention", "on"), "--kv-type": ("q8_0", "kv_type", "q8_0"),
        "--slots": ("2", "slots", 2),
    }  # fmt: skip
    words = [word for option, (text, _, _) in given.items() for word in (option, text)]
    assert main(["up", "--model", "/m.gguf", *words]) == 99
    config = read_config(executed[0][5])
    assert {name: getattr(config, name) for _, name, _ in given.values()} == {
        name: value for _, name, value in given.values()
    }


def test_several_models_are_served_in_the_order_in_which_they_are_named(executed, tmp_path):
    odd = tmp_path / "a=b.gguf"
    odd.touch()
    words = ["--model", "chat=/m/a.gguf", "--embed", "e=hf:o/r/e.gguf", "--model", str(odd), "--model", "/x=y.gguf"]
    assert main(["up", *words]) == 99
    assert read_config(executed[0][5]).models == (
        ModelConfig("/m/a.gguf", "chat"),
        ModelConfig("hf:o/r/e.gguf", "e", embedding=True),
        ModelConfig(str(odd)),
        ModelConfig("/x=y.gguf"),
    )


@pytest.mark.parametrize(
    "wrong",
    [["--window", "8kb"], ["--kv-memory", "much"], ["--gpu-layers", "most"], ["--model", "a="], ["--embed", "=a"]],
)
def test_a_setting_that_is_none_is_wrong_usage(wrong, capsys):
    with pytest.raises(SystemExit) as raised:
        main(["up", *wrong])
    assert raised.value.code == Exit.USAGE
    assert wrong[1] in capsys.readouterr().err


def test_up_without_a_checkout_and_a_model_says_what_to_give(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(boot, "CHECKOUT", tmp_path)
    assert main(["up"]) == Exit.NO_MODEL
    assert "give --model the path of a GGUF file" in capsys.readouterr().err


@pytest.fixture
def stand_in(monkeypatch):
    """Run this code in the place of the kernel."""

    def use(code):
        monkeypatch.setattr(boot, "kernel_command", lambda *_: [sys.executable, "-c", code])

    return use


@pytest.mark.parametrize("status", [5, 6, 7, 8])
def test_a_kernel_that_refuses_is_quoted_and_its_status_is_ours(stand_in, capsys, status):
    code = f"import sys; print('noise', file=sys.stderr); print('kernel: why', file=sys.stderr); sys.exit({status})"
    stand_in(code)
    assert main(["demo"]) == status
    assert capsys.readouterr().err == "agentix demo: why\n"


def test_a_kernel_killed_while_booting_is_no_traceback(stand_in, capsys):
    stand_in("import os; os.kill(os.getpid(), 9)")
    assert main(["demo"]) == Exit.NO_KERNEL
    assert "was ended by SIGKILL: run `agentix doctor`" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--agents", "--turns", "--tokens"])
def test_a_demonstration_of_nothing_is_refused_before_a_kernel_starts(capsys, option):
    assert main(["demo", option, "0"]) == Exit.USAGE
    assert f"{option} is 0, wanted at least 1" in capsys.readouterr().err


def test_a_report_into_a_folder_that_is_not_there_is_refused_at_once(capsys):
    assert main(["demo", "--report", "/nowhere/out.json"]) == Exit.USAGE
    assert "no folder '/nowhere'" in capsys.readouterr().err


# --- doctor ----------------------------------------------------------------------------------------------------


@pytest.fixture
def healthy(monkeypatch, tmp_path):
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF rest")
    monkeypatch.setenv("AGENTIX_KERNEL", "nowhere")
    monkeypatch.setattr(doctor, "default_model", lambda: str(model))
    monkeypatch.setattr(doctor, "preflight", lambda _: doctor.Finding("decoding", True, "it decodes"))
    monkeypatch.setattr(doctor, "look_at_llama", lambda _: doctor.Finding("llama.cpp", True, "there"))
    monkeypatch.setattr(doctor, "look_at_compiler", lambda _: doctor.Finding("compiler", True, "gcc"))
    monkeypatch.setattr(doctor, "SPARE_BYTES", 0)


@pytest.mark.usefixtures("healthy")
def test_doctor_of_a_healthy_machine_finds_everything_ok(capsys):
    assert main(["doctor"]) == Exit.OK
    assert "WRONG" not in capsys.readouterr().out


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize(("content", "said"), [(b"PK", "not b'GGUF'"), (None, "No such file")])
def test_doctor_names_a_model_that_is_none(tmp_path, capsys, content, said):
    path = tmp_path / "wrong.gguf"
    if content is not None:
        path.write_bytes(content)
    assert main(["doctor", "--model", str(path), "--json"]) == Exit.NO_MODEL
    told = json.loads(capsys.readouterr().out)
    (wrong,) = [finding for finding in told["findings"] if not finding["is_ok"]]
    assert (wrong["what"], wrong["status"]) == ("model", Exit.NO_MODEL)
    assert said in wrong["text"]


@pytest.mark.usefixtures("healthy")
def test_doctor_reports_what_is_too_little_memory(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "SPARE_BYTES", 1 << 60)
    assert main(["doctor"]) == Exit.NO_MEMORY
    assert "are free, a kernel with this model needs about" in capsys.readouterr().out


def test_a_preflight_that_crashes_is_a_finding(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], -11, "", ""))
    finding = doctor.preflight(str(tmp_path))
    assert (finding.is_ok, finding.text, finding.status) == (False, "exit status -11", Exit.CORE_DIES)
