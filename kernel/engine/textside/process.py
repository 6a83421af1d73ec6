"""What every process of the text side does first.

Who calls it: server.py, and what it forks. What must hold: none outlives the process that made it, none lets
another of the user's look into it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME = 1, 4, 15
_STACK_BYTES = 120 << 20
_libc = ctypes.CDLL(None)  # loaded here: a forked child loads nothing


def become_private(name: bytes) -> None:
    """Die with the parent, hide memory from /proc and ptrace, take a name of at most 15 characters."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    _libc.prctl(_PR_SET_DUMPABLE, 0)
    _libc.prctl(_PR_SET_NAME, name)


def keep_only(descriptor: int) -> None:
    """Close all that a forked child has of its parent's, but for this and the three standard streams."""
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))


def limit(more_bytes: int) -> None:
    """Let this process use so much memory beyond what it has, and leave no core file.

    Its stack may grow to what Linux keeps free below every stack: llama.cpp's regular expressions go deeper
    with each letter of a run of letters.
    """
    with open("/proc/self/statm") as file:
        has = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (has + more_bytes, has + more_bytes))
    _, most_stack = resource.getrlimit(resource.RLIMIT_STACK)
    if most_stack == resource.RLIM_INFINITY or most_stack >= _STACK_BYTES:
        resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, most_stack))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
