"""What the kernel wants done. Kernel.handle returns these; the loop carries them out in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from kernel.abi.errors import KernelError
from kernel.engine.base import StepPlan


class Send(NamedTuple):
    """Send a message to a peer. A tuple, for it is made for every answer."""

    peer: int
    frame: bytes


class Refuse(NamedTuple):
    """Send a message to a peer whose own was no valid call: if that was much work, it waits long for the next."""

    peer: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close a connection; `error` is the last that its peer reads. `is_fault`: for what the peer did."""

    peer: int
    error: KernelError
    is_fault: bool = False


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
    birth: int


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
    """Make a memfd of the kernel's.

    is_for_core: it is also handed to the LLM core of the model `core` (and to its successors); others to the
    process `owner`, a (pid, birth), when it asks on the side channel.
    """

    segment: int
    size_bytes: int
    is_for_core: bool
    owner: tuple[int, int] = (0, 0)
    core: int = 0  # by its place among the kernel's models


@dataclass(frozen=True, slots=True)
class DropSegment:
    segment: int


@dataclass(frozen=True, slots=True)
class StartCore:
    """Start an LLM core; answered by CoreReady or CoreLost."""

    extra_buffers: bool
    core: int = 0
    flash_attention: str = ""  # "on" or "off", as its predecessor had it: bits depend on it; "": as configured


@dataclass(frozen=True, slots=True)
class StopCore:
    """End an LLM core that has nothing to do, and give its memory back; answered by CoreLost."""

    core: int


@dataclass(frozen=True, slots=True)
class RunStep:
    """Have the core carry out a plan; answered by StepDone or CoreLost."""

    plan: StepPlan
    core: int = 0


@dataclass(frozen=True, slots=True)
class AskCore:
    """Have the core's text side do something beside the steps; answered by CoreAnswer or CoreLost.

    what, value -> answer: "tokenize" {text, with_special, goes_on?, sender} -> [int]; "detokenize" {tokens, sender} ->
    bytes; "pieces" {tokens, sender} -> [bytes]; "chat" {messages, tools, thinking, known?: [int], sender} -> {tokens:
    [int], opens_reasoning}; "embed" {texts: [[int]]} -> [bytes]; "constraint" {kind, text, max_tokens, sender} ->
    tokens that a shortest text takes. `sender` is the pid of the task that pays for the work.
    """

    ticket: int
    what: str
    value: dict[str, Any]
    core: int = 0


@dataclass(frozen=True, slots=True)
class SwapOut:
    """Write a segment's first bytes to the swap file; answered by SwapDone. Copies are made in the order of effects."""

    core: int
    ticket: int
    segment: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SwapIn:
    """Read a segment's first bytes from the swap file; answered by SwapDone."""

    core: int
    ticket: int
    segment: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """Write a durable session's record, in place of an older one. Answered by RecordDone, as the next three are, which
    are all done in the order of effects."""

    ticket: int
    name: str  # of its file
    body: bytes


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """Read a record; the answer has no body where there is none."""

    ticket: int
    name: str


@dataclass(frozen=True, slots=True)
class SetAsideRecord:
    """Give a record's file a name under which nobody looks for it: it is damaged."""

    ticket: int
    name: str


@dataclass(frozen=True, slots=True)
class RemoveRecord:
    """Delete a record, if there is one."""

    ticket: int
    name: str


RecordEffect = StoreRecord | LoadRecord | SetAsideRecord | RemoveRecord


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
    | Refuse
    | Disconnect
    | Launch
    | Watch
    | Signal
    | SampleProcesses
    | MakeSegment
    | DropSegment
    | StartCore
    | StopCore
    | RunStep
    | AskCore
    | SwapOut
    | SwapIn
    | RecordEffect
    | SetTimer
    | Say
    | Halt
)
