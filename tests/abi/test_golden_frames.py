"""The bytes of every call and answer of protocol version 1, frozen in v1/*.hex.

A file has one frame a line, in hex. A change here is a change of the protocol: it needs a new version
and a folder of its own, not new bytes in this one. `python tests/abi/test_golden_frames.py` writes the
files of calls that are new.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kernel.abi.calls import CALLS, validate
from kernel.abi.codec import (
    MAGIC,
    PROTOCOL_VERSION,
    decode_answer,
    decode_call,
    encode_answer,
    encode_call,
    encode_error,
)
from kernel.abi.errors import Errno, KernelError

FOLDER = Path(__file__).parent / "v1"

USAGE = {
    "requests": 1, "prompt_tokens": 2, "generated_tokens": 3, "recomputed_tokens": 0, "switches": 1,
    "restores": 1, "switch_bytes": 4096, "wait_s": 0.5, "ttft_s": 0.25, "calls": 9, "cpu_s": 0.125,
    "rss_bytes": 8192,
}  # fmt: skip

EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sys.hello": (
        {"version": 1, "name": "writer"},
        {
            "version": 1, "pid": 101, "kernel_pid": 1, "model": "/m.gguf", "window_tokens": 2048,
            "policy": "rr",
        },
    ),
    "sys.info": (
        {},
        {
            "version": 1, "model": "/m.gguf", "description": "llama", "is_ready": True, "slots": 8,
            "window_tokens": 2048, "threads": 2, "policy": "rr", "quantum_tokens": 32, "tasks": 3,
            "uptime_s": 1.5, "kernel_pid": 1, "core_pid": 2, "core_restarts": 0, "extra_buffers": True,
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
    "proc.spawn": (
        {"script": "a.py", "args": ["1"], "name": "a", "env": {"A": "b"}, "cwd": "/tmp", "priority": 5},
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
                    "pid": 102, "ppid": 101, "name": "a", "state": "running", "waits_for": "llm.generate",
                    "priority": 0, "cpu_percent": 1.5, "throttled": False, "in_flight": 1, "age_s": 2.0,
                    "status": None, "signal": None, **USAGE,
                }
            ]
        },
    ),
    "proc.logs": ({"pid": 102}, {"pid": 102, "name": "a", "text": "a line\n"}),
    "ipc.send": ({"to": 102, "data": b"\x00\xff", "timeout_ms": 0}, {}),
    "ipc.recv": ({"timeout_ms": None}, {"sender": 101, "data": b"\x00\xff"}),
    "mem.create": ({"name": "a", "size_bytes": 4096}, {"name": "a", "size_bytes": 4096}),
    "mem.stat": (
        {},
        {
            "segments": [{"name": "a", "size_bytes": 4096}], "used_bytes": 4096,
            "limit_bytes": 268435456,
        },
    ),
    "mem.unlink": ({"name": "a"}, {}),
    "sched.setattr": (
        {"pid": 102, "priority": 5, "policy": "prio", "quantum_tokens": 8},
        {"pid": 102, "priority": 5, "policy": "prio", "quantum_tokens": 8},
    ),
    "sched.getattr": ({"pid": 0}, {"pid": 101, "priority": 0, "policy": "rr", "quantum_tokens": 32}),
    "sched.getpolicies": ({}, {"policies": [{"name": "rr", "doc": "Round robin."}], "current": "rr"}),
    "log.write": ({"text": "a line"}, {}),
}  # fmt: skip


def frozen(name: str) -> list[bytes]:
    return [bytes.fromhex(line) for line in (FOLDER / f"{name}.hex").read_text().splitlines()]


def as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return [as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def current() -> dict[str, list[bytes]]:
    """Every message of the examples, by the name of its file, as it is encoded now."""
    messages = {}
    for number, (method, (body, answer)) in enumerate(EXAMPLES.items(), 1):
        messages[f"{method}.call"] = encode_call(number, method, body)
        messages[f"{method}.reply"] = encode_answer(number, "reply", answer)
    messages["deadline.call"] = encode_call((1 << 63) - 1, "ipc.recv", {}, 30_000)
    messages["chunk"] = encode_answer(5, "chunk", {"text": "你", "tokens": [5]}, 3)
    for number in Errno:
        messages[f"error.{number.name}"] = encode_error(9, KernelError(number, "what is wrong"))
    return messages


def test_every_call_has_an_example():
    assert set(EXAMPLES) == set(CALLS)


def test_an_example_gives_every_field_of_its_call():
    one_of = {"messages", "tokens"}  # llm.generate takes one of three
    for method, (body, _) in EXAMPLES.items():
        validate(method, body)
        fields = set(CALLS[method].__dataclass_fields__)
        assert fields - set(body) <= (one_of if method == "llm.generate" else set())


def test_there_is_a_file_for_each_message_and_no_other():
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.hex" for name in current()}


@pytest.mark.parametrize("name", current())
def test_a_message_is_encoded_as_it_was(name):
    assert PROTOCOL_VERSION == 1
    assert [frame.hex() for frame in current()[name]] == [frame.hex() for frame in frozen(name)]
    assert frozen(name)[0] == MAGIC


@pytest.mark.parametrize("method", EXAMPLES)
def test_frozen_bytes_are_still_understood(method):
    body, answer = EXAMPLES[method]
    call = decode_call(frozen(f"{method}.call"))
    assert (call.method, as_lists(call.body), call.deadline_ms) == (method, as_lists(body), None)
    reply = decode_answer(frozen(f"{method}.reply"))
    assert (reply.kind, as_lists(reply.body)) == ("reply", as_lists(answer))


def test_a_frozen_deadline_and_a_frozen_chunk_are_still_understood():
    assert decode_call(frozen("deadline.call")).deadline_ms == 30_000
    chunk = decode_answer(frozen("chunk"))
    assert (chunk.id, chunk.kind, chunk.seq, chunk.body["text"]) == (5, "chunk", 3, "你")


def test_the_numbers_of_errors_are_linuxs():
    numbers = {name: decode_answer(frozen(f"error.{name}")).body["errno"] for name in Errno.__members__}
    assert numbers == {
        "EPERM": 1, "ENOENT": 2, "ESRCH": 3, "EINTR": 4, "EIO": 5, "ECHILD": 10, "EAGAIN": 11,
        "ENOMEM": 12, "EEXIST": 17, "EINVAL": 22, "EFBIG": 27, "EPIPE": 32, "ENOSYS": 38,
        "EBADMSG": 74, "EMSGSIZE": 90, "EPROTO": 71, "ETIMEDOUT": 110, "ESHUTDOWN": 108,
    }  # fmt: skip


if __name__ == "__main__":
    for name, frames in current().items():
        path = FOLDER / f"{name}.hex"
        if not path.exists():
            path.write_text("".join(frame.hex() + "\n" for frame in frames))
