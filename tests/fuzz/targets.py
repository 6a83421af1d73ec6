"""What is fuzzed: a function for each way in, which takes any bytes and raises only for a bug.

Who uses it: run.py and atheris_run.py. What must hold: a target leaves nothing behind and depends on nothing
but its bytes, so that an input that breaks one breaks it again.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

from kernel.abi.calls import validate
from kernel.abi.codec import (
    MAGIC,
    MAX_FRAME_BYTES,
    MAX_ID,
    SMALL_BYTES,
    BadCall,
    decode_answer,
    decode_call,
    encode_answer,
    encode_call,
)
from kernel.abi.errors import KernelError
from kernel.ipc.zmtp import (
    Command,
    Decoder,
    Violation,
    check_greeting,
    check_ready,
    error_command,
    pong,
)

MAX_TEXT_CHARS = 300  # of an error
LITTLE_BYTES = 1 << 10  # so much cannot take too much memory, at 40 bytes of Python's own for each read
SLACK_BYTES = 8 << 10  # of Python's own, beside the bytes that a decoder keeps


def zmtp(data: bytes) -> None:
    """A stream read at once and cut as the first byte says: both give the same, and raise but Violation."""
    stream = data[1:]
    step = data[0] if data else 0
    whole = _conversation(stream, 0)
    if step:
        assert _conversation(stream, step) == whole, "a stream that is cut gives something else"


def call(data: bytes) -> None:
    """A message that may be a call: decoded and validated, or refused in words."""
    try:
        found = decode_call(MAGIC + data)
    except BadCall as error:
        _check_words(error)
        return
    try:
        validate(found.method, found.body)
    except KernelError as error:
        _check_words(error)
    again = encode_call(*found)
    if len(again) <= SMALL_BYTES or len(data) > SMALL_BYTES:
        assert encode_call(*decode_call(again)) == again, "what was decoded is not what was encoded"


def answer(data: bytes) -> None:
    """A message that may be an answer."""
    try:
        found = decode_answer(MAGIC + data)
    except BadCall as error:
        _check_words(error)
        return
    again = encode_answer(found.id, found.kind, found.body, found.seq)
    assert decode_answer(again)[:3] == found[:3], "what was decoded is not what was encoded"


def conversation(data: bytes) -> None:
    """A stream sent to the real server, beside a neighbour who wants an answer all the while."""
    from tests.fuzz.conversation import converse

    converse(data)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "zmtp": zmtp,
    "call": call,
    "answer": answer,
    "conversation": conversation,
}


def _check_words(error: KernelError) -> None:
    if isinstance(error, BadCall):
        assert 0 <= error.call_id <= MAX_ID, "an id that no call can have"
    assert len(error.text) <= MAX_TEXT_CHARS, "an error text without bounds"
    assert error.text.isascii(), "an error text that may not be printable"


def _conversation(stream: bytes, step: int) -> list[bytes | Command | None]:
    """Return what a connection would see; None in the end for a violation."""
    decoder = Decoder()
    found: list[bytes | Command | None] = []
    at = 0
    try:
        while at < len(stream):
            piece = stream[at : at + step] if step else stream
            at += len(piece)
            step = (step * 5 + 1) & 0xFF or 1 if step else 0
            decoder.feed(piece)
            while (one := decoder.next()) is not None:
                _obey(one, len(found))
                found.append(one)
                assert len(found) <= at // 2, "more comes out of a stream than went in"
            assert not decoder.has_more, "who asks for more would ask for ever"
            if at > LITTLE_BYTES:
                most_bytes = MAX_FRAME_BYTES + len(piece) + SLACK_BYTES
                assert _kept_bytes(decoder) <= most_bytes, "too much is kept"
    except Violation as violation:
        error_command(str(violation))
        found.append(None)
    return found


def _obey(one: bytes | Command, number: int) -> None:
    """Do with what came as a connection does; it is the `number`-th after the greeting."""
    if number == 0:
        assert isinstance(one, Command), "a message is no greeting"
        check_greeting(one.data)
    elif isinstance(one, bytes):
        assert len(one) <= MAX_FRAME_BYTES, "a message beyond the limit"
        if number == 1:
            raise Violation("a message before READY")
    elif number == 1:
        check_ready(one)
    elif one.name == b"PING":
        assert len(pong(one)) <= 64, "an answer longer than what it answers"


def _kept_bytes(decoder: Decoder) -> int:
    """The memory of everything that a decoder refers to."""
    total = 0
    for one in gc.get_referents(decoder):
        if type(one) is bytes:
            total += sys.getsizeof(one)
        elif type(one) is list:
            total += sys.getsizeof(one) + sum(map(sys.getsizeof, one))
    return total
