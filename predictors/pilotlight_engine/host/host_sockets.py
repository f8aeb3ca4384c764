"""An engine host's sockets, and the thread that reads them: the agent's control socket and the leases' connections.

What has been read waits in the inbox for the engine thread, which decides what it means; what the engine thread answers
it writes itself, and what the kernel does not take this thread sends. When the agent closes the control socket,
`on_agent_gone` ends the process. Who may come in is the door's (door.py).
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from pilotlight_engine.host.door import Door
from pilotlight_protocol.engine_frames import Adapter, AgentFrame, Grant, LeaseFrame, Metrics, MetricsText, Ping, Pong
from pilotlight_protocol.frame_codec import FrameSplitter, encode

_READ_BYTES = 256 * 1024
_INBOX_ITEMS = 4096
_BACKLOG_BYTES = 16 * 2**20
# Who has the engine to itself makes nobody wait but itself.
_STALL_DEADLINE_S = 60.0
# Far less than an agent waits for an answer to its Revoke: a holder that does not read must not cost the engine.
_HOLDER_STALL_S = 1.0
_WAIT_SLICE_S = 1.0


class HolderStalled(Exception):
    """The holder did not read for `stall_deadline_s`; there is no one left to generate for."""


class Outbox:
    """The engine thread writes frames to the socket itself, and a holder that stops reading stops it.

    The usual frame costs one non-blocking send and no thread switch. What the kernel does not take is kept, in order,
    for the socket thread to send; over `limit_bytes` of it the engine thread waits, so memory is bounded. `on_backlog`
    is called (any thread, at most once per backlog) when `flush` must be called on writability.
    """

    def __init__(
        self, sock: socket.socket, on_backlog: Callable[[], None], limit_bytes: int, stall_deadline_s: float
    ) -> None:
        self._sock = sock
        self._on_backlog = on_backlog
        self._limit_bytes = limit_bytes
        self._stall_deadline_s = stall_deadline_s
        self._backlog = bytearray()
        self._drained = threading.Condition()

    def send(self, frame: bytearray, *, wait: bool = True) -> None:
        """Send or keep `frame`; waits while too much is kept, unless it is called by the thread that flushes.

        Raises HolderStalled, OSError (the holder is gone).
        """
        with self._drained:
            if self._backlog:
                self._backlog += frame
                if wait:
                    self._wait_for_room()
                return
            sent = self._try_send(frame)
            if sent < len(frame):
                self._backlog += memoryview(frame)[sent:]
                self._on_backlog()

    def flush(self) -> bool:
        """Send what was kept as far as the kernel takes it; True when nothing is left."""
        with self._drained:
            if self._backlog:
                sent = self._try_send(self._backlog)
                del self._backlog[:sent]
                if sent:
                    self._drained.notify_all()
            return not self._backlog

    def has_room(self, deadline_s: float) -> bool:
        """Wait until no more than the limit is kept; False when the deadline came first."""
        with self._drained:
            return self._drained.wait_for(lambda: len(self._backlog) <= self._limit_bytes, deadline_s)

    def drain(self, deadline_s: float) -> bool:
        """Wait until the socket thread has sent everything; False when the deadline came first."""
        with self._drained:
            return self._drained.wait_for(lambda: not self._backlog, deadline_s)

    def _wait_for_room(self) -> None:
        stalled_s = 0.0
        while len(self._backlog) > self._limit_bytes:
            if self._drained.wait(_WAIT_SLICE_S):
                stalled_s = 0.0
                continue
            stalled_s += _WAIT_SLICE_S
            if stalled_s >= self._stall_deadline_s:
                raise HolderStalled(f"the holder has not read for {stalled_s:.0f} s")

    def _try_send(self, data: bytearray) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0


class LeaseLink:
    """A connection whose holder has shown the secret of `grant`. `end` may be called by the engine thread.

    `stall_s`: how long the engine waits for a holder that does not read.
    """

    def __init__(
        self,
        sock: socket.socket,
        grant: Grant,
        splitter: FrameSplitter,
        on_backlog: Callable[[], None],
        stall_s: float = _HOLDER_STALL_S,
    ) -> None:
        self.sock = sock
        self.stall_s = stall_s
        self.grant = grant
        self.splitter = splitter
        self.ended = False
        self.outbox = Outbox(sock, on_backlog, _BACKLOG_BYTES, _STALL_DEADLINE_S)

    def end(self) -> None:
        """No more is sent or read; the socket thread then sees the end and closes it."""
        self.ended = True
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


@dataclass(frozen=True)
class Joined:
    link: LeaseLink


@dataclass(frozen=True)
class Left:
    link: LeaseLink


@dataclass(frozen=True)
class FromLease:
    link: LeaseLink
    frame: LeaseFrame


HostItem = AgentFrame | Joined | Left | FromLease


class Inbox:
    """What was read and not handled yet, bounded. Between two steps the engine thread takes all of it at once, so that
    requests that arrived together join the same batch; while there is nothing to do it sleeps here.

    `on_room` is called when a full inbox was emptied: the socket thread may read again."""

    def __init__(self, limit: int, on_room: Callable[[], None]) -> None:
        self._limit = limit
        self._on_room = on_room
        self._frames: list[HostItem] = []
        self._arrived = threading.Condition()
        self._was_full = False
        self._woken = False

    def put(self, frame: HostItem) -> bool:
        """Add a frame; False when the inbox is full with it, so that no more is read from the socket."""
        with self._arrived:
            self._frames.append(frame)
            self._arrived.notify()
            self._was_full = len(self._frames) >= self._limit
            return not self._was_full

    def wake(self) -> None:
        """Let `take` return, though nothing was read: the engine has work. Any thread."""
        with self._arrived:
            self._woken = True
            self._arrived.notify()

    def take(self, *, wait: bool) -> list[HostItem]:
        """All frames that are here; with `wait`, sleeps until there is one, or somebody wakes it."""
        if not wait and not self._frames:
            return []
        with self._arrived:
            while wait and not self._frames and not self._woken:
                self._arrived.wait()
            self._woken = False
            frames, self._frames = self._frames, []
            was_full, self._was_full = self._was_full, False
        if was_full:
            self._on_room()
        return frames


class HostSockets:
    """`run` is the socket thread's body. The engine thread sets `grants`: whose secrets open the door, and
    `tells_metrics`: whether what the engine has counted is of one tenant alone."""

    def __init__(self, control: socket.socket, on_agent_gone: Callable[[], None]) -> None:
        control.setblocking(False)
        self._control = control
        self._on_agent_gone = on_agent_gone
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._links: dict[int, LeaseLink] = {}
        self._paused = False
        self._control_splitter = FrameSplitter()
        self._control_decoder = msgspec.msgpack.Decoder(AgentFrame)
        self._lease_decoder = msgspec.msgpack.Decoder(LeaseFrame)
        self._poll = select.epoll()
        self._door = Door(self._poll, lambda: self.grants, self._admit)
        self.grants: Mapping[str, Grant] = {}
        self.tells_metrics = True
        self.on_metrics: Callable[[], bytes] | None = None
        self.inbox = Inbox(_INBOX_ITEMS, self._wake)
        self.control = Outbox(control, self._wake, _BACKLOG_BYTES, _STALL_DEADLINE_S)

    def open_door(self, listener: socket.socket) -> None:
        """Let in who shows a lease's secret, from now on. Engine thread, once."""
        self._door.open(listener)

    def let_in(self, sock: socket.socket, model_name: str = "", adapter: Adapter | None = None) -> None:
        """The connection of the only holder there will be: nobody else can have it, so that it shows no secret. Engine
        thread, once."""
        sock.setblocking(False)
        grant = Grant("own", "", "", model_name, adapter=adapter)
        self.grants = {grant.lease_id: grant}
        link = LeaseLink(sock, grant, FrameSplitter(), self._wake, _STALL_DEADLINE_S)
        # Joined first, and known to the socket thread last: nothing is read from it before.
        self.inbox.put(Joined(link))
        self._poll.register(sock.fileno(), select.EPOLLIN)
        self._links[sock.fileno()] = link

    def run(self) -> None:
        try:
            self._loop()
        except Exception as error:
            sys.stderr.write(f"engine host: the connection to the agent broke: {type(error).__name__}: {error}\n")
        self._on_agent_gone()

    def _loop(self) -> None:
        self._poll.register(self._control.fileno(), select.EPOLLIN)
        self._poll.register(self._wake_fd, select.EPOLLIN)
        while True:
            waits_s = self._door.next_deadline_s(time.monotonic()) if self._door.strangers else None
            for fd, _ in self._poll.poll(waits_s):
                if fd == self._wake_fd:
                    os.eventfd_read(self._wake_fd)
                    self._paused = False
                elif fd == self._control.fileno():
                    if not self._read_control():
                        return
                elif (link := self._links.get(fd)) is not None:
                    self._read_lease(link)
                else:
                    self._door.serve(fd)
            if self._door.strangers:
                self._door.close_late(time.monotonic())
            self._want(self._control.fileno(), self.control, select.EPOLLIN)
            for fd, link in list(self._links.items()):
                try:
                    self._want(fd, link.outbox, 0 if self._paused else select.EPOLLIN)
                except OSError:
                    self._close_link(link)

    def _want(self, fd: int, outbox: Outbox, wanted: int) -> None:
        self._poll.modify(fd, wanted if outbox.flush() else wanted | select.EPOLLOUT)

    def _read_control(self) -> bool:
        try:
            data = self._control.recv(_READ_BYTES)
        except BlockingIOError:
            return True
        for body in self._control_splitter.feed(data):
            frame = self._control_decoder.decode(body)
            if isinstance(frame, Ping):
                self.control.send(encode(Pong()), wait=False)
            else:
                self.inbox.put(frame)
        return bool(data)

    def _read_lease(self, link: LeaseLink) -> None:
        try:
            data = link.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(link, link.splitter.feed(data))
        else:
            self._close_link(link)

    def _take(self, link: LeaseLink, bodies: Iterator[memoryview]) -> None:
        try:
            for body in bodies:
                frame = self._lease_decoder.decode(body)
                if isinstance(frame, Metrics):
                    if not link.outbox.has_room(0.0):
                        raise ValueError("it asks for metrics and does not read")
                    link.outbox.send(encode(MetricsText(frame.call, self._metrics())), wait=False)
                elif not self.inbox.put(FromLease(link, frame)):
                    self._paused = True
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            sys.stderr.write(f"engine host: the connection of lease {link.grant.lease_id} broke: {error}\n")
            self._close_link(link)

    def _close_link(self, link: LeaseLink) -> None:
        del self._links[link.sock.fileno()]
        link.sock.close()
        self.inbox.put(Left(link))

    def _admit(self, sock: socket.socket, grant: Grant, splitter: FrameSplitter, bodies: Iterator[memoryview]) -> None:
        link = LeaseLink(sock, grant, splitter, self._wake)
        self._links[sock.fileno()] = link
        self.inbox.put(Joined(link))
        self._take(link, bodies)

    def _metrics(self) -> bytes:
        return self.on_metrics() if self.on_metrics is not None and self.tells_metrics else b""

    def _wake(self) -> None:
        os.eventfd_write(self._wake_fd, 1)
