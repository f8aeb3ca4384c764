"""The socket thread of a pool's host: the agent's control socket, the data listener, and the leases' connections.

It reads frames into the inbox and lets in who knows a granted lease's secret. What the frames mean is decided by the
engine thread (pool_service.py). When the agent closes the control socket, `on_agent_gone` ends the process.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from pilotlight_engine.host.inbox import Inbox
from pilotlight_engine.host.outbox import Outbox
from pilotlight_protocol.engine_frames import AgentFrame, Grant, Hello, LeaseFrame, Metrics, MetricsText, Ping, Pong
from pilotlight_protocol.frame_codec import MAX_FRAME_BYTES, FrameSplitter, encode

_READ_BYTES = 256 * 1024
_INBOX_ITEMS = 4096
_BACKLOG_BYTES = 16 * 2**20
# Who has the engine to itself makes nobody wait but itself.
_STALL_DEADLINE_S = 60.0
# Far less than an agent waits for an answer to its Revoke: a holder that does not read must not cost the engine.
_HOLDER_STALL_S = 1.0
_HELLO_BYTES = 4096
_HELLO_DEADLINE_S = 5.0
_STRANGERS = 16
# A wrong secret is answered with silence for this long: 256 bits cannot be guessed, and a broken client must not spin.
_REFUSAL_DELAY_S = 0.5


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


PoolItem = AgentFrame | Joined | Left | FromLease


@dataclass
class _Stranger:
    """A connection that has not shown a secret; `closes_at_s` (monotonic) at the latest. `refused`: it was wrong."""

    sock: socket.socket
    splitter: FrameSplitter
    closes_at_s: float
    refused: bool = False


class PoolLink:
    """`run` is the socket thread's body. `grants` is replaced by the engine thread: whose secrets open the door."""

    def __init__(self, control: socket.socket, on_agent_gone: Callable[[], None]) -> None:
        control.setblocking(False)
        self._control = control
        self._on_agent_gone = on_agent_gone
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._listener: socket.socket | None = None
        self._strangers: dict[int, _Stranger] = {}
        self._links: dict[int, LeaseLink] = {}
        self._paused = False
        self._control_splitter = FrameSplitter()
        self._control_decoder = msgspec.msgpack.Decoder(AgentFrame)
        self._lease_decoder = msgspec.msgpack.Decoder(LeaseFrame)
        self._poll = select.epoll()
        self.grants: Mapping[str, Grant] = {}
        self.refused_hellos = 0
        self.on_metrics: Callable[[], bytes] | None = None
        self.inbox: Inbox[PoolItem] = Inbox(_INBOX_ITEMS, self._wake)
        self.control = Outbox(control, self._wake, _BACKLOG_BYTES, _STALL_DEADLINE_S)

    def open_door(self, listener: socket.socket) -> None:
        """Accept connections on `listener` from now on. Engine thread, once."""
        self._listener = listener
        self._poll.register(listener.fileno(), select.EPOLLIN)

    def let_in(self, sock: socket.socket) -> None:
        """The connection of the only holder there will be: nobody else can have it, so that it shows no secret. Engine
        thread, once."""
        sock.setblocking(False)
        grant = Grant("own", "", "")
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
            for fd, _ in self._poll.poll(self._next_deadline_s()):
                if fd == self._wake_fd:
                    os.eventfd_read(self._wake_fd)
                    self._paused = False
                elif fd == self._control.fileno():
                    if not self._read_control():
                        return
                elif self._listener is not None and fd == self._listener.fileno():
                    self._accept()
                elif (stranger := self._strangers.get(fd)) is not None:
                    self._hear(stranger)
                elif (link := self._links.get(fd)) is not None:
                    self._read_lease(link)
            self._close_late_strangers(time.monotonic())
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
            if isinstance(frame, Metrics):
                self.control.send(encode(MetricsText(frame.call, self._metrics())), wait=False)
            elif isinstance(frame, Ping):
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

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if len(self._strangers) >= _STRANGERS:
            sock.close()
            return
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stranger = _Stranger(sock, FrameSplitter(_HELLO_BYTES), time.monotonic() + _HELLO_DEADLINE_S)
        self._strangers[sock.fileno()] = stranger
        self._poll.register(sock.fileno(), select.EPOLLIN)

    def _hear(self, stranger: _Stranger) -> None:
        if stranger.refused:
            return self._close_stranger(stranger)
        try:
            data = stranger.sock.recv(_HELLO_BYTES)
            bodies = stranger.splitter.feed(data)
            first = next(bodies, None)
            grant = None if first is None else self._granted(self._lease_decoder.decode(first))
        except BlockingIOError:
            return None
        except (OSError, ValueError, msgspec.MsgspecError):
            return self._refuse(stranger)
        if not data:
            return self._close_stranger(stranger)
        if first is None:
            return None
        if grant is None:
            return self._refuse(stranger)
        del self._strangers[stranger.sock.fileno()]
        # Before the rest of `bodies` is asked for: a request may lie behind the Hello.
        stranger.splitter.limit_bytes = MAX_FRAME_BYTES
        link = LeaseLink(stranger.sock, grant, stranger.splitter, self._wake)
        self._links[stranger.sock.fileno()] = link
        self.inbox.put(Joined(link))
        return self._take(link, bodies)

    def _granted(self, frame: LeaseFrame) -> Grant | None:
        grant = self.grants.get(frame.lease_id) if isinstance(frame, Hello) else None
        if grant is None or not isinstance(frame, Hello):
            return None
        shown = hashlib.sha256(frame.secret.encode()).hexdigest()
        return grant if hmac.compare_digest(shown, grant.secret_sha256) else None

    def _refuse(self, stranger: _Stranger) -> None:
        self.refused_hellos += 1
        stranger.refused = True
        stranger.closes_at_s = min(stranger.closes_at_s, time.monotonic() + _REFUSAL_DELAY_S)
        # Nothing more is read from it: until then only its end is heard of.
        self._poll.modify(stranger.sock.fileno(), 0)

    def _close_stranger(self, stranger: _Stranger) -> None:
        del self._strangers[stranger.sock.fileno()]
        stranger.sock.close()

    def _close_late_strangers(self, now_s: float) -> None:
        for stranger in [late for late in self._strangers.values() if late.closes_at_s <= now_s]:
            self._close_stranger(stranger)

    def _next_deadline_s(self) -> float | None:
        if not self._strangers:
            return None
        return max(0.0, min(stranger.closes_at_s for stranger in self._strangers.values()) - time.monotonic())

    def _metrics(self) -> bytes:
        return self.on_metrics() if self.on_metrics is not None else b""

    def _wake(self) -> None:
        os.eventfd_write(self._wake_fd, 1)
