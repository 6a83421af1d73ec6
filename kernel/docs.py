"""Writes docs/protocol.md and docs/states.md from the code: `python -m kernel.docs [--check]`.

Who runs it: whoever changed kernel/abi or kernel/states.py; a test runs it with --check, which writes
nothing and exits with 1 when a page is not what it would write. What must hold: nothing on these pages
is typed by hand.
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import MISSING, fields
from enum import Enum
from pathlib import Path

from kernel import limits
from kernel.abi import codec, descriptors, errors, shape
from kernel.abi.calls import CALLS, SCHEMAS
from kernel.states import (
    CORE_TRANSITIONS,
    REQUEST_TRANSITIONS,
    TASK_TRANSITIONS,
    CoreState,
    RequestState,
    TaskState,
)

FOLDER = Path(__file__).resolve().parent.parent / "docs"
NOTICE = "<!-- Written by `python -m kernel.docs` from {}. Do not edit. -->"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: python -m kernel.docs [--check]", file=sys.stderr)
        return 2
    stale = []
    for name, text in pages().items():
        path = FOLDER / name
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if not arguments:
            path.write_text(text)
            print(f"wrote {path}")
    if stale and arguments:
        print(f"not up to date: {', '.join(stale)}: run `python -m kernel.docs`", file=sys.stderr)
        return 1
    return 0


def pages() -> dict[str, str]:
    """Return the text of every generated page by its name."""
    return {"protocol.md": protocol_page(), "states.md": states_page()}


# -- the protocol -----------------------------------------------------------------------------


def protocol_page() -> str:
    parts = [
        NOTICE.format("kernel/abi/"),
        f"# Protocol, version {codec.PROTOCOL_VERSION}",
        "## Frames",
        _frames(),
        f"MAGIC is the four bytes `{codec.MAGIC.decode()}`.",
        "A connection is ZMTP 3 over a unix socket, mechanism NULL, socket type DEALER: what a stock ZeroMQ socket"
        " speaks. Whose it is, Linux tells the kernel; a routing id or a User-Id means nothing.",
        "A call is refused with EINVAL when its body has a field that is not listed, lacks one that has no"
        " default, or has a value of another type or outside its range. A length is in characters, bytes or"
        " items.",
        _limits(),
        "## Descriptors and long messages",
        _side_channel(),
        "## Errors",
        _errors(),
        "## Calls",
        ", ".join(f"[{method}](#{method.replace('.', '')})" for method in CALLS),
    ]
    for method, call in CALLS.items():
        parts += [f"### {method}", inspect.cleandoc(call.__doc__ or ""), _fields(method, call)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _frames() -> str:
    """Return the codec's own description, from its first sentence about messages to its last rule."""
    paragraphs = inspect.cleandoc(codec.__doc__ or "").split("\n\n")
    table = paragraphs[1].split("\n")
    first = [line for line in table if not line.startswith("  ")]
    forms = [line for line in table if line.startswith("  ")]
    code = "```\n" + "\n".join(line[2:] for line in forms) + "\n```"
    return f"{first[0]}\n\n{code}\n\n" + "\n".join(first[1:])


def _side_channel() -> str:
    """Return the side channel's own description: all before who uses it."""
    whole = inspect.cleandoc(descriptors.__doc__ or "")
    paragraphs = whole.partition("\n\nWho uses it")[0].split("\n\n")[1:]
    code = (
        f"HELLO = {descriptors.HELLO!r}\n"
        f"REQUEST = struct {descriptors.REQUEST.format!r}: kind (WRITABLE {descriptors.WRITABLE},"
        f" READ_ONLY {descriptors.READ_ONLY}, RING {descriptors.RING}), number\n"
        f"ANSWER = struct {descriptors.ANSWER.format!r}: errno or 0, size in bytes\n"
        f"reference = {descriptors.reference(0, 0)[:4]!r}, then struct '<QQ': position, length"
    )
    return "\n\n".join(re.sub(r"\n  (\w)", r"\n- \1", text) for text in paragraphs) + f"\n\n```\n{code}\n```"


def _limits() -> str:
    rows = [
        ("a message in its own frame", f"{codec.MAX_INLINE_BYTES:,} bytes", "it goes through the payload ring"),
        ("a frame", f"{codec.MAX_FRAME_BYTES:,} bytes", "the connection is closed with EBADMSG"),
        ("a message", f"{codec.MAX_MESSAGE_BYTES:,} bytes", "the same"),
        ("values in a message, keys included", f"{shape.MAX_ITEMS:,}", "EBADMSG: send tokens as bytes"),
        ("maps and arrays in one another", f"{shape.MAX_DEPTH}", "EBADMSG"),
        ("frames of a message", "1", "the connection is closed with EBADMSG"),
    ]
    lines = "\n".join(f"| {what} | {most} | {then} |" for what, most, then in rows)
    comments = re.findall(r"^(MAX_\w+|\w+) = (.+?)  # (.+?)(?:; (.+))?$", inspect.getsource(limits), re.MULTILINE)
    wanted = {
        "MAX_PROCESS_CONNECTIONS", "MAX_PROCESS_RINGS", "CONNECT_BURST", "CONNECTS_PER_S", "HANDSHAKE_NS",
        "MAX_BAD_BURST", "UNREAD_SOFT_BYTES", "UNREAD_HARD_BYTES", "MAX_CALLS", "MAX_TASK_CALL_BYTES",
        "MAX_REQUESTS", "MAX_SENT_BYTES", "MAX_MAILS", "MAX_HELD_TASKS",
    }  # fmt: skip
    for name, _, what, then in comments:
        if name in wanted:
            lines += f"\n| {what} | {_amount(name, getattr(limits, name))} | {then} |"
    return "| limit of | at most | beyond it |\n|---|---:|---|\n" + lines


def _amount(name: str, value: int) -> str:
    if name.endswith("_NS"):
        return f"{value / 1e9:g} s"
    return f"{value:,} bytes" if name.endswith("_BYTES") else f"{value:,}"


def _errors() -> str:
    source = inspect.getsource(errors.Errno)
    meaning = dict(re.findall(r"^ +(E[A-Z]+) = .*?# (.*)$", source, re.MULTILINE))
    rows = [f"| {number.name} | {int(number)} | {meaning[number.name]} |" for number in errors.Errno]
    return "| name | number | meaning |\n|---|---:|---|\n" + "\n".join(rows)


def _fields(method: str, call: type) -> str:
    rows = []
    for item in fields(call):
        kinds, low, high, is_required = SCHEMAS[method][item.name]
        names = [kind.__name__ for kind in kinds if kind is not type(None)]
        if float in kinds:
            names = ["float", "int"]
        default = "required" if is_required else _default(item.default)
        rows.append(f"| `{item.name}` | {' or '.join(names)} | {_range(names, low, high)} | {default} |")
    if not rows:
        return "No fields."
    return "| field | type | range | default |\n|---|---|---|---|\n" + "\n".join(rows)


def _default(value: object) -> str:
    if value is None:
        return "none"
    if value is MISSING:
        return "required"
    if value == ():
        return "`[]`"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value!r}`"


def _range(names: list[str], low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    what = "" if names[0] in ("int", "float") else "length "
    return f"{what}{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    """Return a bound as people know it: 2^31 and not 2147483648."""
    if isinstance(value, int) and value >= 1 << 20:
        for offset, suffix in ((0, ""), (1, " - 1")):
            power = (value + offset).bit_length() - 1
            if 1 << power == value + offset:
                return f"2^{power}{suffix}"
    return f"{value:,}"


# -- the states -------------------------------------------------------------------------------


def states_page() -> str:
    return "\n\n".join(
        [
            NOTICE.format("kernel/states.py"),
            "# States",
            "`move` of Task and Request (kernel/objects.py) and of Core (kernel/cores.py) is the only assignment to"
            " a state; a step that is not listed here raises InvalidTransition.",
            *_machine("Task: an agent's process", TaskState, TASK_TRANSITIONS),
            *_machine("Request: one llm.generate in flight", RequestState, REQUEST_TRANSITIONS),
            *_machine("Core: the process that serves a model", CoreState, CORE_TRANSITIONS),
        ]
    ) + "\n"


def _machine(title: str, states: type[Enum], table: dict) -> list[str]:
    source = inspect.getsource(states)
    meaning = dict(re.findall(r'^ +([A-Z_]+) = "\w+"  # (.*)$', source, re.MULTILINE))
    first = next(iter(states)).name
    arrows = [f"    [*] --> {first}"]
    rows, ends = [], []
    for old, steps in table.items():
        for new, why in steps.items():
            arrows.append(f"    {old.name} --> {new.name}")
            rows.append(f"| {old.name} | {new.name} | {why} |")
        if not steps:
            ends.append(f"    {old.name} --> [*]")
    parts = [f"## {title}"]
    if meaning:
        lines = [f"| {state.name} | {meaning[state.name]} |" for state in states if state.name in meaning]
        parts.append("| state | meaning |\n|---|---|\n" + "\n".join(lines))
    parts.append("```mermaid\nstateDiagram-v2\n" + "\n".join([*arrows, *ends]) + "\n```")
    parts.append("| from | to | when |\n|---|---|---|\n" + "\n".join(rows))
    return parts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
