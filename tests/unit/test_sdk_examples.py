"""The example agents against a scripted kernel: that they run, what they report, and how they misbehave."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_sdk_fake_kernel import PATIENCE_S, reply_of, running_kernel

from agentix.cli.figures import own_report
from kernel.abi import codec

AGENTS = Path(__file__).resolve().parents[2] / "agents"
SCRIPTS = sorted(AGENTS.glob("*.py"))


@pytest.fixture
def kernel():
    with running_kernel() as fake:
        fake.on["llm.generate"] = lambda call: call.reply(reply_of("two words"))
        yield fake


def start(kernel, script, *args):
    env = os.environ | {"AGENTIX_KERNEL": kernel.name, "PYTHONPATH": str(AGENTS)}
    command = [sys.executable, str(AGENTS / script), *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def generated(kernel):
    return [call.body for call in kernel.seen if call.method == "llm.generate"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_examples_are_short_and_say_what_they_are(script):
    text = script.read_text()
    assert text.startswith('"""')
    assert len(text.splitlines()) < 80


def test_the_agents_folder_is_no_package():
    assert not (AGENTS / "__init__.py").exists()


def test_hello_prints_its_prompt_and_the_pieces_as_they_come(kernel):
    def answer(call):
        call.chunk(0, " there")
        call.reply(reply_of(" there"))

    kernel.on["llm.generate"] = answer
    assert finish(start(kernel, "hello.py", "Hello")) == (0, "Hello there\n", "")


def test_chat_keeps_what_was_said_and_uses_another_seed_each_turn(kernel):
    status, out, _ = finish(start(kernel, "chat.py", 5, 2, 7))
    first, second = generated(kernel)
    assert (status, own_report(out)["turns"]) == (0, 2)
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][1]["content"] == "two words"
    assert [(body["seed"], body["max_tokens"]) for body in (first, second)] == [(5, 7), (6, 7)]


def test_react_acts_with_a_tool_and_reads_the_observation_in_the_next_turn(kernel):
    kernel.on["llm.generate"] = lambda call: call.reply(reply_of("let me count this"))
    status, out, _ = finish(start(kernel, "react.py", 1, 2))
    assert (status, own_report(out)["turns"]) == (0, 2)
    assert "Action: count\nObservation: that was 4 words\n" in generated(kernel)[1]["prompt"]


def likely(call):
    """An answer whose likelihood follows from its seed."""
    seed = call.body["seed"]
    logprobs = [{"token": 5, "logprob": -((seed * 7) % 5 + 1.0), "top": []}]
    call.reply(reply_of(f"seed {seed}") | {"chat_format": "hermes", "logprobs": logprobs})


@pytest.fixture
def forking(kernel):
    numbers = itertools.count(2)
    kernel.on |= {
        "llm.generate": likely,
        "ctx.open": lambda call: call.reply({"session": 1}),
        "ctx.fork": lambda call: call.reply({"sessions": [next(numbers) for _ in range(call.body["count"])]}),
        "ctx.commit": lambda call: call.reply({"session": 1}),
        "ctx.close": lambda call: call.reply({}),
    }
    return kernel


def test_best_of_goes_on_with_the_likeliest_of_its_forks(forking):
    status, out, err = finish(start(forking, "best_of.py", 1, 2, 9, 3))
    assert (status, own_report(out)["turns"]) == (0, 3), err
    bodies = generated(forking)
    for begin in (1, 4):
        tried = bodies[begin : begin + 3]
        best = min(tried, key=lambda body: (body["seed"] * 7) % 5)
        committed = [call.body["session"] for call in forking.seen if call.method == "ctx.commit"]
        assert committed[begin // 4] == best["session"]
        assert f"seed {best['seed']}" in out


def test_tree_search_closes_what_it_does_not_follow_and_keeps_its_width(forking):
    status, out, err = finish(start(forking, "tree_search.py", 1, 3, 9, 2))
    assert (status, own_report(out)["turns"]) == (0, 4), err
    assert "best of 2" in out
    assert out.count("best of 4") == 2
    closed = [call.body["session"] for call in forking.seen if call.method == "ctx.close"]
    assert len(closed) == len(set(closed)) == 0 + 2 + 2 + 1  # the last is the conversation itself


def test_equal_texts_have_equal_digests_and_other_texts_others(kernel):
    digests = [own_report(finish(start(kernel, "chat.py", 1, 1))[1])["text_sha256"] for _ in range(2)]
    kernel.on["llm.generate"] = lambda call: call.reply(reply_of("other words"))
    digests.append(own_report(finish(start(kernel, "chat.py", 1, 1))[1])["text_sha256"])
    assert digests[0] == digests[1] != digests[2]


def test_a_worker_answers_each_task_until_it_is_sent_none(kernel):
    tasks = [{"task": "a"}, {"task": "b"}, None]
    kernel.on["ipc.recv"] = lambda call: call.reply({"sender": 9, "data": codec.pack(tasks.pop(0))})
    kernel.on["ipc.send"] = lambda call: call.reply({})
    status, out, _ = finish(start(kernel, "worker.py", 1))
    assert (status, own_report(out)["turns"]) == (0, 2)
    sent = [call.body for call in kernel.seen if call.method == "ipc.send"]
    assert [(body["to"], codec.unpack(body["data"])) for body in sent] == [(9, {"answer": "two words"})] * 2


def test_a_planner_spawns_workers_and_sums_up_their_answers_in_their_order(kernel):
    pids, senders = [11, 12], [12, 11]
    report = f"agentix-report {json.dumps({'turns': 1, 'text_sha256': 'ab'})}\n"

    def end(call):
        fields = {"name": "w", "status": 0, "signal": None, "reason": "", "tail": report, "usage": {}}
        call.reply({"pid": call.body["pid"], **fields})

    def mail(call):
        sender = senders.pop(0)
        call.reply({"sender": sender, "data": codec.pack({"answer": f"from {sender}"})})

    kernel.on |= {
        "proc.spawn": lambda call: call.reply({"pid": pids.pop(0)}),
        "proc.wait": end,
        "ipc.recv": mail,
        "ipc.send": lambda call: call.reply({}),
    }
    status, out, _ = finish(start(kernel, "planner.py", 1, 1, 5, 2))
    assert status == 0
    assert "from 11 / from 12" in generated(kernel)[0]["prompt"]
    children = own_report(out)["children"]
    assert [(child["pid"], child["turns"], child["text_sha256"]) for child in children] == [
        (11, 1, "ab"),
        (12, 1, "ab"),
    ]


def test_crasher_prints_and_dies_of_its_exception_with_a_request_in_flight(kernel):
    status, out, err = finish(start(kernel, "crasher.py"))
    assert (status, out) == (1, "two words\n")
    assert err.endswith("RuntimeError: crasher crashed, as it does\n")
    assert "proc.exit" not in [call.method for call in kernel.seen]


def test_hog_burns_for_its_time_and_then_sleeps_until_it_is_killed(kernel):
    with start(kernel, "hog.py", 0.01) as process:
        assert process.stdout.readline() == "hog 77 burns for 0.01 s\n"
        assert process.stdout.readline().startswith("hog 77 behaves again")
        process.kill()


def test_flooder_sends_everything_without_reading(kernel):
    kernel.on["proc.ps"] = lambda call: None
    kernel.on["llm.generate"] = lambda call: None
    assert finish(start(kernel, "flooder.py", 500)) == (0, "flooder sent 500 calls\n", "")
    kernel.wait_seen("proc.ps")
