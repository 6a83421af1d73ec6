"""Frameworks for agents, unmodified: each has two agents do a task by a tool, beside 30 other agents.

The kernel, its scheduling, the gateway and the frameworks are real; the model is actor_engine.py's, which follows
orders, for one with random weights cannot. Judged by what is in the ledger at the end.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gateways import gateway
from live import ROOT

openai = pytest.importorskip("openai")

PROGRAMS = Path(__file__).parent / "frameworks"
OTHERS, ROUNDS = 30, 3
PATIENCE_S = 120.0
PAIRS = {
    "langchain": "langchain_openai",
    "agents_sdk": "agents",
    "smolagents": "smolagents",
    "autogen": "autogen_agentchat",
    "ollama": "ollama",
}


def order_for(item: str) -> str:
    return "CALL delegate " + json.dumps({"task": "CALL add_entry " + json.dumps({"item": item})})


async def other(url: str, number: int, until: asyncio.Event) -> int:
    """An agent that has its own conversation as long as the frameworks work; return how many turns it had."""
    tool = {
        "type": "function",
        "function": {"name": "note", "description": "", "parameters": {"type": "object"}},
    }
    turns = 0
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key=f"sk-other-{number:06}", max_retries=2
    ) as client:
        messages: list[dict] = [{"role": "user", "content": f'CALL note {{"n": {number}}}'}]
        while turns < ROUNDS or not until.is_set():
            answer = await client.chat.completions.create(
                model="actor", messages=messages, tools=[tool]
            )
            (call,) = answer.choices[0].message.tool_calls
            assert json.loads(call.function.arguments) == {"n": number}
            result = {"role": "tool", "tool_call_id": call.id, "content": f"noted {number}"}
            asked = [*messages, answer.choices[0].message.model_dump(), result]
            end = await client.chat.completions.create(model="actor", messages=asked, tools=[tool])
            assert end.choices[0].message.content == f"DONE noted {number}"
            turns += 1
    return turns


async def run_all(served, folder: Path) -> dict[str, tuple[int, str, str]]:
    """Run every framework at once beside the others; return each one's status, output and errors."""
    until = asyncio.Event()
    others = [asyncio.ensure_future(other(served.url, number, until)) for number in range(OTHERS)]
    ran = dict(
        zip(
            PAIRS,
            await asyncio.gather(*(run_one(served, folder, name) for name in PAIRS)),
            strict=True,
        )
    )
    until.set()
    assert min(await asyncio.gather(*others)) >= ROUNDS
    return ran


async def run_one(served, folder: Path, name: str) -> tuple[int, str, str]:
    ledger = folder / f"{name}.txt"
    ledger.write_text("")
    program = [
        sys.executable,
        str(PROGRAMS / f"{name}_pair.py"),
        str(ledger),
        "actor",
        order_for(f"apples of {name}"),
    ]
    command = [
        sys.executable,
        "-m",
        "agentix.cli",
        "run",
        "--kernel",
        served.machine.name,
        "--name",
        name,
        "--",
        *program,
    ]
    quiet = {
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "DO_NOT_TRACK": "1",
        "LANGSMITH_TRACING": "false",
        "HF_HUB_OFFLINE": "1",
    }
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | quiet, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        out, errors = await process.communicate()
    return process.returncode or 0, out.decode(), errors.decode()


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ledgers")
    missing = [name for name in PAIRS.values() if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} are not installed: `make test` does that")
    fields = {
        "models": [{"name": "actor", "path": "actor"}],
        "slots": 6,
        "slot_tokens": 1 << 15,
        "window_tokens": 1 << 17,
    }
    engine = ("--engine", "tests.system.actor_engine:ActorEngine")
    with gateway(engine=engine, prefill_tokens=1 << 14, quantum_tokens=8, **fields) as served:
        yield folder, asyncio.run(run_all(served, folder)), served.machine.call("sys.stat")


@pytest.mark.parametrize("name", PAIRS)
def test_two_agents_of_a_framework_do_a_task_beside_thirty_others(ran, name):
    folder, results, _ = ran
    status, out, errors = results[name]
    assert status == 0, errors
    assert (folder / f"{name}.txt").read_text() == f"apples of {name}\n"
    assert "DONE" in out


def test_the_agents_took_turns_on_the_model(ran):
    assert ran[2]["switches"] > 0
