"""Aligned tables and quantities for people.

Who uses it: the commands that print. What must hold: a cell never changes the width of another column.
"""

from __future__ import annotations

from collections.abc import Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns two spaces apart; those that hold only numbers and quantities are right-aligned."""
    cells = [[show(value) for value in row] for row in rows]
    columns = list(zip(*cells, strict=True)) if cells else [()] * len(headings)
    widths = [
        max(map(len, (heading, *column))) for heading, column in zip(headings, columns, strict=True)
    ]
    is_right = [bool(column) and all(_is_quantity(cell) for cell in column) for column in columns]
    lines = []
    for line in (headings, *cells):
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def pairs(items: dict[str, object]) -> str:
    """Names and values, aligned."""
    width = max(map(len, items), default=0)
    return "\n".join(f"{name.ljust(width)}  {show(value)}".rstrip() for name, value in items.items())


def show(value: object) -> str:
    """A cell's text, on one line; None and the empty text are a dash."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {show(item)}" for name, item in value.items()) or "-"
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else "?" for char in text) or "-"


def size(count: float) -> str:
    """Bytes in the largest binary unit that keeps a digit before the point."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def span(seconds: float) -> str:
    """A duration: 0.4 s, 3:05, 2:00:00."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _is_quantity(cell: str) -> bool:
    return cell == "-" or cell[:1].isdigit() or (cell[:1] == "-" and cell[1:2].isdigit())
