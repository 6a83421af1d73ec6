"""The processes that run grammars, one for each constrained request: forked, ended and mourned.

Who calls it: server.py, whose vocabulary they share. What must hold: the end of each is told to the core once, with
what it died of; a child that the core is done with is gone at once.
"""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kernel.engine.base import Constraint
from kernel.engine.textside.gatechild import Checker
from kernel.engine.textside.lexicon import Lexicon
from kernel.engine.textside.process import become_private, keep_only

OPEN_GATE, CLOSE_GATE = (
    100,
    101,
)  # down: (number, kind, text, max_tokens, generated) with a socket; (number)
GATE_ENDED = 100  # up: (number, signal or 0, exit status or 0)


@dataclass(slots=True)
class _Child:
    number: int
    pid: int


class Ended(NamedTuple):
    number: int
    signal: int
    status: int


class Gates:
    """All of one server, by the descriptors that say that they ended."""

    def __init__(self, lexicon: Lexicon, token_of: Callable[[str], int | None]) -> None:
        self._lexicon = lexicon
        self._token_of = token_of
        self._children: dict[int, _Child] = {}  # by pidfd

    def open(
        self,
        link_fd: int,
        number: int,
        kind: str,
        text: str,
        max_tokens: int,
        generated: tuple[int, ...],
    ) -> None:
        """Fork a child that answers on a socket, which it takes over."""
        pid = os.fork()
        if pid == 0:
            self._be_child(link_fd, Constraint(kind, text), max_tokens, generated)
        os.close(link_fd)
        self._children[os.pidfd_open(pid)] = _Child(number, pid)

    def close(self, number: int) -> None:
        """End a child; its end is told as any other."""
        for child in self._children.values():
            if child.number == number:
                os.kill(child.pid, signal.SIGKILL)

    def fds(self) -> list[int]:
        """Descriptors that serve wants to know of when they are readable."""
        return list(self._children)

    def serve(self, ready: Iterable[int]) -> Iterator[Ended]:
        """Yield those that ended."""
        for pidfd in ready:
            child = self._children.pop(pidfd, None)
            if child is not None:
                os.close(pidfd)
                _, status = os.waitpid(child.pid, 0)
                killer = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
                yield Ended(child.number, killer, 0 if killer else os.WEXITSTATUS(status))

    def _be_child(
        self, link_fd: int, constraint: Constraint, max_tokens: int, generated: tuple[int, ...]
    ) -> None:
        """Run the grammar until the core closes the socket; nothing of this process goes on."""
        try:
            become_private(b"agentix-grammar")
            keep_only(link_fd)
            link = socket.socket(fileno=link_fd)
            Checker(link, self._lexicon, self._token_of).run(constraint, max_tokens, generated)
            os._exit(0)
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(1)
