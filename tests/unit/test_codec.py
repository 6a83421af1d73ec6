"""One frame a message: what is encoded is decoded, and whatever else comes is a BadCall that can be shown."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.abi.codec import (
    MAGIC,
    MAX_ID,
    Answer,
    BadCall,
    Call,
    decode_answer,
    decode_call,
    encode_answer,
    encode_call,
    encode_error,
)
from kernel.abi.errors import Errno, KernelError

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(st.text(max_size=8), plain, max_size=4)
ids = st.integers(1, MAX_ID)
DEEP = b"\x91" * 900 + b"\xc0"


def refusal(decode: Any, frame: bytes) -> BadCall:
    with pytest.raises(BadCall) as caught:
        decode(frame)
    assert len(caught.value.text) < 250
    assert caught.value.text.isascii()
    return caught.value


def packed(*values: Any) -> bytes:
    return MAGIC + msgpack.packb(values)


@settings(deadline=None)
@given(
    call_id=ids,
    method=st.text(max_size=20),
    body=bodies,
    deadline_ms=st.none() | st.integers(0, (1 << 40) - 1),
    task=st.none() | st.integers(0, (1 << 31) - 1),
)
def test_a_call_comes_out_as_it_went_in(call_id, method, body, deadline_ms, task):
    call = Call(call_id, method, body, deadline_ms, task)
    assert decode_call(encode_call(*call)) == call


@settings(deadline=None)
@given(call_id=st.integers(0, MAX_ID), body=bodies, seq=st.integers(0, 1 << 32))
def test_an_answer_comes_out_as_it_went_in(call_id, body, seq):
    assert decode_answer(encode_answer(call_id, "chunk", body, seq)) == Answer(call_id, "chunk", seq, body)
    assert decode_answer(encode_answer(call_id, "reply", body)) == Answer(call_id, "reply", -1, body)


def test_an_error_says_its_number_its_name_and_why():
    answer = decode_answer(encode_error(5, KernelError(Errno.ESRCH, "no task 7")))
    assert answer == Answer(5, "error", -1, {"errno": 3, "name": "ESRCH", "text": "no task 7"})


@pytest.mark.parametrize(
    ("frame", "number", "call_id", "text"),
    [
        (b"", "EBADMSG", 0, "starts with b'', wanted b'AGX2'"),
        (b"AGX", "EPROTO", 0, "starts with b'AGX'"),
        (b"AGX1\x93\x01\xa1x\x80", "EPROTO", 0, "starts with b'AGX1'"),
        (b"HTTP\x93\x01\xa1x\x80", "EBADMSG", 0, "starts with b'HTTP'"),
        (MAGIC, "EBADMSG", 0, "not msgpack"),
        (MAGIC + b"\xc1", "EBADMSG", 0, "not msgpack"),
        (MAGIC + b"\xa1\xff", "EBADMSG", 0, "not msgpack"),
        (MAGIC + DEEP, "EBADMSG", 0, "nested deeper"),
        (MAGIC + b"\xdd\xff\xff\xff\xff", "EBADMSG", 0, "not msgpack"),
        (packed(9, "x", {}) + b"\0", "EBADMSG", 0, "not msgpack"),
        (packed(9, "x", {1: 2}), "EBADMSG", 0, "not msgpack"),
        (MAGIC + b"\x93\x09\xa1x\x81\xa1a\xd4\x05\x00", "EBADMSG", 0, "not msgpack"),  # an extension
        (MAGIC + b"\x80", "EBADMSG", 0, "a message is a dict, wanted an array"),
        (MAGIC + b"\x05", "EBADMSG", 0, "a message is a int"),
        (packed(), "EBADMSG", 0, "call id is None"),
        (packed(0, "x", {}), "EBADMSG", 0, "call id is 0"),
        (packed(-1, "x", {}), "EBADMSG", 0, "call id is -1"),
        (packed(MAX_ID + 1, "x", {}), "EBADMSG", 0, "call id is 9223372036854775808"),
        (packed(True, "x", {}), "EBADMSG", 0, "call id is True"),
        (packed("9", "x", {}), "EBADMSG", 0, "call id is '9'"),
        (packed(9), "EBADMSG", 9, "3 or 4 values, this one of 1"),
        (packed(9, "x"), "EBADMSG", 9, "3 or 4 values, this one of 2"),
        (packed(9, "x", {}, {}, {}), "EBADMSG", 9, "3 or 4 values, this one of 5"),
        (packed(9, b"x", {}), "EBADMSG", 9, "method is b'x'"),
        (packed(9, None, {}), "EBADMSG", 9, "method is None"),
        (packed(9, "x", []), "EBADMSG", 9, "body of 'x' is a list"),
        (packed(9, "x", None), "EBADMSG", 9, "body of 'x' is a NoneType"),
        (packed(9, "x", {}, None), "EBADMSG", 9, "call options are None"),
        (packed(9, "x", {}, {"a": 1}), "EBADMSG", 9, "call options are {'a': 1}"),
        (packed(9, "x", {}, {b"task": 1}), "EBADMSG", 9, "call options are"),
        (packed(9, "x", {}, {"deadline_ms": -1}), "EBADMSG", 9, "deadline_ms is -1"),
        (packed(9, "x", {}, {"deadline_ms": 1 << 40}), "EBADMSG", 9, "deadline_ms is 1099511627776"),
        (packed(9, "x", {}, {"deadline_ms": 1.0}), "EBADMSG", 9, "deadline_ms is 1.0"),
        (packed(9, "x", {}, {"task": True}), "EBADMSG", 9, "task is True"),
        (packed(9, "x", {}, {"task": 1 << 31}), "EBADMSG", 9, "task is 2147483648"),
    ],
)
def test_each_kind_of_wrong_call_is_refused_in_words(frame, number, call_id, text):
    error = refusal(decode_call, frame)
    assert (error.number.name, error.call_id) == (number, call_id)
    assert text in error.text


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"AGX1" + packed(1, "reply", {})[4:],
        MAGIC,
        MAGIC + b"\x05",
        MAGIC + b"\xa3abc",
        packed(1, "reply", {}) + b"\0",
        packed(1, "reply"),
        packed(1, "other", {}),
        packed("1", "reply", {}),
        packed(1, ["reply"], {}),
        packed(1, "reply", []),
        packed(1, "reply", {}, 3),
        packed(1, "error", {}, -1),
        packed(1, "chunk", {}),
        packed(1, "chunk", {}, -1),
        packed(1, "chunk", {}, "3"),
        packed(1, "chunk", {}, True),
        packed(1, "chunk", {}, 3, 4),
        MAGIC + b"\x93\x01" + DEEP + b"\x80",
    ],
)
def test_what_is_no_answer_is_refused(frame):
    assert refusal(decode_answer, frame).number is Errno.EBADMSG


@pytest.mark.parametrize(
    "value",
    [b"x" * 60_000, b"\0" * 1000, ["x" * 50] * 1000, {"你" * 500: [[[[[[1]]]]]]}],
    ids=["bytes", "zeros", "list", "map"],
)
def test_an_error_text_shows_any_value_briefly(value):
    refusal(decode_call, packed(9, value, {}))
    refusal(decode_call, packed(value, "x", {}))
    refusal(decode_call, packed(9, "x", {}, {"task": value}))
    refusal(decode_call, packed(9, "你" * 9000, value if isinstance(value, list) else [value]))
    refusal(decode_answer, packed(value, "reply", {}))


def test_a_call_that_is_nested_as_deep_as_a_short_one_can_be_is_refused_in_words():
    """However little of Python's stack is left to show it."""

    def decoded_at(depth: int) -> BadCall:
        return decoded_at(depth - 1) if depth else refusal(decode_call, frame)

    frame = MAGIC + b"\x93" + b"\x91" * 480 + bytes(3)

    assert "call id is [[[" in decoded_at(500).text
