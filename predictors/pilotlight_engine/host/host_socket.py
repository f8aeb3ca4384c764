"""The host's socket thread: reads the front's frames into the inbox and sends what the outbox could not.

It answers `Metrics` itself, so that a scrape does not wait for a long engine step. When the front closes its end or
sends what cannot be understood, `on_front_gone` is called, which ends the process.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Callable

import msgspec

from pilotlight_engine.host.inbox import Inbox
from pilotlight_engine.host.outbox import Outbox
from pilotlight_protocol.engine_frames import FrameSplitter, FrontFrame, Metrics, MetricsText, encode

_READ_BYTES = 256 * 1024
_INBOX_FRAMES = 4096
_BACKLOG_BYTES = 16 * 2**20
_STALL_DEADLINE_S = 60.0


class HostSocket:
    """`run` is the body of the socket thread; `inbox` and `outbox` are the engine thread's ends."""

    def __init__(self, sock: socket.socket, on_front_gone: Callable[[], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_front_gone = on_front_gone
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._read_paused = False
        self._splitter = FrameSplitter()
        self._decoder = msgspec.msgpack.Decoder(FrontFrame)
        self.inbox: Inbox[FrontFrame] = Inbox(_INBOX_FRAMES, self._wake)
        self.outbox = Outbox(sock, self._wake, _BACKLOG_BYTES, _STALL_DEADLINE_S)
        self.on_metrics: Callable[[], bytes] | None = None

    def run(self) -> None:
        try:
            self._loop()
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            sys.stderr.write(f"engine host: the connection to the front broke: {error}\n")
        self._on_front_gone()

    def _loop(self) -> None:
        poll = select.epoll()
        poll.register(self._sock.fileno(), select.EPOLLIN)
        poll.register(self._wake_fd, select.EPOLLIN)
        while True:
            for fd, events in poll.poll():
                if fd == self._wake_fd:
                    os.eventfd_read(self._wake_fd)
                    self._read_paused = False
                elif events & (select.EPOLLIN | select.EPOLLHUP) and not self._read():
                    return
            wanted = 0 if self._read_paused else select.EPOLLIN
            poll.modify(self._sock.fileno(), wanted if self.outbox.flush() else wanted | select.EPOLLOUT)

    def _read(self) -> bool:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return True
        for body in self._splitter.feed(data):
            frame = self._decoder.decode(body)
            if isinstance(frame, Metrics):
                text = self.on_metrics() if self.on_metrics is not None else b""
                self.outbox.send(encode(MetricsText(frame.call, text)), wait=False)
            elif not self.inbox.put(frame):
                self._read_paused = True
        return bool(data)

    def _wake(self) -> None:
        os.eventfd_write(self._wake_fd, 1)
