"""The bytes of every call and answer of protocol version 2, frozen in v2/*.hex.

A file has one message, which is one frame, in hex. A change here is a change of the protocol: it needs a
new version and a folder of its own, not new bytes in this one. `python tests/abi/test_golden_frames.py`
writes the files of calls that are new.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kernel.abi.calls import CALLS, validate
from kernel.abi.codec import (
    MAGIC,
    PROTOCOL_VERSION,
    Call,
    decode_answer,
    decode_call,
    encode_answer,
    encode_call,
    encode_error,
)
from kernel.abi.errors import Errno, KernelError

FOLDER = Path(__file__).parent / "v2"

USAGE = {
    "requests": 1, "prompt_tokens": 2, "generated_tokens": 3, "recomputed_tokens": 0, "switches": 1,
    "restores": 1, "switch_bytes": 4096, "wait_s": 0.5, "ttft_s": 0.25, "calls": 9, "cpu_s": 0.125,
    "rss_bytes": 8192,
}  # fmt: skip

GROUP = {
    "path": "/a",
    "attr": {
        "policy": "", "params": {}, "policies": [], "weight": 200, "min_share": 0.0, "max_share": 1.0,
        "slice_ms": None, "gap": None, "starve_ms": None, "kv_tokens": None, "tasks": None, "requests": None,
        "tokens": None, "turns": None, "wall_ms": None, "max_wait_ms": None,
    },
    "tasks": 1, "runnable": 1, "requests": 1, "attained_s": 0.5,
    "used": {"tokens": 3, "turns": 1, "wall_s": 0.5, "kv_tokens": 64},
}  # fmt: skip
PRESSURE = {
    kind: {"avg10": 12.5, "avg60": 6.25, "avg300": 3.125, "total_s": 0.5} for kind in ("some", "full")
}

EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sys.hello": (
        {"version": 2, "name": "writer"},
        {
            "version": 2, "pid": 101, "kernel_pid": 1, "connection": 7, "model": "/m.gguf",
            "window_tokens": 2048, "policy": "rr",
        },
    ),
    "sys.info": (
        {},
        {
            "version": 2, "model": "/m.gguf", "description": "llama", "is_ready": True, "slots": 8,
            "window_tokens": 2048, "threads": 2, "policy": "rr", "tasks": 3,
            "uptime_s": 1.5, "kernel_pid": 1, "core_pid": 2, "core_restarts": 0, "extra_buffers": True,
            "flash_attention": True,
        },
    ),
    "sys.stat": (
        {},
        {
            "steps": 7, "core_busy_s": 0.5, "generated_tokens": 3, "prompt_tokens": 2,
            "recomputed_tokens": 0, "switches": 1, "held_preemptions": 0, "restores": 1,
            "failed_restores": 0, "dropped_contexts": 0, "switch_bytes": 4096, "switch_s": 0.25,
            "core_restarts": 0, "bad_messages": 0, "throttled": 0, "segment_bytes": 65536,
            "snapshot_bytes": 0, "requests": {"running": 1},
        },
    ),
    "sys.shutdown": ({}, {}),
    "llm.generate": (
        {
            "prompt": "Once", "max_tokens": 16, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 7,
            "stop": ["\n"], "ignore_end": False, "stream": True,
        },
        {
            "text": " upon", "tokens": [5, 6], "finish_reason": "length",
            "usage": {"prompt_tokens": 2, "generated_tokens": 2},
            "timings": {
                "queued_s": 0.5, "first_token_s": 0.75, "wait_s": 0.5, "total_s": 1.0, "core_s": 0.25,
                "switches": 1, "restores": 1, "recomputed_tokens": 0,
            },
        },
    ),
    "llm.cancel": ({"call": 6}, {"cancelled": True}),
    "llm.tokenize": ({"text": "ab", "with_special": False}, {"tokens": [97, 98]}),
    "llm.detokenize": ({"tokens": [97, 98]}, {"text": "ab"}),
    "task.create": ({"name": "a", "priority": 5, "group": "/a"}, {"pid": 4194305}),
    "proc.spawn": (
        {
            "script": "a.py", "args": ["1"], "name": "a", "env": {"A": "b"}, "cwd": "/tmp",
            "priority": 5, "group": "/a",
            "capabilities": ["task.create"],
        },
        {"pid": 102},
    ),
    "proc.exit": ({"status": 3}, {}),
    "proc.wait": (
        {"pid": 102, "timeout_ms": 1000},
        {
            "pid": 102, "name": "a", "status": None, "signal": 9, "reason": "signal SIGKILL",
            "tail": "last line", "usage": USAGE,
        },
    ),
    "proc.kill": ({"pid": 102, "signal": "STOP"}, {}),
    "proc.ps": (
        {},
        {
            "tasks": [
                {
                    "pid": 102, "ppid": 101, "name": "a", "has_process": True, "state": "running",
                    "waits_for": "llm.generate", "priority": 0, "cpu_percent": 1.5, "throttled": False,
                    "in_flight": 1, "age_s": 2.0, "status": None, "signal": None, **USAGE,
                }
            ]
        },
    ),
    "proc.logs": ({"pid": 102}, {"pid": 102, "name": "a", "text": "a line\n"}),
    "ipc.send": ({"to": 102, "data": b"\x00\xff", "timeout_ms": 0}, {}),
    "ipc.recv": ({"timeout_ms": None}, {"sender": 101, "data": b"\x00\xff"}),
    "mem.create": (
        {"name": "a", "size_bytes": 4096},
        {"name": "a", "size_bytes": 4096, "segment": 3},
    ),
    "mem.stat": (
        {},
        {
            "segments": [{"name": "a", "size_bytes": 4096, "segment": 3}], "used_bytes": 4096,
            "limit_bytes": 268435456,
        },
    ),
    "mem.unlink": ({"name": "a"}, {}),
    "sched.setattr": (
        {
            "pid": 102, "policy": "plas", "nice": 5, "weight": 50, "slice_ms": 20, "sched_class": "batch",
            "rt_priority": 1, "quota": {"tokens": 9},
        },
        {
            "pid": 102, "group": "/", "policy": "plas", "nice": 5, "weight": 50, "slice_ms": 20,
            "sched_class": "batch", "rt_priority": 1, "quota": {},
        },
    ),
    "sched.getattr": (
        {"pid": 0},
        {
            "pid": 101, "group": "/", "policy": "rr", "nice": 0, "weight": 100, "slice_ms": None,
            "sched_class": "fair", "rt_priority": 1, "quota": {},
        },
    ),
    "sched.getpolicies": (
        {},
        {
            "policies": [{"name": "rr", "doc": "Round robin.", "params": {}}],
            "classes": [{"name": "fair", "doc": "Shares.", "floor": 0.05}], "current": "rr",
        },
    ),
    "log.write": ({"text": "a line"}, {}),
    "llm.embed": (
        {"texts": ["ab", "你"], "model": "embed"},
        {"vectors": [b"\0\0\x80?\0\0\0\0", b"\0\0\0\0\0\0\x80?"], "width": 2},
    ),
    "llm.models": (
        {},
        {
            "models": [
                {
                    "name": "chat", "path": "/m.gguf", "description": "llama", "family": "dense",
                    "exactness": "exact", "state": "ready", "reason": "", "window_tokens": 8192,
                    "chat_format": "hermes", "takes_tools": True, "embedding_width": 0, "devices": "CPU",
                    "slots": 10,
                }
            ]
        },
    ),
    "llm.status": (
        {"call": 6},
        {
            "state": "queued", "position": 2, "expected_wait_s": 0.5, "prompt_tokens": 9, "fed_tokens": 0,
            "cached_tokens": 0, "generated_tokens": 0,
        },
    ),
    "sys.slots": (
        {},
        {"models": [{"name": "chat", "banks": [{"window_tokens": 512, "slots": 2, "held": [[0, 7, 99, "write"]]}]}]},
    ),
    "sched.hint": ({"remaining_tokens": 40}, {}),
    "sched.stat": (
        {"pid": 101},
        {
            "pid": 101, "group": "/", "policy": "eevdf", "sched_class": "fair", "weight": 100,
            "attained_s": 0.5, "lag_s": -0.125, "wait_s": 0.5, "longest_wait_s": 0.25, "waits_now_s": 0.0,
            "stage": "", "switches": 1, "rescues": 0, "bound_s": 9.5,
            "bound": {
                "starve_s": 1.5, "tasks": 64, "rows": 8, "lease_s": 0.5, "step_s": 0.25, "reads_s": 0.5,
                "switch_s": 0.125, "banks_s": 0.0,
            },
            "why": "task 101 (a) waited 0.25 s: its turn by eevdf was over; its turn by eevdf came",
        },
    ),
    "group.create": ({"path": "/a", "attr": {"weight": 200}}, GROUP),
    "group.setattr": ({"path": "/a", "attr": {"weight": 200}}, GROUP),
    "group.attach": ({"path": "/a", "pid": 101}, {}),
    "group.remove": ({"path": "/a"}, {}),
    "group.stat": ({"path": "/a"}, {"groups": [GROUP]}),
    "sys.pressure": ({}, {"models": [{"name": "m", "slots": PRESSURE, "kv": PRESSURE}]}),
    "ctx.open": ({"model": "chat"}, {"session": 3}),
    "ctx.close": ({"session": 3}, {}),
    "ctx.fork": ({"session": 3, "count": 2}, {"sessions": [4, 5]}),
    "ctx.commit": ({"session": 4}, {"session": 3}),
    "ctx.list": (
        {"pid": 101, "after": 2},
        {
            "more": False, "sessions": [
                {
                    "session": 3, "pid": 101, "model": "chat", "turns": 2, "messages": 3, "tokens": 97,
                    "where": "memory", "kv_bytes": 65536, "idle_s": 1.5,
                }
            ]
        },
    ),
    "ctx.stat": (
        {},
        {
            "models": [
                {
                    "name": "chat", "token_bytes": 23040, "waiting": 1, "written_bytes": 1 << 30, "read_bytes": 4096,
                    "tiers": [
                        {"tier": "slot", "contexts": 2, "bytes": 46080, "limit_bytes": 1 << 30},
                        {"tier": "memory", "contexts": 3, "bytes": 65536, "limit_bytes": 1 << 28},
                        {"tier": "disk", "contexts": 1, "bytes": 65536, "limit_bytes": 1 << 33},
                    ],
                }
            ]
        },
    ),
    "ctx.messages": (
        {"session": 3, "after": 1},
        {
            "messages": [{"role": "user", "content": "你"}], "more": False,
            "answer": {"text": "a", "chat_format": "hermes", "opens_reasoning": False},
        },
    ),
}  # fmt: skip


# What calls can say besides, each as one more file.
TOKENS = {"tokens": b"\x05\0\0\0\x06\0\0\0", "max_tokens": 1}
MESSAGES = {"messages": [{"role": "user", "content": "你"}], "max_tokens": 1}
SAMPLED = {
    "prompt": "Once", "model": "chat", "min_p": 0.05, "typical_p": 0.9, "repeat_penalty": 1.1,
    "presence_penalty": 0.5, "frequency_penalty": -0.5, "penalty_tokens": 32, "logit_bias": {"5": -100, "6": 0.5},
    "logprobs": 2, "grammar": 'root ::= "a"', "special": True,
}  # fmt: skip
CHAT = {
    "messages": [
        {"role": "user", "content": "你"},
        {
            "role": "assistant", "content": None, "reasoning_content": "hm",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "5", "tool_call_id": "1", "name": "f"},
    ],
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "thinking": False,
    "json_schema": '{"type": "object"}',
}  # fmt: skip
FORMS: dict[str, Call] = {
    "llm.generate.sampling.call": Call(1, "llm.generate", SAMPLED),
    "llm.generate.chat.call": Call(1, "llm.generate", CHAT),
    "llm.generate.json-tools.call": Call(1, "llm.generate", CHAT | {"tools": '[{"type": "function"}]'}),
    "llm.tokenize.model.call": Call(1, "llm.tokenize", {"text": "ab", "model": "chat"}),
    "llm.detokenize.model.call": Call(1, "llm.detokenize", {"tokens": [5], "model": "chat"}),
    "llm.embed.tokens.call": Call(1, "llm.embed", {"tokens": [[5, 6], b"\x05\0\0\0"]}),
    "llm.generate.tokens.call": Call(1, "llm.generate", TOKENS),
    "llm.generate.messages.call": Call(1, "llm.generate", MESSAGES),
    "llm.generate.keep.call": Call(1, "llm.generate", {"prompt": "a", "keep": True}),
    "llm.generate.session.call": Call(1, "llm.generate", MESSAGES | {"session": 3}),
    "llm.generate.around.call": Call(
        1, "llm.generate", {"prompt": "a", "json_schema": "{}", "json_around": ["<tool_call>", "</tool_call>"]}
    ),
    "llm.detokenize.pieces.call": Call(1, "llm.detokenize", {"tokens": [5], "pieces": True}),
    "llm.detokenize.bytes.call": Call(1, "llm.detokenize", {"tokens": b"\x05\0\0\0"}),
    "deadline.call": Call((1 << 63) - 1, "ipc.recv", {}, deadline_ms=30_000),
    "task.call": Call(2, "ipc.recv", {}, task=4194305),
    "deadline.task.call": Call(3, "ipc.recv", {}, 30_000, 4194305),
    "ctx.open.window.call": Call(1, "ctx.open", {"window": "shift", "keep_tokens": 5}),
    "ctx.open.durable.call": Call(1, "ctx.open", {"name": "plan", "durable": True}),
    "ctx.close.forget.call": Call(1, "ctx.close", {"session": 3, "forget": True}),
}


# The same of answers: what calls with these fields are answered, and answers that have grown.
LOGPROBS = [{"token": 5, "logprob": -0.5, "top": [[5, -0.5], [6, -1.5]]}]
TOLD = {"chat_format": "hermes", "opens_reasoning": False}
COUNTERS = {
    name: value
    for name, value in EXAMPLES["sys.stat"][1].items()
    if name not in ("bad_messages", "throttled", "requests")
} | {"runs": 9, "moves": 0, "sampling_s": 0.125, "reused_tokens": 0}  # fmt: skip
BANKS = [[8, 2048, 65536], [2, 8192, 65536]]
ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llm.generate.chat.reply": (
        "llm.generate",
        EXAMPLES["llm.generate"][1]
        | TOLD
        | {"logprobs": LOGPROBS, "usage": {"prompt_tokens": 2, "cached_tokens": 1, "generated_tokens": 2}},
    ),
    "sys.info.models.reply": (
        "sys.info",
        EXAMPLES["sys.info"][1]
        | {
            "models": [
                {
                    "name": "chat", "state": "ready", "core_pid": 2, "core_restarts": 0, "banks": BANKS,
                    "kv_bytes": 131072,
                }
            ]
        },
    ),
    "sys.stat.models.reply": (
        "sys.stat",
        EXAMPLES["sys.stat"][1]
        | {"cut_connections": 0}
        | COUNTERS
        | {"models": [{"name": "chat", **COUNTERS}]},
    ),
    "proc.ps.context.reply": (
        "proc.ps",
        {"tasks": [EXAMPLES["proc.ps"][1]["tasks"][0] | {"context_tokens": 5, "context_limit": 8192}]},
    ),
    "sys.info.kv.reply": ("sys.info", EXAMPLES["sys.info"][1] | {"kv_type": "q8_0"}),
    "llm.generate.dropped.reply": (
        "llm.generate",
        EXAMPLES["llm.generate"][1] | TOLD | {"dropped_turns": 3, "dropped_tokens": 210},
    ),
    "ctx.list.window.reply": (
        "ctx.list",
        {
            "more": False,
            "sessions": [
                EXAMPLES["ctx.list"][1]["sessions"][0]
                | {"window": "drop", "dropped_turns": 3, "dropped_tokens": 210}
            ],
        },
    ),
    "ctx.open.durable.reply": ("ctx.open", {"session": 3, "turns": 2, "messages": 3, "tokens": 97}),
    "ctx.list.durable.reply": (
        "ctx.list",
        {
            "more": False,
            "sessions": [EXAMPLES["ctx.list"][1]["sessions"][0] | {"name": "plan", "durable": True}],
        },
    ),
}  # fmt: skip


def frozen(name: str) -> bytes:
    return bytes.fromhex((FOLDER / f"{name}.hex").read_text())


def as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return [as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def current() -> dict[str, bytes]:
    """Every message of the examples, by the name of its file, as it is encoded now."""
    messages = {}
    for number, (method, (body, answer)) in enumerate(EXAMPLES.items(), 1):
        messages[f"{method}.call"] = encode_call(number, method, body)
        messages[f"{method}.reply"] = encode_answer(number, "reply", answer)
    for name, call in FORMS.items():
        messages[name] = encode_call(*call)
    for name, (_, body) in ANSWERS.items():
        messages[name] = encode_answer(1, "reply", body)
    messages["chunk"] = encode_answer(5, "chunk", {"text": "你", "tokens": [5]}, 3)
    first = {"text": "你", "tokens": [5], "logprobs": LOGPROBS} | TOLD
    messages["chunk.first"] = encode_answer(5, "chunk", first, 0)
    for number in Errno:
        messages[f"error.{number.name}"] = encode_error(9, KernelError(number, "what is wrong"))
    return messages


def test_every_call_has_an_example():
    assert set(EXAMPLES) == set(CALLS)


def test_the_examples_give_every_field_of_every_call():
    given = {(method, field) for method, (body, _) in EXAMPLES.items() for field in body}
    given |= {(form.method, field) for form in FORMS.values() for field in form.body}
    for method, call in CALLS.items():
        validate(method, EXAMPLES[method][0])
        assert {(method, field) for field in call.__dataclass_fields__} <= given


def test_there_is_a_file_for_each_message_and_no_other():
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.hex" for name in current()}


@pytest.mark.parametrize("name", current())
def test_a_message_is_encoded_as_it_was(name):
    assert PROTOCOL_VERSION == 2
    assert current()[name].hex() == frozen(name).hex()
    assert frozen(name).startswith(MAGIC)


@pytest.mark.parametrize("method", EXAMPLES)
def test_frozen_bytes_are_still_understood(method):
    body, answer = EXAMPLES[method]
    call = decode_call(frozen(f"{method}.call"))
    assert (call.method, as_lists(call.body)) == (method, as_lists(body))
    assert (call.deadline_ms, call.task) == (None, None)
    reply = decode_answer(frozen(f"{method}.reply"))
    assert (reply.kind, as_lists(reply.body)) == ("reply", as_lists(answer))


@pytest.mark.parametrize("name", FORMS)
def test_frozen_options_and_other_forms_are_still_understood(name):
    call = decode_call(frozen(name))
    assert call == FORMS[name]
    validate(call.method, call.body)


@pytest.mark.parametrize("name", ANSWERS)
def test_other_frozen_answers_are_still_understood(name):
    reply = decode_answer(frozen(name))
    assert (reply.kind, as_lists(reply.body)) == ("reply", as_lists(ANSWERS[name][1]))


def test_a_frozen_chunk_is_still_understood():
    chunk = decode_answer(frozen("chunk"))
    assert (chunk.id, chunk.kind, chunk.seq, chunk.body["text"]) == (5, "chunk", 3, "你")


def test_the_numbers_of_errors_are_linuxs():
    numbers = {name: decode_answer(frozen(f"error.{name}")).body["errno"] for name in Errno.__members__}
    assert numbers == {
        "EPERM": 1, "ENOENT": 2, "ESRCH": 3, "EINTR": 4, "EIO": 5, "ECHILD": 10, "EAGAIN": 11,
        "ENOMEM": 12, "EEXIST": 17, "EINVAL": 22, "EFBIG": 27, "EPIPE": 32, "ENOSYS": 38,
        "EBADMSG": 74, "EMSGSIZE": 90, "EPROTO": 71, "EBUSY": 16, "EDQUOT": 122, "ETIMEDOUT": 110, "ESHUTDOWN": 108,
    }  # fmt: skip


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, frame in current().items():
        path = FOLDER / f"{name}.hex"
        if not path.exists():
            path.write_text(frame.hex() + "\n")
