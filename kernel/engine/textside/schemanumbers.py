"""Grammars of the numbers between two bounds, as JSON writes them.

Who calls it: schema.py. What must hold: every text that a grammar of these takes is a number within the bounds, also
once it has been rounded to a double, for bounds of no more than 15 digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

MOST_DIGITS = 15  # that a double keeps: numbers that differ in these differ as doubles
_PLACES = 2  # digits after the point, where the bounds leave room for them
_DIGIT = "[0-9]"

INTEGER = '"-"? ("0" | [1-9] [0-9]{0,14})'
NUMBER = INTEGER + ' ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?'


def integers(low: Decimal | None, high: Decimal | None) -> str | None:
    """Return a grammar of the integers from low to high, both included; None if there are none."""
    if low is None and high is None:
        return INTEGER
    least = -(10 ** _reach(high)) + 1 if low is None else int(low.to_integral_value(ROUND_CEILING))
    most = 10 ** _reach(low) - 1 if high is None else int(high.to_integral_value(ROUND_FLOOR))
    return _alternatives(least, most, 0)


def numbers(low: Decimal | None, high: Decimal | None, excludes: tuple[bool, bool]) -> str | None:
    """Return a grammar of numbers between the bounds, each of which may be excluded; None if there are none.

    Integers, and fractions of a fixed number of places, as many as it takes to have some.
    """
    least, most = low, high
    if low is not None and excludes[0]:
        least = Decimal(int(low.to_integral_value(ROUND_FLOOR)) + 1)
    if high is not None and excludes[1]:
        most = Decimal(int(high.to_integral_value(ROUND_CEILING)) - 1)
    found = [integers(least, most)]
    for places in range(_PLACES, MOST_DIGITS):
        shown = _fractions(low, high, excludes, places)
        if shown:
            found.append(shown)
            break
    return " | ".join(one for one in found if one) or None


def multiples(step: int, names: list[str]) -> list[str]:
    """Return, for each remainder, the rule of the digits that still make a multiple of `step`; names: theirs."""
    return [
        " | ".join(
            ['""'] * (rest == 0)
            + [f'"{digit}" {names[(rest * 10 + digit) % step]}' for digit in range(10)]
        )
        for rest in range(step)
    ]


def first_digits(step: int, names: list[str]) -> str:
    """Return the grammar of a multiple's digits, which do not begin with 0; see multiples."""
    return " | ".join(f'"{digit}" {names[digit % step]}' for digit in range(1, 10))


def _reach(bound: Decimal | None) -> int:
    """Return how many digits integers may have on the side without a bound."""
    return max(MOST_DIGITS, 1 + (len(str(abs(int(bound)))) if bound is not None else 0))


def _fractions(
    low: Decimal | None, high: Decimal | None, excludes: tuple[bool, bool], places: int
) -> str | None:
    scale = Decimal(10) ** places
    limit = 10**MOST_DIGITS - 1
    least, most = -limit, limit
    if low is not None:
        least = int((low * scale).to_integral_value(ROUND_CEILING))
        least += excludes[0] and least == low * scale
    if high is not None:
        most = int((high * scale).to_integral_value(ROUND_FLOOR))
        most -= excludes[1] and most == high * scale
    return _alternatives(max(least, -limit), min(most, limit), places)


def _alternatives(least: int, most: int, places: int) -> str | None:
    """Return a grammar of the numbers from least to most, in units of the last of `places` after the point."""
    found = []
    if least < 0:
        found += ['"-" ' + _write(one, places) for one in _positives(max(1, -most), -least, places)]
    if most >= 0:
        found += [_write(one, places) for one in _positives(max(0, least), most, places)]
    return " | ".join(found) or None


def _positives(least: int, most: int, places: int) -> Iterator[list[str]]:
    """Yield sequences of digit classes that together write the numbers from least to most."""
    if least > most:
        return
    width = max(places + 1, len(str(least)))
    longest = max(places + 1, len(str(most)))
    if width == longest:
        yield from _between(str(least).rjust(width, "0"), str(most).rjust(width, "0"))
        return
    yield from _between(str(least).rjust(width, "0"), "9" * width)
    if longest - width > 1:
        between = f"[0-9]{{{width - places},{longest - 2 - places}}}"
        yield ["[1-9]", between, *[_DIGIT] * places]
    yield from _between("1" + "0" * (longest - 1), str(most))


def _between(low: str, high: str) -> Iterator[list[str]]:
    """Yield sequences of digit classes that together write the digit strings from low to high, of equal length."""
    same = 0
    while same < len(low) and low[same] == high[same]:
        same += 1
    begin = [f"[{digit}]" for digit in low[:same]]
    if same == len(low):
        yield begin
        return
    rest = len(low) - same - 1
    is_low_open = set(low[same + 1 :]) <= {"0"}
    is_high_open = set(high[same + 1 :]) <= {"9"}
    first = int(low[same]) + (not is_low_open)
    last = int(high[same]) - (not is_high_open)
    if not is_low_open:
        for one in _between(low[same + 1 :], "9" * rest):
            yield [*begin, f"[{low[same]}]", *one]
    if first <= last:
        yield [*begin, f"[{first}-{last}]" if first < last else f"[{first}]", *[_DIGIT] * rest]
    if not is_high_open:
        for one in _between("0" * rest, high[same + 1 :]):
            yield [*begin, f"[{high[same]}]", *one]


def _write(digits: list[str], places: int) -> str:
    written = [f'"{one[1]}"' if len(one) == 3 else one for one in digits]
    if places:
        written.insert(len(written) - places, '"."')
    return " ".join(written)
