"""Whatever an agent sends, it gets one typed answer, and the kernel and its neighbours go on.

The shortened form of the 20,000 malformed messages: three kinds of noise, from random bytes to
messages that are nearly right.
"""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine import Machine, Peer

from kernel.abi.calls import CALLS
from kernel.abi.codec import MAGIC, MAX_BODY_BYTES, MAX_HEADER_BYTES, PROTOCOL_VERSION, encode_call

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = sorted({name for call in CALLS.values() for name in call.__dataclass_fields__})
bodies = st.dictionaries(st.sampled_from(fields) | st.text(max_size=5), plain, max_size=4)
HARMLESS = sorted(set(CALLS) - {"sys.shutdown"})


def checked(machine: Machine, peer: Peer, frames: tuple[bytes, ...], call_id: int) -> str | None:
    """Send frames; return how the call `call_id` ended (None: it waits) once all else is as it was."""
    answers = machine.answers[peer.name]
    answers.ends.clear()
    peer.raw(*frames)
    assert set(answers.ends) <= {call_id}
    end = answers.ends.get(call_id)
    other = machine.agent()
    assert other.ask("sys.info")["kernel_pid"] == 1
    machine.ends(other.pid)
    if end is None:
        return None
    assert len(end) == 1
    kind, body = end[0]
    return kind if kind == "reply" else body["name"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.just(MAGIC), max_size=5))
def test_random_bytes_get_one_error_with_id_0(frames):
    machine = Machine()
    peer = machine.agent()
    assert checked(machine, peer, tuple(frames), 0) in ("EBADMSG", "EPROTO", "EMSGSIZE")
    assert machine.kernel.bad_messages == 1


@settings(max_examples=300, deadline=None)
@given(header=st.dictionaries(st.sampled_from(["id", "method", "deadline_ms", "x"]), plain, max_size=4), body=plain)
def test_any_header_gets_one_answer_with_its_id_if_it_has_one(header, body):
    machine = Machine()
    peer = machine.agent()
    call_id = header.get("id")
    is_id = type(call_id) is int and 0 < call_id < 1 << 63
    frames = (MAGIC, msgpack.packb(header), msgpack.packb(body))
    end = checked(machine, peer, frames, call_id if is_id else 0)
    assert end in ("EBADMSG", "ENOSYS")


@settings(max_examples=400, deadline=None)
@given(method=st.sampled_from(HARMLESS), body=bodies, call_id=st.integers(1000, (1 << 63) - 1))
def test_any_body_of_any_call_gets_one_answer_or_waits(method, body, call_id):
    machine = Machine()
    peer = machine.agent()
    frames = tuple(encode_call(call_id, method, body))
    end = checked(machine, peer, frames, call_id)
    machine.run()
    assert end is not None or machine.kernel.calls.find(peer.name, call_id) or peer.end(call_id) or machine.launches


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 200), flip=st.integers(0, 7), at=st.integers(0, 200))
def test_a_damaged_message_never_harms(cut, flip, at):
    machine = Machine()
    peer = machine.agent()
    whole = encode_call(77, "ipc.send", {"to": peer.pid, "data": b"hello", "timeout_ms": 5})
    for index in range(3):
        frames = list(whole)
        raw = bytearray(frames[index])
        raw[at % len(raw)] ^= 1 << flip
        frames[index] = bytes(raw[: cut % len(raw) + 1])
        before = {call_id: len(ends) for call_id, ends in machine.answers[peer.name].ends.items()}
        machine.answers[peer.name].ends.clear()
        peer.raw(*frames)
        ends = machine.answers[peer.name].ends
        assert sum(len(end) for end in ends.values()) <= 1, before
    peer.ask("sys.info")


@pytest.mark.parametrize(
    ("frames", "wanted", "call_id"),
    [
        ((), "EBADMSG", 0),
        ((MAGIC,), "EBADMSG", 0),
        ((MAGIC, b"\x80", b"\x80", b""), "EBADMSG", 0),
        ((b"AGX2", b"\x80", b"\x80"), "EPROTO", 0),
        ((b"HTTP", b"\x80", b"\x80"), "EBADMSG", 0),
        ((MAGIC, b"\x80", b"\x80"), "EBADMSG", 0),
        ((MAGIC, b"\x80" + b" " * MAX_HEADER_BYTES, b"\x80"), "EMSGSIZE", 0),
        ((MAGIC, b"\xc1", b"\x80"), "EBADMSG", 0),
        ((MAGIC, b"\x91" * 1024, b"\x80"), "EBADMSG", 0),
        ((MAGIC, msgpack.packb({"id": True, "method": "sys.info"}), b"\x80"), "EBADMSG", 0),
        ((MAGIC, msgpack.packb({"id": 0, "method": "sys.info"}), b"\x80"), "EBADMSG", 0),
        ((MAGIC, msgpack.packb({"id": 1 << 63, "method": "sys.info"}), b"\x80"), "EBADMSG", 0),
        ((MAGIC, msgpack.packb({"id": 9}), b"\x80"), "EBADMSG", 9),
        ((MAGIC, msgpack.packb({"id": 9, "method": "sys.nothing"}), b"\x80"), "ENOSYS", 9),
        ((MAGIC, msgpack.packb({"id": 9, "method": "sys.info", "x": 1}), b"\x80"), "EBADMSG", 9),
        ((MAGIC, msgpack.packb({"id": 9, "method": "sys.info"}), b"\x90"), "EBADMSG", 9),
        ((MAGIC, msgpack.packb({"id": 9, "method": "sys.info"}), b"\xdd\xff\xff\xff\xff"), "EBADMSG", 9),
        ((MAGIC, msgpack.packb({"id": 9, "method": "sys.info"}), b"\x91" * 100_000), "EBADMSG", 9),
        ((MAGIC, msgpack.packb({"id": 9, "method": "sys.info"}), b"\xd6\xff\0\0\0\0"), "EBADMSG", 9),
        ((MAGIC, msgpack.packb({"id": 9, "method": "sys.info"}), b"\x81\xc4\x01x\x01"), "EINVAL", 9),
        ((MAGIC, msgpack.packb({"id": 9, "method": "sys.info"}), bytes(MAX_BODY_BYTES + 1)), "EMSGSIZE", 9),
        ((MAGIC, msgpack.packb({"id": 9, "method": "sys.info", "deadline_ms": -1}), b"\x80"), "EBADMSG", 9),
    ],
)
def test_each_kind_of_wrong_message_has_its_errno(frames, wanted, call_id):
    machine = Machine()
    assert checked(machine, machine.agent(), frames, call_id) == wanted


def test_noise_before_hello_is_answered_too():
    machine = Machine()
    peer = Peer(machine, b"noise", 777)
    peer.raw(b"x")
    assert peer.error(0) == "EBADMSG"
    peer.ask("sys.hello", version=PROTOCOL_VERSION)
