"""Every connection of the kernel: who is served next, what is sent, who is closed and why.

Who calls it: boot makes it, the loop tells it of epoll's news and takes events from it. What must hold: no
call blocks; who sent a message is what Linux attested when the peer connected, never what the message says;
a peer that waited for its last answer goes before those that pipeline, and no peer is served for longer
than a few messages while others wait; what a peer can make the kernel keep is bounded (kernel/limits.py).
"""

from __future__ import annotations

import select
import socket
from collections import deque
from contextlib import suppress
from typing import Any

from kernel.abi.codec import MAX_INLINE_BYTES
from kernel.abi.descriptors import HELLO, REFERENCE_BYTES
from kernel.abi.errors import Errno, KernelError
from kernel.clock import now_ns
from kernel.effects import Disconnect, Refuse, Send
from kernel.events import Message, PeerGone, PeerStalled
from kernel.ipc.account import Account
from kernel.ipc.connection import EVENTS, Connection, State, Stranger, turn_away
from kernel.ipc.doors import Door, Doors
from kernel.ipc.payload import PayloadRing, resolve
from kernel.ipc.sidechannel import Owned, SideChannel
from kernel.ipc.zmtp import Violation
from kernel.limits import (
    HANDSHAKE_NS,
    HEAVY_NS,
    HEAVY_PAUSE,
    MAX_PROCESS_RINGS,
    REFUSED_PAUSE,
    UNREAD_HARD_BYTES,
)
from shm.segment import Segment

BATCH = 16  # messages of one peer in a row, answered together
LINGER_S = 0.3  # for the last answers at exit
GONE = select.EPOLLHUP | select.EPOLLERR
OVER = select.EPOLLRDHUP | GONE
WRITE = select.EPOLLOUT
READ = select.EPOLLIN | OVER


class Server:
    """The sockets of the kernel called `name`, watched by `epoll`. Raises doors.AddressInUse.

    `owned` answers the side channel: a process's segment by its number, None when it has none such.
    """

    def __init__(self, name: str, epoll: select.epoll, owned: Owned) -> None:
        self._epoll = epoll
        self._owned = owned
        self.doors = Doors(name, lambda fd: epoll.register(fd, select.EPOLLIN))
        self._by_fd: dict[int, Connection | SideChannel | Stranger] = {}
        self._by_number: dict[int, Connection] = {}
        self._rings: dict[int, PayloadRing] = {}  # by connection
        self._numbers = 0
        self._knocking: list[Door] = []
        self._shut: list[Door] = []  # for a while
        self._fresh: deque[Connection] = deque()  # have news, and nothing from before it
        self._pipelining: deque[Connection] = deque()  # had more than their turn took
        self._resting: list[Connection] = []  # of processes that were heavy
        self._current: Connection | None = None
        self._batch_left = 0
        self.unflushed: dict[Connection, None] = {}  # what is to be sent, but for who is being served
        self._ends: deque[tuple[Any, ...]] = deque()  # PeerGone and PeerStalled, not told yet
        self._deadlines: deque[Connection | Stranger] = deque()  # of handshakes, the earliest first
        self._closing: dict[Connection, None] = {}  # the same of last words
        self.next_timer_ns: int | None = None  # when tick has something to do
        try:
            self.doors.open_public()
        except BaseException:
            self.doors.close_all()
            raise

    # -- epoll's news -----------------------------------------------------------------------------

    def ready(self, fd: int, mask: int, now_ns: int) -> bool:
        """Take epoll's news of a descriptor; False when it is none of the server's."""
        known = self._by_fd.get(fd)
        if type(known) is Connection:
            if mask & WRITE and known.unread_bytes:
                self._flush(known)
            if not known.is_heard:
                if mask & GONE:
                    self._drop(known)
            elif mask & READ:
                known.is_drained = False
                if mask & OVER:
                    known.is_over = True
                if not known.is_queued:
                    self._queue(known)
        elif known is None:
            door = self.doors.by_fd.get(fd)
            if door is None:
                return False
            self._knocking.append(door)  # after all else: who comes may take the place of one that left
        elif type(known) is SideChannel:
            self._serve_side_channel(known)
        elif mask & READ:
            self._meet(known, bool(mask & OVER))
        return True

    def _welcome(self, door: Door, now_ns: int) -> None:
        for peer, admitted in self.doors.accept(door, now_ns):
            peer.setblocking(False)
            if isinstance(admitted, KernelError):
                turn_away(peer, admitted)
                continue
            stranger = Stranger(peer, admitted, door.is_operator, now_ns + HANDSHAKE_NS)
            self._by_fd[stranger.fd] = stranger
            self._deadlines.append(stranger)
            self._wake_at(stranger.until_ns)
            self._epoll.register(stranger.fd, EVENTS)
        if door.until_ns:
            self._epoll.modify(door.listener.fileno(), 0)
            self._shut.append(door)
            self._wake_at(door.until_ns)

    def _meet(self, stranger: Stranger, is_over: bool) -> None:
        """The first bytes of a peer tell what it speaks."""
        try:
            start = stranger.peer.recv(len(HELLO), socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            start = b""
        if start and HELLO.startswith(start) and len(start) < len(HELLO):
            return
        if not start:
            self._drop_stranger(stranger)
        elif start == HELLO:
            channel = SideChannel(stranger.peer, stranger.account, self._owned, self._ring_of)
            self._by_fd[channel.fd] = channel
            self._epoll.modify(channel.fd, select.EPOLLIN)  # told of again in each turn while more is there
        else:
            self._numbers += 1
            connection = Connection(
                stranger.peer, self._numbers, stranger.account, stranger.is_operator, stranger.until_ns
            )
            self._by_fd[connection.fd] = self._by_number[connection.number] = connection
            self._deadlines.append(connection)
            self.unflushed[connection] = None
            connection.is_drained, connection.is_over = False, is_over
            self._queue(connection)
        stranger.is_done = True

    def _serve_side_channel(self, channel: SideChannel) -> None:
        try:
            channel.serve()
        except EOFError:
            self._drop_side_channel(channel)

    def _drop_side_channel(self, channel: SideChannel) -> None:
        del self._by_fd[channel.fd]
        self.doors.leave(channel.account)
        channel.close()

    def _ring_of(self, account: Account, number: int) -> Segment | Errno:
        connection = self._by_number.get(number)
        if connection is None or connection.account is not account:
            return Errno.ENOENT
        ring = self._rings.get(number)
        if ring is None:
            if account.rings >= MAX_PROCESS_RINGS:
                return Errno.EAGAIN
            try:
                ring = self._rings[number] = PayloadRing.create(number)
            except OSError:
                return Errno.ENOMEM
            account.rings += 1
        return ring.segment

    # -- receiving --------------------------------------------------------------------------------

    def recv(self, now_ns: int) -> Message | PeerGone | PeerStalled | None:
        """Return the next thing that happened, None when nothing is left for now."""
        while True:
            while self._knocking:
                self._welcome(self._knocking.pop(), now_ns)
            if self._ends:
                kind, *what = self._ends.popleft()
                return kind(now_ns, *what)
            connection = self._current
            if connection is None:
                connection = self._pick(now_ns)
                if connection is None:
                    return None
                self._current, self._batch_left = connection, BATCH
            connection.was_refused = False
            try:
                frame = connection.next()
                if frame is not None and len(frame) == REFERENCE_BYTES:
                    frame = resolve(frame, self._rings.get(connection.number))
            except Violation as violation:
                frame = None
                self.refuse(connection, KernelError(Errno.EBADMSG, str(violation)), now_ns)
            except EOFError:
                frame = None
                self._drop(connection)
            if frame is None:
                self.end_batch()
                continue
            burst = connection.burst
            self._batch_left -= 1
            if not self._batch_left or not connection.may_have_more:
                self.end_batch()
            process = connection.account.process
            return Message(
                now_ns, connection.number, process.pid, process.birth, connection.is_operator, burst, frame
            )

    def end_batch(self) -> None:
        """Let go of who is being served: its answers leave, and others get their turn."""
        connection = self._current
        if connection is None:
            return
        self._current = None
        if connection.may_have_more and connection.is_heard and not connection.is_held_back:
            self._pipelining.append(connection)
        else:
            connection.is_queued = False
            connection.burst = 0
        if connection.unread_bytes:
            self.unflushed[connection] = None

    def spent(self, peer: int, took_ns: int, now_ns: int) -> None:
        """A peer's messages took so much work just now: who needed much has to wait in proportion."""
        connection = self._by_number.get(peer)
        if connection is not None and took_ns > HEAVY_NS:
            pause = REFUSED_PAUSE if connection.was_refused else HEAVY_PAUSE
            connection.account.not_before_ns = now_ns + pause * took_ns
            if connection is self._current:
                self.end_batch()

    def _queue(self, connection: Connection) -> None:
        if not connection.is_queued and not connection.is_held_back:
            connection.is_queued = True
            self._fresh.append(connection)

    def _pick(self, now_ns: int) -> Connection | None:
        for queue in (self._fresh, self._pipelining):
            while queue:
                connection = queue.popleft()
                if not connection.is_heard:
                    continue
                if connection.account.not_before_ns > now_ns:
                    self._resting.append(connection)
                    self._wake_at(connection.account.not_before_ns)
                    continue
                return connection
        return None

    # -- sending ----------------------------------------------------------------------------------

    def send(self, send: Send) -> None:
        """Keep a message for the next flush; one to a peer that is gone is dropped."""
        connection = self._by_number.get(send.peer)
        if connection is None or not connection.is_open:
            return
        frame = send.frame
        if len(frame) > MAX_INLINE_BYTES:
            ring = self._rings.get(send.peer)
            if ring is not None:
                frame = ring.put(frame)
        before = connection.unread_bytes
        connection.put_message(frame)
        if connection is not self._current:
            self.unflushed[connection] = None
        if before and connection.unread_bytes > UNREAD_HARD_BYTES:
            self._flush(connection)
            if connection.unread_bytes > UNREAD_HARD_BYTES:
                self._ends.append((PeerStalled, send.peer))
                self.refuse(connection, KernelError(Errno.EPIPE, "it does not read its answers"), now_ns())

    def send_refusal(self, refusal: Refuse) -> None:
        """The same for the answer to what was no valid call."""
        connection = self._by_number.get(refusal.peer)
        if connection is not None:
            connection.was_refused = True
            self.send(Send(*refusal))

    def flush(self) -> None:
        """Send what was kept, but for the peer whose messages are being served."""
        while self.unflushed:
            connection, _ = self.unflushed.popitem()
            if connection.state is not State.CLOSED:
                self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        if connection.is_open and not connection.is_held_back:
            connection.flush()
            return
        is_empty = connection.flush()
        if connection.state is State.CLOSING:
            if is_empty:
                self._drop(connection)
        elif connection.may_have_more and connection.is_heard:
            self._queue(connection)

    # -- the end of connections -------------------------------------------------------------------

    def disconnect(self, effect: Disconnect) -> None:
        """Close a peer, telling it why."""
        connection = self._by_number.get(effect.peer)
        if connection is not None:
            self.refuse(connection, effect.error, now_ns(), effect.is_fault)

    def refuse(self, connection: Connection, error: KernelError, now_ns: int, is_fault: bool = True) -> None:
        """Close a connection as soon as it has the reason, or the time for that is over."""
        if connection.state in (State.CLOSING, State.CLOSED):
            return
        connection.was_cut = is_fault
        if connection.refuse(error, now_ns):
            self._drop(connection)
        else:
            self._closing[connection] = None
            self._wake_at(connection.until_ns)

    def _drop(self, connection: Connection) -> None:
        if connection.state is State.CLOSED:
            return
        del self._by_fd[connection.fd]
        del self._by_number[connection.number]
        self._closing.pop(connection, None)
        self.unflushed.pop(connection, None)
        connection.close()
        account = connection.account
        ring = self._rings.pop(connection.number, None)
        if ring is not None:
            account.rings -= 1
            ring.close()
        self.doors.leave(account)
        self._ends.append((PeerGone, connection.number, connection.was_cut))

    def _drop_stranger(self, stranger: Stranger) -> None:
        if not stranger.is_done:
            stranger.is_done = True
            del self._by_fd[stranger.fd]
            self.doors.leave(stranger.account)
            stranger.peer.close()

    # -- time -------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether recv may have something without epoll's news."""
        return bool(self._current or self._fresh or self._pipelining or self._ends)

    def _wake_at(self, at_ns: int) -> None:
        if self.next_timer_ns is None or at_ns < self.next_timer_ns:
            self.next_timer_ns = at_ns

    def tick(self, now_ns: int) -> None:
        """Do what is due: close who took too long, look again at who had to wait."""
        deadlines = self._deadlines
        while deadlines and (deadlines[0].is_done or deadlines[0].until_ns <= now_ns):
            late = deadlines.popleft()
            if isinstance(late, Stranger):
                self._drop_stranger(late)
            elif not late.is_done:
                text = "the handshake was not done in time"
                self.refuse(late, KernelError(Errno.ETIMEDOUT, text), now_ns)
        for connection in [one for one in self._closing if one.until_ns <= now_ns]:
            self._drop(connection)
        resting, self._resting = self._resting, []
        for connection in resting:
            queue = self._pipelining if connection.account.not_before_ns <= now_ns else self._resting
            queue.append(connection)
        shut, self._shut = self._shut, []
        for door in shut:
            if door.until_ns > now_ns:
                self._shut.append(door)
            elif door.listener.fileno() in self.doors.by_fd:
                door.until_ns = 0
                self._epoll.modify(door.listener.fileno(), select.EPOLLIN)
        times = [connection.account.not_before_ns for connection in self._resting]
        times += [door.until_ns for door in self._shut]
        times += [connection.until_ns for connection in self._closing]
        times += [deadlines[0].until_ns] if deadlines else []
        self.next_timer_ns = min(times, default=None)

    def close(self) -> None:
        """Give the last answers a moment, then leave nothing behind."""
        self.doors.close_all()
        for connection in list(self._by_number.values()):
            if connection.unread_bytes:
                with suppress(OSError):
                    connection.peer.settimeout(LINGER_S)
                    connection.flush()
            self._drop(connection)
        for other in list(self._by_fd.values()):
            if isinstance(other, Stranger):
                self._drop_stranger(other)
            elif isinstance(other, SideChannel):
                self._drop_side_channel(other)
