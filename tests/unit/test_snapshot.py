"""A snapshot is restored whole and as it was, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.engine.snapshot import HEADER_BYTES, SnapshotError, checksum, seal, unseal

FINGERPRINT = bytes(range(16))
TOKENS, DIGEST = 300, 0x1122334455667788
FIELDS_BYTES = 56  # of the header; zeros up to 64


def sealed(payload: bytes, slack: int = 64) -> np.ndarray:
    """A snapshot in a segment that is zeroed and longer than it, as segments are."""
    segment = np.zeros(HEADER_BYTES + len(payload) + slack, np.uint8)
    segment[HEADER_BYTES : HEADER_BYTES + len(payload)] = np.frombuffer(payload, np.uint8)
    assert seal(segment, FINGERPRINT, TOKENS, DIGEST, len(payload)) == HEADER_BYTES + len(payload)
    return segment


PAYLOADS = {
    "of noise": np.random.default_rng(1).integers(0, 256, 203, np.uint8).tobytes(),
    "that ends in zeros": b"\x01" * 100 + bytes(100),
}


@given(payload=st.binary(max_size=300), slack=st.integers(0, 20))
def test_what_was_sealed_comes_back(payload, slack):
    assert unseal(sealed(payload, slack), FINGERPRINT, TOKENS, DIGEST).tobytes() == payload


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("at", range(FIELDS_BYTES))
def test_a_header_with_any_flipped_bit_is_refused(name, at):
    for bit in range(8):
        segment = sealed(PAYLOADS[name])
        segment[at] ^= 1 << bit
        with pytest.raises(SnapshotError):
            unseal(segment, FINGERPRINT, TOKENS, DIGEST)


@pytest.mark.parametrize("at", range(FIELDS_BYTES, HEADER_BYTES))
def test_a_header_whose_zeros_were_touched_is_refused(at):
    segment = sealed(PAYLOADS["of noise"])
    segment[at] ^= 1
    with pytest.raises(SnapshotError):
        unseal(segment, FINGERPRINT, TOKENS, DIGEST)


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_with_any_flipped_bit_is_refused(name):
    payload = PAYLOADS[name]
    for at in range(len(payload)):
        segment = sealed(payload)
        segment[HEADER_BYTES + at] ^= 1 << at % 8
        with pytest.raises(SnapshotError, match="checksum"):
            unseal(segment, FINGERPRINT, TOKENS, DIGEST)


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("model fingerprint", (bytes(16), TOKENS, DIGEST)),
        ("token count", (FINGERPRINT, TOKENS + 1, DIGEST)),
        ("digest of token ids", (FINGERPRINT, TOKENS, DIGEST + 1)),
    ],
)
def test_a_snapshot_of_something_else_is_refused_by_name(field, wanted):
    with pytest.raises(SnapshotError, match=field):
        unseal(sealed(b"payload"), *wanted)


def test_a_save_that_was_cut_off_before_its_header_is_no_snapshot():
    segment = np.zeros(200, np.uint8)
    segment[HEADER_BYTES:100] = 7
    with pytest.raises(SnapshotError, match="magic"):
        unseal(segment, FINGERPRINT, TOKENS, DIGEST)


@given(st.binary(max_size=64))
def test_the_checksum_is_the_sum_of_little_endian_words(raw):
    padded = raw + bytes(-len(raw) % 8)
    words = [int.from_bytes(padded[at : at + 8], "little") for at in range(0, len(padded), 8)]
    assert checksum(np.frombuffer(raw, np.uint8)) == sum(words) % (1 << 64)
