"""Everything that can happen to the kernel. The loop makes these; Kernel.handle consumes them.

What must hold: an event carries all that the decision needs, its time included (`now_ns`,
CLOCK_MONOTONIC), so that the same events give the same effects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kernel.engine.base import EngineInfo, StepResult


class Message(NamedTuple):
    """A frame from a peer as it came: nothing of it is trusted yet. A tuple, for it is made for every call."""

    now_ns: int
    peer: int  # names the connection for replies
    pid: int  # of the process that connected, attested by the OS
    birth: int  # when that process started: pids come round again
    is_operator: bool  # came in on the operators' socket
    burst: int  # how many came from this peer without a pause, this one included
    frame: bytes


@dataclass(frozen=True, slots=True)
class PeerGone:
    """A connection is closed, by either side: nothing comes from it and nothing reaches it any more."""

    now_ns: int
    peer: int
    was_cut: bool = False  # for what it did


@dataclass(frozen=True, slots=True)
class Spawned:
    """A Launch effect ended well: the process runs. Tasks are named by the process's pid."""

    now_ns: int
    ticket: int
    pid: int
    birth: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    now_ns: int
    ticket: int
    reason: str


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """A task's process is gone. An adopted one (not our child) has neither status nor signal."""

    now_ns: int
    pid: int
    status: int | None
    signal: int | None


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes that a task's process wrote to stdout or stderr."""

    now_ns: int
    pid: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """CPU time and memory of the tasks' processes, taken while the core works or an operator asks."""

    now_ns: int
    usage: tuple[tuple[int, float, int], ...]  # (pid, cpu seconds so far with descendants, RSS bytes)


@dataclass(frozen=True, slots=True)
class CoreReady:
    now_ns: int
    pid: int
    info: EngineInfo
    core: int = 0  # which model's, by its place among the kernel's


@dataclass(frozen=True, slots=True)
class CoreAnswer:
    """Answer to an AskCore: exactly one of value and error is set."""

    now_ns: int
    ticket: int
    value: object | None
    error: str | None


@dataclass(frozen=True, slots=True)
class StepDone:
    now_ns: int
    result: StepResult
    core: int = 0


@dataclass(frozen=True, slots=True)
class SwapDone:
    """Answer to a SwapOut or SwapIn; error is empty if it went well."""

    now_ns: int
    core: int
    ticket: int
    error: str


@dataclass(frozen=True, slots=True)
class RecordDone:
    """Answer to a StoreRecord, LoadRecord, SetAsideRecord or RemoveRecord; error is empty if it went well."""

    now_ns: int
    ticket: int
    path: str
    body: bytes | None  # of what was loaded; None: there is no such file
    error: str
    is_damaged: bool  # the file was read, and is not what was written


@dataclass(frozen=True, slots=True)
class CoreLost:
    """An LLM core died, or never became ready; whatever it was doing is lost."""

    now_ns: int
    reason: str  # "signal SIGKILL", "exit status 1: its last line"
    was_ready: bool
    is_fatal: bool  # it said itself that it cannot serve this model: restarting is no use
    is_memory: bool = False  # what is wrong then is the memory and not the file
    core: int = 0


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The time asked for by the last SetTimer has come."""

    now_ns: int


@dataclass(frozen=True, slots=True)
class PeerStalled:
    """A peer does not read what it is sent: its queue ran full. PeerGone follows."""

    now_ns: int
    peer: int


@dataclass(frozen=True, slots=True)
class ShutdownAsked:
    """SIGINT or SIGTERM reached the kernel."""

    now_ns: int


Event = (
    Message
    | Spawned
    | SpawnFailed
    | ProcessEnded
    | Output
    | ProcessSample
    | CoreReady
    | CoreAnswer
    | StepDone
    | SwapDone
    | RecordDone
    | CoreLost
    | TimerFired
    | PeerGone
    | PeerStalled
    | ShutdownAsked
)
