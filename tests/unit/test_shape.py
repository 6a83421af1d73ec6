"""The walk over msgpack bytes agrees with msgpack, believes no count, and says whose call it refused."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernel.abi.codec import MAGIC, MAX_FRAME_BYTES, MAX_ID, SMALL_BYTES, BadCall, decode_call
from kernel.abi.errors import Errno
from kernel.abi.shape import MAX_DEPTH, MAX_ITEMS, TooMuch, check_shape

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=40)
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
    max_leaves=40,
)
MOST_BYTES = 1 << 20  # that any message of 64 KiB takes while it is decoded
HEADERS = (0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, *range(0xC0, 0xE0), 0x00, 0x01, 0x02, 0x7F, 0xE0, 0xFF)
noise = st.lists(st.sampled_from(HEADERS) | st.integers(0, 255), max_size=60).map(bytes)


class Pairs(list):
    """A map, with every pair that was in it."""


def measure(value: Any) -> tuple[int, int]:
    """Return (values in it, itself included; depth of arrays and maps)."""
    if isinstance(value, Pairs):
        inner = [one for pair in value for one in pair]
    elif isinstance(value, list):
        inner = value
    else:
        return 1, 0
    measures = [measure(one) for one in inner]
    return 1 + sum(count for count, _ in measures), 1 + max((depth for _, depth in measures), default=0)


def unpacked(raw: bytes) -> Any:
    return msgpack.unpackb(raw, raw=True, strict_map_key=False, object_pairs_hook=Pairs)


def is_allowed(raw: bytes, start: int = 0) -> bool:
    try:
        check_shape(raw, start)
    except TooMuch:
        return False
    return True


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth - 1):
        value = [value]
    return value


def arrays(depth: int, count: int) -> bytes:
    """A call whose body is arrays in arrays that all announce more than comes."""
    return MAGIC + b"\x93\x07\xa1x" + (b"\xdd" + struct.pack(">I", count)) * depth


def peak_bytes(frame: bytes) -> tuple[int, BadCall]:
    """What decoding a frame takes at most, and how it is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(BadCall) as caught:
            decode_call(frame)
        return tracemalloc.get_traced_memory()[1], caught.value
    finally:
        tracemalloc.stop()


# -- agreement with msgpack -------------------------------------------------------------------


@settings(deadline=None)
@given(value=plain)
def test_what_msgpack_makes_passes_unless_it_is_too_deep(value):
    raw = msgpack.packb(value)
    assert is_allowed(raw) == (measure(unpacked(raw))[1] <= MAX_DEPTH)


@settings(deadline=None, max_examples=500)
@given(raw=noise)
@example(raw=b"\xc7\x00\x05")
@example(raw=b"\x81\x90\xc0")
@example(raw=b"\xde\x00\x01\xde\x00\x00\xdf\x00\x00\x00\x00")
def test_whatever_msgpack_can_read_passes_unless_it_is_too_much(raw):
    try:
        value = unpacked(raw)
    except Exception:
        return
    count, depth = measure(value)
    assert is_allowed(raw) == (count <= MAX_ITEMS and depth <= MAX_DEPTH)


@settings(deadline=None)
@given(value=plain, part=st.floats(0, 1, exclude_max=True))
def test_what_is_cut_short_is_refused_here_or_by_msgpack(value, part):
    raw = msgpack.packb([7, "x", value, 1])
    with pytest.raises(BadCall, match=r"ends before|not msgpack"):
        decode_call((MAGIC + raw)[: len(MAGIC) + int(len(raw) * part)])


@pytest.mark.parametrize(
    ("head", "element", "most"),
    [
        (b"\xdc", b"\xc0", 4095),
        (b"\xdd\0\0", b"\xc0", 4095),
        (b"\xde", b"\xc0\x05", 2047),
        (b"\xdf\0\0", b"\xc0\x05", 2047),
        (b"\xdc", b"\x9f" + b"\xc2" * 15, 255),
        (b"\xdc", b"\x8f" + b"\xa1x\xc2" * 15, 132),
    ],
    ids=["array16", "array32", "map16", "map32", "fixarray", "fixmap"],
)
def test_the_limit_counts_the_values_of_every_kind_of_container(head, element, most):
    assert is_allowed(head + struct.pack(">H", most) + element * most)
    assert not is_allowed(head + struct.pack(">H", most + 1) + element * (most + 1))


def test_one_value_more_than_the_limit_is_refused():
    assert is_allowed(msgpack.packb([None] * (MAX_ITEMS - 1)))
    assert not is_allowed(msgpack.packb([None] * MAX_ITEMS))
    assert is_allowed(msgpack.packb([{str(n): n for n in range((MAX_ITEMS - 2) // 2)}]))
    assert not is_allowed(msgpack.packb([{str(n): n for n in range(MAX_ITEMS // 2)}]))
    assert is_allowed(msgpack.packb([[None] * 2000, [None] * (MAX_ITEMS - 2003)]))
    assert not is_allowed(msgpack.packb([[None] * 2000, [None] * (MAX_ITEMS - 2002)]))


def test_one_level_more_than_the_limit_is_refused():
    assert is_allowed(msgpack.packb(nested(MAX_DEPTH)))
    assert not is_allowed(msgpack.packb(nested(MAX_DEPTH + 1)))
    assert is_allowed(b"\x81\xa1x" * MAX_DEPTH + b"\xc0")
    assert not is_allowed(b"\x81\xa1x" * (MAX_DEPTH + 1) + b"\xc0")
    assert is_allowed(msgpack.packb([nested(MAX_DEPTH - 1)] * 200)), "siblings are no levels"


def test_only_the_value_at_the_start_is_walked():
    raw = msgpack.packb([1, "x", {}])
    assert is_allowed(b"\x91" * 20 + raw + b"\x91" * 20, 20)
    assert not is_allowed(raw + b"\x91", len(raw))
    assert not is_allowed(raw, len(raw))


class Watched(bytes):
    """Bytes that count how often they are looked at, one by one."""

    looks = 0

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, int):
            Watched.looks += 1
        return super().__getitem__(at)


@pytest.mark.parametrize("kind", [b"\x90", b"\x80", b"\xc0", b"\x91", b"\xa0"])
def test_the_walk_ends_at_the_first_excess(kind):
    """Of 4 MiB, the longest message there is, it looks at no more than it may count."""
    Watched.looks = 0
    raw = Watched(b"\xdd\x00\x40\x00\x00" + kind * (4 << 20))
    assert not is_allowed(raw)
    assert Watched.looks < 8
    raw = Watched((b"\xdc\x1f\xf0" + kind) + b"\x90" * (4 << 20))
    Watched.looks = 0
    is_allowed(raw)
    assert Watched.looks <= 2 * MAX_ITEMS


# -- what a lie costs -------------------------------------------------------------------------


@pytest.mark.parametrize("count", [15, 1000, 8000, 65535, 1 << 20, (1 << 32) - 1])
def test_nested_lies_are_refused_before_anything_is_built(count):
    """msgpack alone would take 67 MiB for them."""
    peak, error = peak_bytes(arrays(12_000, count))
    assert error.number is Errno.EBADMSG
    assert error.call_id == 7
    assert peak < 32 << 10


@pytest.mark.parametrize("kind", [b"\x80", b"\x90", b"\xa0", b"\xc0", b"\xde\0\0"])
def test_a_frame_full_of_empty_values_is_refused_before_anything_is_built(kind):
    count = (MAX_FRAME_BYTES - 20) // len(kind)
    frame = MAGIC + b"\x93\x09\xa1x\xdd" + struct.pack(">I", count) + kind * count
    peak, error = peak_bytes(frame)
    assert f"more than {MAX_ITEMS} values" in error.text
    assert error.call_id == 9
    assert peak < 32 << 10


def test_a_message_at_the_limits_takes_no_more_than_its_items_can():
    count = MAX_ITEMS - 4
    frame = MAGIC + b"\x93\x09\xa1x\xdd" + struct.pack(">I", count) + b"\x80" * count
    peak, error = peak_bytes(frame)
    assert "is a list, wanted a map" in error.text
    assert peak < MOST_BYTES


@pytest.mark.parametrize(
    "piece", [b"\x91", b"\x9f", b"\xdc\x01\xe0", b"\xdd\0\0\x01\xe0", b"\xde\0\xe0", b"\x81\xa1x", b"\x8f"]
)
def test_a_message_too_short_to_be_walked_takes_no_more_than_one_at_the_limits(piece):
    head = MAGIC + b"\x93\x07\xa1x"
    peak, _ = peak_bytes(head + piece * ((SMALL_BYTES - len(head)) // len(piece)))
    assert peak < MOST_BYTES


# -- whose call it was ------------------------------------------------------------------------


@pytest.mark.parametrize("excess", [b"\xdd\xff\xff\xff\xff", b"\x91" * (MAX_DEPTH + 1)], ids=["long", "deep"])
@pytest.mark.parametrize("call_id", [1, 127, 128, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, MAX_ID])
def test_an_error_carries_the_call_id_in_every_encoding(call_id, excess):
    frames = [MAGIC + b"\x93" + msgpack.packb(call_id) + b"\xa1x" + excess + bytes(SMALL_BYTES)]
    for kind, layout in ((0xD0, ">b"), (0xD1, ">h"), (0xD2, ">i"), (0xD3, ">q"), (0xCF, ">Q")):
        if call_id < 1 << (8 * struct.calcsize(layout) - 1):
            wide = bytes([kind]) + struct.pack(layout, call_id)
            frames.append(MAGIC + b"\x93" + wide + b"\xa1x" + excess + bytes(SMALL_BYTES))
    for frame in frames:
        with pytest.raises(BadCall, match=r"more than|deeper") as caught:
            decode_call(frame)
        assert caught.value.call_id == call_id


@pytest.mark.parametrize(
    "first",
    [
        b"\x00",
        b"\xff",
        b"\xd0\x80",
        b"\xd3" + b"\xff" * 8,
        b"\xcf\x80" + bytes(7),
        b"\xcf" + b"\xff" * 8,
        b"\xc0",
        b"\xc3",
        b"\xcb?\xf0" + bytes(6),
        b"\xa15",
        b"\x91\x05",
        b"\xdd\xff\xff\xff\xff",
    ],
)
def test_what_is_no_call_id_is_answered_with_0(first):
    with pytest.raises(BadCall) as caught:
        decode_call(MAGIC + b"\x93" + first + b"\xa1x\xdd\xff\xff\xff\xff" + bytes(SMALL_BYTES))
    assert caught.value.call_id == 0
