"""What the kernel wants done. Kernel.handle returns these; the loop carries them out in order."""

from __future__ import annotations

from dataclasses import dataclass

from kernel.engine.base import StepPlan


@dataclass(frozen=True, slots=True)
class Send:
    """Send frames to a peer on the socket that it came in on."""

    peer: bytes
    is_operator: bool
    frames: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a script as a process of its own; answered by Spawned or SpawnFailed with the ticket."""

    ticket: int
    argv: tuple[str, ...]  # after the Python interpreter
    env: tuple[tuple[str, str], ...]
    cwd: str | None


@dataclass(frozen=True, slots=True)
class Watch:
    """Report ProcessEnded for a process that is not a child of the kernel (it said hello by itself)."""

    pid: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Signal a task's process, with its whole session when the kernel launched it."""

    pid: int
    number: int


@dataclass(frozen=True, slots=True)
class SampleProcesses:
    """Read CPU time and memory of these tasks; answered by one ProcessSample."""

    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MakeSegment:
    """Make a memfd of the kernel's, `is_touched` once so that its pages exist.

    The store names segments; is_for_core ones are also handed to the LLM core (and to its successors).
    """

    segment: int
    size_bytes: int
    is_for_core: bool


@dataclass(frozen=True, slots=True)
class DropSegment:
    segment: int


@dataclass(frozen=True, slots=True)
class StartCore:
    """Start an LLM core; answered by CoreReady or CoreLost."""

    extra_buffers: bool


@dataclass(frozen=True, slots=True)
class RunStep:
    """Have the core carry out a plan; answered by StepDone or CoreLost."""

    plan: StepPlan


@dataclass(frozen=True, slots=True)
class AskCore:
    """Have the core's text side do something beside the steps; answered by CoreAnswer or CoreLost.

    what/value: "tokenize" (text, with_special) -> [int]; "chat" [(role, content)] -> [int];
    "detokenize" [int] -> bytes.
    """

    ticket: int
    what: str
    value: object


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Fire TimerFired at this CLOCK_MONOTONIC time; replaces the earlier one. None: no timer."""

    at_ns: int | None


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the person at the kernel's terminal one line."""

    text: str


@dataclass(frozen=True, slots=True)
class Halt:
    """Leave the loop: end the core, kill what is left, exit with this status."""

    status: int


Effect = (
    Send
    | Launch
    | Watch
    | Signal
    | SampleProcesses
    | MakeSegment
    | DropSegment
    | StartCore
    | RunStep
    | AskCore
    | SetTimer
    | Say
    | Halt
)
