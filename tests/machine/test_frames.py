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
from kernel.abi.codec import MAGIC, MAX_ID, SMALL_BYTES, encode_call
from kernel.abi.shape import MAX_DEPTH, MAX_ITEMS
from kernel.limits import MAX_BAD_BURST

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.just(bytes(SMALL_BYTES)),  # a long message is looked at more closely than a short one
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ids = st.integers(1, MAX_ID)
fields = sorted({name for call in CALLS.values() for name in call.__dataclass_fields__})
bodies = st.dictionaries(st.sampled_from(fields) | st.text(max_size=5), plain, max_size=4)
HARMLESS = sorted(set(CALLS) - {"sys.shutdown"})


def checked(machine: Machine, peer: Peer, frame: bytes) -> dict[int, str]:
    """Send a frame; return how the call in it ended, by its id, once all else is as it was."""
    answers = machine.answers[peer.connection]
    answers.ends.clear()
    peer.raw(frame)
    ends = {call_id: end for call_id, several in answers.ends.items() for end in several}
    assert len(ends) == sum(map(len, answers.ends.values())) <= 1
    other = machine.agent()
    assert other.ask("sys.info")["kernel_pid"] == 1
    machine.ends(other.pid)
    return {call_id: kind if kind == "reply" else body["name"] for call_id, (kind, body) in ends.items()}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80) | st.binary(min_size=SMALL_BYTES, max_size=SMALL_BYTES + 80))
def test_random_bytes_get_one_error_with_id_0(frame):
    machine = Machine()
    peer = machine.agent()
    assert checked(machine, peer, frame) in ({0: "EBADMSG"}, {0: "EPROTO"})
    assert machine.kernel.bad_messages == 1


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80) | st.binary(min_size=SMALL_BYTES, max_size=SMALL_BYTES + 80))
def test_random_bytes_behind_the_magic_get_one_error(noise):
    machine = Machine()
    peer = machine.agent()
    ((call_id, name),) = checked(machine, peer, MAGIC + noise).items()
    assert 0 <= call_id <= MAX_ID
    assert name in ("EBADMSG", "ENOSYS")


@settings(max_examples=300, deadline=None)
@given(first=ids | plain, rest=st.lists(plain, max_size=4))
def test_any_array_gets_one_answer_with_its_id_if_it_has_one(first, rest):
    machine = Machine()
    peer = machine.agent()
    is_id = type(first) is int and 0 < first <= MAX_ID
    ((call_id, name),) = checked(machine, peer, MAGIC + msgpack.packb([first, *rest])).items()
    assert call_id == (first if is_id else 0)
    assert name in ("EBADMSG", "ENOSYS")


@settings(max_examples=150, deadline=None)
@given(options=plain | st.dictionaries(st.sampled_from(["deadline_ms", "task", "x"]), plain), call_id=ids)
def test_any_options_get_one_answer(options, call_id):
    machine = Machine()
    peer = machine.agent()
    frame = MAGIC + msgpack.packb([call_id, "sys.info", {}, options])
    assert checked(machine, peer, frame)[call_id] in ("EBADMSG", "ESRCH", "reply")


@settings(max_examples=300, deadline=None)
@given(method=st.sampled_from(HARMLESS), body=bodies, call_id=st.integers(1000, MAX_ID))
def test_any_body_of_any_call_gets_one_answer_or_waits(method, body, call_id):
    machine = Machine()
    peer = machine.agent()
    ends = checked(machine, peer, encode_call(call_id, method, body))
    assert set(ends) <= {call_id}
    machine.run()
    assert (peer.end(call_id) is None) == peer.waits(call_id)


@settings(max_examples=200, deadline=None)
@given(
    cut=st.integers(0, 1 << 10), flip=st.integers(0, 7), at=st.integers(0, 1 << 10), padding=st.sampled_from([5, 600])
)
def test_a_damaged_message_never_harms(cut, flip, at, padding):
    machine = Machine()
    peer = machine.agent()
    raw = bytearray(encode_call(77, "ipc.send", {"to": peer.pid, "data": bytes(padding), "timeout_ms": 5}))
    raw[at % len(raw)] ^= 1 << flip
    checked(machine, peer, bytes(raw[: cut % len(raw) + 1]))
    peer.ask("sys.info")


def array(*values: object) -> bytes:
    return MAGIC + msgpack.packb(values)


def nested(depth: int) -> object:
    return [nested(depth - 1)] if depth else []


LONG = bytes(SMALL_BYTES)  # makes a message one that is looked at before it is unpacked


@pytest.mark.parametrize(
    ("frame", "wanted", "call_id"),
    [
        (b"", "EBADMSG", 0),
        (b"HTTP", "EBADMSG", 0),
        (b"AGX1\x80", "EPROTO", 0),
        (b"AGX1" + array(9, "sys.info", {})[4:], "EPROTO", 0),
        (MAGIC, "EBADMSG", 0),
        (MAGIC + b"\xc1", "EBADMSG", 0),
        (MAGIC + b"\x80", "EBADMSG", 0),
        (MAGIC + b"\x90", "EBADMSG", 0),
        (MAGIC + b"\x91" * 200, "EBADMSG", 0),
        (MAGIC + b"\x91" * 40_000, "EBADMSG", 0),
        (array(True, "sys.info", {}), "EBADMSG", 0),
        (array(0, "sys.info", {}), "EBADMSG", 0),
        (array(-1, "sys.info", {}), "EBADMSG", 0),
        (array(9.0, "sys.info", {}), "EBADMSG", 0),
        (array("9", "sys.info", {}), "EBADMSG", 0),
        (array(MAX_ID + 1, "sys.info", {}), "EBADMSG", 0),
        (array(MAX_ID, "sys.nothing", {}), "ENOSYS", MAX_ID),
        (array(9), "EBADMSG", 9),
        (array(9, "sys.info"), "EBADMSG", 9),
        (array(9, "sys.info", {}, {}, {}), "EBADMSG", 9),
        (array(9, b"sys.info", {}), "EBADMSG", 9),
        (array(9, "sys.info", []), "EBADMSG", 9),
        (array(9, "sys.info", None), "EBADMSG", 9),
        (array(9, "sys.nothing", {}), "ENOSYS", 9),
        (array(9, "x" * 1000, {}), "ENOSYS", 9),
        (array(9, "sys.info", {}, None), "EBADMSG", 9),
        (array(9, "sys.info", {}, {"x": 1}), "EBADMSG", 9),
        (array(9, "sys.info", {}, {"deadline_ms": -1}), "EBADMSG", 9),
        (array(9, "sys.info", {}, {"deadline_ms": True}), "EBADMSG", 9),
        (array(9, "sys.info", {}, {"deadline_ms": 1 << 40}), "EBADMSG", 9),
        (array(9, "sys.info", {}, {"task": "me"}), "EBADMSG", 9),
        (array(9, "sys.info", {}, {"task": -1}), "EBADMSG", 9),
        (array(9, "sys.info", {}, {"task": 5}), "ESRCH", 9),
        (array(9, "sys.info", {"x": 1}), "EINVAL", 9),
        (array(9, "sys.info", {b"x": 1}), "EINVAL", 9),
        (array(9, "sys.info", {1: 1}), "EBADMSG", 0),
        (array(9, "sys.info", {}) + b"\0", "EBADMSG", 0),
        (array(9, "sys.info", {})[:-1] + b"\xdd\xff\xff\xff\xff", "EBADMSG", 0),
        (array(9, "sys.info", {})[:-1] + b"\xdf\xff\xff\xff\xff" + LONG, "EBADMSG", 9),
        (array(9, "sys.info", {})[:-1] + b"\xd6\xff\0\0\0\0", "EBADMSG", 0),
        (array(9, "sys.info", {"x": LONG})[:-1], "EBADMSG", 0),
        (array(9, "sys.info", {"x": LONG, "y": nested(MAX_DEPTH - 2)}), "EBADMSG", 9),
        (array(9, "sys.info", {"x": LONG, "y": nested(MAX_DEPTH - 3)}), "EINVAL", 9),
        (array(9, "sys.info", {"x": [0] * MAX_ITEMS}), "EBADMSG", 9),
        (array(9, "sys.info", {"x": [0] * (MAX_ITEMS - 6)}), "EINVAL", 9),
    ],
)
def test_each_kind_of_wrong_message_has_its_errno(frame, wanted, call_id):
    machine = Machine()
    assert checked(machine, machine.agent(), frame) == {call_id: wanted}


def test_noise_before_hello_is_answered_too():
    machine = Machine()
    peer = Peer(machine, 777)
    peer.raw(b"x")
    assert peer.error(0) == "EBADMSG"
    peer.hello()


def test_a_peer_that_pours_in_noise_without_a_pause_is_cut_off_and_told_why():
    machine = Machine()
    peer = machine.agent()
    peer.raw(b"x", burst=MAX_BAD_BURST)
    assert peer.error(0) == "EBADMSG"
    machine.answers.clear()
    peer.raw(b"x", burst=MAX_BAD_BURST + 1)
    error = machine.closed[peer.connection]
    assert error.number.name == "EBADMSG"
    assert error.text.startswith(f"{MAX_BAD_BURST + 1} messages without a pause")
    assert machine.answers == {}, "the reason comes with the end of the connection"


def test_a_peer_whose_wrong_messages_have_ids_is_answered_each_time():
    machine = Machine()
    peer = machine.agent()
    peer.raw(array(9, "sys.info"), burst=MAX_BAD_BURST + 1)
    assert peer.error(9) == "EBADMSG"
    assert machine.closed == {}


def test_a_peer_that_pipelines_what_is_right_is_not_cut_off():
    machine = Machine()
    peer = machine.agent()
    peer.raw(encode_call(9, "sys.info", {}), burst=100 * MAX_BAD_BURST)
    assert peer.reply(9)["kernel_pid"] == 1
    assert machine.closed == {}
