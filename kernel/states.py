"""The state machines as data; docs/states.md is printed from these tables.

Who uses it: objects.py and cores.py, whose `move` is the only assignment to a state. What must hold: a step that is
not listed here raises InvalidTransition.
"""

from __future__ import annotations

from enum import Enum


class TaskState(Enum):
    NEW = "new"  # spawned, has not said hello
    READY = "ready"  # computing on its own, no call of its waits
    BLOCKED = "blocked"  # a call waits (the reason is kept in Task.waits_for)
    RUNNING = "running"  # at least one of its requests is on the model
    STOPPED = "stopped"  # by SIGSTOP
    ZOMBIE = "zombie"  # ended, its status not yet waited for


class RequestState(Enum):
    QUEUED = "queued"  # no KV: its prompt is to be prefilled
    RUNNING = "running"  # its KV is in a slot
    PREEMPTED = "preempted"  # its KV is in a snapshot
    FINISHED_STOP = "finished_stop"
    FINISHED_LENGTH = "finished_length"
    FINISHED_ERROR = "finished_error"
    FINISHED_ABORTED = "finished_aborted"


class CoreState(Enum):
    UNLOADED = "unloaded"  # no process serves the model
    LOADING = "loading"  # a process reads it
    READY = "ready"  # it decoded, and every logit was finite
    STOPPING = "stopping"  # nobody asked it anything for so long that its process is being ended
    FAILED = "failed"  # it never served and cannot: what is asked of it ends with EIO


T, R, C = TaskState, RequestState, CoreState

TASK_TRANSITIONS: dict[TaskState, dict[TaskState, str]] = {
    T.NEW: {
        T.READY: "hello accepted",
        T.STOPPED: "STOP",
        T.ZOMBIE: "exit before a hello, or KILL",
    },
    T.READY: {T.BLOCKED: "a call waits", T.STOPPED: "STOP", T.ZOMBIE: "exit, KILL or peer lost"},
    T.BLOCKED: {
        T.RUNNING: "a request of its enters a batch",
        T.READY: "replies sent",
        T.STOPPED: "STOP",
        T.ZOMBIE: "exit, KILL or peer lost",
    },
    T.RUNNING: {
        T.BLOCKED: "its last running request was preempted or ended while another waits",
        T.READY: "replies sent",
        T.STOPPED: "STOP, its requests preempted first",
        T.ZOMBIE: "exit, KILL or peer lost",
    },
    T.STOPPED: {
        T.NEW: "CONT, no hello yet",
        T.READY: "CONT, no call waits",
        T.BLOCKED: "CONT, a call waits",
        T.ZOMBIE: "KILL or peer lost",
    },
    T.ZOMBIE: {},
}

REQUEST_TRANSITIONS: dict[RequestState, dict[RequestState, str]] = {
    R.QUEUED: {
        R.RUNNING: "chosen, has a slot",
        R.FINISHED_ERROR: "cannot be tokenized, or there is no core for it",
        R.FINISHED_ABORTED: "cancel, deadline or task gone",
    },
    R.RUNNING: {
        R.PREEMPTED: "outranked or quantum spent, or its core died",
        R.FINISHED_STOP: "stop string or end of turn",
        R.FINISHED_LENGTH: "max_tokens or window reached",
        R.FINISHED_ERROR: "no token can be drawn",
        R.FINISHED_ABORTED: "cancel, deadline or task gone",
    },
    R.PREEMPTED: {
        R.RUNNING: "chosen, its snapshot restored",
        R.QUEUED: "no snapshot: prefill again",
        R.FINISHED_ERROR: "third core death, or there is no core for it",
        R.FINISHED_ABORTED: "cancel, deadline or task gone",
    },
    R.FINISHED_STOP: {},
    R.FINISHED_LENGTH: {},
    R.FINISHED_ERROR: {},
    R.FINISHED_ABORTED: {},
}

CORE_TRANSITIONS: dict[CoreState, dict[CoreState, str]] = {
    C.UNLOADED: {C.LOADING: "the kernel boots, or it is asked something"},
    C.LOADING: {
        C.READY: "its process says so",
        C.FAILED: "its process refuses it or died too often at its start, and it never served",
        C.UNLOADED: "the same after it has served; or the kernel goes down",
    },
    C.READY: {
        C.LOADING: "its process died: another is started",
        C.STOPPING: "nothing was asked of it for the time of --keep-alive",
        C.UNLOADED: "its process died while the kernel goes down",
    },
    C.STOPPING: {C.UNLOADED: "its process has ended"},
    C.FAILED: {},
}

FINISHED = frozenset({R.FINISHED_STOP, R.FINISHED_LENGTH, R.FINISHED_ERROR, R.FINISHED_ABORTED})


class InvalidTransition(Exception):
    """The kernel tried a step that its tables do not list: a bug, never an agent's doing."""


def validate(table: dict, old: Enum, new: Enum) -> None:
    """Raise InvalidTransition unless the table lists old -> new."""
    if new not in table[old]:
        raise InvalidTransition(f"{old.name} -> {new.name}")
