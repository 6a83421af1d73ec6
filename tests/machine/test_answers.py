"""What the kernel really answers has every field of the frozen answers: replies grow, they never shrink."""

from __future__ import annotations

from pathlib import Path

import pytest
from machine import Machine

from kernel.abi.calls import CALLS
from kernel.abi.codec import decode_answer
from kernel.events import ProcessSample

FROZEN = Path(__file__).parents[1] / "abi" / "v2"


def keys(value: object) -> object:
    """The shape of a body: its keys, and those of the first of a list."""
    if isinstance(value, dict):
        return {key: keys(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [keys(item) for item in value[:1]]
    return None


def has(found: object, wanted: object) -> bool:
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(key in found and has(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return isinstance(found, list) and all(has(*pair) for pair in zip(found, wanted, strict=False))
    return True


def answers() -> dict[str, dict]:
    machine = Machine.of_three()
    peer, operator = machine.agent("a"), machine.operator()
    found = {"sys.hello": peer.reply(1)}
    under_way = peer.call("llm.generate", prompt="hello", max_tokens=3)
    calls = {
        "sys.info": peer.call("sys.info"),
        "sys.stat": peer.call("sys.stat"),
        "llm.generate": peer.call("llm.generate", prompt="hello", max_tokens=3, ignore_end=True),
        "llm.generate.chat": peer.call(
            "llm.generate", messages=[{"role": "user", "content": "a"}], max_tokens=3, logprobs=1, ignore_end=True
        ),
        "llm.embed": peer.call("llm.embed", texts=["a"]),
        "llm.models": peer.call("llm.models"),
        "llm.tokenize": peer.call("llm.tokenize", text="ab"),
        "llm.detokenize": peer.call("llm.detokenize", tokens=[1]),
        "llm.cancel": peer.call("llm.cancel", call=99),
        "sys.slots": peer.call("sys.slots"),
        "llm.status": peer.call("llm.status", call=under_way),
        "proc.spawn": peer.call("proc.spawn", script="a.py"),
        "proc.exit": peer.call("proc.exit"),
        "proc.kill": peer.call("proc.kill", pid=peer.pid),
        "proc.ps": peer.call("proc.ps"),
        "proc.logs": peer.call("proc.logs", pid=peer.pid),
        "ipc.send": peer.call("ipc.send", to=peer.pid, data=b"x"),
        "ipc.recv": peer.call("ipc.recv"),
        "mem.create": peer.call("mem.create", name="a", size_bytes=1),
        "mem.stat": peer.call("mem.stat"),
        "mem.unlink": peer.call("mem.unlink", name="a"),
        "sched.setattr": peer.call("sched.setattr", nice=1),
        "sched.getattr": peer.call("sched.getattr"),
        "sched.getpolicies": peer.call("sched.getpolicies"),
        "sched.hint": peer.call("sched.hint", remaining_tokens=1),
        "sched.stat": peer.call("sched.stat"),
        "sys.pressure": peer.call("sys.pressure"),
        "ctx.open": peer.call("ctx.open"),
        "ctx.fork": peer.call("ctx.fork", session=1),
        "ctx.list": peer.call("ctx.list"),
        "ctx.stat": peer.call("ctx.stat"),
        "ctx.open.durable": peer.call("ctx.open", name="a", durable=True),
        "ctx.commit": peer.call("ctx.commit", session=2),
        "ctx.close": peer.call("ctx.close", session=1),
        "group.create": operator.call("group.create", path="/a"),
        "group.setattr": operator.call("group.setattr", path="/a", attr={}),
        "group.attach": operator.call("group.attach", path="/a", pid=peer.pid),
        "group.stat": peer.call("group.stat"),
        "log.write": peer.call("log.write", text="x"),
    }
    child = machine.launched()
    machine.run()
    full = peer.ask("ctx.open", window="drop")["session"]
    for _ in range(3):
        turn = {"messages": [{"role": "user", "content": "a" * 200}], "max_tokens": 3}
        calls["llm.generate.dropped"] = peer.call("llm.generate", session=full, **turn)
        machine.run()
    machine.event(ProcessSample(machine.now_ns, ()))
    machine.ends(child)
    calls["proc.wait"] = peer.call("proc.wait")
    talk = peer.ask("ctx.open")["session"]
    peer.call("llm.generate", session=talk, messages=[{"role": "user", "content": "a"}], max_tokens=3)
    machine.run()
    calls["ctx.messages"] = peer.call("ctx.messages", session=talk)
    by = {method: operator if method[:8] in ("group.cr", "group.se", "group.at") else peer for method in calls}
    found |= {method: by[method].reply(call) for method, call in calls.items()}
    operator.ask("group.attach", path="/", pid=peer.pid)
    found["group.remove"] = operator.ask("group.remove", path="/a")
    found["task.create"] = operator.ask("task.create")
    return found | {"sys.shutdown": operator.ask("sys.shutdown")}


ANSWERS = answers()


@pytest.mark.parametrize("path", sorted(FROZEN.glob("*.reply.hex")), ids=lambda path: path.name)
def test_an_answer_has_every_field_that_its_frozen_one_has(path):
    frozen = decode_answer(bytes.fromhex(path.read_text()))
    form = path.name.removesuffix(".reply.hex")
    method = ".".join(form.split(".")[:2])
    if method == "sys.stat":
        frozen.body["requests"] = {}
    assert has(keys(ANSWERS.get(form, ANSWERS[method])), keys(frozen.body))


def test_every_field_of_an_answer_is_documented():
    lists = {"proc.ps": "tasks", "llm.models": "models", "ctx.list": "sessions", "ctx.stat": "models"}
    missing = {
        f"{form}: {key}"
        for form, body in ANSWERS.items()
        for key in (*body, *(body[lists[form]][0] if form in lists else ()))
        if form not in ("sched.setattr", "group.create", "group.setattr")
        and key not in (CALLS[".".join(form.split(".")[:2])].__doc__ or "")
    }
    assert missing == set()
