"""What is streamed is what the tokens say: whole characters, nothing at or after a stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernel.engine.text import TextAssembler

letters = st.text("abc你é\U0001f600", max_size=30)
stops = st.lists(st.text("abc你", min_size=1, max_size=4), max_size=3)


def cut(raw: bytes, sizes: list[int]) -> list[bytes]:
    """Cut bytes into pieces of these sizes, in turn; the rest is the last piece."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(raw[at : at + size])
        at += size
    return [*pieces, raw[at:]]


@given(raw=st.binary(max_size=40) | letters.map(str.encode), sizes=st.lists(st.integers(0, 4), max_size=30))
def test_without_stops_the_pieces_add_up_to_the_text_decoded_at_once(raw, sizes):
    assembler = TextAssembler()
    shown = [assembler.feed(piece) for piece in cut(raw, sizes)]
    shown.append(assembler.finish())
    assert "".join(shown) == assembler.text == raw.decode(errors="replace")


@given(text=letters, sizes=st.lists(st.integers(0, 4), max_size=40), stops=stops)
def test_with_stops_the_pieces_add_up_to_the_text_before_the_first_stop(text, sizes, stops):
    assembler = TextAssembler(stops)
    shown, fed = [], b""
    for piece in cut(text.encode(), sizes):
        fed += piece
        shown.append(assembler.feed(piece))
        whole = fed.decode(errors="ignore")
        found = [at for at in map(whole.find, stops) if at >= 0]
        assert assembler.stopped is bool(found)
        if found:
            assert "".join(shown) == assembler.text == whole[: min(found)]
            assert assembler.finish() == ""
            return
    shown.append(assembler.finish())
    assert "".join(shown) == assembler.text == text


@given(text=st.text("你é\U0001f600", min_size=1, max_size=9))
def test_no_character_is_ever_split(text):
    assembler = TextAssembler()
    for byte in text.encode():
        assert "\ufffd" not in assembler.feed(bytes([byte]))
    assert assembler.text == text


def test_a_character_that_is_never_finished_becomes_a_replacement():
    assembler = TextAssembler()
    assert assembler.feed("你".encode()[:2]) == ""
    assert assembler.is_holding
    assert assembler.finish() == "\ufffd"


def test_the_start_of_a_stop_string_is_held_back_until_it_is_none():
    assembler = TextAssembler(["stop"])
    assert assembler.feed(b"a st") == "a "
    assert assembler.is_holding
    assert assembler.feed(b"art") == "start"
    assert not assembler.is_holding


def test_the_held_start_of_a_stop_string_is_shown_when_the_text_ends():
    assembler = TextAssembler(["stop"])
    assembler.feed(b"sto")
    assert assembler.finish() == "sto"


def test_a_stop_string_across_pieces_and_within_a_character_is_found():
    assembler = TextAssembler(["你b"])
    pieces = [b"a", "你".encode()[:1], "你".encode()[1:], b"b"]
    assert "".join(assembler.feed(piece) for piece in pieces) == "a"
    assert assembler.stopped
