"""A record on disk: it comes back as it was, or what is wrong with it is said, whatever happened to its bytes."""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.abi.codec import pack, unpack_stored
from kernel.context.kv import Context
from kernel.context.record import (
    Answer,
    Damaged,
    Key,
    Record,
    check_vocabulary,
    decode,
    encode,
    seal,
    unseal,
)
from kernel.limits import MAX_KEPT_TOKENS

KEY = Key("/night", "planner", "plan")
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": [1, {"b": None}]}}}
MESSAGES = [
    {"role": "user", "content": "你"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "5", "tool_call_id": "1"},
]


def record(**changes: Any) -> Record:
    fields = {
        "key": KEY, "model": "chat", "fingerprint": "a1", "turns": 2, "dropped_turns": 1, "dropped_tokens": 64,
        "tokens": list(range(90)), "messages": MESSAGES, "answer": Answer("fine", "hermes", False),
        "contexts": (Context(array("I", range(80)), ((10, 20), (70, 80))), Context(array("I", range(9)), ())),
    }  # fmt: skip
    return Record(**(fields | changes))


def shown(found: Record) -> Any:
    """A record's content, to be compared."""
    fields = {name: getattr(found, name) for name in Record.__slots__ if name != "contexts"}
    return fields, [(one.tokens, one.turns, one.kv) for one in found.contexts]


BODY = encode(record())
FILE = seal(BODY) + BODY


@pytest.mark.parametrize(
    "changes", [{}, {"messages": None, "answer": None}, {"answer": None}, {"contexts": ()}, {"tokens": [(1 << 32) - 1]}]
)
def test_a_record_comes_back_as_it_was(changes):
    wanted = record(**changes)
    body = encode(wanted)
    assert shown(decode(unseal(seal(body) + body), KEY)) == shown(wanted)


def test_names_give_file_names_that_nobody_can_aim_at_anothers():
    keys = (("/", "a", "b"), ("/", "ab", ""), ("/a", "", "b"), ("/", "../x", "b/c"))
    names = {Key(*parts).file_name for parts in keys}
    assert len(names) == 4
    assert all(len(name) == 32 + len(".session") and "/" not in name for name in names)


@given(at=st.integers(0, len(FILE) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(at, bit):
    raw = bytearray(FILE)
    raw[at] ^= 1 << bit
    with pytest.raises(Damaged):
        unseal(bytes(raw))


@given(at=st.integers(0, len(FILE) - 1), tail=st.binary(max_size=40))
def test_a_file_that_was_cut_off_or_overwritten_is_found(at, tail):
    if FILE[:at] + tail != FILE:
        with pytest.raises(Damaged):
            unseal(FILE[:at] + tail)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300)
@given(name=st.sampled_from(sorted(unpack_stored(BODY))), value=plain)
def test_whatever_a_field_holds_it_is_refused_or_can_be_used(name, value):
    """A body whose seal is right, and that nobody wrote."""
    _is_refused_or_usable(pack(unpack_stored(BODY) | {name: value}))


@settings(max_examples=300)
@given(at=st.integers(0, len(BODY) - 1), to=st.integers(0, 255), cut=st.booleans())
def test_whatever_bytes_a_body_has_it_is_refused_or_can_be_used(at, to, cut):
    raw = bytearray(BODY)
    raw[at] = to
    _is_refused_or_usable(bytes(raw[: at + 1] if cut else raw))


def _is_refused_or_usable(body: bytes) -> None:
    try:
        found = decode(body, KEY)
        check_vocabulary(found, 1000)
    except Damaged:
        return
    assert shown(decode(encode(found), KEY)) == shown(found)
    for one in found.contexts:
        ends = [0, *(end for turn in one.turns for end in turn)]
        assert all(first < second for first, second in pairwise(ends))
        assert ends[-1] <= len(one.tokens)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "its format is 2, wanted 1"),
        ({"key": ["/", "planner", "plan"]}, "it is the session ['/', 'planner', 'plan']"),
        ({"turns": 0}, "turns is 0, wanted 1 at least"),
        ({"dropped_tokens": -1}, "dropped_tokens is -1, wanted 0 at least"),
        ({"turns": True}, "turns is True, wanted int"),
        ({"model": 1}, "model is 1, wanted str"),
        ({"tokens": b"abc"}, "wanted 4 bytes for each"),
        ({"messages": None}, "it has an answer and no messages"),
        ({"messages": [{"role": "user"}]}, "messages[0] has neither content nor tool_calls"),
        ({"messages": [{"role": "user", "content": "a", "x": 1}]}, "unknown field 'x'"),
        ({"answer": ["a", "b", 1]}, "answer is ['a', 'b', 1]"),
        ({"contexts": [[b"", []]] * 3}, "wanted at most 2"),
        ({"contexts": [[bytes(40), [[4, 4]]]]}, "a context of 10 tokens has the turn [4, 4] after 0"),
        ({"contexts": [[bytes(40), [[4, 8], [8, 9]]]]}, "has the turn [8, 9] after 8"),
        ({"contexts": [[bytes(40), [[4, 11]]]]}, "has the turn [4, 11] after 0"),
        ({"contexts": [[bytes(4 * MAX_KEPT_TOKENS + 4), []]]}, "a context's tokens"),
    ],
)
def test_what_is_wrong_is_said(changes, reason):
    with pytest.raises(Damaged) as fault:
        decode(pack(unpack_stored(BODY) | changes), KEY)
    assert reason in str(fault.value)


def test_what_is_nested_deeper_than_a_call_may_be_is_refused():
    deep: Any = "a"
    for _ in range(400):
        deep = [deep]
    function = {"name": "f", "arguments": {"a": deep}}
    message = {"role": "assistant", "content": "a", "tool_calls": [{"function": function}]}
    with pytest.raises(Damaged, match="messages are"):
        decode(pack(unpack_stored(BODY) | {"messages": [message]}), KEY)


def test_a_body_of_half_a_gigabyte_of_promises_is_refused():
    with pytest.raises(Damaged, match="not msgpack"):
        decode(b"\xdd\x1f\xff\xff\xff" * 1000, KEY)


def test_a_token_outside_the_vocabulary_is_found_wherever_it_is():
    check_vocabulary(record(), 90)
    for changes in ({}, {"tokens": [1], "contexts": (Context(array("I", [89]), ()),)}):
        with pytest.raises(Damaged, match="token 89, and the model 89"):
            check_vocabulary(record(**changes), 89)
