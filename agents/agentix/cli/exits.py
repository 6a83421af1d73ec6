"""Exit statuses of the `agentix` command: one for each thing that a user would do differently.

Who uses it: every command, and the epilog of `agentix --help`. What must hold: 3 to 8 are the kernel's own.
"""

from __future__ import annotations

from enum import IntEnum

from agentix import errors
from agentix.errors import AgentixError


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    KERNEL_RUNS = 3
    ADDRESS_TAKEN = 4
    NO_MODEL = 5
    NO_MEMORY = 6
    NO_LLAMA = 7
    CORE_DIES = 8
    NO_KERNEL = 9
    NO_TASK = 10
    NOT_PERMITTED = 11
    TIMED_OUT = 12
    INTERRUPTED = 130


MEANING = {
    Exit.OK: "success",
    Exit.FAILED: "an agent failed, or the kernel answered with an error",
    Exit.USAGE: "wrong arguments",
    Exit.KERNEL_RUNS: "a kernel of that name runs already",
    Exit.ADDRESS_TAKEN: "something else has taken the kernel's or the gateway's address",
    Exit.NO_MODEL: "the model is missing, unreadable or no GGUF file",
    Exit.NO_MEMORY: "too little memory",
    Exit.NO_LLAMA: "llama-cpp-python is missing or of an untested version",
    Exit.CORE_DIES: "the LLM core keeps dying",
    Exit.NO_KERNEL: "no kernel is running, or it died",
    Exit.NO_TASK: "no such task",
    Exit.NOT_PERMITTED: "not permitted",
    Exit.TIMED_OUT: "timed out",
    Exit.INTERRUPTED: "interrupted",
}

OF_ERROR: dict[type[AgentixError], Exit] = {
    errors.NoKernel: Exit.NO_KERNEL,
    errors.KernelGone: Exit.NO_KERNEL,
    errors.ShuttingDown: Exit.NO_KERNEL,
    errors.NoSuchTask: Exit.NO_TASK,
    errors.NoSuchChild: Exit.NO_TASK,
    errors.PermissionDenied: Exit.NOT_PERMITTED,
    errors.TimedOut: Exit.TIMED_OUT,
}


def exit_of(error: AgentixError) -> Exit:
    """The status that a command ends with after an error."""
    return OF_ERROR.get(type(error), Exit.FAILED)


class CommandError(Exception):
    """What a command cannot go on from: one sentence for the user, and the exit status."""

    def __init__(self, status: Exit | int, text: str) -> None:
        super().__init__(text)
        self.status = status
