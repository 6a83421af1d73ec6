"""The gateway under clients that drop, wait, pile up and misbehave; its keys; the death of its parts."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import urllib.request

import psutil
import pytest
from gateways import Gateway, gateway, read_all, read_until

from agentix.gateway import rundir

LONG = {"prompt": "once", "max_tokens": 1500, "ignore_eos": True, "temperature": 0}
SHORT = {"prompt": "once", "max_tokens": 4, "ignore_eos": True, "temperature": 0}
TALK = {"messages": [{"role": "user", "content": "hello " * 60}], "max_tokens": 4, "temperature": 0}
PATH, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def served():
    with gateway(
        "--keep-alive", "0.05", slots=1, policy="fcfs", window_tokens=2048, slot_tokens=2048
    ) as made:
        yield made


def finish(served: Gateway, path: str, body: dict, **headers: str) -> tuple[int, bytes]:
    with served.post(path, body, Connection="close", **headers) as made:
        return read_all(made)


def is_idle(served: Gateway) -> bool:
    return served.in_flight() == 0


def test_a_client_that_drops_its_stream_has_its_work_cancelled(served):
    with served.post(PATH, LONG | {"stream": True}) as made:
        read_until(made, b"data: ")
        assert served.in_flight() == 1
    served.until(lambda: is_idle(served), "the work is cancelled")


def test_a_client_that_drops_while_it_waits_for_a_whole_answer_has_its_work_cancelled(served):
    with served.post(PATH, LONG):
        served.until(lambda: served.in_flight() == 1, "the work is under way")
    served.until(lambda: is_idle(served), "the work is cancelled")


def test_a_client_that_resets_its_connection_while_queued_leaves_the_queue(served):
    with served.post(PATH, LONG | {"stream": True}) as first:
        read_until(first, b"data: ")
        second = served.post(PATH, LONG | {"stream": True})
        served.until(lambda: served.in_flight() == 2, "the second is queued")
        second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        second.close()
        served.until(lambda: served.in_flight() == 1, "the second is gone")
    served.until(lambda: is_idle(served), "the first is gone")


def test_who_waits_in_a_queue_is_kept_alive_and_told_its_place(served):
    with served.post(PATH, LONG | {"stream": True}) as first:
        read_until(first, b"data: ")
        with served.post(PATH, SHORT | {"stream": True}) as second:
            read_until(second, b": keep-alive\n\n")
        with served.post(PATH, SHORT | {"stream": True}, X_Agentix_Progress="1") as third:
            read_until(third, b'"state": "queued"')
            read_until(third, b'"position": ')
    served.until(lambda: is_idle(served), "all are gone")


def test_a_retry_does_not_wait_behind_its_dropped_twin_and_finds_its_conversation(served):
    long_talk = TALK | {"max_tokens": 1500, "ignore_eos": True, "stream": True}
    with served.post(CHAT, long_talk) as first:
        read_until(first, b"data: ")
    status, body = finish(served, CHAT, TALK)
    assert status == 200
    served.until(lambda: is_idle(served), "the twin is gone")
    status, body = finish(served, CHAT, TALK)
    assert json.loads(body)["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64


def test_a_short_prompt_without_a_key_leaves_no_task(served):
    before = set(served.tasks())
    assert finish(served, PATH, SHORT)[0] == 200
    served.until(lambda: set(served.tasks()) <= before, "its task has ended")


def test_a_key_is_one_task_and_a_group_another(served):
    for headers in ({}, {}, {"X_Agentix_Group": "night"}):
        assert (
            finish(served, PATH, SHORT, Authorization="Bearer sk-one-key-123", **headers)[0] == 200
        )
    (name,) = [name for name in served.tasks() if name.startswith("key-") and "/" not in name]
    assert served.tasks()[name]["requests"] == 2
    assert served.tasks()[f"{name}/night"]["requests"] == 1


def test_a_priority_is_its_tasks_nice(served):
    assert (
        finish(served, PATH, SHORT, Authorization="Bearer sk-nice-key-1", X_Agentix_Priority="7")[0]
        == 200
    )
    assert 7 in {row["priority"] for row in served.tasks().values()}


def test_a_task_that_is_killed_is_made_anew(served):
    headers = {"Authorization": "Bearer sk-killed-key-1"}
    before = set(served.tasks())
    assert finish(served, PATH, SHORT, **headers)[0] == 200
    (name,) = set(served.tasks()) - before
    with served.post(PATH, LONG | {"stream": True}, **headers) as made:
        read_until(made, b"data: ")
        served.machine.call("proc.kill", pid=served.tasks()[name]["pid"], signal="KILL")
        read_until(made, b'"error"')
    assert finish(served, PATH, SHORT, **headers)[0] == 200


def test_more_requests_than_a_key_may_have_are_told_when_to_come_again(served):
    headers = {"Authorization": "Bearer sk-greedy-key-1"}
    held = [served.post(PATH, LONG | {"stream": True}, **headers) for _ in range(64)]
    served.until(lambda: served.in_flight() == 64, "64 are in flight")
    with served.post(PATH, SHORT, Connection="close", **headers) as made:
        answer = read_until(made, b"}}")
    assert b"429" in answer.splitlines()[0]
    assert b"retry-after: " in answer.lower()
    for one in held:
        one.close()
    served.until(lambda: is_idle(served), "all are gone")


def test_one_request_for_more_answers_than_a_task_may_have_in_flight_is_refused_whole(served):
    several = SHORT | {"prompt": ["a"] * 10, "n": 11}
    got, answer = finish(served, PATH, several)
    assert got == 429
    assert json.loads(answer)["error"]["message"]
    served.until(lambda: is_idle(served), "those that were accepted are gone")


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"{", 400, "the body is no JSON"),
        (b"", 400, "the body is no JSON"),
        (b"[1]", 400, "the body is a list, wanted a JSON object"),
        (b'{"prompt": NaN}', 400, "NaN is no JSON"),
        (b'{"prompt": "\\ud800"}', 400, "prompt is '\\ud800', wanted text"),
        (b'{"prompt": "a", "seed": 1e400}', 400, "seed is inf, wanted a whole number"),
        (
            b'{"prompt": "a", "max_tokens": 99999999999999999999999}',
            400,
            "max_tokens is 99999999999999999999999",
        ),
        (b"[" * 100_000, 400, "the body is no JSON"),
        (b'{"prompt": "' + b"a" * (9 << 20) + b'"}', 413, "the body is longer than"),
        (b'{"prompt": [0.5]}', 400, "prompt is [0.5], wanted text, token ids"),
        (b'{"prompt": [4294967295]}', 400, "4294967295"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_nonsense_is_refused_with_a_reason(served, body, status, text):
    got, answer = finish(served, PATH, body)
    assert got == status
    assert text in json.loads(answer)["error"]["message"]


def test_unknown_paths_and_methods_are_refused_in_the_shape_of_their_api(served):
    for path, shape in (("/v1/nothing", dict), ("/api/nothing", str)):
        status, answer = finish(served, path, {})
        assert status == 404
        assert isinstance(json.loads(answer)["error"], shape)


def test_health_and_metrics_are_told(served):
    with urllib.request.urlopen(f"{served.url}/healthz", timeout=10) as answer:
        assert json.load(answer)["status"] == "ok"
    with urllib.request.urlopen(f"{served.url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert "agentix_generated_tokens_total{" in text
    assert "agentix_kernel_steps " in text


def test_many_clients_of_whom_some_drop_leave_nothing_behind(served):
    served.until(lambda: is_idle(served), "nothing is in flight")
    descriptors = served.descriptors()
    made = []
    for number in range(60):
        body = SHORT | {"prompt": f"number {number} " * 20, "stream": number % 2 == 0}
        made.append(served.post(PATH, body, Connection="close"))
        if number % 5 == 0:
            made.pop().close()
    assert {read_all(one)[0] for one in made} == {200}
    for one in made:
        one.close()
    served.until(lambda: is_idle(served), "nothing is in flight")
    served.until(lambda: served.descriptors() <= descriptors, "no descriptor is left")
    slots = served.machine.call("sys.stat")
    assert not slots["requests"]


def test_a_dead_core_is_not_noticed_by_a_stream(served):
    asked = LONG | {"max_tokens": 200, "return_token_ids": True}
    _, whole = finish(served, PATH, asked)
    with served.post(PATH, asked | {"stream": True}, Connection="close") as made:
        answer = read_until(made, b"data: ")
        os.kill(served.machine.core_pid(), signal.SIGKILL)
        answer += read_until(made, b"[DONE]")
    events = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith(b"data: {")]
    ids = [token for event in events for token in event["choices"][0]["token_ids"]]
    assert ids == json.loads(whole)["choices"][0]["token_ids"]


# -- keys, and the end of things ------------------------------------------------------------------

KEYS = """
[default]
is_allowed = false
[models]
"gpt-4o" = "{model}"
[keys.alice]
secret = "sk-alice-secret"
priority = -5
max_in_flight = 2
[keys.bob]
secret = "sk-bob-secret-1"
group = "batch"
deadline_ms = 30
"""


@pytest.fixture
def keyed(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(KEYS.format(model="chat"))
    from benchmarks.models import model_path

    with gateway(
        "--keys", str(path), slots=2, models=[{"name": "chat", "path": str(model_path())}]
    ) as made:
        yield made


def test_a_file_of_keys_says_who_may_call_and_how(keyed):
    assert finish(keyed, PATH, SHORT)[0] == 401
    assert finish(keyed, PATH, SHORT, Authorization="Bearer sk-stranger-12")[0] == 401
    alice = {"Authorization": "Bearer sk-alice-secret"}
    assert finish(keyed, PATH, SHORT | {"model": "gpt-4o"}, **alice)[0] == 200
    assert keyed.tasks()["alice"]["priority"] == -5
    assert finish(keyed, PATH, LONG, Authorization="Bearer sk-bob-secret-1")[0] == 504
    assert "bob/batch" in keyed.tasks()


def test_a_program_gets_a_key_that_ends_with_it(keyed):
    door = rundir.find(keyed.machine.name)
    assert door.url == keyed.url
    assert (rundir.path_of(keyed.machine.name).stat().st_mode & 0o777) == 0o600
    with keyed.post(
        "/agentix/keys", {"name": "x"}, Authorization="Bearer wrong", Connection="close"
    ) as made:
        assert read_all(made)[0] == 401
    program = (
        "import json, os, urllib.request as u;"
        "body = json.dumps({'prompt': 'once', 'max_tokens': 3}).encode();"
        "ask = u.Request(os.environ['OPENAI_BASE_URL'] + '/completions', body);"
        "ask.add_header('Authorization', 'Bearer ' + os.environ['OPENAI_API_KEY']);"
        "print(json.load(u.urlopen(ask))['object']); raise SystemExit(7)"
    )
    command = [
        sys.executable,
        "-m",
        "agentix.cli",
        "run",
        "--kernel",
        keyed.machine.name,
        "--name",
        "prog",
        "--",
    ]
    done = subprocess.run(
        [*command, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("text_completion\n", 7), done.stderr
    keyed.until(lambda: "prog" not in keyed.tasks(), "its task has ended")


def test_a_program_without_a_gateway_is_told_how_to_get_one(tmp_path):
    command = [sys.executable, "-m", "agentix.cli", "run", "--kernel", "nobody", "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 9
    assert "agentix up --http" in done.stderr


def test_a_kernel_that_dies_takes_the_gateway_along_and_no_client_waits():
    with gateway(slots=1) as served:
        process = psutil.Process(served.pid)
        with served.post(PATH, LONG | {"stream": True}) as made:
            read_until(made, b"data: ")
            served.machine.kernel.kill()
            while made.recv(65536):
                pass
        process.wait(30)


def test_a_gateway_that_is_asked_to_end_lets_requests_finish():
    with gateway(slots=1) as served:
        with served.post(
            PATH, LONG | {"max_tokens": 60, "stream": True}, Connection="close"
        ) as made:
            read_until(made, b"data: ")
            os.kill(served.pid, signal.SIGTERM)
            assert read_until(made, b"[DONE]")
        assert served.machine.wait(served.pid)["status"] == 0
        assert not rundir.path_of(served.machine.name).exists()
