"""How much a message may hold: a walk over msgpack bytes that builds nothing.

Who uses it: codec.py, before it unpacks a message long enough to be dangerous. msgpack reserves room for
what a header announces: 60 KB of nested lies cost 77 ms and 67 MiB (measured), and 64 KiB of empty maps
become 5 MB. What must hold: nothing is believed that was not counted; the walk ends at the first excess.
Source of the format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

MAX_ITEMS = 4096  # values in one message, at every depth, keys included
MAX_DEPTH = 16  # of maps and arrays in one another, the message's own array included


class TooMuch(Exception):
    """A message holds more than may be, or ends before what it announces; `call_id` is 0 when unread."""

    def __init__(self, text: str, call_id: int) -> None:
        super().__init__(text)
        self.call_id = call_id


def check_shape(raw: bytes, start: int) -> None:
    """Walk the value that begins at `start`. Raises TooMuch."""
    try:
        _walk(raw, start)
    except IndexError:
        raise TooMuch("a message ends before the values that it announces", 0) from None


def _walk(raw: bytes, at: int) -> None:
    items = 0
    left = 1  # values to come in the innermost open container
    outer: list[int] = []  # the same of those around it
    call_id = 0
    while True:
        while not left:
            if not outer:
                return
            left = outer.pop()
        left -= 1
        items += 1
        first = raw[at]
        step = _STEP[first]
        if step > 0:  # a scalar of this many bytes
            if items == 2:
                call_id = _integer(raw, at, step)
            at += step
            continue
        if step:  # a string, bytes or an extension behind a length of -step bytes
            at += 1 - step + int.from_bytes(raw[at + 1 : at + 1 - step], "big") + (0xC7 <= first <= 0xC9)
            continue
        if first < 0xA0:
            count = first & 15 if first >= 0x90 else (first & 15) << 1
            at += 1
        else:
            width = 2 if first in (0xDC, 0xDE) else 4
            count = int.from_bytes(raw[at + 1 : at + 1 + width], "big") << (first >= 0xDE)
            at += 1 + width
        if items + count > MAX_ITEMS:
            raise TooMuch(f"a message holds more than {MAX_ITEMS} values", call_id)
        outer.append(left)
        if len(outer) > MAX_DEPTH:
            raise TooMuch(f"a message is nested deeper than {MAX_DEPTH}", call_id)
        left = count


def _integer(raw: bytes, at: int, step: int) -> int:
    """Return a positive integer below 2^63, 0 for any other scalar."""
    first = raw[at]
    if first < 0x80:
        return first
    if 0xCC <= first <= 0xD3:  # read as signed, an unsigned one of 64 bits is negative from 2^63 on
        return max(0, int.from_bytes(raw[at + 1 : at + step], "big", signed=first >= 0xCF))
    return 0


def _steps() -> tuple[int, ...]:
    """By first byte: bytes of a scalar; 0 for a container; -n for what has an n-byte length."""
    steps = [1] * 256  # small integers, nil, booleans
    steps[0x80:0xA0] = [0] * 32  # small maps and arrays
    steps[0xA0:0xC0] = range(1, 33)  # short strings
    steps[0xC4:0xCA] = [-1, -2, -4, -1, -2, -4]  # bytes, extensions
    steps[0xCA:0xD4] = [5, 9, 2, 3, 5, 9, 2, 3, 5, 9]  # floats, integers
    steps[0xD4:0xD9] = [3, 4, 6, 10, 18]  # extensions of fixed length
    steps[0xD9:0xDC] = [-1, -2, -4]  # strings
    steps[0xDC:0xE0] = [0] * 4  # arrays, maps
    return tuple(steps)


_STEP = _steps()
