"""The kernel's ends of the links to its LLM cores, and what the loop does there: the only owner of core processes.

Who uses it: the loop, which tells the kernel what comes out of `read`. What must hold: a core's
descriptors are in the epoll set as long as it lives and no longer; nothing here blocks; a message to a core that is
gone is dropped, for its CoreLost is on its way to the kernel.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable
from typing import Any

from kernel.clock import now_ns
from kernel.console import log
from kernel.effects import AskCore, DropSegment, MakeSegment, RunStep, StartCore, StopCore
from kernel.engine.link import ASK, ATTACH, DETACH, CoreProcess, plan_message
from kernel.events import CoreAnswer, CoreLost, Event
from kernel.segments import Segments

CoreCommand = Callable[[StartCore], list[str]]


class CoreLinks:
    """Core processes by the place of their models, and by descriptor."""

    def __init__(
        self,
        epoll: select.epoll,
        segments: Segments,
        command: CoreCommand,
        report: Callable[[Event], None],
    ) -> None:
        """`report` takes what happens without a descriptor telling of it."""
        self._epoll = epoll
        self._segments = segments
        self._command = command
        self._report = report
        self._cores: dict[int, CoreProcess] = {}
        self._by_link: dict[int, CoreProcess] = {}
        self._by_stderr: dict[int, CoreProcess] = {}
        self._masks: dict[int, int] = {}  # of links in the epoll set
        self.last_losses: dict[int, str] = {}  # why the last core of a model was lost, for the kernel's last words

    def close(self) -> None:
        """End every core."""
        for core in list(self._cores.values()):
            self._forget(core)
            core.close()

    # -- what comes from cores ----------------------------------------------------------------

    def links(self, descriptors: Iterable[int]) -> list[int]:
        """Return those of the descriptors that are links."""
        return [fd for fd in descriptors if fd in self._by_link]

    def all_links(self) -> list[int]:
        return list(self._by_link)

    def read(self, link: int) -> list[Event]:
        """Send what is to be sent on a link; return what came."""
        core = self._by_link.get(link)
        if core is None:
            return []
        if core.is_sending:
            core.flush()
        events = core.read(now_ns())
        if events and isinstance(events[-1], CoreLost):
            self.last_losses[core.core] = events[-1].reason
            self._forget(core)
        else:
            self._watch(core)
        return events

    def read_stderr(self, fd: int) -> None:
        """Pass on what a core prints, if the descriptor is one's."""
        core = self._by_stderr.get(fd)
        if core is None:
            return
        who = "core" if len(self._cores) == 1 else f"core {core.core}"
        for line in core.read_stderr().decode(errors="replace").splitlines():
            log(f"{who}: {line}")
        if core.stderr_fd < 0:
            del self._by_stderr[fd]

    # -- effects ------------------------------------------------------------------------------

    def start(self, effect: StartCore) -> None:
        former = self._cores.get(effect.core)
        if former is not None:
            self._forget(former)
            former.close()
        try:
            core = CoreProcess(self._command(effect), core=effect.core)
        except OSError as error:
            reason = f"it cannot be started: {error.strerror}"
            self.last_losses[effect.core] = reason
            self._report(CoreLost(now_ns(), reason, False, False, core=effect.core))
            return
        self._cores[effect.core] = core
        self._by_link[core.link_fd] = core
        self._by_stderr[core.stderr_fd] = core
        self._masks[core.link_fd] = select.EPOLLIN
        self._epoll.register(core.link_fd, select.EPOLLIN)
        self._epoll.register(core.stderr_fd, select.EPOLLIN)
        for number, segment in self._segments.for_core(effect.core):
            core.send((ATTACH, number, segment.size_bytes), segment.fd)
        self._watch(core)

    def stop(self, effect: StopCore) -> None:
        """A core has no destructors to run: its end is the end of its memory."""
        core = self._cores.get(effect.core)
        if core is not None:
            core.kill()

    def run_step(self, effect: RunStep) -> None:
        self._send(effect.core, plan_message(effect.plan))

    def ask(self, effect: AskCore) -> None:
        try:
            self._send(effect.core, (ASK, effect.ticket, effect.what, effect.value))
        except (ValueError, TypeError, OverflowError) as error:  # what msgpack cannot carry
            self._report(CoreAnswer(now_ns(), effect.ticket, None, str(error)))

    def make_segment(self, effect: MakeSegment) -> None:
        try:
            segment = self._segments.make(effect)
        except OSError as error:
            log(f"segment {effect.segment} of {effect.size_bytes} bytes: {error.strerror}")
            return
        if effect.is_for_core:
            self._send(effect.core, (ATTACH, effect.segment, segment.size_bytes), segment.fd)

    def drop_segment(self, effect: DropSegment) -> None:
        core = self._segments.drop(effect.segment)
        if core is not None:
            self._send(core, (DETACH, effect.segment))

    def kill(self, pid: int) -> bool:
        """Kill a core; False when the process is none."""
        for core in self._cores.values():
            if core.pid == pid:
                core.kill()
                return True
        return False

    # -- inside -------------------------------------------------------------------------------

    def _send(self, number: int, message: tuple[Any, ...], fd: int = -1) -> None:
        core = self._cores.get(number)
        if core is not None:
            core.send(message, fd)
            self._watch(core)

    def _watch(self, core: CoreProcess) -> None:
        mask = select.EPOLLIN | (select.EPOLLOUT if core.is_sending else 0)
        if mask != self._masks[core.link_fd]:
            self._epoll.modify(core.link_fd, mask)
            self._masks[core.link_fd] = mask

    def _forget(self, core: CoreProcess) -> None:
        """Drop a core that has closed itself, or is about to be (epoll forgets its descriptors by that)."""
        del self._cores[core.core]
        for table in (self._by_link, self._by_stderr):
            for fd in [fd for fd, one in table.items() if one is core]:
                del table[fd]
                self._masks.pop(fd, None)
